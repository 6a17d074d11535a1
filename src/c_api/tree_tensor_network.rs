//! The functions of `tree_tensor_network.h`: the tree tensor network for C.
//!
//! A function checks its arguments, works through `crate::tensor`, and translates the outcome. On failure it returns
//! false or NULL, and the thread's last error says why. A network is used by one thread at a time; a call from a second
//! thread meanwhile is refused.
use super::legacy_types::{AdvancedMemorySystem, MemoryPool};
use super::tensor_types::*;
use super::{advanced_system, guard_uncancelled, layouts, memory_pool, succeeds_uncancelled, tables};
use crate::error::{Result, fail};
use crate::instance::slots;
use crate::tensor::live::{self, Session};
use crate::tensor::memory::{Memory, Storage};
use crate::tensor::network::{End, storage_for};
use crate::tensor::pair::{self, OtherSessions};
use crate::tensor::progress::Progress;
use crate::tensor::{adapt, kernel, shape, tree};
use core::ffi::c_void;
use core::ptr;

pub(super) fn not_null<T>(pointer: *const T, what: &str) -> Result<()> {
    if pointer.is_null() { fail!(InvalidArgument, "{what} is NULL") } else { Ok(()) }
}

/// A network without nodes. Its tensors are allocated through the global interface.
pub(super) fn make(num_qubits: usize, max_rank: usize, tolerance: f64) -> Result<*mut tree_tensor_network_t> {
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        return fail!(InvalidArgument, "the tolerance {tolerance} is not a finite number of at least 0");
    }
    slots::global()?;
    Ok(live::create(tree_tensor_network_t {
        root: ptr::null_mut(),
        num_nodes: 0,
        max_rank,
        num_qubits,
        tolerance,
        memory: tables::of_slot(slots::GLOBAL).cast(),
        metrics: tensor_network_metrics_t::default(),
    }))
}

/// Makes a network without nodes. Its tensors are allocated through the global interface until `memory` is changed.
///
/// `max_rank` is what `adapt_bond_dimensions` aims at (0: no limit). `tolerance` is the largest absolute error of an
/// element in hierarchical memory; NULL if it is not a finite number of at least 0.
#[unsafe(no_mangle)]
pub extern "C" fn create_tree_tensor_network(
    num_qubits: usize,
    max_rank: usize,
    tolerance: f64,
) -> *mut tree_tensor_network_t {
    guard_uncancelled(ptr::null_mut(), || make(num_qubits, max_rank, tolerance))
}

/// Frees a network with all its nodes and streams. NULL does nothing.
///
/// # Safety
/// Nobody uses the network, its nodes or its streams any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroy_tree_tensor_network(ttn: *mut tree_tensor_network_t) {
    guard_uncancelled((), || if ttn.is_null() { Ok(()) } else { live::destroy(ttn) })
}

/// Adds a node with a copy of `data` (row-major; NULL means zeros). A node without dimensions is a scalar. NULL on
/// failure.
///
/// # Safety
/// `dimensions` points to `num_dimensions` sizes. `data` is NULL or points to as many elements as their product.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn add_tree_tensor_node(
    ttn: *mut tree_tensor_network_t,
    data: *const ComplexFloat,
    dimensions: *const usize,
    num_dimensions: usize,
    use_hierarchical: bool,
) -> *mut tree_tensor_node_t {
    guard_uncancelled(ptr::null_mut(), || {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        if num_dimensions > 0 {
            not_null(dimensions, "the list of dimensions")?;
        }
        if num_dimensions > MOST_DIMENSIONS {
            return fail!(InvalidArgument, "{num_dimensions} dimensions are more than {MOST_DIMENSIONS}");
        }
        // SAFETY: the caller's promise.
        let dimensions = unsafe { list(dimensions, num_dimensions) };
        let count = shape::elements(dimensions)?;
        let storage = if use_hierarchical { Storage::Hierarchical } else { storage_for(&memory, count) };
        // SAFETY: the caller's promise.
        let elements = (!data.is_null()).then(|| unsafe { list(data, count) });
        let id = session.network().add(&memory, dimensions, storage, elements)?;
        Ok(session.view().record(id))
    })
}
/// More axes than any tensor with sizes above 1 can have; a larger number is a mistake.
const MOST_DIMENSIONS: usize = 1 << 20;

/// # Safety
/// `start` points to `count` values, or `count` is 0.
pub(super) unsafe fn list<'a, T>(start: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if count == 0 { &[] } else { unsafe { core::slice::from_raw_parts(start, count) } }
}

/// Makes `child` a child of `parent`, and joins them by a bond if any of their free axes fit. The bond is the first of
/// these that exists:
///
/// - the parent's last free axis and the child's first free axis, if their sizes agree;
/// - the first pair of free axes whose sizes agree;
/// - no bond: an outer product.
///
/// False if the child has a parent already, or if the edge would close a cycle.
///
/// # Safety
/// The pointers are the network and nodes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect_tree_tensor_nodes(
    ttn: *mut tree_tensor_network_t,
    parent: *mut tree_tensor_node_t,
    child: *mut tree_tensor_node_t,
) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        let (parent, child) = (session.find(parent)?, session.find(child)?);
        let memory = memory(&session)?;
        session.network().connect(&memory, parent, child)
    })
}

/// Joins an axis of `parent` with an axis of `child` of the same size. Further calls for the same two nodes add bonds.
///
/// # Safety
/// The pointers are the network and nodes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_connect_axes(
    ttn: *mut tree_tensor_network_t,
    parent: *mut tree_tensor_node_t,
    parent_axis: usize,
    child: *mut tree_tensor_node_t,
    child_axis: usize,
) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        let parent = End { node: session.find(parent)?, axis: parent_axis };
        let child = End { node: session.find(child)?, axis: child_axis };
        let memory = memory(&session)?;
        session.network().connect_axes(&memory, parent, child)
    })
}

/// Contracts two nodes, of this network or of others, into a new node of `ttn`, which belongs to the network and is
/// freed with it. The sum goes over the bonds between the two nodes. If they have none it goes over the pair of axes
/// that the rule of `connect_tree_tensor_nodes` finds among all their axes. The axes of the result are those of `node1`
/// that remain, then those of `node2`.
///
/// # Safety
/// The pointers are live networks and nodes; `result` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn contract_tree_tensor_nodes(
    ttn: *mut tree_tensor_network_t,
    node1: *mut tree_tensor_node_t,
    node2: *mut tree_tensor_node_t,
    result: *mut *mut tree_tensor_node_t,
) -> bool {
    succeeds_uncancelled(|| {
        not_null(result, "the result")?;
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        let contracted = {
            let others = OtherSessions::new(&session, [node1, node2])?;
            pair::contract(&others.pair(node1, node2)?, &memory, &session.view().progress)?
        };
        let id = pair::keep(session.network(), &memory, contracted)?;
        // SAFETY: the caller's promise.
        unsafe { result.write(session.view().record(id)) };
        Ok(())
    })
}

/// Contracts the whole tree of the root. The axes of the result are the free axes of the nodes in depth-first
/// pre-order; {1} if there are none.
///
/// `*result` is released with `free`. `result_dims` is NULL or has room for `*num_dims` sizes. If `result` is NULL
/// nothing is contracted, and only the number of axes and their sizes are returned.
///
/// # Safety
/// The pointers are a live network and where to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn contract_full_tree_network(
    ttn: *mut tree_tensor_network_t,
    result: *mut *mut ComplexFloat,
    result_dims: *mut usize,
    num_dims: *mut usize,
) -> bool {
    succeeds_uncancelled(|| {
        not_null(num_dims, "the number of dimensions")?;
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        let (elements, sizes) = if result.is_null() {
            (None, tree::dimensions(session.view())?)
        } else {
            let (elements, sizes) = tree::contract(session.network(), &memory)?;
            (Some(elements), sizes)
        };
        // SAFETY: the caller promises that the pointers may be written. `result` is written only if it is not NULL.
        unsafe {
            num_dims.write(sizes.len());
            if !result_dims.is_null() {
                result_dims.copy_from_nonoverlapping(sizes.as_ptr(), sizes.len());
            }
            if let Some(elements) = elements {
                result.write(elements.release());
            }
        }
        Ok(())
    })
}

/// Plans the order of contracting the tree thoroughly, and keeps the plan. Tensors, bonds and results stay as they are.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optimize_tree_structure(ttn: *mut tree_tensor_network_t) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        tree::optimize(session.network(), &memory)
    })
}

/// Brings the tree to canonical form and truncates its bonds. The error of the whole network, relative in the Frobenius
/// norm, stays at most `target_error`; 0 keeps everything above rounding.
///
/// No bond stays larger than `max_rank` if the error allows that. If it does not, the tree is adapted, the bond stays
/// larger, and the call is false with `UNIMEM_ERROR_LIMIT`. On any other failure nothing changes. `rank` of each node
/// becomes the size of the bond to its parent.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adapt_bond_dimensions(ttn: *mut tree_tensor_network_t, target_error: f64) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        // SAFETY: the session shows that the network is live, and its public structure lives as long.
        let most = unsafe { (*session.public()).max_rank };
        adapt::adapt(session.network(), &memory, target_error, most)
    })
}

/// Tells what contracting the tree will cost: the floating-point operations (8 for each multiply-add), and the most
/// bytes that intermediate tensors and the result take at one time. That is without the temporary copies on disk that a
/// product of tensors larger than the budget may make. Either pointer may be NULL.
///
/// # Safety
/// The pointers are a live network and where to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_contraction_cost(
    ttn: *mut tree_tensor_network_t,
    flops: *mut f64,
    peak_bytes: *mut f64,
) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        let (operations, bytes) = tree::cost(session.network(), &memory)?;
        // SAFETY: the caller's promise.
        unsafe {
            if !flops.is_null() {
                flops.write(operations);
            }
            if !peak_bytes.is_null() {
                peak_bytes.write(bytes);
            }
        }
        Ok(())
    })
}

/// Writes what has been measured so far to `metrics`.
///
/// # Safety
/// The pointers are a live network and where to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_tree_tensor_network_metrics(
    ttn: *const tree_tensor_network_t,
    metrics: *mut tensor_network_metrics_t,
) -> bool {
    succeeds_uncancelled(|| {
        not_null(metrics, "where the metrics go")?;
        let session = Session::new(ttn)?;
        // SAFETY: the caller's promise.
        unsafe { metrics.write(session.view().measured()) };
        Ok(())
    })
}

/// Resets the metrics: counts and times to 0, the peak to what the network holds now.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reset_tree_tensor_network_metrics(ttn: *mut tree_tensor_network_t) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        session.network().metrics = tensor_network_metrics_t::default();
        session.network().account.reset_peak();
        Ok(())
    })
}

/// Sets the function that is told how far a long operation is; NULL: none. It is called as
/// `callback(done, total, context)` on the calling thread. The numbers are floating-point operations, or steps when
/// bonds are adapted. If it returns false the operation stops with `UNIMEM_ERROR_LIMIT`. It must not use the network.
///
/// # Safety
/// The callback can be called with this context until another takes its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_set_progress(
    ttn: *mut tree_tensor_network_t,
    callback: unimem_progress_t,
    context: *mut c_void,
) -> bool {
    succeeds_uncancelled(|| {
        let mut session = Session::new(ttn)?;
        // SAFETY: the caller's promise.
        session.network().progress = unsafe { Progress::new(callback, context) };
        Ok(())
    })
}

/// Allocates later tensors from a memory pool, or from its system if it is a pool of a memory system. Existing tensors
/// stay where they are and are freed there.
///
/// # Safety
/// The pointers are a live network and a live pool, which outlives the network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn set_memory_pool(ttn: *mut tree_tensor_network_t, pool: *mut MemoryPool) -> bool {
    succeeds_uncancelled(|| {
        let session = Session::new(ttn)?;
        let slot = match layouts::system_of_pool(pool.cast()) {
            Some(system) => system.interface()?,
            None => slots::adopt(memory_pool::known_heap_of(pool)?, None)?,
        };
        session.set_table(tables::of_slot(slot).cast());
        Ok(())
    })
}

/// Allocates later tensors from a memory system, as [`set_memory_pool`] does from a pool.
///
/// # Safety
/// The pointers are a live network and a live system, which outlives the network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn set_memory_system(
    ttn: *mut tree_tensor_network_t,
    system: *mut AdvancedMemorySystem,
) -> bool {
    succeeds_uncancelled(|| {
        let session = Session::new(ttn)?;
        let slot = advanced_system::system_at(system)?.interface()?;
        session.set_table(tables::of_slot(slot).cast());
        Ok(())
    })
}

/// Limits the threads of one contraction, for the whole process; 0: as many as there are processors.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_set_threads(count: usize) {
    kernel::set_threads(count);
}

/// Returns the number of threads that a large contraction uses.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_threads() -> usize {
    guard_uncancelled(1, || Ok(kernel::threads()))
}

/// Where the tensors of a network are allocated: its table, and our instance behind the table if there is one.
pub(super) fn memory(session: &Session) -> Result<Memory> {
    let slot = tables::slot_of(session.table().cast());
    session.memory(slot.ok().map(slots::open_at).transpose()?)
}
