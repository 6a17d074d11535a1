//! Which networks, nodes and streams are alive, so that a stale or foreign address is an error and not a crash.
//!
//! One table for the process behind a lock that is held for a look-up only. A network in use is marked: a second
//! thread, or a progress callback, that comes for it meanwhile is refused.
use super::memory::{Memory, Table};
use super::network::Network;
use super::records::{Metrics, TensorStream, TreeTensorNetwork, TreeTensorNode};
use super::stream::Stream;
use crate::error::{Result, fail};
use crate::instance::Instance;
use crate::log::{QuietGuard, lock_quietly};
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// A network as C holds it: the public structure first.
#[repr(C)]
struct NetworkRecord {
    public: UnsafeCell<TreeTensorNetwork>,
    busy: AtomicBool,
    network: UnsafeCell<Network>,
}
/// A stream as C holds it.
#[repr(C)]
struct StreamRecord {
    public: UnsafeCell<TensorStream>,
    stream: UnsafeCell<Stream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    /// With the address of its network.
    Node(usize),
    /// With the address of its network.
    Stream(usize),
}

type Live = Option<HashMap<usize, Kind, FixedState>>;
static LIVE: Mutex<Live> = Mutex::new(None);

/// See load.rs.
pub static HOOKS: &dyn AtFork = &LIVE;

/// Quietly: its table is malloc's.
fn live() -> QuietGuard<'static, Live> {
    lock_quietly(&LIVE)
}
fn kind<T>(address: *const T) -> Option<Kind> {
    live().as_ref()?.get(&(address as usize)).copied()
}
fn insert<T>(address: *const T, kind: Kind) {
    live().get_or_insert_default().insert(address as usize, kind);
}
fn remove<T>(address: *const T) {
    if let Some(table) = live().as_mut() {
        table.remove(&(address as usize));
    }
}

/// A network in use by this call. What C sees of it is brought up to date at the end.
pub struct Session {
    record: *mut NetworkRecord,
    /// Nodes that were there at the start: later ones become live at the end.
    nodes: usize,
}

/// Makes a network.
pub fn create(public: TreeTensorNetwork) -> *mut TreeTensorNetwork {
    let record = Box::into_raw(Box::new(NetworkRecord {
        public: UnsafeCell::new(public),
        busy: AtomicBool::new(false),
        network: UnsafeCell::new(Network::default()),
    }));
    insert(record, Kind::Network);
    record.cast()
}

/// Ends a network, its nodes and its streams.
pub fn destroy(public: *mut TreeTensorNetwork) -> Result<()> {
    let session = Session::new(public)?;
    let record = session.record;
    core::mem::forget(session);
    let address = record as usize;
    let mut streams = Vec::new();
    if let Some(table) = live().as_mut() {
        table.retain(|at, kind| {
            if *kind == Kind::Stream(address) {
                streams.push(*at as *mut StreamRecord);
            }
            !matches!(kind, Kind::Node(of) | Kind::Stream(of) if *of == address) && *at != address
        });
    }
    for stream in streams {
        // SAFETY: made by `Box` in `open`, and just taken out of the table, so ended once.
        drop(unsafe { Box::from_raw(stream) });
    }
    // SAFETY: made by `Box` in `create`, just taken out of the table, and marked as used by this call.
    drop(unsafe { Box::from_raw(record) });
    Ok(())
}

impl Session {
    /// Begins to use a network.
    pub fn new(public: *const TreeTensorNetwork) -> Result<Session> {
        if public.is_null() {
            return fail!(InvalidArgument, "the network is NULL");
        }
        if kind(public) != Some(Kind::Network) {
            return fail!(InvalidArgument, "not a live tree tensor network");
        }
        let record = public.cast_mut().cast::<NetworkRecord>();
        // SAFETY: live, so made by `create`.
        if unsafe { &(*record).busy }.swap(true, Acquire) {
            return fail!(
                InvalidArgument,
                "the network is in use, by another thread or the caller of a callback"
            );
        }
        let mut session = Session { record, nodes: 0 };
        session.nodes = session.network().len();
        Ok(session)
    }
    /// Its state.
    pub fn network(&mut self) -> &mut Network {
        // SAFETY: `busy` makes this session the only one; the borrow is tied to it.
        unsafe { &mut *(*self.record).network.get() }
    }
    /// Its state, to read.
    pub fn view(&self) -> &Network {
        // SAFETY: `busy` makes this session the only one; the borrow is tied to it.
        unsafe { &*(*self.record).network.get() }
    }
    /// The public structure.
    pub fn public(&self) -> *mut TreeTensorNetwork {
        self.record.cast()
    }
    /// The table that new tensors come from, as the public structure says.
    pub fn table(&self) -> *const Table {
        // SAFETY: the record is live.
        unsafe { (*(*self.record).public.get()).memory }
    }
    /// Makes new tensors come from another table.
    pub fn set_table(&self, table: *mut Table) {
        // SAFETY: the record is live and this session is the only user of the network.
        unsafe { (*(*self.record).public.get()).memory = table };
    }
    /// Where new tensors go. `instance` is what stands behind the table, if it is one of the library's own.
    pub fn memory(&self, instance: Option<&'static Instance>) -> Result<Memory> {
        // SAFETY: the record is live; the table is the caller's promise (CONTRACT section 5).
        unsafe {
            let public = &*(*self.record).public.get();
            Memory::new(public.memory, instance, &self.view().account, public.tolerance)
        }
    }
    /// The node whose public structure this is, if it is of this network.
    #[allow(clippy::not_unsafe_ptr_arg_deref)] // dereferenced only once it is known to be live
    pub fn find(&self, node: *const TreeTensorNode) -> Result<usize> {
        if network_of(node)? != self.public() {
            return fail!(InvalidArgument, "the node belongs to another network");
        }
        // SAFETY: looked up among the live nodes just now.
        unsafe { self.view().find(node) }
    }
}
impl Drop for Session {
    fn drop(&mut self) {
        let address = self.record as usize;
        for id in self.nodes..self.view().len() {
            insert(self.view().record(id), Kind::Node(address));
        }
        let (root, count) = (self.view().root(), self.view().len());
        let measured: Metrics = self.view().measured();
        // SAFETY: the record is live and this session is the only user of the network.
        unsafe {
            let public = (*self.record).public.get();
            (*public).root = root.map_or(core::ptr::null_mut(), |id| self.view().record(id));
            (*public).num_nodes = count;
            (*public).metrics = measured;
            (*self.record).busy.store(false, Release);
        }
    }
}

/// The network of a node.
pub fn network_of(node: *const TreeTensorNode) -> Result<*mut TreeTensorNetwork> {
    if node.is_null() {
        return fail!(InvalidArgument, "the node is NULL");
    }
    match kind(node) {
        Some(Kind::Node(network)) => Ok(network as *mut TreeTensorNetwork),
        _ => fail!(InvalidArgument, "not a live node of a tree tensor network"),
    }
}

/// Gives C a stream over a node of the session's network.
pub fn open(session: &Session, stream: Stream, public: TensorStream) -> *mut TensorStream {
    let record = Box::into_raw(Box::new(StreamRecord {
        public: UnsafeCell::new(public),
        stream: UnsafeCell::new(stream),
    }));
    insert(record, Kind::Stream(session.record as usize));
    record.cast()
}

/// The session of a stream's network, and the stream.
pub fn stream(public: *mut TensorStream) -> Result<(Session, *mut TensorStream, *mut Stream)> {
    let Some(Kind::Stream(network)) = kind(public) else {
        return fail!(InvalidArgument, "not a live tensor stream");
    };
    let session = Session::new(network as *const TreeTensorNetwork)?;
    let record = public.cast::<StreamRecord>();
    // SAFETY: live, so made by `open`.
    Ok((session, public, unsafe { (*record).stream.get() }))
}

/// The node of a stream.
pub fn node_of_stream(public: *mut TensorStream) -> Result<*mut TreeTensorNode> {
    let (session, _, state) = stream(public)?;
    // SAFETY: live, and its network's session makes this call the only user.
    let id = unsafe { (*state).node };
    Ok(session.view().record(id))
}

/// Ends a stream.
pub fn close(public: *mut TensorStream) -> Result<()> {
    let (session, ..) = stream(public)?;
    remove(public);
    // SAFETY: made by `Box` in `open`, and just taken out of the table, so ended once.
    drop(unsafe { Box::from_raw(public.cast::<StreamRecord>()) });
    drop(session);
    Ok(())
}
