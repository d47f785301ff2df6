//! A chart as SVG, and its numbers as JSON for the script.
//!
//! Colours are fixed marks here: the style sheet maps each to the colour of the light or the dark
//! page.

use super::series::{Chart, Line};
use crate::numbers::decimal;
use modelsmith_core::error::{Error, Result};
use plotters::prelude::*;
use serde_json::json;

/// Size of a chart in its own units.
const SIZE: (u32, u32) = (560, 240);

/// Most points that are marked one by one.
const MARKED: usize = 15;

/// Marks of the curves, in order; the style sheet has the same list.
const COLORS: [RGBColor; 10] = [
    RGBColor(37, 99, 201),
    RGBColor(194, 87, 12),
    RGBColor(21, 128, 61),
    RGBColor(147, 51, 184),
    RGBColor(180, 35, 107),
    RGBColor(14, 116, 144),
    RGBColor(133, 77, 14),
    RGBColor(71, 85, 105),
    RGBColor(190, 18, 60),
    RGBColor(63, 98, 18),
];

/// Mark of the grid and the axes.
const GRID: RGBColor = RGBColor(221, 221, 221);

/// A chart as the template shows it.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub(super) title: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) svg: String,
    /// Data and geometry for the script; holds no `<`.
    pub(super) json: String,
    pub(super) legend: Vec<Legend>,
}

/// One curve's line in the legend.
#[derive(Clone, Debug)]
pub(super) struct Legend {
    pub(super) label: String,
    pub(super) color: usize,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) lowest: String,
    pub(super) highest: String,
}

/// Draws a chart.
///
/// # Errors
/// The drawing library refuses.
pub(super) fn draw(chart: &Chart) -> Result<Drawn> {
    let (x, y) = (horizontal(&chart.lines), vertical(&chart.lines));
    let mut svg = String::new();
    let plot = paint(&mut svg, chart, x, y)
        .map_err(|error| Error::Failed(format!("chart {}: {error}", chart.title)))?;
    let lines: Vec<_> = chart
        .lines
        .iter()
        .map(|line| {
            json!({
                "label": line.label,
                "color": line.color % COLORS.len(),
                "points": line.points.iter().map(|(x, y)| [rounded(*x), rounded(*y)]).collect::<Vec<_>>(),
            })
        })
        .collect();
    let numbers = json!({"plot": plot, "x": [x.0, x.1], "y": [y.0, y.1], "lines": lines});
    Ok(Drawn {
        title: chart.title.clone(),
        width: SIZE.0,
        height: SIZE.1,
        svg: inline(&svg),
        json: numbers.to_string().replace('<', "\\u003c"),
        legend: chart.lines.iter().map(legend).collect(),
    })
}

/// Paints the chart and returns the corners of its plotting area.
fn paint(
    svg: &mut String,
    chart: &Chart,
    x: (f64, f64),
    y: (f64, f64),
) -> Result<[i32; 4], Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut context = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .x_labels(6)
        .y_labels(5)
        .label_style(("sans-serif", 13))
        .x_label_formatter(&|value| decimal_step(*value))
        .y_label_formatter(&|value| mark(*value))
        .draw()?;
    for line in &chart.lines {
        let color = COLORS[line.color % COLORS.len()];
        context.draw_series(LineSeries::new(
            line.points.iter().copied(),
            color.stroke_width(2),
        ))?;
        if line.points.len() <= MARKED {
            let marks = line
                .points
                .iter()
                .map(|point| Circle::new(*point, 3, color.filled()));
            context.draw_series(marks)?;
        }
    }
    let (across, down) = context.plotting_area().get_pixel_range();
    root.present()?;
    Ok([across.start, down.start, across.end, down.end])
}

/// Steps are whole; on a short axis a mark may stand between two.
fn decimal_step(value: f64) -> String {
    if value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        decimal(value)
    }
}

/// A mark of an axis, without the noughts that only fill up digits.
fn mark(value: f64) -> String {
    let text = decimal(value);
    if text.contains('e') || !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The drawing without its own frame: the page gives size and name.
fn inline(svg: &str) -> String {
    let body = svg
        .split_once("<svg")
        .and_then(|(_, rest)| rest.split_once('>'));
    let body = body.map_or("", |(_, body)| body);
    body.trim_end()
        .strip_suffix("</svg>")
        .unwrap_or(body)
        .to_owned()
}

fn points(lines: &[Line]) -> impl Iterator<Item = (f64, f64)> {
    lines.iter().flat_map(|line| line.points.iter().copied())
}

fn horizontal(lines: &[Line]) -> (f64, f64) {
    let low = points(lines)
        .map(|point| point.0)
        .fold(f64::INFINITY, f64::min);
    let high = points(lines)
        .map(|point| point.0)
        .fold(f64::NEG_INFINITY, f64::max);
    if low < high {
        (low, high)
    } else {
        (low - 1.0, low + 1.0)
    }
}

/// The range of values with a little air; a flat curve stands in the middle.
fn vertical(lines: &[Line]) -> (f64, f64) {
    let low = points(lines)
        .map(|point| point.1)
        .fold(f64::INFINITY, f64::min);
    let high = points(lines)
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let air = (high - low) * 0.06;
    if air > 0.0 {
        // A quantity that is never negative has no axis below nothing.
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        return ((low - air).max(floor), high + air);
    }
    let air = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
    (low - air, low + air)
}

/// Seven significant digits: what a screen can show, at half the bytes.
fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

fn legend(line: &Line) -> Legend {
    let values = || line.points.iter().map(|point| point.1);
    let ends = |value: Option<f64>| value.map_or_else(String::new, decimal);
    Legend {
        label: line.label.clone(),
        color: line.color % COLORS.len(),
        first: ends(values().next()),
        last: ends(values().next_back()),
        lowest: ends(values().reduce(f64::min)),
        highest: ends(values().reduce(f64::max)),
    }
}
