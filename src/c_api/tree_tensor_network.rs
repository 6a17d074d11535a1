//! `tree_tensor_network.h`: the tree tensor network for C.
//!
//! Every function checks its arguments, does its work through `crate::tensor` and translates the outcome: false or
//! NULL on failure, with the thread's last error telling why. A network is used by one thread at a time; a second
//! one that comes meanwhile is refused.
use super::legacy_types::{AdvancedMemorySystem, MemoryPool};
use super::tensor_types::*;
use super::{advanced_system, guard_uncancelled, layouts, memory_pool, tables};
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

/// A network without nodes, whose tensors go to the global interface.
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

/// Makes a network without nodes. Its tensors go to the global interface until `memory` is changed.
///
/// `max_rank` is what `adapt_bond_dimensions` aims at (0: no limit), `tolerance` the largest error of an element in
/// hierarchical memory; NULL if that is not a finite number of at least 0.
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

/// Adds a node with a copy of `data` (row-major; NULL: zeros). No dimensions mean a scalar. NULL on failure.
///
/// # Safety
/// `dimensions` points to `num_dimensions` sizes, `data` to as many elements as their product.
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

/// Makes `child` a child of `parent`. The bond: the parent's last free axis with the child's first if the sizes agree,
/// else the first pair of free axes that do, else none (outer product). False if the child has a parent already,
/// or the edge would close a cycle.
///
/// # Safety
/// The pointers are the network and nodes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect_tree_tensor_nodes(
    ttn: *mut tree_tensor_network_t,
    parent: *mut tree_tensor_node_t,
    child: *mut tree_tensor_node_t,
) -> bool {
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        let (parent, child) = (session.find(parent)?, session.find(child)?);
        let memory = memory(&session)?;
        session.network().connect(&memory, parent, child)?;
        Ok(true)
    })
}

/// Joins an axis of `parent` with one of `child` of the same size; a further call for the same nodes adds a bond.
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
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        let parent = End { node: session.find(parent)?, axis: parent_axis };
        let child = End { node: session.find(child)?, axis: child_axis };
        let memory = memory(&session)?;
        session.network().connect_axes(&memory, parent, child)?;
        Ok(true)
    })
}

/// Contracts two nodes, of this network or others, into a new node of `ttn`, over their bonds if they have any, else
/// by the rule of `connect_tree_tensor_nodes` over all their axes. Axes of the result: what remains of `node1`, then
/// of `node2`. It belongs to the network and is freed with it.
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
    guard_uncancelled(false, || {
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
        Ok(true)
    })
}

/// Contracts the root's whole tree. `*result` is released with `free`; `result_dims` has room for `*num_dims` sizes.
/// With `result` NULL nothing is contracted: the call tells `num_dims`, and the sizes if `result_dims` is not NULL.
/// Axes: the free axes of the nodes in depth-first pre-order; {1} if there are none.
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
    guard_uncancelled(false, || {
        not_null(num_dims, "the number of dimensions")?;
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        let (elements, sizes) = if result.is_null() {
            (None, tree::dimensions(session.view())?)
        } else {
            let (elements, sizes) = tree::contract(session.network(), &memory)?;
            (Some(elements), sizes)
        };
        // SAFETY: the caller's promise; the result is written only where there is one.
        unsafe {
            num_dims.write(sizes.len());
            if !result_dims.is_null() {
                result_dims.copy_from_nonoverlapping(sizes.as_ptr(), sizes.len());
            }
            if let Some(elements) = elements {
                result.write(elements.release());
            }
        }
        Ok(true)
    })
}

/// Plans the order of contracting the tree thoroughly and keeps the plan. Tensors, bonds and results stay as they are.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optimize_tree_structure(ttn: *mut tree_tensor_network_t) -> bool {
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        tree::optimize(session.network(), &memory)?;
        Ok(true)
    })
}

/// Brings the tree to canonical form and truncates its bonds so that the error of the whole network, relative in the
/// Frobenius norm, is at most `target_error`; 0 keeps what is above rounding. No bond keeps more than `max_rank` where
/// the error allows it; where it does not, the tree is adapted, the bond stays larger, and the call is false with
/// `UNIMEM_ERROR_LIMIT`. On any other failure nothing is changed. `rank` of each node tells the bond to its parent.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adapt_bond_dimensions(ttn: *mut tree_tensor_network_t, target_error: f64) -> bool {
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        let memory = memory(&session)?;
        // SAFETY: a live network's public structure.
        let most = unsafe { (*session.public()).max_rank };
        adapt::adapt(session.network(), &memory, target_error, most)?;
        Ok(true)
    })
}

/// What contracting the tree will cost: floating-point operations (8 a multiply-add), and the most bytes that
/// intermediate tensors and the result will take at one time, without the copies that a product of tensors larger than the
/// budget may make of them for a time, on disk. Either pointer may be NULL.
///
/// # Safety
/// The pointers are a live network and where to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_contraction_cost(
    ttn: *mut tree_tensor_network_t,
    flops: *mut f64,
    peak_bytes: *mut f64,
) -> bool {
    guard_uncancelled(false, || {
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
        Ok(true)
    })
}

/// Copies what has been measured so far.
///
/// # Safety
/// The pointers are a live network and where to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_tree_tensor_network_metrics(
    ttn: *const tree_tensor_network_t,
    metrics: *mut tensor_network_metrics_t,
) -> bool {
    guard_uncancelled(false, || {
        not_null(metrics, "where the metrics go")?;
        let session = Session::new(ttn)?;
        // SAFETY: the caller's promise.
        unsafe { metrics.write(session.view().measured()) };
        Ok(true)
    })
}

/// Sets counts and times to 0; the peak starts anew from what the network holds now.
///
/// # Safety
/// The pointer is a live network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reset_tree_tensor_network_metrics(ttn: *mut tree_tensor_network_t) -> bool {
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        session.network().metrics = tensor_network_metrics_t::default();
        session.network().account.reset_peak();
        Ok(true)
    })
}

/// `callback(done, total, context)` is told how far a long contraction is, in floating-point operations, on the
/// calling thread; false stops it, with `UNIMEM_ERROR_LIMIT`. NULL: nobody. The callback must not use the network.
///
/// # Safety
/// The callback can be called with this context until another takes its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_set_progress(
    ttn: *mut tree_tensor_network_t,
    callback: unimem_progress_t,
    context: *mut c_void,
) -> bool {
    guard_uncancelled(false, || {
        let mut session = Session::new(ttn)?;
        // SAFETY: the caller's promise.
        session.network().progress = unsafe { Progress::new(callback, context) };
        Ok(true)
    })
}

/// From now on new tensors go to a memory pool (a pool of a memory system stands for its system). What exists stays
/// where it is and goes back where it came from.
///
/// # Safety
/// The pointers are a live network and a live pool, which outlives the network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn set_memory_pool(ttn: *mut tree_tensor_network_t, pool: *mut MemoryPool) -> bool {
    guard_uncancelled(false, || {
        let session = Session::new(ttn)?;
        let heap = match layouts::system_of_pool(pool.cast()) {
            Some(system) => system.heap(),
            None => memory_pool::known_heap_of(pool)?,
        };
        session.set_table(tables::of_slot(slots::adopt(heap)?).cast());
        Ok(true)
    })
}

/// The same with a memory system.
///
/// # Safety
/// The pointers are a live network and a live system, which outlives the network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn set_memory_system(
    ttn: *mut tree_tensor_network_t,
    system: *mut AdvancedMemorySystem,
) -> bool {
    guard_uncancelled(false, || {
        let session = Session::new(ttn)?;
        let heap = advanced_system::system_at(system)?.heap();
        session.set_table(tables::of_slot(slots::adopt(heap)?).cast());
        Ok(true)
    })
}

/// Most threads that one contraction uses; 0: as many as there are processors. Of the whole process.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_set_threads(count: usize) {
    kernel::set_threads(count);
}

/// Threads that one contraction uses where it is large enough.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_threads() -> usize {
    guard_uncancelled(1, || Ok(kernel::threads()))
}

/// Where the tensors of a network go: its table, and our instance behind it if it is one.
pub(super) fn memory(session: &Session) -> Result<Memory> {
    let slot = tables::slot_of(session.table().cast());
    session.memory(slot.ok().map(slots::open_at).transpose()?)
}
