//! The page of several runs: figures, differences of recipes, curves over each other.

use super::data::RunData;
use super::draw::Drawn;
use super::heat::{HeatSection, sections};
use super::page::{SCRIPT, STYLE, arrow, charts, render};
use super::sample_table::{self, SampleTable};
use super::series;
use crate::numbers::{bytes, count, decimal, seconds};
use askama::Template;
use modelsmith_core::error::Result;

#[derive(Template)]
#[template(path = "compare.html")]
struct ComparePage {
    style: &'static str,
    script: &'static str,
    title: String,
    names: Vec<String>,
    results: Vec<(&'static str, Vec<String>)>,
    differences: Vec<(String, Vec<String>)>,
    charts: Vec<Drawn>,
    samples: SampleTable,
    heats: Vec<HeatSection>,
}

/// The comparison of runs.
///
/// # Errors
/// A chart or the page cannot be made.
pub(super) fn comparison(runs: &[RunData]) -> Result<String> {
    let names: Vec<String> = runs.iter().map(|run| run.name().to_owned()).collect();
    let lines: Vec<(&str, &[series::Line])> = runs
        .iter()
        .map(|run| (run.name(), run.lines.as_slice()))
        .collect();
    let all: Vec<&RunData> = runs.iter().collect();
    render(&ComparePage {
        style: STYLE,
        script: SCRIPT,
        title: format!("Comparison of {}", names.join(", ")),
        results: results(runs),
        differences: differences(runs),
        charts: charts(&series::of_runs(&lines))?,
        samples: sample_table::of_runs(runs),
        heats: sections(&all),
        names,
    })
}

/// Figures of the runs, a row each.
fn results(runs: &[RunData]) -> Vec<(&'static str, Vec<String>)> {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), decimal);
    let summary = |run: &RunData, key: &str| run.detail.summary[key].as_u64();
    let of = |show: &dyn Fn(&RunData) -> String| runs.iter().map(show).collect::<Vec<_>>();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let mut rows = vec![
        (
            "state",
            of(&|run| run.detail.info.state.as_str().to_owned()),
        ),
        ("method", of(&|run| run.detail.info.method.clone())),
        (
            "held-out loss before",
            of(&|run| number(run.detail.info.loss_before)),
        ),
        (
            "held-out loss after",
            of(&|run| number(run.detail.info.loss_after)),
        ),
        (
            "held-out accuracy after",
            of(&|run| number(run.detail.summary["accuracy_after"].as_f64())),
        ),
        (
            "numbers trained",
            of(&|run| or_dash(summary(run, "trained_parameters").map(count))),
        ),
        (
            "norm of the change",
            of(&|run| number(run.detail.summary["change_norm"].as_f64())),
        ),
        ("steps", of(&|run| count(run.detail.info.steps))),
        (
            "time",
            of(&|run| or_dash(run.detail.info.seconds.map(seconds))),
        ),
        (
            "peak memory",
            of(&|run| or_dash(run.detail.info.peak_memory.map(bytes))),
        ),
        (
            "warnings",
            of(&|run| {
                count(
                    run.detail
                        .record
                        .warnings
                        .iter()
                        .map(|warning| warning.count)
                        .sum(),
                )
            }),
        ),
        (
            "data",
            of(&|run| {
                or_dash(
                    run.detail
                        .info
                        .data_hash
                        .as_ref()
                        .map(|hash| hash.chars().take(12).collect()),
                )
            }),
        ),
    ];
    if runs.iter().any(|run| run.recall.is_some()) {
        let part = |run: &RunData, at: usize| {
            or_dash(
                run.recall
                    .map(|both| arrow(both[at].before, both[at].after)),
            )
        };
        rows.insert(4, ("questions answered", of(&|run| part(run, 0))));
        rows.insert(5, ("facts kept", of(&|run| part(run, 1))));
    }
    rows
}

/// Keys of the recipes whose values differ.
fn differences(runs: &[RunData]) -> Vec<(String, Vec<String>)> {
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.recipe) {
        if !keys.contains(&key) && key != "output.name" {
            keys.push(key);
        }
    }
    let value = |run: &RunData, key: &str| {
        let found = run.recipe.iter().find(|(name, _)| name == key);
        found.map_or_else(|| "–".to_owned(), |(_, value)| value.clone())
    };
    keys.into_iter()
        .map(|key| {
            (
                key.clone(),
                runs.iter().map(|run| value(run, key)).collect::<Vec<_>>(),
            )
        })
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}
