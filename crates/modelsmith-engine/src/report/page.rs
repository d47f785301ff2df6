//! The page of one run: its template with what it shows.

use super::data::RunData;
use super::draw::{Drawn, draw};
use super::heat::{HeatSection, sections};
use super::sample_table::{self, SampleTable};
use super::series;
use crate::numbers::{bytes, count, date, decimal, seconds, share};
use crate::run_info::State;
use askama::Template;
use modelsmith_core::error::{Error, Result};
use serde_json::Value;

pub(super) const STYLE: &str = include_str!("../../templates/report.css");
pub(super) const SCRIPT: &str = include_str!("../../templates/report.js");

/// What the page is about, in four boxes.
struct Tile {
    title: &'static str,
    value: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage<'a> {
    style: &'static str,
    script: &'static str,
    run: &'a RunData,
    title: String,
    state: &'static str,
    facts: Vec<(&'static str, String)>,
    tiles: Vec<Tile>,
    charts: Vec<Drawn>,
    samples: SampleTable,
    heats: Vec<HeatSection>,
    data: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    attempts: Vec<Vec<String>>,
    artifacts: Vec<(String, String, String)>,
}

/// The report of a run.
///
/// # Errors
/// A chart or the page cannot be made.
pub(super) fn report(run: &RunData) -> Result<String> {
    let info = &run.detail.info;
    render(&ReportPage {
        style: STYLE,
        script: SCRIPT,
        title: format!("{}: {} on {}", info.name, info.method, short(&info.host)),
        state: info.state.as_str(),
        facts: facts(run),
        tiles: tiles(run),
        charts: charts(&series::of_run(&run.lines))?,
        samples: sample_table::of_run(run),
        heats: sections(&[run]),
        data: data_rows(&run.detail.data),
        environment: super::data::flattened(&run.detail.environment),
        attempts: attempts(run),
        artifacts: artifacts(run),
        run,
    })
}

pub(super) fn render(page: &impl Template) -> Result<String> {
    page.render()
        .map_err(|error| Error::Failed(format!("report: {error}")))
}

pub(super) fn charts(charts: &[series::Chart]) -> Result<Vec<Drawn>> {
    charts.iter().map(draw).collect()
}

/// The last two parts of a path.
fn short(path: &str) -> String {
    let mut parts: Vec<&str> = path
        .rsplit('/')
        .filter(|part| !part.is_empty())
        .take(2)
        .collect();
    parts.reverse();
    parts.join("/")
}

fn facts(run: &RunData) -> Vec<(&'static str, String)> {
    let info = &run.detail.info;
    let mut facts = vec![
        ("method", info.method.clone()),
        ("host", info.host.clone()),
        ("seed", info.seed.to_string()),
    ];
    facts.extend(info.started.map(|time| ("started", date(time))));
    facts.extend(info.finished.map(|time| ("ended", date(time))));
    facts.push(("recipe", info.recipe.chars().take(16).collect()));
    facts.extend(
        info.data_hash
            .as_ref()
            .map(|hash| ("data", hash.chars().take(16).collect())),
    );
    facts
}

fn tiles(run: &RunData) -> Vec<Tile> {
    vec![changed(run), gained(run), kept(run), cost(run)]
}

fn changed(run: &RunData) -> Tile {
    let summary = &run.detail.summary;
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let (value, detail) = if summary.is_null() {
        let state = run.detail.info.state.as_str();
        (
            "not yet".to_owned(),
            format!("the run is {state}; nothing was written as its result"),
        )
    } else {
        let (trained, host) = (number("trained_parameters"), number("host_parameters"));
        let norm = summary["change_norm"]
            .as_f64()
            .map_or_else(String::new, decimal);
        let detail = format!(
            "numbers trained, {} of the host's {}; {} tensors moved, norm of the change {norm}",
            share(trained, host),
            count(host),
            number("changed_parameters"),
        );
        (count(trained), detail)
    };
    Tile {
        title: "Changed",
        value,
        detail,
    }
}

fn gained(run: &RunData) -> Tile {
    let info = &run.detail.info;
    let loss = match (info.loss_before, info.loss_after) {
        (Some(before), Some(after)) => Some((
            format!("{} → {}", decimal(before), decimal(after)),
            format!(
                "held-out loss; perplexity {} → {}",
                decimal(before.exp()),
                decimal(after.exp())
            ),
        )),
        _ => None,
    };
    let (value, detail) = match (&run.recall, loss) {
        (Some([questions, _]), loss) => (
            arrow(questions.before, questions.after),
            format!(
                "of {} questions never trained on, answered exactly{}",
                questions.asked,
                loss.map_or_else(String::new, |(value, _)| format!("; held-out loss {value}"))
            ),
        ),
        (None, Some(loss)) => loss,
        (None, None) => (
            "not measured".into(),
            "the run has no held-out rows that were scored".into(),
        ),
    };
    Tile {
        title: "Gained",
        value,
        detail,
    }
}

fn kept(run: &RunData) -> Tile {
    let fresh = run.recipe.iter().any(|(key, _)| key == "host.fresh");
    let (value, detail) = match &run.recall {
        Some([_, facts]) => (
            arrow(facts.before, facts.after),
            format!(
                "of {} facts in the wording the host was trained on",
                facts.asked
            ),
        ),
        None if fresh => (
            "nothing to keep".into(),
            "training began from random weights".into(),
        ),
        None => (
            "host unchanged".into(),
            "its files were not touched; what it still knows with the adapter was not measured \
             (modelsmith eval measures it)"
                .into(),
        ),
    };
    Tile {
        title: "Kept",
        value,
        detail,
    }
}

fn cost(run: &RunData) -> Tile {
    let info = &run.detail.info;
    let speed = run
        .lines
        .iter()
        .find(|line| line.metric == "tokens_per_second");
    let speed = speed.and_then(|line| {
        let mut values: Vec<f64> = line.points.iter().map(|point| point.1).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    });
    let mut parts = vec![format!("{} steps", count(info.steps))];
    parts.extend(speed.map(|speed| format!("{} tokens/s", count(speed as u64))));
    parts.extend(
        info.peak_memory
            .map(|peak| format!("peak memory {}", bytes(peak))),
    );
    Tile {
        title: "Cost",
        value: info.seconds.map_or_else(|| "unknown".to_owned(), seconds),
        detail: parts.join(", "),
    }
}

pub(super) fn arrow(before: f64, after: f64) -> String {
    format!("{:.1} % → {:.1} %", before * 100.0, after * 100.0)
}

fn data_rows(data: &Value) -> Vec<(String, String)> {
    let name = |key: &str| {
        key.replace('_', " ")
            .replace("held out counts.", "held out: ")
            .replace("counts.", "")
    };
    super::data::flattened(data)
        .into_iter()
        .map(|(key, value)| (name(&key), value))
        .collect()
}

fn attempts(run: &RunData) -> Vec<Vec<String>> {
    let record = &run.detail.record;
    let last = record.attempts.len().saturating_sub(1);
    let running = run.detail.info.state == State::Running;
    let row = |(place, one): (usize, &crate::record::Attempt)| {
        let end = match one.outcome {
            Some(state) => state.as_str(),
            None if running && place == last => "running",
            None => "killed",
        };
        vec![
            date(one.started),
            end.to_owned(),
            one.seconds.map_or_else(String::new, seconds),
            one.peak_memory.map_or_else(String::new, bytes),
            one.error.clone().unwrap_or_default(),
        ]
    };
    record.attempts.iter().enumerate().map(row).collect()
}

fn artifacts(run: &RunData) -> Vec<(String, String, String)> {
    let row =
        |one: &crate::record::Artifact| (one.path.clone(), bytes(one.bytes), one.blake3.clone());
    run.detail.record.artifacts.iter().map(row).collect()
}
