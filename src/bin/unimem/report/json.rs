//! The report as JSON: totals and lists, sizes in bytes, times in seconds.
use super::recording::{Recording, Sample, Tiered};
use super::symbols::Frame;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use unimem::recording::format::Moved;

pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
fn tiered(tiered: Tiered) -> Value {
    json!({"allocated": tiered.size, "hot": tiered.hot, "warm": tiered.warm, "cold": tiered.cold})
}
fn sample(sample: &Sample) -> Value {
    json!({
        "time": seconds(sample.time), "resident": sample.resident, "held": sample.held, "plain": sample.plain(),
        "geometric": sample.tensors, "streaming": tiered(sample.streaming),
        "hierarchical": tiered(sample.hierarchical), "allocations": sample.allocations, "frees": sample.frees,
        "faults": sample.faults, "evictions": sample.evictions, "prefetches": sample.prefetches,
    })
}
fn stack(frames: &[Frame]) -> Value {
    let calls = frames.iter().map(|frame| {
        json!({"function": frame.function, "file": frame.file, "line": frame.line,
               "address": format!("{:#x}", frame.address)})
    });
    calls.collect()
}
/// Counts, bytes and time of movements, by what happened, kind of memory, tier and mechanism.
fn movements(moved: &[Moved]) -> Value {
    let mut groups = BTreeMap::new();
    for one in moved {
        let key = (one.movement, one.memory, one.tier, one.mechanism);
        let (count, bytes, time, longest) = groups.entry(key).or_insert((0u64, 0u64, 0u64, 0u64));
        (*count, *bytes, *time) = (*count + 1, *bytes + one.bytes, *time + one.duration);
        *longest = one.duration.max(*longest);
    }
    let group = |((movement, memory, tier, mechanism), (count, bytes, time, longest)): (
        (super::Movement, super::Memory, super::Tier, super::Mechanism),
        _,
    )| {
        json!({"event": movement.word(), "memory": memory.word(), "tier": tier.word(),
               "mechanism": mechanism.word(), "count": count, "bytes": bytes, "seconds": seconds(time),
               "longest_seconds": seconds(longest)})
    };
    groups.into_iter().map(group).collect()
}

/// A value as text. JSON may have these characters as they are, but terminals obey them, and they may come from a recording.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    for letter in format!("{value:#}\n").chars() {
        match letter {
            '\u{7f}'..='\u{9f}' => text += &format!("\\u{:04x}", u32::from(letter)),
            letter => text.push(letter),
        }
    }
    text
}

/// The whole report.
pub fn report(recording: &Recording) -> Value {
    let peak = |of: fn(&Sample) -> u64| recording.samples.iter().map(of).max();
    let contractions = recording.contracted.iter().map(|c| {
        json!({"time": seconds(c.time), "seconds": seconds(c.duration), "flops": c.flops, "tiered": c.tiered,
               "rows": c.rows, "columns": c.columns, "sums": c.sums})
    });
    let sites = recording.sites.iter().map(|site| {
        json!({"memory": site.memory.word(), "bytes": site.bytes, "blocks": site.blocks.round(),
               "live_bytes": site.live_bytes, "live_blocks": site.live_blocks.round(), "samples": site.samples,
               "stack": stack(&site.frames)})
    });
    let live = recording.live.iter().map(|live| {
        json!({"address": format!("{:#x}", live.address), "size": live.size, "memory": live.memory.word(),
               "stack": stack(&live.frames)})
    });
    let sizes = recording.sizes.iter().map(|sizes| {
        let classes = sizes.classes.iter().map(|class| {
            json!({"up_to": (class.log2 < 64).then(|| 1u64 << class.log2), "blocks": class.blocks, "bytes": class.bytes})
        });
        json!({"time": seconds(sizes.time), "classes": classes.collect::<Value>()})
    });
    json!({
        "version": 1,
        "command": recording.command,
        "process": recording.process,
        "began_unix_seconds": seconds(recording.began),
        "seconds": seconds(recording.duration()),
        "complete": recording.incomplete().is_none(),
        "lost_events": recording.lost,
        "peak": {"resident": peak(|s| s.resident), "held": peak(|s| s.held), "plain": peak(Sample::plain),
                 "geometric": peak(|s| s.tensors)},
        "movements": movements(&recording.moved),
        "contractions": contractions.collect::<Value>(),
        "sampling_interval": recording.interval,
        "sites": sites.collect::<Value>(),
        "live_at_end": recording.end.map(|end| json!({"blocks": end.blocks, "bytes": end.bytes})),
        "largest_live_blocks": live.collect::<Value>(),
        "sizes": sizes.collect::<Value>(),
        "samples": recording.samples.iter().map(sample).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_terminal_finds_nothing_to_obey() {
        let value = json!("\u{7f}\u{9b}31m\u{1b}\u{a0}\u{e9}");
        let text = text(&value);
        assert_eq!(text, "\"\\u007f\\u009b31m\\u001b\u{a0}\u{e9}\"\n");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
