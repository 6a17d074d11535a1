//! The two conversions of `tree_tensor_network.h`: reading a program's `tensor_network_t`, and making one.
//!
//! In a network that is made, each structure and array is a block of its own from C's `malloc`, because the program
//! itself frees them.
use super::succeeds_uncancelled;
use super::tensor_types::*;
use super::tree_tensor_network::{list, make, memory, not_null};
use crate::error::{Result, fail};
use crate::tensor::convert::{self, Tensor};
use crate::tensor::live::{self, Session};
use crate::tensor::out::Out;
use crate::tensor::{shape, tiled};
use core::ptr;
use std::time::Instant;

/// Makes a tree of a general network. Its root is the valid node with the smallest id. Several connections between two
/// nodes become several bonds. Where the network is not a tree, neighbours on a cycle are contracted. The tensors of
/// the tree are copies, allocated through the global interface. False, and nothing is made, if the network contradicts
/// itself.
///
/// # Safety
/// `network` is valid as its own functions make it, and `ttn` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn convert_tensor_network_to_tree(
    network: *mut tensor_network_t,
    ttn: *mut *mut tree_tensor_network_t,
) -> bool {
    succeeds_uncancelled(|| {
        let start = Instant::now();
        not_null(network, "the network")?;
        not_null(ttn, "where the tree goes")?;
        // SAFETY: the caller's promise.
        let tensors = unsafe { read(&*network) }?;
        let made = make(tensors.len(), 0, 0.0)?;
        let filled = (|| {
            let mut session = Session::new(made)?;
            let memory = memory(&session)?;
            convert::to_tree(session.network(), &memory, tensors)?;
            session.network().spent(start);
            Ok(())
        })();
        match filled {
            // SAFETY: the caller's promise.
            Ok(()) => unsafe { ttn.write(made) },
            Err(error) => {
                live::destroy(made)?;
                return Err(error);
            }
        }
        Ok(())
    })
}

/// The valid nodes of a network.
///
/// # Safety
/// As for `convert_tensor_network_to_tree`. The network must not change while the tensors are used.
unsafe fn read<'a>(network: &tensor_network_t) -> Result<Vec<Tensor<'a>>> {
    if network.num_nodes > 0 {
        not_null(network.nodes, "the network's array of nodes")?;
    }
    let mut tensors = Vec::new();
    // SAFETY: the caller promises that the network is valid, which covers everything that is read below.
    for &node in unsafe { list(network.nodes, network.num_nodes) } {
        // SAFETY: as above.
        let Some(node) = (unsafe { node.as_ref() }).filter(|node| node.is_valid.is_set()) else { continue };
        for (pointer, count, what) in [
            (node.dimensions, node.num_dimensions, "dimensions"),
            (node.connected_nodes, node.num_connections, "connected nodes"),
            (node.connected_dims, node.num_connections, "connected axes"),
        ] {
            if pointer.is_null() && count > 0 {
                return fail!(InvalidArgument, "node {} has no list of {what}", node.id);
            }
        }
        not_null(node.data, "the data of a node")?;
        // SAFETY: as above.
        let (dimensions, neighbours, axes) = unsafe {
            (
                list(node.dimensions, node.num_dimensions),
                list(node.connected_nodes, node.num_connections),
                list(node.connected_dims, node.num_connections),
            )
        };
        let count = shape::elements(dimensions)?;
        if node.total_size != count {
            return fail!(InvalidArgument, "node {} has {} elements, not {count}", node.id, node.total_size);
        }
        tensors.push(Tensor {
            id: node.id,
            dimensions: dimensions.to_vec(),
            // SAFETY: as above.
            elements: unsafe { list(node.data, count) },
            links: neighbours.iter().copied().zip(axes.iter().copied()).collect(),
        });
    }
    Ok(tensors)
}

/// Makes a general network of the root's tree: its nodes in pre-order, with ids from 0, and its bonds as connections.
/// The program's own `destroy_tensor_network` can free it, because everything in it is from `malloc`.
///
/// # Safety
/// `ttn` is a live network, `network` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn convert_tree_to_tensor_network(
    ttn: *mut tree_tensor_network_t,
    network: *mut *mut tensor_network_t,
) -> bool {
    succeeds_uncancelled(|| {
        let start = Instant::now();
        not_null(network, "where the network goes")?;
        let mut session = Session::new(ttn)?;
        let made = build(&session)?;
        session.network().spent(start);
        // SAFETY: the caller's promise.
        unsafe { network.write(made.release()) };
        Ok(())
    })
}

/// A block from `malloc` with room for `count` values, or for one if `count` is 0.
fn array<T>(count: usize) -> Result<*mut T> {
    // SAFETY: malloc takes any size. The product does not overflow, because `count` values of this size exist already.
    let block: *mut T = unsafe { libc::malloc(count.max(1) * size_of::<T>()) }.cast();
    if block.is_null() { fail!(OutOfMemory, "no memory for {count} entries of a network") } else { Ok(block) }
}
/// # Safety
/// The values can be read.
unsafe fn copy_of<T: Copy>(values: &[T]) -> Result<*mut T> {
    let block: *mut T = array(values.len())?;
    // SAFETY: the block has room for them.
    unsafe { block.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(block)
}

/// A network that is being built. Unless it is released, dropping it frees it with everything in it.
struct Building(*mut tensor_network_t);
impl Building {
    fn release(mut self) -> *mut tensor_network_t {
        core::mem::replace(&mut self.0, ptr::null_mut())
    }
}
impl Drop for Building {
    fn drop(&mut self) {
        if self.0.is_null() {
            return;
        }
        // SAFETY: the blocks belong to this object, and each is from `malloc` or NULL. `num_nodes` counts the nodes
        // that were made.
        unsafe {
            for place in 0..(*self.0).num_nodes {
                let node = *(*self.0).nodes.add(place);
                libc::free((*node).data.cast());
                libc::free((*node).dimensions.cast());
                libc::free((*node).connected_nodes.cast());
                libc::free((*node).connected_dims.cast());
                libc::free(node.cast());
            }
            libc::free((*self.0).nodes.cast());
            libc::free(self.0.cast());
        }
    }
}

fn build(session: &Session) -> Result<Building> {
    let exported = convert::to_network(session.view())?;
    let made = Building(array::<tensor_network_t>(1)?);
    // SAFETY: the block is new and has the size of the structure.
    unsafe {
        made.0.write(tensor_network_t {
            nodes: ptr::null_mut(),
            num_nodes: 0,
            capacity: exported.len(),
            next_id: exported.len(),
            connections: ptr::null_mut(),
            num_connections: 0,
            is_optimized: false.into(),
            optimized: false.into(),
            contraction_order: ptr::null_mut(),
            max_memory: 0,
            metrics: tensor_network_metrics_t::default(),
            last_error: 0,
            device: ptr::null_mut(),
            auxiliary_data: ptr::null_mut(),
        });
        (*made.0).nodes = array(exported.len())?;
    }
    for (id, entry) in exported.iter().enumerate() {
        let source = session.view().node(entry.node);
        let node = array::<tensor_node_t>(1)?;
        let (neighbours, axes): (Vec<usize>, Vec<usize>) = entry.links.iter().copied().unzip();
        // SAFETY: the blocks are new and have the right sizes, and any bits are valid numbers. All pointers of a node
        // are set before the node is counted, so that a drop frees only what is there.
        unsafe {
            node.write(tensor_node_t {
                data: ptr::null_mut(),
                dimensions: ptr::null_mut(),
                rank: source.dimensions().len(),
                num_dimensions: source.dimensions().len(),
                total_size: source.count(),
                connected_nodes: ptr::null_mut(),
                connected_dims: ptr::null_mut(),
                num_connections: entry.links.len(),
                id,
                is_valid: true.into(),
            });
            (*made.0).nodes.add(id).write(node);
            (*made.0).num_nodes = id + 1;
            (*node).data = array(source.count())?;
            // `tiled::read` pins the chunks of tiered memory, so it can read tensors that are not in place.
            tiled::read(source.source(), 0, Out::new((*node).data, source.count()))?;
            (*node).dimensions = copy_of(source.dimensions())?;
            (*node).connected_nodes = copy_of(&neighbours)?;
            (*node).connected_dims = copy_of(&axes)?;
        }
    }
    Ok(made)
}
