//! NUMA: how many nodes the machine has, which one the caller runs on, and placing memory there.
//!
//! The topology is read once, by the first caller that asks. It comes from sysfs. If sysfs tells of several nodes, or
//! the environment describes a machine to hwloc, it comes through hwlocality instead, provided `libhwloc.so.15` is
//! installed. With one node there is nothing to place, and libhwloc would cost its callers some milliseconds and a
//! megabyte. All of this happens under a lock that fork takes, so a forked child can always ask.
#[cfg(unimem_hwloc)]
use super::environment;
use super::fork::AtFork;
#[cfg(unimem_hwloc)]
use super::injection::{Operation, check};
use super::lock::Mutex;
use super::system::{self, NotCancelled};
use crate::error::{Result, fail};
use crate::log::lock_quietly;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Number of NUMA nodes with memory, at least 1.
pub fn nodes() -> usize {
    machine().nodes.len().max(1)
}

/// The node of the processor that this thread runs on, by the system's number. `None` if that is not known.
pub fn current_node() -> Option<usize> {
    machine().current_node()
}

/// Asks the system to put the pages of `length` bytes at `address`, none of which was touched yet, on the caller's node,
/// and on another node only when that one is full. Does nothing on a machine with one node.
pub fn bind_to_current_node(address: NonNull<u8>, length: usize) -> Result<()> {
    let machine = machine();
    match machine.current_node() {
        Some(node) if machine.nodes.len() > 1 => machine.bind(address, length, node),
        _ => Ok(()),
    }
}

struct Machine {
    /// The system's numbers of the nodes that have memory.
    nodes: Box<[usize]>,
    /// The node of each processor, by the processor's number.
    node_of_processor: Box<[Option<usize>]>,
    #[cfg(unimem_hwloc)]
    topology: Option<hwlocality::Topology>,
}

/// Held while the topology is read: libhwloc has locks of its own, which a child must not inherit taken.
static DISCOVERING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub(crate) static HOOKS: &dyn AtFork = &DISCOVERING;

fn machine() -> &'static Machine {
    static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(null_mut());
    let mut known = MACHINE.load(Ordering::Acquire);
    if known.is_null() {
        let _uncancelled = NotCancelled::begin();
        let _discovering = lock_quietly(&DISCOVERING);
        known = MACHINE.load(Ordering::Relaxed);
        if known.is_null() {
            known = Box::into_raw(Box::new(Machine::discover()));
            MACHINE.store(known, Ordering::Release);
        }
    }
    // SAFETY: a machine that was published is never released or changed.
    unsafe { &*known }
}

impl Machine {
    fn discover() -> Machine {
        let machine = Machine::from_sysfs(std::path::Path::new("/sys/devices/system/node"));
        #[cfg(unimem_hwloc)]
        // Not if sysfs has no nodes: then libhwloc knows nothing either, and prints that. Nor in a program that has more rights
        // than its user: libhwloc loads the plug-ins that the environment names.
        if (machine.nodes.len() > 1 || hwloc::is_told_of_another_machine())
            && !environment::is_another_users()
        {
            return hwloc::this_machine().unwrap_or(machine);
        }
        machine
    }

    fn new(processors_of_nodes: Vec<(usize, Vec<usize>)>) -> Machine {
        let highest = processors_of_nodes.iter().flat_map(|(_, processors)| processors).max();
        let mut node_of_processor = vec![None; highest.map_or(0, |highest| highest + 1)];
        for (node, processors) in &processors_of_nodes {
            for &processor in processors {
                node_of_processor[processor] = Some(*node);
            }
        }
        Machine {
            nodes: processors_of_nodes.iter().map(|&(node, _)| node).collect(),
            node_of_processor: node_of_processor.into(),
            #[cfg(unimem_hwloc)]
            topology: None,
        }
    }

    /// Reads the kernel's own tree. What cannot be read counts as absent.
    fn from_sysfs(directory: &std::path::Path) -> Machine {
        let list =
            |name: &str| parse_list(&std::fs::read_to_string(directory.join(name)).unwrap_or_default());
        let nodes = list("has_memory");
        Machine::new(nodes.into_iter().map(|node| (node, list(&format!("node{node}/cpulist")))).collect())
    }

    fn current_node(&self) -> Option<usize> {
        if let [only] = *self.nodes {
            return Some(only);
        }
        *self.node_of_processor.get(system::processor()?)?
    }

    fn bind(&self, address: NonNull<u8>, length: usize, node: usize) -> Result<()> {
        if !self.nodes.contains(&node) {
            return fail!(InvalidArgument, "there is no NUMA node {node} with memory");
        }
        #[cfg(unimem_hwloc)]
        if let Some(topology) = &self.topology {
            // hwlocality makes the system call itself, so `system` cannot ask for an injected fault.
            if let Err(error) = check(Operation::Bind) {
                return fail!(Unsupported, "cannot place {length} bytes on NUMA node {node}: {error}");
            }
            return hwloc::bind(topology, address, length, node);
        }
        bind_by_system_call(address, length, node)
    }
}

/// Most nodes that a mask given to the kernel can name.
const MASK_NODES: usize = 1024;

fn bind_by_system_call(address: NonNull<u8>, length: usize, node: usize) -> Result<()> {
    const BITS: usize = usize::BITS as usize;
    let mut mask = [0usize; MASK_NODES / BITS];
    let Some(word) = mask.get_mut(node / BITS) else {
        return fail!(Unsupported, "NUMA node {node} is beyond the {MASK_NODES} that a mask names");
    };
    *word |= 1 << (node % BITS);
    if let Err(error) = system::prefer_node(address.as_ptr() as usize, length, &mask) {
        return fail!(Unsupported, "cannot place {length} bytes on NUMA node {node}: {error}");
    }
    Ok(())
}

/// Reads a list as the kernel writes them: "0-3,8,10-11".
fn parse_list(text: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.trim().split(',').filter_map(part).flatten().collect()
}

#[cfg(unimem_hwloc)]
mod hwloc {
    use super::*;
    use core::mem::MaybeUninit;
    use hwlocality::Topology;
    use hwlocality::bitmap::BitmapIndex;
    use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
    use hwlocality::memory::nodeset::NodeSet;
    use hwlocality::object::types::ObjectType;
    use hwlocality::topology::builder::TopologyBuilder;

    unsafe extern "C" {
        fn unimem_hwloc_open() -> core::ffi::c_int;
    }

    pub(super) fn this_machine() -> Option<Machine> {
        // A topology that makes hwlocality panic counts as none.
        std::panic::catch_unwind(|| Some(machine(builder()?.build().ok()?))).ok().flatten()
    }

    /// Whether the environment describes to hwloc another machine than the one this runs on.
    pub(super) fn is_told_of_another_machine() -> bool {
        let variables = [c"HWLOC_SYNTHETIC", c"HWLOC_XMLFILE", c"HWLOC_FSROOT"];
        variables.iter().any(|name| environment::variable(name).is_some())
    }

    /// `None` if the library is not installed.
    pub(super) fn builder() -> Option<TopologyBuilder> {
        // SAFETY: the call fills the shim's own variables, always with the same addresses.
        if unsafe { unimem_hwloc_open() } == 0 {
            return None;
        }
        // The x86 component would bind this thread to one processor after the other. What the system says is good
        // enough.
        Topology::builder().without_component("x86").ok()
    }

    pub(super) fn machine(topology: Topology) -> Machine {
        let nodes = topology.objects_with_type(ObjectType::NUMANode).filter_map(|node| {
            let processors = node.cpuset().map(|set| set.iter_set().map(usize::from).collect());
            Some((node.os_index()?, processors.unwrap_or_default()))
        });
        let mut machine = Machine::new(nodes.collect());
        machine.topology = Some(topology);
        machine
    }

    pub(super) fn bind(topology: &Topology, address: NonNull<u8>, length: usize, node: usize) -> Result<()> {
        let index = BitmapIndex::try_from(node);
        let Ok(index) = index else { return fail!(InvalidArgument, "there is no NUMA node {node}") };
        // SAFETY: the bytes may hold anything, and hwloc learns only their address and number from the slice.
        let bytes: &[MaybeUninit<u8>] =
            unsafe { core::slice::from_raw_parts(address.as_ptr().cast(), length) };
        let set = NodeSet::from(index);
        // Without STRICT this is a preference and not a requirement.
        match topology.bind_memory_area(bytes, &set, MemoryBindingPolicy::Bind, MemoryBindingFlags::empty()) {
            Ok(()) => Ok(()),
            Err(why) => fail!(Unsupported, "cannot place {length} bytes on NUMA node {node}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn kernel_lists_are_understood() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert!(parse_list("\n").is_empty());
        assert!(parse_list("x,2-").is_empty());
    }

    fn page() -> NonNull<u8> {
        // SAFETY: the mapping is fresh and anonymous, and nobody unmaps it.
        let page = unsafe {
            libc::mmap(null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        NonNull::new(page.cast()).unwrap()
    }

    #[test]
    fn sysfs_is_read() {
        let directory = std::env::temp_dir().join(format!("unimem-numa-{}", std::process::id()));
        for (node, processors) in [("node0", "0-1\n"), ("node2", "2-3\n")] {
            std::fs::create_dir_all(directory.join(node)).unwrap();
            std::fs::write(directory.join(node).join("cpulist"), processors).unwrap();
        }
        std::fs::write(directory.join("has_memory"), "0,2\n").unwrap();
        let machine = Machine::from_sysfs(&directory);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(*machine.nodes, [0, 2]);
        assert_eq!(*machine.node_of_processor, [Some(0), Some(0), Some(2), Some(2)]);
        assert_eq!(machine.bind(page(), 4096, 1), Err(Error::InvalidArgument));
        let absent = Machine::from_sysfs(&directory);
        assert_eq!((absent.nodes.len(), absent.current_node()), (0, None));
    }

    #[test]
    fn a_node_the_system_lacks_is_an_error() {
        assert_eq!(bind_by_system_call(page(), 4096, MASK_NODES), Err(Error::Unsupported));
        assert_eq!(bind_by_system_call(page(), 4096, MASK_NODES - 1), Err(Error::Unsupported));
    }

    #[test]
    fn this_machine_has_a_current_node() {
        assert!(nodes() >= 1);
        assert_eq!(bind_to_current_node(page(), 4096), Ok(()));
    }

    #[cfg(unimem_hwloc)]
    #[test]
    fn a_described_machine_is_read() {
        let Some(builder) = hwloc::builder() else {
            return eprintln!("SKIP: no libhwloc.so.15");
        };
        let described = builder.from_synthetic("pack:2 [numa(memory=1073741824)] core:4 pu:2").unwrap();
        let machine = hwloc::machine(described.build().unwrap());
        assert_eq!(*machine.nodes, [0, 1]);
        assert_eq!(machine.node_of_processor[..8], [Some(0); 8]);
        assert_eq!(machine.node_of_processor[8..], [Some(1); 8]);
        assert_eq!(machine.bind(page(), 4096, 1), Ok(()));
        assert_eq!(machine.bind(page(), 4096, 2), Err(Error::InvalidArgument));
    }

    /// hwloc reads `HWLOC_SYNTHETIC` itself, so this asks in a process of its own.
    #[cfg(unimem_hwloc)]
    #[test]
    fn the_environment_can_describe_a_machine() {
        if std::env::var_os("HWLOC_SYNTHETIC").is_some() {
            assert_eq!(nodes(), 4);
            assert!(current_node().is_some_and(|node| node < 4));
            assert_eq!(bind_to_current_node(page(), 4096), Ok(()));
            return;
        }
        if hwloc::builder().is_none() {
            return eprintln!("SKIP: no libhwloc.so.15");
        }
        let name = "os::numa::tests::the_environment_can_describe_a_machine";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("HWLOC_SYNTHETIC", "numa:4(memory=1073741824) core:64 pu:2")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
    }
}
