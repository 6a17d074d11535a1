//! Reports: what is live, by the stacks that allocated it, and what was found wrong. They go to the log when a heap or the
//! program ends, and into a file as JSON when that is asked for.
//!
//! The JSON is `{"version": 1, "process", "program", "complete", "blocks", "bytes", "damaged", "problems": [{"kind",
//! "address", "size", "offset", "found", "allocated", "freed"}], "sites": [{"blocks", "bytes", "left_blocks", "left_bytes",
//! "stack"}], "more_sites"}`:
//! - `size` and `offset` of a bad free are those of the block that the address is in, if it is in one.
//! - A stack is a list of `{"address", "function", "file", "line"}`, innermost call first. `function` and `file` may be
//!   empty, and `line` 0. If `trace` is off, stacks are empty or missing.
//! - `left_blocks` and `left_bytes` were live when their pool, system or instance ended. The others are live.
//! - Sites with most leaked bytes, then with most bytes, come first. Only the first are listed; `more_sites` counts the rest.
//! - At the end of a program each site, and the report, also have `lost_blocks` and `lost_bytes`: blocks that nothing points
//!   to (reachable.rs). Damaged blocks are neither lost nor left.
//! - `complete` is false while the program runs. Then the file of `UNIMEM_DEBUG_REPORT` has the problems found so far; that
//!   is what remains of a program that crashes.
use super::super::{Block, registry};
use super::{findings, reachable, regions, trace, traces_are_on};
use crate::error::{Result, fail};
use crate::log::{self, Level, is_wanted, lock_quietly, log};
use crate::os::environment::{variable, with_process_number};
use crate::os::errno::Errno;
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::os::records::Records;
use crate::os::system::{self, NotCancelled, within_limit};
use allocator_api2::vec::Vec;
use core::cmp::Reverse;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use foldhash::fast::FixedState;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most sites named in JSON. A large program has thousands, and to find their names takes seconds.
const MOST_SITES: usize = 256;
/// Most sites that leak nothing and are named at the end of a program.
const MOST_KEPT: usize = 16;
/// Most sites named in the log.
const SITES_LOGGED: usize = 16;

/// A number of blocks, and their bytes together.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    blocks: usize,
    bytes: usize,
}
impl Sum {
    pub fn add(&mut self, block: &Block) {
        *self = Sum { blocks: self.blocks + 1, bytes: self.bytes + block.size };
    }
}
/// The blocks that one stack allocated and that are live, that nothing points to, and that were live when their heap ended.
#[derive(Default)]
struct Site {
    stack: u64,
    live: Sum,
    lost: Sum,
    left: Sum,
}
impl Site {
    fn leaked(&self) -> usize {
        self.lost.blocks + self.left.blocks
    }
}
/// The sites of the live blocks and of those that were left, the sites with most leaked bytes first, then those with most
/// bytes. `reached` says for each block whether anything points to it.
fn sites(live: &[Block], reached: Option<&[bool]>, left: &[(u64, Sum)]) -> std::vec::Vec<Site> {
    let stacks = trace::stacks_of(live.iter().map(|block| block.start));
    let mut sites = HashMap::<u64, Site, FixedState>::default();
    for (index, (block, &stack)) in live.iter().zip(&stacks).enumerate() {
        let site = sites.entry(stack).or_default();
        site.stack = stack;
        site.live.add(block);
        if reached.is_some_and(|reached| !reached[index]) {
            site.lost.add(block);
        }
    }
    for &(stack, sum) in left {
        let site = sites.entry(stack).or_default();
        (site.stack, site.left) = (stack, sum);
    }
    let mut sites: std::vec::Vec<Site> = sites.into_values().collect();
    let leaked = |site: &Site| site.lost.bytes + site.left.bytes;
    sites.sort_by_key(|site| (Reverse(leaked(site)), Reverse(site.live.bytes), site.stack));
    sites
}

/// Logs the stacks that allocated blocks which leaked.
pub(super) fn log_sites(live: &[Block]) {
    if is_wanted(Level::Warning) {
        sites(live, None, &[]).iter().take(SITES_LOGGED).for_each(|site| log_site(site.stack, site.live));
    }
}
fn log_site(stack: u64, leak: Sum) {
    log!(Warning, "leak: {} blocks, {} bytes, allocated by", leak.blocks, leak.bytes);
    trace::log_stack(stack);
}

pub(super) fn stack_to_json(stack: u64) -> Value {
    let call = |call: &trace::Call| {
        json!({"address": format!("{:#x}", call.address), "function": call.function,
               "file": call.file, "line": call.line})
    };
    trace::calls(stack).iter().map(call).collect()
}
fn to_json(complete: bool, sites: &[Site], lost: bool) -> Value {
    let sum = |of: fn(&Site) -> usize| sites.iter().map(of).sum::<usize>();
    let mut value = json!({
        "version": 1, "process": std::process::id(),
        "program": std::fs::read_link("/proc/self/exe").map(|path| path.display().to_string()).unwrap_or_default(),
        "complete": complete, "blocks": sum(|site| site.live.blocks), "bytes": sum(|site| site.live.bytes),
        "left_blocks": sum(|site| site.left.blocks), "left_bytes": sum(|site| site.left.bytes),
        "damaged": findings::damaged(),
    });
    if lost {
        value["lost_blocks"] = sum(|site| site.lost.blocks).into();
        value["lost_bytes"] = sum(|site| site.lost.bytes).into();
    }
    value["problems"] = findings::to_json().into();
    let of_site = |site: &Site| {
        let mut value = json!({"blocks": site.live.blocks, "bytes": site.live.bytes,
                               "left_blocks": site.left.blocks, "left_bytes": site.left.bytes});
        if lost {
            value["lost_blocks"] = site.lost.blocks.into();
            value["lost_bytes"] = site.lost.bytes.into();
        }
        value["stack"] = stack_to_json(site.stack);
        value
    };
    let leaking = sites.iter().filter(|site| site.leaked() > 0).count();
    let listed = if lost { (leaking + MOST_KEPT).min(MOST_SITES) } else { MOST_SITES };
    value["more_sites"] = sites.len().saturating_sub(listed).into();
    value["sites"] = sites.iter().take(listed).map(of_site).collect();
    value
}

/// The live blocks of all heaps, sorted by address. Damaged blocks and damaged freed blocks are reported.
fn look_at_all() -> Vec<Block, Records> {
    super::empty_quarantine(None);
    let mut live: Vec<Block, Records> = Vec::new_in(Records);
    registry::for_each_heap(|heap| _ = heap.list_live(&mut live));
    regions::add_to(&mut live, None);
    super::tell_damaged(&live);
    live.sort_unstable_by_key(|block| block.start);
    live
}
fn write_text(path: &Path, value: &Value) -> std::io::Result<()> {
    let _uncancelled = NotCancelled::begin();
    let text = format!("{value:#}\n");
    let mut file = File::create(path)?;
    if file.metadata()?.is_file() {
        within_limit(text.len() as u64).map_err(|Errno(error)| std::io::Error::from_raw_os_error(error))?;
    }
    file.write_all(text.as_bytes())
}

/// Writes what is live in all heaps to the file at `path`, as JSON. Error: Io.
pub fn write(path: &Path) -> Result<()> {
    let live = look_at_all();
    match write_text(path, &to_json(true, &sites(&live, None, &findings::left()), false)) {
        Ok(()) => Ok(()),
        // The reason comes first, as the message may have no room for the whole path.
        Err(error) => fail!(Io, "{error}: {}", path.display()),
    }
}

/// Held by the thread that writes the file which the environment names. Writing allocates and frees, from this very heap if
/// it is malloc, and may find something itself. So whoever finds something while the file is written leaves it to the
/// writer.
static WRITING: Mutex<()> = Mutex::new(());
/// Whether something was found that may not be in the file yet.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);
/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &WRITING;
/// The file that `UNIMEM_DEBUG_REPORT` names. `%p` in the name stands for the process's number.
fn file() -> Option<PathBuf> {
    let name = variable(c"UNIMEM_DEBUG_REPORT").filter(|name| !name.is_empty())?;
    let mut buffer = [0; libc::PATH_MAX as usize];
    // A name that is too long stays as it is. Writing to it fails, and that is logged.
    let path = with_process_number(name, &mut buffer).map_or(name, CStr::to_bytes);
    Some(PathBuf::from(OsStr::from_bytes(path)))
}
/// Writes the file again, because something was found that belongs there. If that fails, the end of the program tries again.
pub(super) fn note_finding() {
    let Some(file) = file() else { return };
    // Not for the file alone: the first object of JSON in a thread asks the system for random numbers.
    let _whole = NotCancelled::begin();
    let _later = log::later();
    UNWRITTEN.store(true, SeqCst);
    while UNWRITTEN.load(SeqCst) {
        let Some(_writing) = WRITING.try_lock() else { return };
        while UNWRITTEN.swap(false, SeqCst) {
            let _ = write_text(&file, &to_json(false, &[], false));
        }
    }
}

/// Reports when the program ends: logs what is lost, and writes everything to the file.
pub(super) fn at_exit() {
    extern "C" fn exiting() {
        let _whole = NotCancelled::begin();
        let frame = 0usize;
        if variable(c"UNIMEM_DEBUG_REPORT").is_some() || is_wanted(Level::Warning) {
            finish(&raw const frame as usize);
        }
    }
    if system::at_exit(exiting).is_err() {
        log!(Warning, "UNIMEM_DEBUG_REPORT will not be written: no memory for a handler at exit");
    }
}
#[inline(never)]
fn finish(frame: usize) {
    let live = look_at_all();
    let mut reached = reachable::reached(&live, frame);
    for (block, reached) in live.iter().zip(reached.iter_mut().flatten()) {
        *reached = *reached || super::is_damaged(block);
    }
    let sites = sites(&live, reached.as_deref(), &findings::left());
    if traces_are_on() && is_wanted(Level::Warning) {
        let lost = sites.iter().filter(|site| site.lost.blocks > 0);
        lost.take(SITES_LOGGED).for_each(|site| log_site(site.stack, site.lost));
    }
    let Some(file) = file() else { return };
    let _writing = lock_quietly(&WRITING);
    loop {
        UNWRITTEN.store(false, SeqCst);
        let written = write_text(&file, &to_json(true, &sites, reached.is_some()));
        if UNWRITTEN.load(SeqCst) {
            continue; // something was found meanwhile, perhaps by the writing itself
        }
        if let Err(error) = written {
            let error = Errno::of(&error);
            log!(Error, "UNIMEM_DEBUG_REPORT cannot be written: {error}");
        }
        return;
    }
}
