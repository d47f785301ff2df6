//! One experiment: learning rates, runs, scores, comparisons.

use super::arms::{Bench, Run};
use super::bootstrap::{self, deviation, mean};
use super::file::{Arm, Expectation, Metric, Test};
use super::fragment;
use super::items::Scores;
use super::report::{ArmReport, Comparison, ExperimentReport, Figure};
use super::verdict::verdict;
use super::{house_data, prepare};
use crate::adapter_folder;
use crate::recipe::data_folder;
use modelsmith_core::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// An arm after its runs.
pub(super) struct Finished {
    pub(super) report: ArmReport,
    /// Scores by test, in the order of the seeds.
    pub(super) scores: BTreeMap<String, Vec<Scores>>,
}

/// Runs an experiment.
///
/// # Errors
/// What preparing its data, its runs and its scores may refuse.
pub(super) fn run(bench: &mut Bench, seeds: u64, claim: &str) -> Result<ExperimentReport> {
    let experiment = bench.experiment;
    let mut report = ExperimentReport {
        id: experiment.id.clone(),
        description: experiment.description.clone(),
        seeds: (1..=seeds).collect(),
        ..ExperimentReport::default()
    };
    if let Some(missing) = missing(&json!(experiment)) {
        (bench.say)(&format!("{}: skipped: no data ({missing})", experiment.id));
        report.skipped = Some(format!("no data: {missing}"));
        return Ok(report);
    }
    if let Some(kind) = experiment.kind()? {
        return super::measured::run(bench, kind, report, claim);
    }
    if let Some(house) = &experiment.house {
        house_data::write(house, &bench.places.data)?;
    }
    prepare::write(&experiment.prepare, &bench.places.data)?;
    std::fs::create_dir_all(&bench.runs).map_err(|error| Error::io(&bench.runs, error))?;
    bench.first()?;
    let tests = tests(bench)?;
    let mut arms = Vec::new();
    for arm in &experiment.arms {
        arms.push(finish(bench, arm, &report.seeds, &tests)?);
    }
    let recipe = bench.recipe(&experiment.arms[0], 1.0, 1)?;
    report.host_hash = adapter_folder::base_hash(&recipe.host.path)?;
    if recipe.host.classes == 0 && recipe.data.classes.is_empty() {
        report.untrained = untrained(bench, &recipe, &tests)?;
    }
    for (test, _) in &tests {
        let scores = &arms[0].scores[&test.id][0];
        report
            .data
            .insert(test.id.clone(), scores.data_hash.clone());
    }
    let first: Value = modelsmith_core::files::read_json(arms[0].report.runs[0].join("data.json"))?;
    report.data.insert(
        "train".into(),
        first["hash"].as_str().unwrap_or_default().to_owned(),
    );
    report.steps = steps(&arms[0])?;
    for expectation in &experiment.expect {
        report.comparisons.push(compare(
            expectation,
            &arms,
            &format!("{claim}/{}", report.id),
        )?);
    }
    report.arms = arms.into_iter().map(|arm| arm.report).collect();
    Ok(report)
}

/// The first path of public data that is not here.
fn missing(value: &Value) -> Option<String> {
    let here = |path: &str| {
        let rest = path
            .trim_start_matches("$MODELSMITH_DATA")
            .trim_start_matches('/');
        data_folder().is_ok_and(|folder| folder.join(rest).exists())
    };
    let paths = fragment::public_paths(value);
    paths
        .into_iter()
        .find(|path| !here(path))
        .map(str::to_owned)
}

/// Every test with its data, paths filled in and cut to the tier's number of items.
fn tests<'a>(bench: &Bench<'a>) -> Result<Vec<(&'a Test, Value)>> {
    let experiment = bench.experiment;
    let items = experiment.budget(bench.tier).items;
    let mut tests = Vec::new();
    for test in &experiment.tests {
        let mut data = fragment::test_data(&experiment.recipe, test)?;
        fragment::place(&mut data, &bench.places);
        if items > 0 {
            data["limit"] = items.into();
        }
        tests.push((test, data));
    }
    Ok(tests)
}

fn finish(
    bench: &mut Bench,
    arm: &Arm,
    seeds: &[u64],
    tests: &[(&Test, Value)],
) -> Result<Finished> {
    let (learning_rate, tried) = bench.choose(arm)?;
    let mut runs = Vec::new();
    for seed in seeds {
        runs.push(bench.run(arm, learning_rate, *seed)?);
    }
    let mut scores = BTreeMap::new();
    for (test, data) in tests {
        let of_test = runs.iter().map(|run| bench.scores(run, data));
        scores.insert(test.id.clone(), of_test.collect::<Result<Vec<_>>>()?);
    }
    let numbers = |key: &str| {
        runs.iter()
            .filter_map(|run| run.summary[key].as_f64())
            .collect::<Vec<_>>()
    };
    let whole = |key: &str| {
        runs.iter()
            .filter_map(|run| run.summary[key].as_u64())
            .max()
    };
    let mut figures = Vec::new();
    for (test, metric) in used(bench) {
        figures.push(figure(&test, metric, &scores[&test]));
    }
    let Value::Object(method) = json!(arm.method) else {
        unreachable!("a named method is a table")
    };
    let report = ArmReport {
        id: arm.id.clone(),
        method,
        learning_rate: Some(learning_rate),
        tried,
        trained_parameters: whole("trained_parameters").unwrap_or_default(),
        seconds: mean(&numbers("seconds")),
        peak_memory: whole("peak_memory"),
        figures,
        runs: runs.into_iter().map(|Run { folder, .. }| folder).collect(),
    };
    Ok(Finished { report, scores })
}

/// Tests with the metrics that are expected something of, in the order of the claim.
pub(super) fn used(bench: &Bench) -> Vec<(String, Metric)> {
    let mut seen = BTreeSet::new();
    let pairs = bench
        .experiment
        .expect
        .iter()
        .map(|one| (one.test.clone(), one.metric));
    pairs
        .filter(|(test, metric)| seen.insert((test.clone(), metric.name())))
        .collect()
}

fn untrained(
    bench: &Bench,
    recipe: &crate::Recipe,
    tests: &[(&Test, Value)],
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (id, metric) in used(bench) {
        for (_, data) in tests.iter().filter(|(test, _)| test.id == id) {
            let scores = bench.untrained(recipe, data)?;
            figures.push(figure(&id, metric, &[scores]));
        }
    }
    Ok(figures)
}

pub(super) fn figure(test: &str, metric: Metric, scores: &[Scores]) -> Figure {
    let each: Vec<f64> = scores
        .iter()
        .map(|seed| mean(values(seed, metric)))
        .collect();
    Figure {
        test: test.to_owned(),
        metric,
        mean: mean(&each),
        deviation: deviation(&each),
        each,
    }
}

fn values(scores: &Scores, metric: Metric) -> &[f64] {
    match metric {
        Metric::Exact => &scores.exact,
        Metric::Loss => &scores.loss,
        Metric::Amount => &scores.amount,
    }
}

fn steps(arm: &Finished) -> Result<u64> {
    let summary: Value =
        modelsmith_core::files::read_json(arm.report.runs[0].join("summary.json"))?;
    Ok(summary["steps"].as_u64().unwrap_or_default())
}

pub(super) fn compare(
    expectation: &Expectation,
    arms: &[Finished],
    key: &str,
) -> Result<Comparison> {
    let Expectation {
        arm,
        baseline,
        test,
        metric,
        direction,
        margin,
        reason,
    } = expectation;
    let of = |id: &str| {
        let found = arms.iter().find(|one| one.report.id == id);
        found
            .map(|one| one.scores[test].as_slice())
            .unwrap_or_default()
    };
    let pairs = of(arm).iter().zip(of(baseline));
    let differences: Vec<Vec<f64>> = pairs
        .map(|(ours, theirs)| {
            let items = values(ours, *metric).iter().zip(values(theirs, *metric));
            items.map(|(a, b)| a - b).collect()
        })
        .collect();
    let key = format!("{key}/{test}/{}/{arm}/{baseline}", metric.name());
    let interval = bootstrap::interval(&differences, &key)?;
    Ok(Comparison {
        arm: arm.clone(),
        baseline: baseline.clone(),
        test: test.clone(),
        metric: *metric,
        direction: *direction,
        margin: *margin,
        reason: reason.clone(),
        difference: interval.difference,
        low: interval.low,
        high: interval.high,
        items: differences[0].len(),
        each: differences.iter().map(|seed| mean(seed)).collect(),
        verdict: verdict(&interval, *direction, *metric, *margin),
    })
}
