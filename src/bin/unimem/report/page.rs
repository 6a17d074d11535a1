//! The report as one HTML page that needs nothing else: no network, no scripts, light or dark as the reader's system is.
use super::chart::{Chart, Series, Unit, count, escape, time};
use super::chrome::shape;
use super::recording::{Live, Recording, Sample, Sizes};
use super::symbols::Frame;
use super::{Movement, Tier};
use crate::output::bytes;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The most points that a chart has.
const POINTS: usize = 400;
/// The bars that a chart over time has.
const BARS: usize = 120;
/// The most rows that a table has.
const ROWS: usize = 40;

/// The whole page.
pub fn page(recording: &Recording) -> String {
    let title = escape(&recording.command.join(" "));
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} - unimem report</title>\n<style>\n{}</style></head>\n<body>\n<h1>{title}</h1>\n",
        include_str!("page.css")
    );
    let _ = writeln!(
        html,
        "<p>Process {}, recorded for {} from {} UTC on.</p>",
        recording.process,
        time(recording.duration()),
        date(recording.began / 1_000_000_000)
    );
    if let Some(why) = recording.incomplete() {
        let _ = writeln!(html, "<section class=\"warning\"><p>Incomplete: {why}.</p></section>");
    }
    if recording.lost > 0 {
        let _ = writeln!(
            html,
            "<section class=\"warning\"><p>{} events came faster than they could be written and are not shown. \
             Samples and totals are whole.</p></section>",
            count(recording.lost)
        );
    }
    html += &tiles(recording);
    for section in [
        kinds(recording),
        tiers(recording),
        movements(recording),
        contractions(recording),
        sizes(recording),
        sites(recording),
        live(recording),
    ] {
        html += &section;
    }
    let _ = writeln!(
        html,
        "<footer>Made by unimem {} from {} samples and {} events. Allocation sites are estimates: on average one \
         allocation in {} is recorded with its stack, where it comes to the heap's slow path.</footer>\n</body></html>",
        env!("CARGO_PKG_VERSION"),
        count(recording.samples.len() as u64),
        count((recording.moved.len() + recording.contracted.len()) as u64),
        bytes(recording.interval)
    );
    html
}

fn section(id: &str, title: &str, text: &str, body: &str) -> String {
    format!("<section id=\"{id}\"><h2>{title}</h2><p>{text}</p>{body}</section>\n")
}
/// A day and time in UTC, from seconds since 1970.
fn date(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86400) as i64, seconds % 86400);
    // Days in the Gregorian calendar's cycle of 400 years, which begins on March 1st.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn tiles(recording: &Recording) -> String {
    let peak = |of: &dyn Fn(&Sample) -> u64| recording.samples.iter().map(of).max().unwrap_or(0);
    let mut html = String::from("<div class=\"tiles\">");
    let mut tile = |name: &str, value: String| {
        let _ = write!(html, "<div><b>{value}</b><span>{name}</span></div>");
    };
    tile("resident at most", bytes(peak(&|s| s.resident)));
    tile("live blocks at most", bytes(peak(&|s| s.live)));
    let tiered = peak(&|s| s.streaming.size + s.hierarchical.size);
    if tiered > 0 {
        tile("tiered memory at most", bytes(tiered));
        tile(
            "of it in RAM at most",
            bytes(peak(&|s| s.streaming.hot + s.streaming.warm + s.hierarchical.hot + s.hierarchical.warm)),
        );
        let last = |of: fn(&Sample) -> u64| count(recording.samples.iter().map(of).max().unwrap_or(0));
        tile("faults", last(|s| s.faults));
        tile("evictions", last(|s| s.evictions));
    }
    if !recording.contracted.is_empty() {
        tile("contractions", count(recording.contracted.len() as u64));
    }
    tile("allocations", count(peak(&|s| s.allocations)));
    if let Some(end) = recording.end {
        tile("live at the end", bytes(end.bytes));
    }
    html + "</div>\n"
}

/// About [`POINTS`] samples: the one with most memory of each stretch of time, and the last one.
fn points(recording: &Recording) -> Vec<&Sample> {
    let weight = |s: &&Sample| s.live + s.streaming.size + s.hierarchical.size + s.resident;
    let stretch = recording.duration() / POINTS as u64 + 1;
    let mut points: Vec<&Sample> = Vec::new();
    for chunk in recording.samples.chunk_by(|a, b| a.time / stretch == b.time / stretch) {
        points.extend(chunk.iter().max_by_key(weight));
    }
    if let (Some(last), Some(end)) = (points.last(), recording.samples.last())
        && last.time < end.time
    {
        points.push(end);
    }
    points
}

fn kinds(recording: &Recording) -> String {
    const SERIES: [Series; 4] = [
        Series { name: "plain", colour: "c1" },
        Series { name: "tensors (geometric)", colour: "c2" },
        Series { name: "hierarchical", colour: "c3" },
        Series { name: "streaming", colour: "c4" },
    ];
    let samples = points(recording);
    let values =
        |s: &Sample| [s.plain(), s.tensors, s.hierarchical.size, s.streaming.size].map(|bytes| bytes as f64);
    let areas: Vec<_> = samples.iter().map(|s| (s.time, values(s))).collect();
    let resident: Vec<_> = samples.iter().map(|s| (s.time, s.resident as f64)).collect();
    let most = areas.iter().map(|(_, values)| values.iter().sum()).chain(resident.iter().map(|(_, r)| *r));
    let tips: Vec<_> = samples
        .iter()
        .map(|s| {
            let [plain, tensors, hierarchical, streaming] = values(s).map(|value| bytes(value as u64));
            let text = format!(
                "{}\nplain {plain}\ntensors {tensors}\nhierarchical {hierarchical}\nstreaming {streaming}\nresident {}",
                time(s.time),
                bytes(s.resident)
            );
            (s.time, text)
        })
        .collect();
    let chart = Chart::new(Unit::Bytes, recording.duration(), most.fold(0.0, f64::max))
        .areas(&SERIES, &areas)
        .line(&Series { name: "resident memory of the process", colour: "text" }, &resident)
        .tips(&tips);
    section(
        "kinds",
        "Memory over time, by kind",
        "Bytes that the program has allocated, and what the whole process takes of RAM. Tiered memory counts with its full \
         size, wherever it is.",
        &chart.html("Allocated bytes by kind over time"),
    )
}

fn tiers(recording: &Recording) -> String {
    const SERIES: [Series; 3] = [
        Series { name: "hot: in place", colour: "hot" },
        Series { name: "warm: encoded in RAM", colour: "warm" },
        Series { name: "cold: encoded on disk", colour: "cold" },
    ];
    let samples = points(recording);
    let values = |s: &Sample| {
        let (a, b) = (s.hierarchical, s.streaming);
        [a.hot + b.hot, a.warm + b.warm, a.cold + b.cold].map(|bytes| bytes as f64)
    };
    if samples.iter().all(|s| values(s) == [0.0; 3]) {
        return String::new();
    }
    let areas: Vec<_> = samples.iter().map(|s| (s.time, values(s))).collect();
    let most = areas.iter().map(|(_, values)| values.iter().sum()).fold(0.0, f64::max);
    let tips: Vec<_> = samples
        .iter()
        .map(|s| {
            let [hot, warm, cold] = values(s).map(|value| bytes(value as u64));
            (s.time, format!("{}\nhot {hot}\nwarm {warm}\ncold {cold}", time(s.time)))
        })
        .collect();
    let chart = Chart::new(Unit::Bytes, recording.duration(), most).areas(&SERIES, &areas).tips(&tips);
    section(
        "tiers",
        "Tiered memory over time, by tier",
        "Where streaming and hierarchical memory is: hot and warm bytes are RAM, cold ones are in spill files.",
        &chart.html("Bytes of tiered memory by tier over time"),
    )
}

/// Bytes a second that moved in one way, by tier, in each of [`BARS`] stretches of time.
fn rates(recording: &Recording, movement: Movement) -> Vec<[f64; 4]> {
    let tiers = [Tier::Cold, Tier::Warm, Tier::Staged, Tier::Zero];
    let duration = recording.duration().max(1);
    let mut bars = vec![[0.0; 4]; BARS];
    for moved in recording.moved.iter().filter(|moved| moved.movement == movement) {
        let bar = (moved.time as u128 * BARS as u128 / duration as u128).min(BARS as u128 - 1) as usize;
        if let Some(tier) = tiers.iter().position(|tier| *tier == moved.tier) {
            bars[bar][tier] += moved.bytes as f64 / (duration as f64 / BARS as f64 / 1e9);
        }
    }
    bars
}
/// How many movements of each kind there were, their bytes, and how long they took.
fn durations_of_movements(recording: &Recording) -> String {
    let mut groups = BTreeMap::new();
    for moved in &recording.moved {
        let key = (moved.movement, moved.tier, moved.memory, moved.mechanism);
        let durations: &mut (u64, Vec<u64>) = groups.entry(key).or_default();
        durations.0 += moved.bytes;
        durations.1.push(moved.duration);
    }
    let mut rows = String::new();
    for ((movement, tier, memory, mechanism), (moved, mut durations)) in groups {
        durations.sort_unstable();
        let at = |share: usize| durations[(durations.len() - 1) * share / 100];
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            movement.word(),
            tier.word(),
            memory.word(),
            mechanism.word(),
            count(durations.len() as u64),
            bytes(moved),
            time(at(50)),
            time(at(99)),
            time(at(100))
        );
    }
    format!(
        "<div class=\"wide\"><table><tr><th>event</th><th>tier</th><th>memory</th><th>mechanism</th>\
         <th class=\"number\">count</th><th class=\"number\">bytes</th><th class=\"number\">median</th>\
         <th class=\"number\">99 %</th><th class=\"number\">longest</th></tr>{rows}</table></div>"
    )
}
fn movements(recording: &Recording) -> String {
    if recording.moved.is_empty() {
        return String::new();
    }
    let most = |bars: &[[f64; 4]]| bars.iter().map(|bar| bar.iter().sum()).fold(0.0, f64::max);
    let (came, went) = (rates(recording, Movement::Fault), rates(recording, Movement::Eviction));
    let series = |staged, zero| {
        [
            Series { name: "cold", colour: "cold" },
            Series { name: "warm", colour: "warm" },
            Series { name: staged, colour: "c2" },
            Series { name: zero, colour: "none" },
        ]
    };
    let faults = Chart::new(Unit::BytesPerSecond, recording.duration(), most(&came))
        .bars(&series("read ahead", "never written"), &came)
        .html("Bytes a second brought in, by where they were");
    let evictions = Chart::new(Unit::BytesPerSecond, recording.duration(), most(&went))
        .bars(&series("", "all zero, not stored"), &went)
        .html("Bytes a second sent out, by where they went");
    let table = durations_of_movements(recording);
    section(
        "faults",
        "Faults and evictions",
        "Chunks put in place (touched, acquired or prefetched), by where they were; below, chunks that left, by where \
         they went; then how long each took.",
        &format!("<h3>Brought in</h3>{faults}<h3>Sent out</h3>{evictions}{table}"),
    )
}

fn contractions(recording: &Recording) -> String {
    if recording.contracted.is_empty() {
        return String::new();
    }
    const SERIES: Series = Series { name: "a contraction", colour: "c2" };
    let speed = |flops: u64, duration: u64| flops as f64 / duration.max(1) as f64;
    let most = recording.contracted.iter().map(|c| speed(c.flops, c.duration)).fold(0.0, f64::max);
    let mut longest: Vec<_> = recording.contracted.iter().collect();
    longest.sort_by_key(|c| Reverse(c.duration));
    let mut chart = Chart::new(Unit::Gflops, recording.duration(), most);
    for c in longest.iter().take(2000) {
        let speed = speed(c.flops, c.duration);
        let title =
            format!("{} at {speed:.1} GFLOP/s: {}", time(c.duration), shape(&c.rows, &c.sums, &c.columns));
        chart.span(&SERIES, c.time, c.duration, speed, &title);
    }
    let mut rows = String::new();
    for c in longest.iter().take(10) {
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{:.1}</td></tr>",
            shape(&c.rows, &c.sums, &c.columns),
            if c.tiered { "tiers" } else { "RAM" },
            time(c.duration),
            speed(c.flops, c.duration)
        );
    }
    let (flops, spent) =
        recording.contracted.iter().fold((0, 0), |(flops, spent), c| (flops + c.flops, spent + c.duration));
    section(
        "contractions",
        "Contractions",
        &format!(
            "{} contractions, {:.3} GFLOP in {}: {:.1} GFLOP/s. A contraction is written as [axes of the left tensor that \
             stay; axes summed over]·[axes summed over; axes of the right one that stay]. The longest:",
            count(recording.contracted.len() as u64),
            flops as f64 / 1e9,
            time(spent),
            speed(flops, spent)
        ),
        &format!(
            "{}<div class=\"wide\"><table><tr><th>shape</th><th>in</th><th class=\"number\">time</th>\
             <th class=\"number\">GFLOP/s</th></tr>{rows}</table></div>",
            chart.html("Speed of contractions over time")
        ),
    )
}

fn sizes(recording: &Recording) -> String {
    let total = |sizes: &&Sizes| sizes.classes.iter().map(|class| class.bytes).sum::<u64>();
    let Some(sizes) = recording.sizes.iter().max_by_key(total).filter(|sizes| total(sizes) > 0) else {
        return String::new();
    };
    let most = sizes.classes.iter().map(|class| class.bytes).max().unwrap_or(1).max(1);
    let mut rows = String::new();
    for class in &sizes.classes {
        let up_to = 1u64.checked_shl(class.log2 as u32).map_or("more".to_owned(), bytes);
        let _ = write!(
            rows,
            "<tr><td class=\"number\">{up_to}</td><td class=\"share\"><i class=\"bar c1\" style=\"width:{:.1}%\"></i></td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            class.bytes as f64 / most as f64 * 100.0,
            bytes(class.bytes),
            count(class.blocks)
        );
    }
    section(
        "sizes",
        "Sizes of live blocks",
        &format!("At {}, the time of those told at which most was live in heaps.", time(sizes.time)),
        &format!(
            "<table><tr><th class=\"number\">up to</th><th></th><th class=\"number\">bytes</th>\
             <th class=\"number\">blocks</th></tr>{rows}</table>"
        ),
    )
}

/// A stack: the innermost call, and the others when it is opened.
fn stack(frames: &[Frame]) -> String {
    let call = |frame: &Frame| {
        let place = match frame.file.as_str() {
            "" => String::new(),
            file => format!(" {}:{}", escape(file), frame.line),
        };
        (escape(&frame.function), place)
    };
    let Some(first) = frames.first() else { return "<code>not known</code>".to_owned() };
    let (function, place) = call(first);
    let mut html = format!("<details><summary>{function}<small>{place}</small></summary><ol>");
    for frame in frames {
        let (function, place) = call(frame);
        let _ = write!(html, "<li><code>{function}{place}</code></li>");
    }
    html + "</ol></details>"
}

fn sites(recording: &Recording) -> String {
    let table = |key: fn(&super::recording::Site) -> (u64, f64)| {
        let mut sites: Vec<_> = recording.sites.iter().filter(|site| key(site).0 > 0).collect();
        sites.sort_by_key(|site| Reverse(key(site).0));
        let total: u64 = sites.iter().map(|site| key(site).0).sum();
        let mut rows = String::new();
        for site in sites.iter().take(ROWS) {
            let (held, blocks) = key(site);
            let _ = write!(
                rows,
                "<tr><td class=\"number\">{}</td><td class=\"number\">{:.1} %</td><td class=\"number\">{}</td>\
                 <td>{}</td><td>{}</td></tr>",
                bytes(held),
                held as f64 * 100.0 / total.max(1) as f64,
                count(blocks.round() as u64),
                site.memory.word(),
                stack(&site.frames)
            );
        }
        format!(
            "<div class=\"wide\"><table><tr><th class=\"number\">bytes</th><th class=\"number\">share</th>\
             <th class=\"number\">blocks</th><th>memory</th><th>allocated by</th></tr>{rows}</table></div>"
        )
    };
    if recording.sites.is_empty() {
        return String::new();
    }
    let mut body = String::new();
    if recording.sites.iter().any(|site| site.live_bytes > 0) {
        body += "<h3>Still live at the end</h3>";
        body += &table(|site| (site.live_bytes, site.live_blocks));
    }
    body += "<h3>Allocated in all</h3>";
    body += &table(|site| (site.bytes, site.blocks));
    section(
        "sites",
        "Allocation sites",
        "Who allocates, estimated from samples; a stack opens when it is clicked.",
        &body,
    )
}

fn live(recording: &Recording) -> String {
    let Some(end) = recording.end else { return String::new() };
    if end.blocks == 0 {
        return section("leaks", "Live at the end", "Nothing: every block was freed.", "");
    }
    // Blocks with the same stack and size are one row.
    let mut groups = BTreeMap::<_, Vec<&Live>>::new();
    for live in &recording.live {
        groups.entry((Reverse(live.size), Reverse(&live.stack[..]))).or_default().push(live);
    }
    let mut rows = String::new();
    for ((size, _), blocks) in groups.iter().take(ROWS) {
        let _ = write!(
            rows,
            "<tr><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td><td><code>{:#x}</code></td><td>{}</td></tr>",
            bytes(size.0),
            count(blocks.len() as u64),
            blocks[0].memory.word(),
            blocks[0].address,
            stack(&blocks[0].frames)
        );
    }
    section(
        "leaks",
        "Live at the end",
        &format!(
            "{} blocks with {} had not been freed when the recording ended. The largest; their stacks are known where \
             they were sampled, or where UNIMEM_DEBUG=trace was on.",
            count(end.blocks),
            bytes(end.bytes)
        ),
        &format!(
            "<div class=\"wide\"><table><tr><th class=\"number\">size</th><th class=\"number\">blocks</th><th>memory</th>\
             <th>first at</th><th>allocated by</th></tr>{rows}</table></div>"
        ),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(super::date(0), "1970-01-01 00:00:00");
        assert_eq!(super::date(951_868_799), "2000-02-29 23:59:59");
        assert_eq!(super::date(1_795_643_816), "2026-11-25 21:56:56");
    }
}
