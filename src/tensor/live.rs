//! Which networks, nodes and streams are alive, so that a stale or foreign address is an error and not a crash.
//!
//! - One table for the process holds the addresses that are alive. Its lock is held only while the table is read
//!   or changed.
//! - A [`Session`] marks its network as in use. A second thread, or a progress callback, that asks for the
//!   network meanwhile is refused; it does not wait. The session's thread computes in the default floating-point
//!   environment.
use super::memory::{Memory, Table};
use super::network::Network;
use super::records::{Metrics, TensorStream, TreeTensorNetwork, TreeTensorNode};
use super::stream::Stream;
use crate::error::{Result, fail};
use crate::instance::Instance;
use crate::log::{QuietGuard, lock_quietly};
use crate::os::floating_point::Computing;
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};

/// A network as C holds it: the public structure first.
#[repr(C)]
struct NetworkRecord {
    public: UnsafeCell<TreeTensorNetwork>,
    busy: AtomicBool,
    network: UnsafeCell<Network>,
    /// The open streams over its nodes.
    streams: UnsafeCell<HashSet<*mut StreamRecord, FixedState>>,
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
    /// A node, with the address of its network.
    Node(usize),
    /// A stream, with the address of its network.
    Stream(usize),
}

type Live = Option<HashMap<usize, Kind, FixedState>>;
static LIVE: Mutex<Live> = Mutex::new(None);

/// Takes the lock of the table around fork (load.rs).
pub static HOOKS: &dyn AtFork = &LIVE;

/// Locks the table. The table allocates with malloc, which may be a heap that logs; `lock_quietly` holds
/// messages back until the lock is released.
fn live() -> QuietGuard<'static, Live> {
    lock_quietly(&LIVE)
}
fn kind<T>(address: *const T) -> Option<Kind> {
    live().as_ref()?.get(&(address as usize)).copied()
}
fn insert<T>(address: *const T, kind: Kind) {
    live().get_or_insert_default().insert(address as usize, kind);
}
fn remove(addresses: impl Iterator<Item = usize>) {
    if let Some(table) = live().as_mut() {
        for address in addresses {
            table.remove(&address);
        }
    }
}

/// A network in use by the current call. Dropping the session writes the public structures and ends the use.
pub struct Session {
    record: *mut NetworkRecord,
    /// Number of nodes at the start. Nodes added since then become live when the session ends.
    nodes: usize,
    _computing: Computing,
}

/// Makes a network without nodes.
pub fn create(public: TreeTensorNetwork) -> *mut TreeTensorNetwork {
    let record = Box::into_raw(Box::new(NetworkRecord {
        public: UnsafeCell::new(public),
        busy: AtomicBool::new(false),
        network: UnsafeCell::new(Network::default()),
        streams: UnsafeCell::default(),
    }));
    insert(record, Kind::Network);
    record.cast()
}

/// Destroys a network, its nodes and its streams.
pub fn destroy(public: *mut TreeTensorNetwork) -> Result<()> {
    let record = mark(public)?;
    // SAFETY: this call is the network's only user, since it has marked it.
    let (network, streams) =
        unsafe { (&*(*record).network.get(), core::mem::take(&mut *(*record).streams.get())) };
    let nodes = (0..network.len()).map(|id| network.record(id) as usize);
    remove(nodes.chain(streams.iter().map(|stream| *stream as usize)).chain([record as usize]));
    for stream in streams {
        // SAFETY: `open` made the record with `Box`. It has just been taken out of the table, so nobody else
        // frees it.
        drop(unsafe { Box::from_raw(stream) });
    }
    // SAFETY: `create` made the record with `Box`. It has just been taken out of the table, and this call is its
    // only user, since it has marked the network.
    drop(unsafe { Box::from_raw(record) });
    Ok(())
}

/// Marks a network as in use. `InvalidArgument` if it is NULL, not alive, or in use.
fn mark(public: *const TreeTensorNetwork) -> Result<*mut NetworkRecord> {
    if public.is_null() {
        return fail!(InvalidArgument, "the network is NULL");
    }
    let record = public.cast_mut().cast::<NetworkRecord>();
    // The table stays locked until the network is marked: `destroy` frees a network only after it has marked it and
    // then, under the same lock, taken it out of the table.
    let was_busy = live().as_ref().and_then(|table| {
        let alive = table.get(&(public as usize)) == Some(&Kind::Network);
        // SAFETY: the table has this address as a live network, so `create` made the record, and nobody frees it
        // while the table is locked.
        alive.then(|| unsafe { &(*record).busy }.swap(true, Acquire))
    });
    match was_busy {
        None => fail!(InvalidArgument, "not a live tree tensor network"),
        Some(true) => {
            fail!(InvalidArgument, "the network is in use, by another thread or the caller of a callback")
        }
        Some(false) => Ok(record),
    }
}

impl Session {
    /// Begins to use a network. `InvalidArgument` if it is NULL, not alive, or in use.
    pub fn new(public: *const TreeTensorNetwork) -> Result<Session> {
        let record = mark(public)?;
        let mut session = Session { record, nodes: 0, _computing: Computing::begin() };
        session.nodes = session.network().len();
        Ok(session)
    }
    /// The network's state.
    pub fn network(&mut self) -> &mut Network {
        // SAFETY: `busy` makes this session the only one; the borrow is tied to it.
        unsafe { &mut *(*self.record).network.get() }
    }
    /// The network's state, to read.
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
    /// The memory that new tensors come from. `instance` is the one behind the table, if the table is one of the
    /// library's own.
    pub fn memory(&self, instance: Option<&'static Instance>) -> Result<Memory> {
        // SAFETY: the record is live. Whoever puts a table into a network promises that its functions do what
        // the interface says, and that it outlives the network's blocks.
        unsafe {
            let public = &*(*self.record).public.get();
            Memory::new(public.memory, instance, &self.view().account, public.tolerance)
        }
    }
    /// The number of the node with this public structure. `InvalidArgument` if it is not a live node of this
    /// network.
    #[allow(clippy::not_unsafe_ptr_arg_deref)] // dereferenced only once it is known to be live
    pub fn find(&self, node: *const TreeTensorNode) -> Result<usize> {
        if network_of(node)? != self.public() {
            return fail!(InvalidArgument, "the node belongs to another network");
        }
        // SAFETY: the table has just named it as a live node of this network, which no other call can destroy
        // meanwhile.
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

/// The network that a node belongs to. `InvalidArgument` if the node is NULL or not alive.
pub fn network_of(node: *const TreeTensorNode) -> Result<*mut TreeTensorNetwork> {
    if node.is_null() {
        return fail!(InvalidArgument, "the node is NULL");
    }
    match kind(node) {
        Some(Kind::Node(network)) => Ok(network as *mut TreeTensorNetwork),
        _ => fail!(InvalidArgument, "not a live node of a tree tensor network"),
    }
}

/// Makes the structure that C sees of a stream over a node of the session's network.
pub fn open(session: &Session, stream: Stream, public: TensorStream) -> *mut TensorStream {
    let record = Box::into_raw(Box::new(StreamRecord {
        public: UnsafeCell::new(public),
        stream: UnsafeCell::new(stream),
    }));
    // SAFETY: the session is the only user of the network.
    unsafe { (*(*session.record).streams.get()).insert(record) };
    insert(record, Kind::Stream(session.record as usize));
    record.cast()
}

/// Begins to use a stream's network. Returns the session, the public structure and the stream's state.
pub fn stream(public: *mut TensorStream) -> Result<(Session, *mut TensorStream, *mut Stream)> {
    let Some(Kind::Stream(network)) = kind(public) else {
        return fail!(InvalidArgument, "not a live tensor stream");
    };
    let session = Session::new(network as *const TreeTensorNetwork)?;
    // Once more: another thread may have closed the stream before this session began. While it lasts nobody can.
    if kind(public) != Some(Kind::Stream(network)) {
        return fail!(InvalidArgument, "not a live tensor stream");
    }
    let record = public.cast::<StreamRecord>();
    // SAFETY: the table has this address as a live stream, so `open` made it.
    Ok((session, public, unsafe { (*record).stream.get() }))
}

/// The node of a stream.
pub fn node_of_stream(public: *mut TensorStream) -> Result<*mut TreeTensorNode> {
    let (session, _, state) = stream(public)?;
    // SAFETY: the stream is live, and the session of its network makes this call its only user.
    let id = unsafe { (*state).node };
    Ok(session.view().record(id))
}

/// Closes a stream.
pub fn close(public: *mut TensorStream) -> Result<()> {
    let (session, ..) = stream(public)?;
    let record = public.cast::<StreamRecord>();
    // SAFETY: the session is the only user of the network.
    unsafe { (*(*session.record).streams.get()).remove(&record) };
    remove([record as usize].into_iter());
    // SAFETY: `open` made the record with `Box`. It has just been taken out of the table, so nobody else frees
    // it.
    drop(unsafe { Box::from_raw(record) });
    drop(session);
    Ok(())
}
