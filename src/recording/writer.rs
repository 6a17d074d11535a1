//! The recording under way: its file, and the thread that fills it.
//!
//! Nothing here allocates from a heap. So if a recorded program runs on this library's malloc, it has none of the recorder's
//! blocks among its own.
use super::format::{self, BLOCK_HEAD, LARGEST_BLOCK, LARGEST_RECORD, Memory, Record, Sink};
use super::largest::Largest;
use super::{
    DEPTH, EVENTS, Event, Figures, INTERVAL, Live, NUMBER, OFF, ON, QUEUE, STATE, Stack, Tiered, UNREAD,
    USUAL_INTERVAL, modules, now, sources,
};
use crate::error::{Result, fail};
use crate::log::log;
use crate::os::environment::{variable, with_process_number};
use crate::os::lock::{Mutex, MutexGuard, sleep};
use crate::os::private_file::PrivateFile;
use crate::os::records::Records;
use crate::os::system::{self, Errno, NotCancelled};
use crate::os::{fork, map::PAGE};
use allocator_api2::vec::Vec;
use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicBool, Ordering::*};
use std::borrow::Cow;
use std::os::fd::AsFd;
use std::time::Duration;

/// Stack of the thread: enough for a path, and for the thread-local memory of programs that have much of it.
const STACK: usize = 256 << 10;
const TICK: Duration = Duration::from_millis(5);
/// The same while events come faster than that: others get the lock meanwhile.
const BREATH: Duration = Duration::from_micros(100);
const SLOWEST: u64 = 1_000_000_000;
/// Samples that are taken before the next ones come half as often.
const PACE: u32 = 1000;
/// The least number of the file's descriptor, out of the way of programs that count on particular numbers.
const LEAST_DESCRIPTOR: i32 = 500;

static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);
/// Whether the thread exists. Changed under the lock.
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Whether a thread is about to begin the recording that the environment asks for.
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// Records that are not in the file yet.
struct Buffer {
    bytes: Vec<u8, Records>,
}
impl Sink for Buffer {
    fn put(&mut self, bytes: &[u8]) {
        // The buffer is made with room for a block. `Recording::add` sees to it that this is enough.
        if self.bytes.len() + bytes.len() <= self.bytes.capacity() {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

struct Recording {
    file: PrivateFile,
    /// Bytes that are in the file.
    length: u64,
    buffer: Buffer,
    /// When it began, by the system's clock.
    began: u64,
    /// When the next sample is due, by the same clock.
    due: u64,
    /// Nanoseconds from sample to sample.
    pace: u64,
    /// Samples left at this pace.
    left: u32,
    /// Live bytes when sizes of blocks were recorded last.
    told: usize,
    /// Whether nothing has been taken from the queue yet.
    new: bool,
}

impl Recording {
    /// Writes the buffer to the file as a block, if it has records.
    fn flush(&mut self) -> core::result::Result<(), Errno> {
        if self.buffer.bytes.len() == BLOCK_HEAD {
            return Ok(());
        }
        let file = self.file.get()?;
        let head = format::block_head(&self.buffer.bytes[BLOCK_HEAD..]);
        self.buffer.bytes[..BLOCK_HEAD].copy_from_slice(&head);
        let mut rest = &self.buffer.bytes[..];
        while !rest.is_empty() {
            let wrote = match system::write_at(file, rest, self.length) {
                Ok(0) => return Err(Errno(libc::ENOSPC)),
                Err(Errno(libc::EINTR)) => 0,
                wrote => wrote?,
            };
            self.length += wrote as u64;
            rest = &rest[wrote..];
        }
        self.buffer.bytes.truncate(BLOCK_HEAD);
        Ok(())
    }
    /// Adds a record. Writes the buffer first if it might have no room for it.
    fn add<'a>(&mut self, record: impl Into<Record<'a>>) -> core::result::Result<(), Errno> {
        if self.buffer.bytes.len() + LARGEST_RECORD > BLOCK_HEAD + LARGEST_BLOCK {
            self.flush()?;
        }
        record.into().put(&mut self.buffer);
        Ok(())
    }
    /// Nanoseconds from the beginning of the recording to `time`.
    fn since(&self, time: u64) -> u64 {
        time.saturating_sub(self.began)
    }

    fn begin(&mut self) -> core::result::Result<(), Errno> {
        let mut wall = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call only fills in the structure.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut wall) };
        let mut command = [0; 4096];
        let length = read_file(c"/proc/self/cmdline", &mut command);
        self.add(format::Program {
            began: wall.tv_sec as u64 * 1_000_000_000 + wall.tv_nsec as u64,
            process: std::process::id().into(),
            interval: super::interval() as u64,
            command: Cow::Borrowed(&command[..length]),
        })?;
        Ok(())
    }
    fn add_modules(&mut self) -> core::result::Result<(), Errno> {
        let mut result = Ok(());
        modules::for_each(|module| {
            let added = self.add(format::Module {
                bias: module.bias as u64,
                start: module.range.0 as u64,
                end: module.range.1 as u64,
                size: module.file.map_or(0, |file| file.size),
                modified: module.file.map_or(0, |file| file.modified),
                path: Cow::Borrowed(module.path),
            });
            if added.is_err() {
                result = added;
            }
        });
        result
    }
    /// What the thread does again and again: takes events to the file, and a sample when one is due.
    /// Writes what is new. Returns how long to wait until there is enough to be written again.
    fn tick(&mut self) -> core::result::Result<Duration, Errno> {
        if core::mem::replace(&mut self.new, false) {
            self.add_modules()?;
        }
        let full = self.drain()? == QUEUE;
        let time = now();
        if time >= self.due {
            self.sample(time)?;
            self.due = time + self.pace;
            self.left -= 1;
            if self.left == 0 {
                (self.left, self.pace) = (PACE, (2 * self.pace).min(SLOWEST));
            }
        }
        self.flush()?;
        Ok(if full { BREATH } else { TICK })
    }
    /// Adds the events that are in the queue. Not all that come meanwhile: others want the lock of the recording, fork for one.
    /// Returns how many they were.
    fn drain(&mut self) -> core::result::Result<usize, Errno> {
        // SAFETY: the caller has that lock, so nobody else takes from the queue.
        let taken = unsafe { EVENTS.pop_all(|event| self.add_event(&event)) }?;
        match EVENTS.take_lost() {
            0 => {}
            events => {
                let time = self.since(now());
                self.add(format::Lost { time, events })?;
            }
        }
        Ok(taken)
    }
    fn add_event(&mut self, event: &Event) -> core::result::Result<(), Errno> {
        match event {
            // It began before this recording, and was left over from an earlier one.
            Event::Moved(e) if e.time < self.began => Ok(()),
            Event::Contracted(e) if e.began < self.began => Ok(()),
            Event::Moved(e) => self.add(format::Moved { time: self.since(e.time), ..*e }),
            Event::Contracted(e) => {
                let [rows, columns, sums] = e.axes.map(|sizes| sizes.map(|size| size as u64));
                self.add(format::Contracted {
                    time: self.since(e.began),
                    duration: e.duration,
                    thread: e.thread,
                    flops: (8.0 * e.terms) as u64,
                    tiered: e.tiered,
                    rows: Cow::Borrowed(until_zero(&rows)),
                    columns: Cow::Borrowed(until_zero(&columns)),
                    sums: Cow::Borrowed(until_zero(&sums)),
                })
            }
            Event::Allocated(e) => {
                let stack = numbers(&e.stack);
                self.add(format::Allocated {
                    time: self.since(e.time),
                    address: e.address as u64,
                    size: e.size as u64,
                    weight: e.weight as u64,
                    memory: e.memory,
                    stack: Cow::Borrowed(until_zero(&stack)),
                })
            }
            Event::Freed { time, address } => {
                self.add(format::Freed { time: self.since(*time), address: *address as u64 })
            }
        }
    }
    fn sample(&mut self, time: u64) -> core::result::Result<(), Errno> {
        let mut figures = Figures::default();
        sources().for_each(|source| (source.figures)(&mut figures));
        let tiered = |t: Tiered| [t.size, t.hot, t.warm, t.cold].map(|bytes| bytes as u64);
        let (streaming, hierarchical) = (tiered(figures.streaming), tiered(figures.hierarchical));
        let live = figures.live;
        self.add(format::Sample {
            time: self.since(time),
            resident: resident(),
            live: live as u64,
            tensors: figures.tensors as u64,
            held: figures.held as u64,
            allocations: figures.allocations as u64,
            frees: figures.frees as u64,
            streaming: Cow::Borrowed(&streaming),
            hierarchical: Cow::Borrowed(&hierarchical),
            faults: figures.faults,
            evictions: figures.evictions,
            prefetches: figures.prefetches,
        })?;
        if live > 2 * self.told.max(PAGE) {
            self.told = live;
            self.add_sizes(time, &mut |_| ())?;
        }
        Ok(())
    }
    /// Adds how many live blocks of each size the heaps have. `each` sees everything that is live, tiered memory included.
    fn add_sizes(&mut self, time: u64, each: &mut dyn FnMut(Live)) -> core::result::Result<(), Errno> {
        let mut classes = [[0; 2]; usize::BITS as usize + 1];
        let mut count = |live: Live| {
            each(live);
            if matches!(live.memory, Memory::Streaming | Memory::Hierarchical) {
                return;
            }
            let class = live.size.checked_next_power_of_two().map_or(usize::BITS, usize::ilog2);
            classes[class as usize][0] += 1;
            classes[class as usize][1] += live.size as u64;
        };
        sources().for_each(|source| (source.live)(&mut count));
        let mut list = [0; 3 * (usize::BITS as usize + 1)];
        let mut used = 0;
        for (class, [blocks, bytes]) in classes.into_iter().enumerate().filter(|(_, [blocks, _])| *blocks > 0)
        {
            list[used..used + 3].copy_from_slice(&[class as u64, blocks, bytes]);
            used += 3;
        }
        self.add(format::Sizes { time: self.since(time), classes: Cow::Borrowed(&list[..used]) })
    }
    /// Adds what is live at the end, and the last record.
    fn end(&mut self) -> core::result::Result<(), Errno> {
        self.drain()?;
        let time = now();
        self.sample(time)?;
        let (mut blocks, mut bytes) = (0, 0);
        let mut largest = Largest::new();
        self.add_sizes(time, &mut |live| {
            (blocks, bytes) = (blocks + 1, bytes + live.size as u64);
            largest.offer(live);
        })?;
        for live in largest.blocks() {
            let stack = sources().find_map(|source| (source.stack)(live.address)).unwrap_or([0; DEPTH]);
            let stack = numbers(&stack);
            self.add(format::Live {
                address: live.address as u64,
                size: live.size as u64,
                memory: live.memory,
                stack: Cow::Borrowed(until_zero(&stack)),
            })?;
        }
        // Once more, because the program may have loaded others since.
        self.add_modules()?;
        self.add(format::End { time: self.since(now()), blocks, bytes })?;
        self.flush()
    }
}

fn numbers(stack: &Stack) -> [u64; DEPTH] {
    stack.map(|address| address as u64)
}
fn until_zero(list: &[u64]) -> &[u64] {
    &list[..list.iter().position(|number| *number == 0).unwrap_or(list.len())]
}

/// Reads the beginning of a file. Returns how many bytes there are; 0 if it cannot be read.
fn read_file(path: &CStr, buffer: &mut [u8]) -> usize {
    system::open_to_read(path).and_then(|file| system::read_at(file.as_fd(), buffer, 0)).unwrap_or(0)
}
/// Resident memory of the process in bytes.
fn resident() -> u64 {
    let mut text = [0; 128];
    let length = read_file(c"/proc/self/statm", &mut text);
    let text = core::str::from_utf8(&text[..length]).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE as u64
}

/// Makes or empties the file and writes its head. Fails with EWOULDBLOCK while another process records into it.
fn open(path: &CStr) -> core::result::Result<PrivateFile, Errno> {
    let file = system::open(path, libc::O_CREAT)?;
    system::lock_file(file.as_fd())?;
    system::set_length(file.as_fd(), 0)?;
    let head = format::head();
    match system::write_at(file.as_fd(), &head, 0)? {
        wrote if wrote == head.len() => {}
        _ => return Err(Errno(libc::ENOSPC)),
    }
    PrivateFile::numbered_from(LEAST_DESCRIPTOR, file)
}

/// Begins a recording into the file at `path`, which is made or replaced. `InvalidArgument` while there is one, or if the name
/// is too long; `OutOfMemory`; `Io` if the file cannot be written.
pub fn start(path: &[u8]) -> Result<()> {
    let will_end = install(&RECORDING.lock());
    warn_unless(will_end);
    start_holding(RECORDING.lock(), path)
}
/// Whether a recording that is under way when the program exits will be ended. Called under the lock that fork takes, so that
/// no child inherits this half done.
fn install(_: &MutexGuard<Option<Recording>>) -> bool {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    let installed = INSTALLED.load(Relaxed) || system::at_exit(at_exit).is_ok();
    INSTALLED.store(installed, Relaxed);
    installed
}
fn warn_unless(will_end: bool) {
    if !will_end {
        log!(Warning, "no memory for a handler at exit: a recording will have no end");
    }
}
fn start_holding(mut recording: MutexGuard<Option<Recording>>, path: &[u8]) -> Result<()> {
    if recording.is_some() {
        return fail!(InvalidArgument, "a recording is under way");
    }
    let text = String::from_utf8_lossy;
    let mut buffer = [0; libc::PATH_MAX as usize];
    let Some(name) = with_process_number(path, &mut buffer) else {
        return fail!(InvalidArgument, "the name of the recording is too long");
    };
    let mut bytes = Vec::new_in(Records);
    if bytes.try_reserve_exact(BLOCK_HEAD + LARGEST_BLOCK).is_err() {
        return fail!(OutOfMemory, "no memory for a recording");
    }
    bytes.resize(BLOCK_HEAD, 0);
    let file = match open(name) {
        Ok(opened) => opened,
        Err(Errno(libc::EWOULDBLOCK)) => {
            return fail!(Io, "another process records into {}", text(path));
        }
        // The reason comes first, because a message has no room for every path.
        Err(error) => return fail!(Io, "{error}: {}", text(path)),
    };
    let interval = variable(c"UNIMEM_TRACE_INTERVAL")
        .and_then(|text| core::str::from_utf8(text).ok()?.parse().ok())
        .filter(|interval| *interval > 0);
    INTERVAL.store(interval.unwrap_or(USUAL_INTERVAL), Relaxed);
    let began = now();
    let mut new = Recording {
        file,
        length: format::HEAD as u64,
        buffer: Buffer { bytes },
        began,
        due: began,
        pace: TICK.as_nanos() as u64,
        left: PACE,
        told: 0,
        new: true,
    };
    // At once: what ends before the first sample says what it was all the same.
    if let Err(error) = new.begin().and_then(|()| new.flush()) {
        return fail!(Io, "{error}: {}", text(path));
    }
    *recording = Some(new);
    EVENTS.take_lost();
    NUMBER.fetch_add(1, Relaxed);
    STATE.store(ON, Release);
    if !RUNNING.load(Relaxed) {
        // What starting the thread allocates is recorded already. Such an event goes to the queue, which takes no lock.
        if let Err(error) = system::start_thread(STACK, run) {
            STATE.store(OFF, Release);
            *recording = None;
            return fail!(OutOfMemory, "no thread for a recording: {error}");
        }
        RUNNING.store(true, Relaxed);
    }
    Ok(())
}

/// Begins the recording that the environment asks for.
#[cold]
pub(super) fn start_as_asked() {
    let Some(path) = variable(c"UNIMEM_TRACE").filter(|path| !path.is_empty()) else {
        let _ = STATE.compare_exchange(UNREAD, OFF, AcqRel, Relaxed);
        return;
    };
    // One thread does it. If the library is malloc, what this allocates leads here again.
    if UNDER_WAY.swap(true, AcqRel) {
        return;
    }
    // Do not wait: the caller may hold locks that come after this one. The next allocation tries again.
    let Some(recording) = RECORDING.try_lock() else { return UNDER_WAY.store(false, Release) };
    if STATE.compare_exchange(UNREAD, OFF, AcqRel, Relaxed).is_err() {
        return; // the program has begun one itself
    }
    let will_end = install(&recording);
    match start_holding(recording, path) {
        Ok(()) => warn_unless(will_end),
        Err(error) => log!(Error, "UNIMEM_TRACE: nothing is recorded: {}", error.message()),
    }
}

/// Ends the recording. `InvalidArgument` if there is none, `Io` if its file is not whole.
pub fn stop() -> Result<()> {
    let mut recording = RECORDING.lock();
    let Some(mut ended) = recording.take() else {
        return fail!(InvalidArgument, "nothing is recorded");
    };
    STATE.store(OFF, Release);
    match ended.end() {
        Ok(()) => Ok(()),
        Err(error) => fail!(Io, "the recording could not be written to its end: {error}"),
    }
}
extern "C" fn at_exit() {
    let _uncancelled = NotCancelled::begin();
    if super::is_on()
        && let Err(error) = stop()
    {
        log!(Error, "{}", error.message());
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    loop {
        let mut recording = RECORDING.lock();
        let Some(under_way) = &mut *recording else {
            RUNNING.store(false, Relaxed);
            return core::ptr::null_mut();
        };
        let ticked = under_way.tick();
        if ticked.is_err() {
            *recording = None;
            STATE.store(OFF, Release);
        }
        drop(recording);
        if let Err(error) = ticked {
            // Log without the lock, because the program's callback may use the library.
            log!(Error, "the recording ends here: its file cannot be written, {error}");
        }
        sleep(ticked.unwrap_or(TICK));
    }
}

/// Takes the lock around fork (load.rs). A child has no recording.
pub(crate) static HOOKS: fork::Hooks = fork::Hooks {
    prepare: || core::mem::forget(RECORDING.lock()),
    parent: unlock,
    child: || {
        if STATE.load(Relaxed) == ON {
            STATE.store(OFF, Relaxed);
        }
        RUNNING.store(false, Relaxed);
        UNDER_WAY.store(false, Relaxed); // the thread that was about to take the lock stayed with the parent
        // SAFETY: this is the only thread of the child, and it has had the lock since `prepare`.
        unsafe {
            // Only if something was recorded, because this writes to every page of the queue.
            if NUMBER.load(Relaxed) > 0 {
                EVENTS.reset();
            }
            *RECORDING.data_ptr() = None;
        }
        unlock();
    },
};
fn unlock() {
    // SAFETY: this runs only after `prepare` has taken the lock and forgotten its guard.
    unsafe { RECORDING.force_unlock() }
}

const _: () = assert!(DEPTH * 10 + 64 < LARGEST_RECORD && 3 * 65 * 10 + 64 < LARGEST_RECORD);
const _: () = assert!(libc::PATH_MAX as usize + 128 < LARGEST_RECORD);

#[cfg(test)]
mod tests;
