//! Trace events as Perfetto and chrome://tracing read them: faults, evictions and contractions of each thread, and
//! counters of memory. Times are microseconds.
use super::recording::{Recording, Sample, Tiered};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Result, Write};

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}
/// The shapes of the two tensors as matrices, each rows; columns: `[2×3; 4]·[4; 5]`.
pub fn shape(rows: &[u64], sums: &[u64], columns: &[u64]) -> String {
    let axes = |sizes: &[u64]| match sizes {
        [] => "1".to_owned(),
        sizes => sizes.iter().map(u64::to_string).collect::<Vec<_>>().join("×"),
    };
    format!("[{}; {}]·[{}; {}]", axes(rows), axes(sums), axes(sums), axes(columns))
}

/// Calls `each` with all events.
fn for_each(recording: &Recording, each: &mut dyn FnMut(Value) -> Result<()>) -> Result<()> {
    let process = recording.process;
    let name = |what: &str, thread: u64, name: &str| json!({"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}});
    each(name("process_name", 0, &recording.command.join(" ")))?;
    let threads: BTreeSet<u64> = recording
        .moved
        .iter()
        .map(|m| m.thread)
        .chain(recording.contracted.iter().map(|c| c.thread))
        .collect();
    for thread in threads {
        let title = if thread == process { "main".to_owned() } else { format!("thread {thread}") };
        each(name("thread_name", thread, &title))?;
    }
    for moved in &recording.moved {
        each(json!({
            "ph": "X", "cat": "tiers", "name": moved.movement.word(), "pid": process, "tid": moved.thread,
            "ts": microseconds(moved.time), "dur": microseconds(moved.duration),
            "args": {"memory": moved.memory.word(), "tier": moved.tier.word(), "bytes": moved.bytes,
                     "mechanism": moved.mechanism.word(), "address": format!("{:#x}", moved.address)},
        }))?;
    }
    for contracted in &recording.contracted {
        each(json!({
            "ph": "X", "cat": "contraction", "name": "contraction", "pid": process, "tid": contracted.thread,
            "ts": microseconds(contracted.time), "dur": microseconds(contracted.duration),
            "args": {"flops": contracted.flops, "tiered": contracted.tiered,
                     "gflops_per_second": contracted.flops as f64 / contracted.duration.max(1) as f64,
                     "shape": shape(&contracted.rows, &contracted.sums, &contracted.columns)},
        }))?;
    }
    for sample in &recording.samples {
        counters(sample, &mut |name, values| {
            each(json!({"ph": "C", "name": name, "pid": process, "tid": 0, "ts": microseconds(sample.time),
                        "args": values}))
        })?;
    }
    Ok(())
}
fn counters(sample: &Sample, each: &mut dyn FnMut(&str, Value) -> Result<()>) -> Result<()> {
    let tiers = |tiered: Tiered| json!({"hot": tiered.hot, "warm": tiered.warm, "cold": tiered.cold});
    each("resident", json!({"bytes": sample.resident}))?;
    each("held", json!({"bytes": sample.held}))?;
    each("live blocks", json!({"plain": sample.plain(), "geometric": sample.tensors}))?;
    each("streaming", tiers(sample.streaming))?;
    each("hierarchical", tiers(sample.hierarchical))
}

/// Writes all events, one on each line.
pub fn write(recording: &Recording, out: &mut dyn Write) -> Result<()> {
    write!(out, "{{\"displayTimeUnit\": \"ms\", \"traceEvents\": [")?;
    let mut separator = "\n";
    for_each(recording, &mut |event| {
        write!(out, "{separator}{event}")?;
        separator = ",\n";
        Ok(())
    })?;
    writeln!(out, "\n]}}")
}
