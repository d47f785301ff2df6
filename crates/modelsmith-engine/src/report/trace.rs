//! The page of causal tracing: a grid for everything that was put back.

use super::heat::{Cell, Heat, HeatSection, Row};
use super::page::{SCRIPT, STYLE};
use crate::edit::Trace;
use crate::numbers::decimal;
use askama::Template;
use modelsmith_core::error::{Error, Result};

#[derive(Template)]
#[template(path = "trace.html")]
struct TracePage<'a> {
    style: &'static str,
    script: &'static str,
    title: String,
    trace: &'a Trace,
    clean: String,
    corrupted: String,
    heats: Vec<HeatSection>,
}

/// What tracing found of the model called `host`, as a page.
///
/// # Errors
/// The page cannot be made.
pub fn trace_page(trace: &Trace, host: &str) -> Result<String> {
    let page = TracePage {
        style: STYLE,
        script: SCRIPT,
        title: format!("Where {host} recalls facts"),
        trace,
        clean: decimal(trace.clean),
        corrupted: decimal(trace.corrupted),
        heats: vec![section(trace)],
    };
    page.render()
        .map_err(|error| Error::Failed(format!("the page of a trace: {error}")))
}

fn section(trace: &Trace) -> HeatSection {
    let values = trace
        .effects
        .iter()
        .flat_map(|effects| effects.grid.iter().flatten());
    let largest = values.flatten().copied().fold(0.0, f64::max);
    let runs = trace.effects.iter().map(|effects| {
        let layers = effects.grid.first().map_or(0, Vec::len);
        let row = |(label, cells): (&&str, &Vec<Option<f64>>)| Row {
            label: (*label).to_owned(),
            cells: cells
                .iter()
                .enumerate()
                .map(|(layer, value)| {
                    value.map(|value| Cell {
                        text: decimal(value),
                        title: format!("{label}, layer {layer}: {}", decimal(value)),
                        level: (value / largest * 100.0).round().clamp(0.0, 100.0) as u8,
                    })
                })
                .collect(),
        };
        let heat = Heat {
            columns: (0..layers).map(|layer| layer.to_string()).collect(),
            rows: trace.places.iter().zip(&effects.grid).map(row).collect(),
            outside: Vec::new(),
        };
        (effects.title.to_owned(), heat)
    });
    HeatSection {
        title: "Mean indirect effect".to_owned(),
        caption: format!(
            "By how much the probability of the answer rises when the undisturbed state of a token is put back at \
             a layer. Layers of a window: {}.",
            trace.window
        ),
        runs: runs.collect(),
    }
}
