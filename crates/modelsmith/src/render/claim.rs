//! What a reproduction found, beside what the paper says.

use super::{Align, Table, bytes, count, seconds};
use modelsmith_engine::claim::Direction;
use modelsmith_engine::claim::file::Metric;
use modelsmith_engine::claim::report::{ClaimReport, Comparison, ExperimentReport, Figure};

/// Statement, the paper's figures, tables of arms and differences, verdict.
pub(crate) fn claim(report: &ClaimReport) -> String {
    let mut parts = vec![format!(
        "card {} {}: {}\n{}",
        report.card, report.title, report.statement, report.source
    )];
    if !report.paper.is_empty() {
        parts.push(paper(report));
    }
    for experiment in &report.experiments {
        parts.push(match &experiment.skipped {
            Some(reason) => format!("{}: skipped: {reason}", experiment.id),
            None => arms(experiment) + "\n\n" + &differences(experiment),
        });
    }
    let hardware = &report.hardware;
    let load = hardware
        .load
        .map_or(String::new(), |load| format!(", load {load:.1}"));
    parts.push(format!(
        "verdict  {} ({} tier, {}, {} cores {}{load})",
        report.verdict.words(),
        report.tier.name(),
        seconds(report.seconds),
        hardware.cores,
        hardware.architecture
    ));
    parts.join("\n\n")
}

fn paper(report: &ClaimReport) -> String {
    let left = Align::Left;
    let mut table = Table::new(&[
        ("the paper's figures", left),
        ("arm", left),
        ("figure", left),
    ]);
    for one in &report.paper {
        table.row([one.setting.clone(), one.arm.clone(), one.figure.clone()]);
    }
    table.render()
}

fn arms(experiment: &ExperimentReport) -> String {
    let scored: Vec<String> = experiment.arms.first().map_or(Vec::new(), |arm| {
        arm.figures
            .iter()
            .map(|figure| format!("{} {}", figure.test, figure.metric.name()))
            .collect()
    });
    let mut columns = vec![
        (experiment.id.as_str(), Align::Left),
        ("trained", Align::Right),
        ("rate", Align::Right),
    ];
    columns.extend(scored.iter().map(|name| (name.as_str(), Align::Right)));
    columns.extend([("time", Align::Right), ("peak memory", Align::Right)]);
    let mut table = Table::new(&columns);
    if !experiment.untrained.is_empty() {
        let cells = ["host alone".into(), "0".into(), String::new()];
        table.row(
            cells
                .into_iter()
                .chain(experiment.untrained.iter().map(figure)),
        );
    }
    for arm in &experiment.arms {
        let cells = [
            arm.id.clone(),
            count(arm.trained_parameters),
            arm.learning_rate
                .map_or(String::new(), |rate| rate.to_string()),
        ];
        let cells = cells.into_iter().chain(arm.figures.iter().map(figure));
        let cost = [
            seconds(arm.seconds),
            arm.peak_memory.map_or(String::new(), bytes),
        ];
        table.row(cells.chain(cost));
    }
    table.render()
}

fn differences(experiment: &ExperimentReport) -> String {
    let left = Align::Left;
    let columns = [
        "difference",
        "on",
        "expected",
        "found",
        "95 % interval",
        "verdict",
    ];
    let mut table = Table::new(&columns.map(|name| (name, left)));
    for found in &experiment.comparisons {
        let number = |value: f64| signed(value, found.metric);
        table.row([
            format!("{} - {}", found.arm, found.baseline),
            format!("{} {}", found.test, found.metric.name()),
            expected(found),
            number(found.difference),
            format!("{} to {}", number(found.low), number(found.high)),
            found.verdict.words().to_owned(),
        ]);
    }
    table.render()
}

fn expected(found: &Comparison) -> String {
    match found.direction {
        Direction::Higher => "above 0".to_owned(),
        Direction::Lower => "below 0".to_owned(),
        Direction::AsGood => match found.metric {
            Metric::Exact => format!("above {}", signed(-found.margin, found.metric)),
            Metric::Loss | Metric::Amount => {
                format!("below {}", signed(found.margin, found.metric))
            }
        },
        Direction::Reported => "nothing".to_owned(),
    }
}

/// Exact answers are told in percent.
fn figure(figure: &Figure) -> String {
    let (scale, places, unit) = scale(figure.metric);
    let spread = figure.deviation.map_or(String::new(), |value| {
        format!(" ± {:.places$}", value * scale)
    });
    format!("{:.places$}{spread}{unit}", figure.mean * scale)
}

fn signed(value: f64, metric: Metric) -> String {
    let (scale, places, _) = scale(metric);
    format!("{:+.places$}", value * scale)
}

fn scale(metric: Metric) -> (f64, usize, &'static str) {
    match metric {
        Metric::Exact => (100.0, 1, " %"),
        Metric::Loss | Metric::Amount => (1.0, 3, ""),
    }
}
