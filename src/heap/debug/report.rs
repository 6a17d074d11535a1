//! Reports: what is live by the stacks that allocated it, and what was found wrong. To the log when a heap or the
//! program ends, as JSON when asked for.
//!
//! The JSON: `{"version": 1, "process", "program", "complete", "blocks", "bytes", "damaged", "problems": [{"kind",
//! "address", "size", "offset", "found", "allocated", "freed"}], "sites": [{"blocks", "bytes", "stack"}], "more_sites"}`. Stacks are
//! lists of `{"address", "function", "file", "line"}`, calls innermost first; `function` and `file` may be empty, `line`
//! 0; a stack is empty, or not there, where `trace` was off. Sites with most bytes come first, and
//! only the first are listed; `more_sites` is how many are not. At the end of a program
//! there are `lost_blocks` and `lost_bytes` too, of each site and together: those that nothing points to (see
//! reachable.rs). `complete` is false while the program runs: then `UNIMEM_DEBUG_REPORT` has the problems so far, which
//! is what remains of a program that crashes.
use super::super::{Block, registry};
use super::{damaged_by, findings, guards_are_on, reachable, regions, trace, traces_are_on};
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
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Sites named in JSON: a large program has thousands, whose names take seconds to find.
const MOST_SITES: usize = 256;
/// Of those, at the end of a program, without lost blocks.
const MOST_KEPT: usize = 16;
/// Sites named in the log.
const SITES_LOGGED: usize = 16;

/// Blocks and their bytes.
#[derive(Clone, Copy, Default)]
struct Sum {
    blocks: usize,
    bytes: usize,
}
impl Sum {
    fn add(&mut self, block: &Block) {
        *self = Sum { blocks: self.blocks + 1, bytes: self.bytes + block.size };
    }
}
/// Live blocks of one stack.
#[derive(Default)]
struct Site {
    stack: u64,
    live: Sum,
    lost: Sum,
}
/// Most lost bytes first, then most bytes. `reached`: of each block, whether anything points to it.
fn sites(live: &[Block], reached: Option<&[bool]>) -> std::vec::Vec<Site> {
    let stacks = trace::stacks_of(live.iter().map(|block| block.start));
    let mut sites = HashMap::<u64, Site>::new();
    for (index, (block, &stack)) in live.iter().zip(&stacks).enumerate() {
        let site = sites.entry(stack).or_default();
        site.stack = stack;
        site.live.add(block);
        if reached.is_some_and(|reached| !reached[index]) {
            site.lost.add(block);
        }
    }
    let mut sites: std::vec::Vec<Site> = sites.into_values().collect();
    sites.sort_by_key(|site| (Reverse(site.lost.bytes), Reverse(site.live.bytes), site.stack));
    sites
}

/// Sends the stacks of blocks that leaked to the log.
pub(super) fn log_sites(live: &[Block]) {
    if is_wanted(Level::Warning) {
        sites(live, None).iter().take(SITES_LOGGED).for_each(|site| log_site(site.stack, site.live));
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
        "damaged": findings::damaged(),
    });
    if lost {
        value["lost_blocks"] = sum(|site| site.lost.blocks).into();
        value["lost_bytes"] = sum(|site| site.lost.bytes).into();
    }
    value["problems"] = findings::to_json().into();
    let of_site = |site: &Site| {
        let mut value = json!({"blocks": site.live.blocks, "bytes": site.live.bytes});
        if lost {
            value["lost_blocks"] = site.lost.blocks.into();
            value["lost_bytes"] = site.lost.bytes.into();
        }
        value["stack"] = stack_to_json(site.stack);
        value
    };
    let with_lost = sites.iter().filter(|site| site.lost.blocks > 0).count();
    let listed = if lost { (with_lost + MOST_KEPT).min(MOST_SITES) } else { MOST_SITES };
    value["more_sites"] = sites.len().saturating_sub(listed).into();
    value["sites"] = sites.iter().take(listed).map(of_site).collect();
    value
}

/// The live blocks of all heaps, by address; those that are damaged, and freed ones, are told of.
fn look_at_all() -> Vec<Block, Records> {
    super::empty_quarantine(None);
    let mut live: Vec<Block, Records> = Vec::new_in(Records);
    registry::for_each_heap(|heap| _ = heap.list_live(&mut live));
    regions::add_to(&mut live, None);
    if guards_are_on() {
        // Each is looked up anew: other threads may have freed it since.
        live.iter().filter_map(|block| damaged_by(block.start as *const u8)).for_each(super::tell_damage);
    }
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

/// Writes what is live in all heaps to the file at `path`, as JSON. Io.
pub fn write(path: &Path) -> Result<()> {
    match write_text(path, &to_json(true, &sites(&look_at_all(), None), false)) {
        Ok(()) => Ok(()),
        // The reason first: a message has no room for every path.
        Err(error) => fail!(Io, "{error}: {}", path.display()),
    }
}

/// One thread at a time writes the file that the environment names. Writing allocates and frees, from this very heap where it
/// is malloc, and may find something itself: so whoever finds something while the file is written leaves it to the writer.
static WRITING: Mutex<()> = Mutex::new(());
/// Something was found that the file may not have.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);
/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &WRITING;
/// The file that `UNIMEM_DEBUG_REPORT` names; `%p` in it is the process's number.
fn file() -> Option<PathBuf> {
    let name = variable(c"UNIMEM_DEBUG_REPORT").filter(|name| !name.is_empty())?;
    let mut buffer = [0; libc::PATH_MAX as usize];
    // What is too long stays as it is: writing there is an error, and is told.
    let path = with_process_number(name, &mut buffer).map_or(name, CStr::to_bytes);
    Some(PathBuf::from(OsStr::from_bytes(path)))
}
/// Something was found that belongs in the file: it has it from now on. What cannot be written now is tried again at the end.
pub(super) fn note_finding() {
    let Some(file) = file() else { return };
    let _later = log::later();
    UNWRITTEN.store(true, SeqCst);
    while UNWRITTEN.load(SeqCst) {
        let Some(_writing) = WRITING.try_lock() else { return };
        while UNWRITTEN.swap(false, SeqCst) {
            let _ = write_text(&file, &to_json(false, &[], false));
        }
    }
}

/// Reports when the program ends: in the log what is lost, in the file all of it.
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
    let reached = reachable::reached(&live, frame);
    let sites = sites(&live, reached.as_deref());
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
            continue; // found meanwhile, perhaps by the writing itself
        }
        if let Err(error) = written {
            let error = Errno::of(&error);
            log!(Error, "UNIMEM_DEBUG_REPORT cannot be written: {error}");
        }
        return;
    }
}
