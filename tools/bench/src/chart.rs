//! Draws `bench-alloc.csv`: for each number of threads the time of every workload and allocator in mimalloc's, and the
//! peak of resident memory in the traces.
//!
//!     chart bench-alloc.csv bench-alloc.svg

use plotters::prelude::*;
use std::collections::BTreeMap;
use std::error::Error;

const CONTENDERS: [(&str, RGBColor); 8] = [
    ("pool", RGBColor(214, 39, 40)),
    ("interface", RGBColor(255, 127, 14)),
    ("glibc", RGBColor(127, 127, 127)),
    ("mimalloc", RGBColor(31, 119, 180)),
    ("secure", RGBColor(23, 190, 207)),
    ("jemalloc", RGBColor(44, 160, 44)),
    ("tcmalloc", RGBColor(148, 103, 189)),
    ("floor", RGBColor(0, 0, 0)),
];
const REFERENCE: &str = "mimalloc";
const LEAST: f64 = 0.05;
const MOST: f64 = 20.0;
const ROW: u32 = 20;

/// One workload, and each contender's figure.
type Row = (String, BTreeMap<String, f64>);

struct Panel {
    title: String,
    rows: Vec<Row>,
}

fn size_text(size: u64) -> String {
    match size {
        0 => String::new(),
        1..1024 => format!(" {size} B"),
        1024..1048576 => format!(" {} KiB", size >> 10),
        1048576..1073741824 => format!(" {} MiB", size >> 20),
        _ => format!(" {} GiB", size >> 30),
    }
}

fn put(panel: &mut Panel, label: &str, contender: &str, value: Option<f64>) {
    let Some(value) = value.filter(|value| *value > 0.0) else { return };
    if panel.rows.last().is_none_or(|row| row.0 != label) {
        panel.rows.push((label.to_owned(), BTreeMap::new()));
    }
    panel.rows.last_mut().expect("just made").1.insert(contender.to_owned(), value);
}

fn read(path: &str) -> Result<Vec<Panel>, Box<dyn Error>> {
    let mut times = BTreeMap::<usize, Panel>::new();
    let mut peaks =
        Panel { title: "Peak resident memory of the traces, in mimalloc's".to_owned(), rows: Vec::new() };
    for record in csv::Reader::from_path(path)?.deserialize() {
        let row: BTreeMap<String, String> = record?;
        let field = |name: &str| row.get(name).map(String::as_str).ok_or(format!("{path}: no column {name}"));
        let label = format!("{}{}", field("workload")?, size_text(field("size")?.parse()?));
        let (threads, contender) = (field("threads")?.parse()?, field("contender")?);
        let panel = times.entry(threads).or_insert_with(|| Panel {
            title: format!(
                "Time on {threads} thread{}, in mimalloc's (beyond 0.05 and 20: at the edge)",
                if threads == 1 { "" } else { "s" }
            ),
            rows: Vec::new(),
        });
        put(panel, &label, contender, field("ns")?.parse().ok());
        if threads == 1 && label.contains('_') {
            put(&mut peaks, &label, contender, field("peak_bytes")?.parse().ok());
        }
    }
    let mut panels: Vec<Panel> = times.into_values().collect();
    panels.push(peaks);
    for panel in &mut panels {
        panel.rows.retain(|row| row.1.contains_key(REFERENCE));
    }
    panels.retain(|panel| !panel.rows.is_empty());
    Ok(panels)
}

fn draw(panel: &Panel, area: &DrawingArea<SVGBackend, plotters::coord::Shift>) -> Result<(), Box<dyn Error>> {
    let rows = panel.rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(210)
        .build_cartesian_2d((LEAST..MOST).log_scale(), 0.0..rows)?;
    let label_style = ("sans-serif", 12).into_text_style(area);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .light_line_style(RGBColor(240, 240, 240))
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .draw()?;
    let line = |at: f64, style: ShapeStyle| PathElement::new([(at, 0.0), (at, rows)], style);
    chart.draw_series([line(1.0, BLACK.stroke_width(1)), line(1.3, RED.mix(0.4).stroke_width(1))])?;
    for (index, (label, figures)) in panel.rows.iter().enumerate() {
        let height = rows - 0.5 - index as f64;
        chart.draw_series([PathElement::new([(LEAST, height), (MOST, height)], RGBColor(225, 225, 225))])?;
        let (left, middle) = chart.backend_coord(&(LEAST, height));
        let start = area.get_base_pixel();
        area.draw_text(label, &label_style, (left - start.0 - 200, middle - start.1 - 7))?;
        for (name, colour) in CONTENDERS {
            let Some(value) = figures.get(name) else { continue };
            let ratio = (value / figures[REFERENCE]).clamp(LEAST, MOST);
            chart.draw_series([Circle::new((ratio, height), 5, colour.mix(0.85).filled())])?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { return Err("usage: chart FILE.csv FILE.svg".into()) };
    let panels = read(from)?;
    let heights: Vec<u32> = panels.iter().map(|panel| 85 + ROW * panel.rows.len() as u32).collect();
    let whole = SVGBackend::new(to, (960, 40 + heights.iter().sum::<u32>())).into_drawing_area();
    whole.fill(&WHITE)?;
    let (legend, mut rest) = whole.split_vertically(40);
    for (index, (name, colour)) in CONTENDERS.iter().enumerate() {
        let left = 60 + 110 * index as i32;
        legend.draw(&Circle::new((left, 22), 5, colour.filled()))?;
        legend.draw_text(name, &("sans-serif", 14).into_text_style(&legend), (left + 10, 14))?;
    }
    for (panel, height) in panels.iter().zip(heights) {
        let (this, below) = rest.split_vertically(height);
        draw(panel, &this)?;
        rest = below;
    }
    whole.present()?;
    Ok(())
}
