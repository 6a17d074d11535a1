//! What is live, by the stacks that allocated it: to the log when a heap ends, as JSON when asked for.
//!
//! The JSON: `{"version": 1, "blocks", "bytes", "damaged", "sites": [{"blocks", "bytes", "stack": [{"address",
//! "function", "file", "line"}]}]}`, sites with most bytes first, calls innermost first, addresses as hexadecimal text.
//! `function` and `file` may be empty, `line` 0; a stack is empty where `trace` was off.
use super::super::{Block, registry};
use super::{DAMAGED, live_blocks, trace, variable};
use crate::error::{Result, fail};
use crate::log::log;
use crate::os::records::Records;
use allocator_api2::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sites named in the log when a heap ends.
const SITES_LOGGED: usize = 16;

/// Live blocks of one stack.
#[derive(Default)]
struct Site {
    stack: u64,
    blocks: usize,
    bytes: usize,
}
/// Most bytes first.
fn sites(live: &[Block]) -> std::vec::Vec<Site> {
    let stacks = trace::stacks_of(live.iter().map(|block| block.start));
    let mut sites = HashMap::<u64, Site>::new();
    for (block, &stack) in live.iter().zip(&stacks) {
        let site = sites.entry(stack).or_default();
        *site = Site { stack, blocks: site.blocks + 1, bytes: site.bytes + block.size };
    }
    let mut sites: std::vec::Vec<Site> = sites.into_values().collect();
    sites.sort_by_key(|site| (core::cmp::Reverse(site.bytes), site.stack));
    sites
}

/// Sends the stacks of blocks that leaked to the log.
pub(super) fn log_sites(live: &[Block]) {
    for site in sites(live).iter().take(SITES_LOGGED) {
        log!(Warning, "leak: {} blocks, {} bytes, allocated by", site.blocks, site.bytes);
        trace::log_stack(site.stack);
    }
}

fn to_json(live: &[Block]) -> Value {
    let sites: std::vec::Vec<Value> = sites(live)
        .iter()
        .map(|site| {
            let calls: std::vec::Vec<Value> = trace::calls(site.stack)
                .iter()
                .map(|call| {
                    json!({"address": format!("{:#x}", call.address), "function": call.function,
                           "file": call.file, "line": call.line})
                })
                .collect();
            json!({"blocks": site.blocks, "bytes": site.bytes, "stack": calls})
        })
        .collect();
    json!({"version": 1, "blocks": live.len(), "bytes": live.iter().map(|block| block.size).sum::<usize>(),
           "damaged": DAMAGED.load(Relaxed), "sites": sites})
}

/// Writes what is live in all heaps to the file at `path`, as JSON. Io.
pub fn write(path: &Path) -> Result<()> {
    super::empty_quarantine(None);
    let mut live: Vec<Block, Records> = Vec::new_in(Records);
    registry::for_each_heap(|heap| {
        let blocks = live_blocks(heap);
        if live.try_reserve(blocks.len()).is_ok() {
            live.extend(blocks);
        }
    });
    let text = format!("{:#}\n", to_json(&live));
    match std::fs::write(path, text) {
        Ok(()) => Ok(()),
        Err(error) => fail!(Io, "{}: {error}", path.display()),
    }
}

/// Writes the report when the program ends, where `UNIMEM_DEBUG_REPORT` names a file for it.
pub(super) fn at_exit() {
    extern "C" fn exiting() {
        let file = variable(c"UNIMEM_DEBUG_REPORT").filter(|file| !file.is_empty());
        if let Some(Err(error)) = file.map(|file| write(Path::new(OsStr::from_bytes(file)))) {
            log!(Error, "UNIMEM_DEBUG_REPORT cannot be written: {error:?}");
        }
    }
    // SAFETY: a function that lives as long as the process (the library is never unloaded).
    if unsafe { libc::atexit(exiting) } != 0 {
        log!(Warning, "UNIMEM_DEBUG_REPORT will not be written: no memory for a handler at exit");
    }
}
