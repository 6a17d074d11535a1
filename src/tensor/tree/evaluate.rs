//! Evaluating a plan, product by product. Each intermediate tensor is freed as soon as it has been used.
use super::order::{Plan, Step};
use super::scaled::Scale;
use super::{Effort, dimensions, plan};
use crate::error::{Result, fail};
use crate::tensor::kernel::scan::scale;
use crate::tensor::kernel::{Axis, OPERATIONS_PER_TERM, Product};
use crate::tensor::memory::{Account, Block, Memory};
use crate::tensor::network::{Network, storage_for};
use crate::tensor::out::Out;
use crate::tensor::tiled::{self, ChunkedMemory, Source, Target};
use crate::tensor::{Complex, shape};
use std::rc::Rc;
use std::time::Instant;

/// A result in a block from C's `malloc`. It counts as the network's from when it begins to be written until it is handed over
/// to the program, which frees it.
pub struct Malloced {
    start: *mut Complex,
    count: usize,
    account: Option<Rc<Account>>,
}
impl Malloced {
    /// It is not counted yet.
    fn new(count: usize) -> Result<Malloced> {
        let bytes = count * size_of::<Complex>();
        // SAFETY: any size may be asked for.
        let start: *mut Complex = unsafe { libc::malloc(bytes) }.cast();
        if start.is_null() {
            return fail!(OutOfMemory, "no {bytes} bytes for the result");
        }
        Ok(Malloced { start, count, account: None })
    }
    fn count_in(&mut self, account: &Rc<Account>) {
        account.charge(self.count * size_of::<Complex>());
        self.account = Some(account.clone());
    }
    /// The elements, to be written.
    fn out(&mut self) -> Out<'_> {
        // SAFETY: the block has `count` elements, and is this object's own until it is handed over.
        unsafe { Out::new(self.start, self.count) }
    }
    /// The elements of a result that [`contract`] returned.
    #[cfg(test)]
    pub fn elements(&mut self) -> &[Complex] {
        // SAFETY: the block has `count` elements, and `contract` has written all of them.
        unsafe { core::slice::from_raw_parts(self.start, self.count) }
    }
    /// Hands the block over to the program.
    pub fn release(mut self) -> *mut Complex {
        core::mem::replace(&mut self.start, core::ptr::null_mut())
    }
}
impl Drop for Malloced {
    fn drop(&mut self) {
        self.account.iter().for_each(|account| account.credit(self.count * size_of::<Complex>()));
        // SAFETY: the block is from `malloc`, or NULL if it was handed over.
        unsafe { libc::free(self.start.cast()) }
    }
}

/// An axis of an operand or an intermediate tensor. Both ends of a bond have the same label. Axes of size 1 are left out.
#[derive(Clone, Copy)]
struct Labelled {
    label: usize,
    size: usize,
}

/// An operand: a node's tensor or an intermediate one.
struct Tensor {
    axes: Vec<Labelled>,
    /// None for the tensors of the nodes themselves.
    data: Option<Block>,
    scale: Scale,
}

impl Tensor {
    /// The elements: those of `data`, or else those of `node`.
    fn source<'a>(&'a self, network: &'a Network, node: Option<&usize>) -> Source<'a> {
        match (&self.data, node) {
            (Some(block), _) => {
                // SAFETY: the step that made the block wrote all of it, and nobody writes it any more.
                let elements = unsafe { block.elements(elements(&self.axes)) };
                Source { elements, chunked: block.chunked() }
            }
            (None, Some(id)) => network.node(*id).source(),
            (None, None) => Source { elements: &[], chunked: None },
        }
    }
}

/// Labels for all axes of the tree. Both ends of a bond have the same one.
struct Labels {
    /// First label of each node.
    first: Vec<usize>,
    count: usize,
}
impl Labels {
    fn new(network: &Network, ids: &[usize]) -> Labels {
        let mut labels = Labels { first: vec![0; network.len()], count: 0 };
        for &id in ids {
            labels.first[id] = labels.count;
            labels.count += network.node(id).dimensions().len();
        }
        labels
    }
    fn of(&self, network: &Network, id: usize, axis: usize) -> usize {
        let own = self.first[id] + axis;
        network.node(id).end(axis).map_or(own, |end| own.min(self.first[end.node] + end.axis))
    }
    fn axes(&self, network: &Network, id: usize) -> Vec<Labelled> {
        let sizes = network.node(id).dimensions().iter().enumerate();
        let labelled = |(axis, &size)| Labelled { label: self.of(network, id, axis), size };
        sizes.filter(|(_, size)| **size > 1).map(labelled).collect()
    }
    /// For each label of a free axis, its stride in the result.
    fn strides_of_result(&self, network: &Network, ids: &[usize]) -> Vec<usize> {
        let mut strides = vec![0; self.count];
        let mut stride = 1;
        for &id in ids.iter().rev() {
            for axis in network.node(id).free_axes().into_iter().rev() {
                strides[self.of(network, id, axis)] = stride;
                stride *= network.node(id).dimensions()[axis];
            }
        }
        strides
    }
}

/// Contracts the root's tree. Returns the elements, in a block from `malloc`, and the dimensions.
pub fn contract(network: &mut Network, memory: &Memory) -> Result<(Malloced, Vec<usize>)> {
    let start = Instant::now();
    let plan = plan(network, memory, Effort::Quick)?;
    let begin = Instant::now();
    let sizes = dimensions(network)?;
    let mut steps = 0;
    let result = evaluate(network, memory, &plan, shape::elements(&sizes)?, &mut steps);
    network.metrics.num_contractions += steps;
    network.metrics.contraction_time += begin.elapsed().as_secs_f64();
    network.spent(start);
    Ok((result?, sizes))
}

/// Carries out the plan, and counts its steps. The result has `count` elements.
fn evaluate(
    network: &Network,
    memory: &Memory,
    plan: &Plan,
    count: usize,
    steps_done: &mut usize,
) -> Result<Malloced> {
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    // First of all: a result for which there is no memory is not worth computing anything for.
    let mut result = Malloced::new(count)?;
    if plan.steps.is_empty() {
        result.count_in(&network.account);
        tiled::read(network.node(root).source(), 0, result.out())?;
        return Ok(result);
    }
    let mut evaluation = Evaluation::new(network, memory, plan, network.preorder(root));
    let strides = evaluation.labels.strides_of_result(network, &evaluation.ids);
    for (number, step) in plan.steps.iter().enumerate() {
        let operands = [evaluation.operand(step.upper)?, evaluation.operand(step.lower)?];
        let target = (number + 1 == plan.steps.len()).then(|| {
            result.count_in(&network.account);
            (&strides[..], result.out())
        });
        let next = evaluation.memory_read_by(number + 1);
        let made = evaluation.multiply(step, &operands, target, next)?;
        evaluation.tensors.push(made);
        *steps_done += 1;
    }
    Ok(result)
}

/// A plan that is being carried out.
struct Evaluation<'a> {
    network: &'a Network,
    memory: &'a Memory,
    plan: &'a Plan,
    /// The nodes, by the plan's numbers.
    ids: Vec<usize>,
    labels: Labels,
    /// By the plan's numbers, the intermediate tensors that were made and not used yet. None at the places of nodes.
    tensors: Vec<Option<Tensor>>,
    /// Scratch of [`product_of`]: for each label, which axis of the right operand has it. Between calls all are `usize::MAX`.
    marks: Vec<usize>,
    /// Multiply-adds of the steps that are done.
    done: f64,
}

impl<'a> Evaluation<'a> {
    fn new(network: &'a Network, memory: &'a Memory, plan: &'a Plan, ids: Vec<usize>) -> Evaluation<'a> {
        let labels = Labels::new(network, &ids);
        let mut tensors = Vec::with_capacity(ids.len() + plan.steps.len());
        tensors.resize_with(ids.len(), || None);
        let marks = vec![usize::MAX; labels.count];
        Evaluation { network, memory, plan, ids, labels, tensors, marks, done: 0.0 }
    }
    /// Takes an operand, which no step after this one needs.
    fn operand(&mut self, number: usize) -> Result<Tensor> {
        if let Some(made) = self.tensors[number].take() {
            return Ok(made);
        }
        let id = self.ids[number];
        let source = self.network.node(id).source();
        let scale = if source.chunked.is_some() { Scale::unknown() } else { Scale::measure(source)? };
        Ok(Tensor { axes: self.labels.axes(self.network, id), data: None, scale })
    }
    /// What a step's product reads first, if that can leave RAM: the tensor of the operand that is a node. The other operand
    /// is the result of a step before, perhaps of the one that is at work.
    fn memory_read_by(&self, number: usize) -> Option<&'a dyn ChunkedMemory> {
        let step = self.plan.steps.get(number)?;
        let mut nodes = [step.upper, step.lower].into_iter().filter_map(|tensor| self.ids.get(tensor));
        nodes.find_map(|id| self.network.node(*id).source().chunked)
    }

    /// Makes one product. The last one goes to `target` (the strides by label, and the elements). Any other makes a new
    /// tensor, which is returned.
    fn multiply(
        &mut self,
        step: &Step,
        operands: &[Tensor; 2],
        target: Option<(&[usize], Out)>,
        next: Option<&dyn ChunkedMemory>,
    ) -> Result<Option<Tensor>> {
        let (mut product, axes) = product_of(operands, &mut self.marks);
        let own_strides = strides_of(&axes);
        let out_stride = |place: usize| match &target {
            Some((strides, _)) => strides[axes[place].label],
            None => own_strides[place],
        };
        for (place, axis) in product.rows.iter_mut().chain(&mut product.columns).enumerate() {
            axis.other = out_stride(place);
        }
        let count = shape::elements(&axes.iter().map(|axis| axis.size).collect::<Vec<_>>())?;
        let last = target.is_some();
        let mut block = None;
        let mut out = match target {
            Some((_, elements)) => Target { elements, chunked: None },
            None => {
                let storage = storage_for(self.memory, count);
                block.insert(self.memory.elements(count, storage)?).target(count)
            }
        };
        let mut scale_of_result = self.multiply_scaled(step, operands, &mut product, &mut out, next)?;
        self.done += product.terms();
        if last {
            if scale_of_result.exponent != 0 {
                // SAFETY: the product has written all elements, as its rows and columns are the axes of the result.
                scale(unsafe { out.elements.written_mut() }, scale_of_result.exponent);
            }
            return Ok(None);
        }
        // SAFETY: as above.
        unsafe { scale_of_result.refresh(&mut out) }?;
        let Some(data) = block else { return fail!(Internal, "a product without a place") };
        Ok(Some(Tensor { axes, data: Some(data), scale: scale_of_result }))
    }

    /// Writes a product to `out` and returns its scale. Operands of unknown scale are taken as they are. If the product then
    /// looks wrong, their scales are measured and the product is made again, from operands that are scaled.
    fn multiply_scaled(
        &self,
        step: &Step,
        [left, right]: &[Tensor; 2],
        product: &mut Product,
        out: &mut Target,
        next: Option<&dyn ChunkedMemory>,
    ) -> Result<Scale> {
        let sources = [
            left.source(self.network, self.ids.get(step.upper)),
            right.source(self.network, self.ids.get(step.lower)),
        ];
        let mut scales = [left.scale, right.scale];
        let work = product.terms();
        let mut raised = false;
        // The largest share reported so far: the product may be made twice, but progress may not go back.
        let mut told = 0.0_f64;
        loop {
            let made = Scale::of_product(scales[0], scales[1], product, &mut raised);
            let mut tick = |share: f64| {
                told = told.max(share);
                let (done, total) = (self.done + told * work, self.plan.terms);
                self.network.progress.report(OPERATIONS_PER_TERM * done, OPERATIONS_PER_TERM * total)
            };
            tiled::multiply(product, sources[0], sources[1], out, self.memory, next, &mut tick)?;
            let is_best = raised && !scales.iter().any(Scale::is_unknown);
            // SAFETY: the product has written all elements, as its rows and columns are the axes of the result.
            if is_best || made.is_right(unsafe { out.written() })? {
                return Ok(made);
            }
            for (scale, source) in scales.iter_mut().zip(sources) {
                if scale.is_unknown() {
                    *scale = Scale::measure(source)?;
                }
            }
            raised = true;
        }
    }
}

fn elements(axes: &[Labelled]) -> usize {
    axes.iter().map(|axis| axis.size).product()
}
fn strides_of(axes: &[Labelled]) -> Vec<usize> {
    shape::strides(&axes.iter().map(|axis| axis.size).collect::<Vec<_>>())
}
/// The product over the labels that both operands have, and the axes of its result: those of the rows, then those of the
/// columns. The caller has still to set their strides in the result.
fn product_of([left, right]: &[Tensor; 2], marks: &mut [usize]) -> (Product, Vec<Labelled>) {
    let (left_strides, right_strides) = (strides_of(&left.axes), strides_of(&right.axes));
    for (axis, labelled) in right.axes.iter().enumerate() {
        marks[labelled.label] = axis;
    }
    let mut product = Product::default();
    let mut axes = Vec::with_capacity(left.axes.len() + right.axes.len());
    for (axis, labelled) in left.axes.iter().enumerate() {
        let (size, input) = (labelled.size, left_strides[axis]);
        match core::mem::replace(&mut marks[labelled.label], usize::MAX) {
            usize::MAX => {
                product.rows.push(Axis { size, input, other: 0 });
                axes.push(*labelled);
            }
            partner => product.sums.push(Axis { size, input, other: right_strides[partner] }),
        }
    }
    for (axis, labelled) in right.axes.iter().enumerate() {
        if core::mem::replace(&mut marks[labelled.label], usize::MAX) != usize::MAX {
            product.columns.push(Axis { size: labelled.size, input: right_strides[axis], other: 0 });
            axes.push(*labelled);
        }
    }
    (product, axes)
}
