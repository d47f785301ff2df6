//! The page of sequences of edits: a table of where they ended, and a chart for every figure.

use super::draw::{Drawn, draw};
use super::page::{SCRIPT, STYLE};
use super::series::{Chart, Line};
use crate::edit::{Curve, Point, SCORES};
use crate::numbers::decimal;
use askama::Template;
use modelsmith_core::error::{Error, Result};

#[derive(Template)]
#[template(path = "curves.html")]
struct CurvesPage {
    style: &'static str,
    script: &'static str,
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    charts: Vec<Drawn>,
}

/// Sequences of edits over each other, as a page.
///
/// # Errors
/// A chart or the page cannot be made.
pub fn curves_page(curves: &[Curve]) -> Result<String> {
    let (columns, rows) = table(curves);
    let page = CurvesPage {
        style: STYLE,
        script: SCRIPT,
        title: "What edits did".to_owned(),
        columns,
        rows,
        charts: charts(curves).iter().map(draw).collect::<Result<_>>()?,
    };
    page.render()
        .map_err(|error| Error::Failed(format!("the page of edits: {error}")))
}

/// Headings, and a row for each sequence, before its edits and after.
pub(crate) fn table(curves: &[Curve]) -> (Vec<String>, Vec<Vec<String>>) {
    let has = |name: &str| {
        let points = curves.iter().flat_map(|curve| &curve.points);
        points.clone().any(|point| point.scores.contains_key(name))
    };
    let names: Vec<&str> = std::iter::once("S")
        .chain(SCORES.iter().map(|(name, _, _)| *name))
        .filter(|name| has(name))
        .collect();
    let mut columns = vec!["editor".to_owned(), "facts".to_owned()];
    columns.extend(names.iter().map(|name| (*name).to_owned()));
    columns.extend(["perplexity", "largest growth", "steps"].map(str::to_owned));
    let row = |label: String, point: &Point, steps: Option<f64>| {
        let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), decimal);
        let growth = point.growth.values().copied().max_by(f64::total_cmp);
        let mut cells = vec![label, point.facts.to_string()];
        let scores = names.iter().map(|name| point.scores.get(*name).copied());
        cells.extend(
            scores.map(|value| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))),
        );
        cells.extend([figure(point.perplexity), figure(growth), figure(steps)]);
        cells
    };
    let mut rows = Vec::new();
    if let Some(point) = curves.first().and_then(|curve| curve.points.first()) {
        rows.push(row("unedited".to_owned(), point, None));
    }
    for curve in curves {
        if let Some(point) = curve.points.last() {
            rows.push(row(label(curve), point, Some(curve.steps)));
        }
    }
    (columns, rows)
}

/// The editor, with the folder's name.
fn label(curve: &Curve) -> String {
    let name = curve.edits.file_name().and_then(|name| name.to_str());
    match name {
        Some(name) if name != curve.method => format!("{} ({name})", curve.method),
        _ => curve.method.clone(),
    }
}

fn charts(curves: &[Curve]) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut add = |title: &str, value: &dyn Fn(&Point) -> Option<f64>| {
        let line = |(color, curve): (usize, &Curve)| {
            let points = curve.points.iter();
            let points = points.filter_map(|point| Some((point.facts as f64, value(point)?)));
            Line {
                label: label(curve),
                kind: "edit".to_owned(),
                metric: title.to_owned(),
                points: points.collect(),
                color,
            }
        };
        let lines = curves.iter().enumerate().map(line);
        let lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
        if !lines.is_empty() {
            charts.push(Chart {
                title: title.to_owned(),
                lines,
            });
        }
    };
    add("S: harmonic mean of ES, PS and NS", &|point| {
        point.scores.get("S").copied()
    });
    for (name, _, _) in SCORES {
        add(name, &|point| point.scores.get(name).copied());
    }
    add("EAcc of the last batch, right after it", &|point| {
        point.immediate.get("EAcc").copied()
    });
    add("log10 of the perplexity", &|point| {
        point.perplexity.map(f64::log10)
    });
    add("log10 of the largest growth of a weight's norm", &|point| {
        let growth = point.growth.values().copied().max_by(f64::total_cmp);
        growth.map(f64::log10)
    });
    charts
}
