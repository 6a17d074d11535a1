//! Charts as HTML. The areas and bars are SVG, which stretches to the page's width. The text around them does not
//! stretch, so that it stays readable on a phone.
use crate::output::bytes;
use std::fmt::Write;

/// Units of the SVG, both ways.
const FULL: f64 = 1000.0;

/// Text with what HTML would take for markup escaped.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '&' => safe += "&amp;",
            '"' => safe += "&quot;",
            letter => safe.push(letter),
        }
    }
    safe
}

/// A number of nanoseconds as people read it.
pub fn time(nanoseconds: u64) -> String {
    match nanoseconds as f64 {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns if ns < 6e10 => format!("{:.2} s", ns / 1e9),
        ns => format!("{} min {:.0} s", (ns / 6e10) as u64, ns % 6e10 / 1e9),
    }
}
/// A count with separators between groups of three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join("\u{202f}")
}

/// The name of a series, and the class of its colour (page.css).
pub struct Series {
    pub name: &'static str,
    pub colour: &'static str,
}
/// The unit of the upright axis.
#[derive(Clone, Copy)]
pub enum Unit {
    Bytes,
    BytesPerSecond,
    Gflops,
}
impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Bytes => bytes(value as u64),
            Unit::BytesPerSecond => format!("{}/s", bytes(value as u64)),
            Unit::Gflops => format!("{value} GFLOP/s"),
        }
    }
    /// Where the lines of the axis go, from 0 to at least `most`: at most six.
    fn ticks(self, most: f64) -> Vec<f64> {
        let least = most.max(1.0) / 4.0;
        let step = match self {
            Unit::Gflops => round_step(least),
            _ => 2f64.powf(least.log2().ceil()),
        };
        let steps = (most / step).ceil().max(1.0) as usize;
        (0..=steps).map(|tick| tick as f64 * step).collect()
    }
}
/// The least number that is 1, 2 or 5 times a power of ten and at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= least * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}
/// Labels of the time axis: the share of the width, and the text.
fn time_ticks(duration: f64) -> Vec<(f64, String)> {
    let step = round_step(duration.max(1.0) / 5.0);
    let shown = |at: f64| match duration {
        d if d < 1e4 => format!("{at:.0} ns"),
        d if d < 1e7 => format!("{} µs", at / 1e3),
        d if d < 1e9 => format!("{:.0} ms", at / 1e6),
        _ => format!("{} s", (at / 1e8).round() / 10.0),
    };
    let ticks = (0..=(duration / step) as usize).map(|tick| tick as f64 * step);
    ticks.map(|at| (at / duration, shown(at))).collect()
}

/// A chart of values over time.
pub struct Chart {
    unit: Unit,
    duration: f64,
    /// Where the upright axis ends.
    top: f64,
    svg: String,
    legend: String,
}
impl Chart {
    /// An empty chart for values up to `most`.
    pub fn new(unit: Unit, duration: u64, most: f64) -> Chart {
        let top = unit.ticks(most).last().copied().unwrap_or(1.0);
        Chart { unit, duration: duration.max(1) as f64, top, svg: String::new(), legend: String::new() }
    }
    fn x(&self, time: u64) -> f64 {
        time as f64 / self.duration * FULL
    }
    fn y(&self, value: f64) -> f64 {
        FULL - value / self.top * FULL
    }
    fn explain(&mut self, series: &Series) {
        let _ = write!(self.legend, "<li><i class=\"{}\"></i>{}</li>", series.colour, series.name);
    }
    /// Adds areas, one upon the other. `points` has times, each with a value for each series.
    pub fn areas<const N: usize>(mut self, series: &[Series; N], points: &[(u64, [f64; N])]) -> Chart {
        let mut below = vec![0.0; points.len()];
        for (number, one) in series.iter().enumerate() {
            if points.iter().all(|(_, values)| values[number] == 0.0) {
                continue;
            }
            self.explain(one);
            let mut outline = String::new();
            for ((time, values), below) in points.iter().zip(&below) {
                let _ = write!(outline, "{:.1},{:.1} ", self.x(*time), self.y(below + values[number]));
            }
            for ((time, _), below) in points.iter().zip(&below).rev() {
                let _ = write!(outline, "{:.1},{:.1} ", self.x(*time), self.y(*below));
            }
            let _ = write!(self.svg, "<polygon class=\"{}\" points=\"{}\"/>", one.colour, outline.trim_end());
            for ((_, values), below) in points.iter().zip(&mut below) {
                *below += values[number];
            }
        }
        self
    }
    /// Adds a line.
    pub fn line(mut self, series: &Series, points: &[(u64, f64)]) -> Chart {
        self.explain(series);
        let mut outline = String::new();
        for (time, value) in points {
            let _ = write!(outline, "{:.1},{:.1} ", self.x(*time), self.y(*value));
        }
        let _ = write!(self.svg, "<polyline class=\"{}\" points=\"{}\"/>", series.colour, outline.trim_end());
        self
    }
    /// Adds bars of equal widths over the whole time, with the values of each one upon the other.
    pub fn bars<const N: usize>(mut self, series: &[Series; N], bars: &[[f64; N]]) -> Chart {
        let width = FULL / bars.len().max(1) as f64;
        for (number, one) in series.iter().enumerate() {
            if bars.iter().all(|values| values[number] == 0.0) {
                continue;
            }
            self.explain(one);
            for (place, values) in bars.iter().enumerate().filter(|(_, values)| values[number] > 0.0) {
                let below: f64 = values[..number].iter().sum();
                let (top, bottom) = (self.y(below + values[number]), self.y(below));
                let _ = write!(
                    self.svg,
                    "<rect class=\"{}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    one.colour,
                    place as f64 * width,
                    width * 0.9,
                    bottom - top
                );
            }
        }
        self
    }
    /// Adds a bar from one time to another.
    pub fn span(&mut self, series: &Series, begin: u64, duration: u64, value: f64, title: &str) {
        if self.legend.is_empty() {
            self.explain(series);
        }
        let (left, top) = (self.x(begin), self.y(value));
        let width = (self.x(begin + duration) - left).max(1.5);
        let _ = write!(
            self.svg,
            "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            series.colour,
            FULL - top,
            escape(title)
        );
    }
    /// Adds texts that are shown under the pointer, each from its own time to the next text's. The last one lasts to the
    /// end.
    pub fn tips(mut self, texts: &[(u64, String)]) -> Chart {
        for (place, (time, text)) in texts.iter().enumerate() {
            let left = self.x(*time);
            let right = texts.get(place + 1).map_or(FULL, |(next, _)| self.x(*next));
            let _ = write!(
                self.svg,
                "<rect class=\"tip\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{FULL}\"><title>{}</title></rect>",
                right - left,
                escape(text)
            );
        }
        self
    }
    /// The chart as HTML. `label` says in words what it shows.
    pub fn html(&self, label: &str) -> String {
        let mut html =
            format!("<ul class=\"legend\">{}</ul><div class=\"chart\"><div class=\"plot\">", self.legend);
        for tick in self.unit.ticks(self.top) {
            let _ = write!(
                html,
                "<span class=\"y\" style=\"bottom:{:.2}%\"><b>{}</b></span>",
                tick / self.top * 100.0,
                self.unit.show(tick)
            );
        }
        let _ = write!(
            html,
            "<svg viewBox=\"0 0 {FULL} {FULL}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">{}</svg>",
            escape(label),
            self.svg
        );
        for (share, text) in time_ticks(self.duration).into_iter().filter(|(share, _)| *share < 0.97) {
            let _ = write!(html, "<span class=\"x\" style=\"left:{:.2}%\">{text}</span>", share * 100.0);
        }
        html + "</div></div>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_reach_the_top() {
        for most in [0.0, 1.0, 1000.0, 1e6, 16777216.0, 16777217.0, 3.3e9] {
            for unit in [Unit::Bytes, Unit::Gflops] {
                let ticks = unit.ticks(most);
                assert!(ticks.len() <= 6 && *ticks.last().unwrap() >= most, "{most}: {ticks:?}");
            }
        }
        assert_eq!(Unit::Gflops.ticks(100.0), [0.0, 50.0, 100.0]);
        assert_eq!(time_ticks(2.5e9).last().unwrap(), &(1.0, "2.5 s".to_owned()));
        assert_eq!(count(1234567), "1\u{202f}234\u{202f}567");
    }
    #[test]
    fn areas_lie_upon_each_other() {
        let series = [Series { name: "a", colour: "c1" }, Series { name: "b", colour: "c2" }];
        let chart = Chart::new(Unit::Bytes, 10, 4.0).areas(&series, &[(0, [1.0, 3.0]), (10, [2.0, 0.0])]);
        assert!(
            chart.svg.contains("class=\"c1\" points=\"0.0,750.0 1000.0,500.0 1000.0,1000.0 0.0,1000.0\"")
        );
        assert!(chart.svg.contains("class=\"c2\" points=\"0.0,0.0 1000.0,500.0 1000.0,500.0 0.0,750.0\""));
    }
    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }
}
