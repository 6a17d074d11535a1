//! One node: its tensor, its place in the tree, and the structure that C sees.
use super::End;
use crate::error::Result;
use crate::tensor::Complex;
use crate::tensor::memory::{Block, Memory};
use crate::tensor::records::TreeTensorNode;
use crate::tensor::shape;
use crate::tensor::tiled::Source;

/// Bytes of the public structure. The dimensions follow it in the same block.
const HEAD: usize = size_of::<TreeTensorNode>();

/// A tensor in a network. C may have changed the public structure, so nothing in it is ever followed.
pub struct Node {
    /// The public structure, with room for the dimensions behind it.
    record: Block,
    /// The public list of children, with room for more.
    list: Option<Block>,
    data: Block,
    hierarchical: bool,
    dimensions: Vec<usize>,
    pub(super) parent: Option<usize>,
    pub(super) children: Vec<usize>,
    /// For each axis, the other end of its bond.
    pub(super) ends: Vec<Option<End>>,
}

impl Node {
    pub(super) fn new(
        memory: &Memory,
        id: usize,
        dimensions: &[usize],
        data: Block,
        hierarchical: bool,
    ) -> Result<Node> {
        let record = memory.bytes(HEAD + size_of_val(dimensions))?;
        // SAFETY: the block is aligned to 64 and has room for the structure and, behind it, the dimensions.
        unsafe {
            let sizes = record.as_ptr().add(HEAD).cast::<usize>();
            sizes.copy_from_nonoverlapping(dimensions.as_ptr(), dimensions.len());
            record.as_ptr().cast::<TreeTensorNode>().write(TreeTensorNode {
                id,
                rank: 0,
                num_children: 0,
                children: core::ptr::null_mut(),
                parent: core::ptr::null_mut(),
                data: data.as_ptr().cast(),
                h_matrix: core::ptr::null_mut(),
                dimensions: sizes,
                num_dimensions: dimensions.len(),
                is_leaf: true,
                use_hierarchical: hierarchical,
            });
        }
        Ok(Node {
            record,
            list: None,
            data,
            hierarchical,
            dimensions: dimensions.to_vec(),
            parent: None,
            children: Vec::new(),
            ends: vec![None; dimensions.len()],
        })
    }
    /// The public structure.
    pub fn record(&self) -> *mut TreeTensorNode {
        self.record.as_ptr().cast()
    }
    /// Sizes of the axes.
    pub fn dimensions(&self) -> &[usize] {
        &self.dimensions
    }
    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dimensions.iter().product()
    }
    /// The elements.
    pub fn data(&self) -> &[Complex] {
        // SAFETY: the elements were written when the node was made. Only the call that uses the network writes
        // them, and that is this one.
        unsafe { self.data.elements(self.count()) }
    }
    /// The elements, and the chunks they are in if they can leave RAM.
    pub fn source(&self) -> Source<'_> {
        Source { elements: self.data(), chunked: self.data.chunked() }
    }
    /// The block of the elements.
    pub fn block(&self) -> &Block {
        &self.data
    }
    /// Whether it was made for hierarchical memory.
    pub fn is_hierarchical(&self) -> bool {
        self.hierarchical
    }
    /// The parent.
    pub fn parent(&self) -> Option<usize> {
        self.parent
    }
    /// The children in the order they were connected.
    pub fn children(&self) -> &[usize] {
        &self.children
    }
    /// The other end of an axis's bond; none for a free axis.
    pub fn end(&self, axis: usize) -> Option<End> {
        self.ends[axis]
    }
    /// The free axes in ascending order.
    pub fn free_axes(&self) -> Vec<usize> {
        (0..self.ends.len()).filter(|axis| self.ends[*axis].is_none()).collect()
    }
    /// The bonds to another node: this node's axis and the other's, ascending by this node's.
    pub fn bonds_to(&self, other: usize) -> Vec<(usize, usize)> {
        let bond =
            |(axis, end): (usize, &Option<End>)| end.filter(|e| e.node == other).map(|e| (axis, e.axis));
        self.ends.iter().enumerate().filter_map(bond).collect()
    }
    /// Makes the public list of children long enough for one more. After the checks, this is the only step of a
    /// connection that can fail, so nothing has been changed yet if it does.
    pub(super) fn reserve_child(&mut self, memory: &Memory) -> Result<()> {
        const POINTER: usize = size_of::<*mut TreeTensorNode>();
        let room = self.list.as_ref().map_or(0, |list| list.size() / POINTER);
        if self.children.len() < room {
            return Ok(());
        }
        let longer = memory.bytes((2 * room).max(4) * POINTER)?;
        if let Some(list) = &self.list {
            // SAFETY: both blocks are live, and the new one is longer.
            unsafe { longer.as_ptr().copy_from_nonoverlapping(list.as_ptr(), list.size()) };
        }
        // SAFETY: the record lives as long as this node.
        unsafe { (*self.record()).children = longer.as_ptr().cast() };
        self.list = Some(longer);
        Ok(())
    }
    /// Appends a child. `reserve_child` must have made room for it.
    pub(super) fn push_child(&mut self, child: usize, child_record: *mut TreeTensorNode) {
        let place = self.children.len();
        self.children.push(child);
        // SAFETY: `reserve_child` has made room; the record lives as long as this node.
        unsafe {
            let record = self.record();
            let list = self.list.as_ref().expect("reserved").as_ptr().cast::<*mut TreeTensorNode>();
            list.add(place).write(child_record);
            (*record).children = list;
            (*record).num_children = place + 1;
            (*record).is_leaf = false;
        }
    }
    pub(super) fn set_parent(&mut self, parent: usize, parent_record: *mut TreeTensorNode) {
        self.parent = Some(parent);
        // SAFETY: the record lives as long as this node.
        unsafe { (*self.record()).parent = parent_record };
    }
    /// Sets the size of the bond to the parent, for C.
    pub(in crate::tensor) fn set_rank(&mut self, rank: usize) {
        // SAFETY: the record lives as long as this node.
        unsafe { (*self.record()).rank = rank };
    }
    /// Replaces the node's tensor by another with as many axes.
    pub(in crate::tensor) fn replace(&mut self, dimensions: Vec<usize>, data: Block) {
        debug_assert_eq!(dimensions.len(), self.dimensions.len());
        debug_assert!(shape::elements(&dimensions).is_ok());
        // SAFETY: the record was made with room for as many dimensions, and lives as long as this node.
        unsafe {
            let record = self.record();
            let sizes = self.record.as_ptr().add(HEAD).cast::<usize>();
            sizes.copy_from_nonoverlapping(dimensions.as_ptr(), dimensions.len());
            (*record).dimensions = sizes;
            (*record).data = data.as_ptr().cast();
        }
        self.dimensions = dimensions;
        self.data = data;
    }
}
