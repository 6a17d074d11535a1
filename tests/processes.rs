//! What only a process of its own shows: forks at any moment, and memory that a program does not get back.
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Mutex, OnceLock};
use unimem::c_api::advanced_system::{create_memory_system, destroy_memory_system};
use unimem::c_api::interface::{unimem_global, unimem_set_log};
use unimem::c_api::legacy_types::MemorySystemConfig;
use unimem::error::Error;
use unimem::heap::{Heap, HeapParams};
use unimem::instance::slots;
use unimem::log;
use unimem::os::injection::{Operation::*, arm, disarm};

static TURN: Mutex<()> = Mutex::new(());

/// Runs `body` in a forked child and says whether it came to its end. A child that hangs is ended by the system: see
/// `patience` in c_tests/process.h.
fn child_survives(body: impl FnOnce()) -> bool {
    let patience = std::env::var("UNIMEM_TEST_PATIENCE").map_or(1, |times| times.parse().unwrap());
    // SAFETY: the child only runs `body`, and leaves without returning.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(10 * patience);
            body();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}
/// Forks while another thread does `work` over and over; every child does it too.
fn forks_beside(work: fn()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    work();
                }
            });
        }
        let survived = (0..300).take_while(|_| child_survives(work)).count();
        done.store(true, Relaxed);
        assert_eq!(survived, 300, "a child hung");
    });
}

unsafe extern "C-unwind" fn ignore(_: c_int, _: *const c_char, _: *mut c_void) {}

#[test]
fn a_child_can_log() {
    let _turn = TURN.lock();
    log::set_callback(Some(ignore), null_mut());
    forks_beside(|| log::send(log::Level::Debug, format_args!("a message")));
    log::set_callback(None, null_mut());
}

#[test]
fn a_child_can_end_pools_where_no_instance_was_opened() {
    let _turn = TURN.lock();
    static HEAP: OnceLock<&'static Heap> = OnceLock::new();
    HEAP.set(Heap::create(&HeapParams::default()).unwrap()).ok().unwrap();
    // The part of a pool's end that looks for an instance of its own.
    forks_beside(|| slots::disown(HEAP.get().unwrap()));
}

#[test]
fn a_log_callback_may_use_the_library() {
    let _turn = TURN.lock();
    unsafe extern "C-unwind" fn calls_back(_: c_int, _: *const c_char, _: *mut c_void) {
        static DEPTH: AtomicUsize = AtomicUsize::new(0);
        if DEPTH.fetch_add(1, Relaxed) == 0 {
            unimem_global();
        }
    }
    assert!(child_survives(|| {
        // SAFETY: the child has one thread; the callback stays.
        unsafe {
            std::env::set_var("UNIMEM_MAX_SIZE", "much");
            unimem_set_log(Some(calls_back), null_mut());
        }
        assert!(!unimem_global().is_null());
    }));
}

/// It allocates under the lock of systems, which fork takes after that of the recording: whoever waits for the recording there,
/// may wait for ever.
#[test]
fn a_system_that_is_made_first_begins_the_recording_without_waiting_for_it() {
    // The standard library's lock of the environment, too, is nobody's while another test forks.
    let _turn = TURN.lock();
    let name = "a_system_that_is_made_first_begins_the_recording_without_waiting_for_it";
    let trace = std::env::temp_dir().join(format!("unimem-processes-{}.trace", std::process::id()));
    if std::env::var_os("UNIMEM_TRACE").is_none() {
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        let output = program.args(["--exact", name]).env("UNIMEM_TRACE", &trace).output().unwrap();
        let length = std::fs::metadata(&trace).map(|file| file.len());
        let _ = std::fs::remove_file(&trace);
        assert!(output.status.success() && length.unwrap() > 0, "{output:?}");
        return;
    }
    let config = MemorySystemConfig::default();
    // SAFETY: a configuration, and a system that is ended once. The child leaves without returning.
    unsafe {
        let system = create_memory_system(&config);
        assert!(!system.is_null() && child_survives(|| ()));
        destroy_memory_system(system);
    }
}

fn mapped_pages() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse().unwrap()
}
#[test]
fn a_heap_without_caches_needs_no_more_memory_over_time() {
    let _turn = TURN.lock();
    let heap = Heap::create(&HeapParams { cache_blocks: 0, ..HeapParams::default() }).unwrap();
    let pair = || heap.free(heap.allocate(100, 0).unwrap().as_ptr()).unwrap();
    let kept = heap.allocate(100, 0).unwrap();
    pair();
    let before = mapped_pages();
    (0..200_000).for_each(|_| pair());
    let grown = mapped_pages().saturating_sub(before);
    assert!(grown < 1000, "{grown} pages more");
    heap.free(kept.as_ptr()).unwrap();
    heap.destroy();
}

#[test]
fn a_thread_short_of_memory_changes_nothing() {
    let _turn = TURN.lock();
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let (stop, wait) = (AtomicBool::new(false), Mutex::new(()));
    let mut block = heap.allocate(64 << 20, 0).unwrap().as_ptr() as usize;
    let mut refused = 0;
    // The threads stay, so that each needs records of its own.
    std::thread::scope(|scope| {
        let held = wait.lock().unwrap();
        for n in 0..200 {
            let (send, receive) = std::sync::mpsc::channel();
            let (wait, stop) = (&wait, &stop);
            scope.spawn(move || {
                arm(&[Map, Remap, Discard, Populate], n % 4, libc::ENOMEM);
                let smaller = heap.block(block as *const u8).unwrap().size - (64 << 10);
                let resized = heap.reallocate(block as *mut u8, smaller);
                let large = heap.allocate(2 << 20, 0);
                disarm();
                send.send((resized.map(|b| b.as_ptr() as usize), large.map(|b| b.as_ptr() as usize)))
                    .unwrap();
                drop(wait.lock());
                assert!(stop.load(Relaxed));
            });
            let (resized, large) = receive.recv().unwrap();
            match resized {
                Ok(moved) => block = moved,
                Err(error) => assert_eq!(error, Error::OutOfMemory),
            }
            refused += usize::from(resized.is_err());
            assert!(heap.block(block as *const u8).is_some(), "thread {n}");
            if let Ok(large) = large {
                heap.free(large as *mut u8).unwrap();
            }
            let size = heap.block(block as *const u8).unwrap().size;
            assert_eq!(size, (64 << 20) - (n + 1 - refused) * (64 << 10), "thread {n}: {resized:?}");
            let mut live = 0;
            heap.for_each_live(&mut |_| live += 1);
            assert_eq!((live, heap.statistics().live), (1, size), "thread {n}");
        }
        stop.store(true, Relaxed);
        drop(held);
    });
    heap.destroy();
}
