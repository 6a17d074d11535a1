//! `unimem check`: runs a program in debug mode, and reports what was found in it and in the programs that it
//! ran.
use crate::arguments::Check;
use crate::launch;
use crate::output::{Failure, OWN_FAILURE, bold, bytes, colours};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the reports of all processes say. Each finding is here once, although forked children inherit what
/// their parents found.
#[derive(Default)]
struct Found {
    processes: usize,
    problems: Vec<Value>,
    leaks: Vec<Value>,
}

/// Runs the program. The exit code is the program's, unless something was found.
pub fn run(options: &Check) -> Result<u8, Failure> {
    let mut program = launch::preloaded(&options.program)?;
    let directory = ReportDirectory::make()?;
    program.env("UNIMEM_DEBUG", "guard,quarantine,trace");
    program.env("UNIMEM_DEBUG_REPORT", directory.0.join("%p.json"));
    let ended = launch::wait_for(program)?;
    let reports = read_all(&directory.0)?;
    let whole = |report: &Value| {
        report["process"] == ended.process
            && report["complete"] == true
            && report.get("lost_blocks").is_some()
    };
    let complete = reports.iter().any(whole);
    let found = gather(reports);
    let anything = !found.problems.is_empty() || !found.leaks.is_empty();
    if options.json {
        eprintln!(
            "{:#}",
            json!({"exit_code": ended.code, "complete": complete, "processes": found.processes,
                   "problems": found.problems, "leaks": found.leaks})
        );
    } else {
        eprint!("{}", text(&found, complete, colours(&std::io::stderr())));
    }
    Ok(match (anything, complete, ended.code) {
        (true, _, _) => options.exit_code,
        (false, false, 0) => OWN_FAILURE,
        _ => ended.code,
    })
}

/// A directory for the reports, removed at the end.
struct ReportDirectory(PathBuf);
impl ReportDirectory {
    fn make() -> Result<ReportDirectory, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("unimem-check-{}-{now}", std::process::id());
        // The path is absolute because the program may change its directory.
        let directory = std::path::absolute(std::env::temp_dir().join(name))
            .map_err(|error| Failure::new(OWN_FAILURE, error))?;
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(ReportDirectory(directory)),
            Err(error) => Err(Failure::new(OWN_FAILURE, format!("{}: {error}", directory.display()))),
        }
    }
}
impl Drop for ReportDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("unimem: {}: {error}", self.0.display());
        }
    }
}

/// Reads the reports, in the order of process numbers. A report that a process was writing when it was killed
/// does not count.
fn read_all(directory: &Path) -> Result<Vec<Value>, Failure> {
    let failed = |error| Failure::new(OWN_FAILURE, format!("{}: {error}", directory.display()));
    let mut reports = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let text = std::fs::read(entry.map_err(failed)?.path()).map_err(failed)?;
        reports.extend(serde_json::from_slice::<Value>(&text));
    }
    reports.sort_by_key(|report| report["process"].as_u64());
    Ok(reports)
}

fn gather(reports: Vec<Value>) -> Found {
    let mut found = Found { processes: reports.len(), ..Found::default() };
    let mut known = HashSet::new();
    for report in reports {
        let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
        let mut add = |to: &mut Vec<Value>, what: Value| {
            if known.insert(what.to_string()) {
                let mut named = json!({"process": report["process"], "program": report["program"]});
                let (Value::Object(named_fields), Value::Object(fields)) = (&mut named, what) else { return };
                named_fields.extend(fields);
                to.push(named);
            }
        };
        for problem in list("problems") {
            add(&mut found.problems, problem);
        }
        for site in list("sites") {
            for how in ["lost", "left"] {
                let (blocks, bytes) = (&site[format!("{how}_blocks")], &site[format!("{how}_bytes")]);
                if blocks.as_u64() > Some(0) {
                    let leak =
                        json!({"how": how, "blocks": blocks, "bytes": bytes, "allocated": site["stack"]});
                    add(&mut found.leaks, leak);
                }
            }
        }
    }
    found
}

fn text(found: &Found, complete: bool, colours: bool) -> String {
    let mut text = String::new();
    for item in found.problems.iter().chain(&found.leaks) {
        let name = item["program"].as_str().unwrap_or_default();
        text += &format!("{} in {name} (process {})\n", bold(&headline(item), colours), item["process"]);
        for role in ["found", "allocated", "freed"] {
            let calls = item[role].as_array().map_or(&[][..], |calls| calls);
            if !calls.is_empty() {
                text += &format!("  {role} by\n");
            }
            calls.iter().take(shown(calls)).for_each(|call| text += &line(call));
        }
        text.push('\n');
    }
    let sum = |field: &str| found.leaks.iter().filter_map(|leak| leak[field].as_u64()).sum::<u64>();
    text += &bold("unimem check", colours);
    text += &match (found.problems.len(), sum("blocks")) {
        (0, 0) => ": nothing found".to_owned(),
        (problems, 0) => format!(": {}", count(problems as u64, "problem")),
        (problems, blocks) => format!(
            ": {}, {} leaked ({})",
            count(problems as u64, "problem"),
            count(blocks, "block"),
            bytes(sum("bytes"))
        ),
    };
    let processes = if found.processes == 1 { "process" } else { "processes" };
    text += &format!(", {} {processes}\n", found.processes);
    if !complete {
        text += "The program left no report of its end, so leaks of it are not known: it was killed, left by _exit, \
                 became another program, or is linked statically.\n";
    }
    text
}
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
fn headline(item: &Value) -> String {
    let size = item["size"].as_u64().unwrap_or(0);
    let (kind, address) = (item["kind"].as_str(), item["address"].as_str().unwrap_or_default());
    let offset = &item["offset"];
    match kind {
        Some("overrun") => format!("overrun: byte {offset} of a block of {size} bytes at {address}"),
        Some("write after free") => {
            format!("write after free: byte {offset} of a block of {size} bytes at {address}")
        }
        Some("double free") => format!("double free: {address}"),
        Some(kind) => match offset.as_u64() {
            Some(0) => format!(
                "{kind}: the block of {size} bytes at {address} is another pool's, system's or instance's"
            ),
            Some(offset) => format!("{kind}: {address} is byte {offset} of a block of {size} bytes"),
            None => format!("{kind}: {address} is not the start of a block"),
        },
        None => {
            let number = |field: &str| item[field].as_u64().unwrap_or(0);
            let end = if item["how"] == "left" { " at the end of a pool, system or instance" } else { "" };
            format!("leak{end}: {}, {}", count(number("blocks"), "block"), bytes(number("bytes")))
        }
    }
}
/// How many calls are worth showing: those down to main.
fn shown(calls: &[Value]) -> usize {
    calls.iter().position(|call| call["function"] == "main").map_or(calls.len(), |main| main + 1)
}
fn line(call: &Value) -> String {
    let text = |field: &str| call[field].as_str().unwrap_or_default();
    let function = if text("function").is_empty() { "?" } else { text("function") };
    match text("file") {
        "" => format!("    {function} ({})\n", text("address")),
        file => format!("    {function} at {file}:{}\n", call["line"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_inherit_counts_once() {
        let stack = json!([{"address": "0x1", "function": "makes", "file": "a.c", "line": 3}]);
        let report = |process: u32| {
            json!({"process": process, "program": "/a", "complete": true,
                   "problems": [{"kind": "overrun", "address": "0x10", "size": 8, "offset": 8, "allocated": stack}],
                   "sites": [{"blocks": 2, "bytes": 20, "lost_blocks": 1, "lost_bytes": 10, "left_blocks": 3,
                              "left_bytes": 5, "stack": stack},
                             {"blocks": 2, "bytes": 20, "lost_blocks": 0, "lost_bytes": 0, "stack": []}]})
        };
        let found = gather(vec![report(1), report(2)]);
        assert_eq!((found.processes, found.problems.len(), found.leaks.len()), (2, 1, 2));
        let text = text(&found, true, false);
        for part in [
            "overrun: byte 8 of a block of 8 bytes",
            "leak: 1 block, 10 bytes",
            "leak at the end of a pool, system or instance: 3 blocks, 5 bytes",
            "makes at a.c:3",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            text.ends_with("unimem check: 1 problem, 4 blocks leaked (15 bytes), 2 processes\n"),
            "{text}"
        );
    }
}
