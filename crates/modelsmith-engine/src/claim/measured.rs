//! Experiments whose arms are not trained by a recipe: each arm changes the same model in its own way, and what
//! came of it is measured item by item.
//!
//! A [`Kind`] is what a claim says (`[experiment.edits]`, ...); opened, it is a [`Subject`]: model and items. The
//! driver here makes each arm under each seed once, finds it again by what it depends on, and compares.

use super::arms::Bench;
use super::experiment::{Finished, compare, figure, used};
use super::file::{Arm, Experiment, Metric, Tier};
use super::items::Scores;
use super::report::{ArmReport, ExperimentReport};
use crate::memory;
use crate::recipe::Named;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::{atomic_json, read_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Scores by test.
pub(super) type ByTest = BTreeMap<String, Scores>;

/// What such an experiment is about, as a claim says it.
pub(super) trait Kind {
    /// Its key.
    fn key(&self) -> &'static str;

    /// The tests it can be judged by, with their metric.
    fn tests(&self) -> Vec<(&'static str, Metric)>;

    /// Refuses values out of range, and parts of the experiment that it has no use for.
    ///
    /// # Errors
    /// The key below the experiment, what was found and what was expected.
    fn check(&self, experiment: &Experiment) -> Result<()>;

    /// Refuses a method that is none of its arms, or options that such a method has not.
    ///
    /// # Errors
    /// As [`Kind::check`].
    fn check_method(&self, method: &Named) -> Result<()>;

    /// Loads the model, and draws up the items.
    ///
    /// # Errors
    /// Files that are not there, a model that does not fit.
    fn open(&self, bench: &mut Bench) -> Result<Box<dyn Subject>>;
}

/// The model that all arms change, and what is asked of it.
pub(super) trait Subject {
    /// Hash of the model's weights.
    fn host(&self) -> &str;

    /// All else that scores depend on, but for method and seed.
    fn key(&self) -> Value;

    /// What a run writes or asks, counted.
    fn count(&self) -> usize;

    /// The model as it is, under a seed's items.
    ///
    /// # Errors
    /// What measuring refuses.
    fn alone(&self, seed: u64) -> Result<ByTest>;

    /// Changes the model as an arm does, and measures; `folder` is the arm's own.
    ///
    /// # Errors
    /// What the change or measuring refuse, a signal.
    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, folder: &Path) -> Result<Seen>;
}

/// An arm under one seed, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Seen {
    /// Of the change, without measuring.
    pub(super) seconds: f64,
    /// Resident memory while changing, in bytes.
    pub(super) peak_memory: Option<u64>,
    /// Numbers changed or kept.
    pub(super) changed: u64,
    pub(super) scores: ByTest,
}

/// Runs an experiment of a kind.
///
/// # Errors
/// What opening it, its arms and their comparison may refuse.
pub(super) fn run(
    bench: &mut Bench,
    kind: &dyn Kind,
    mut report: ExperimentReport,
    claim: &str,
) -> Result<ExperimentReport> {
    for folder in [&bench.places.data, &bench.runs] {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    let subject = kind.open(bench)?;
    let experiment = bench.experiment;
    let mut arms = Vec::new();
    for arm in &experiment.arms {
        arms.push(finish(bench, &*subject, arm, &report.seeds)?);
    }
    let alone = subject.alone(report.seeds[0])?;
    report.untrained = used(bench)
        .iter()
        .map(|(test, metric)| figure(test, *metric, std::slice::from_ref(&alone[test])))
        .collect();
    report.steps = subject.count() as u64;
    // All tests of a kind are about the same items, and so is what is written.
    let named = ["train".to_owned()]
        .into_iter()
        .chain(alone.keys().cloned());
    let hash = alone.values().next().map(|scores| scores.data_hash.clone());
    report.data = named
        .zip(std::iter::repeat(hash.unwrap_or_default()))
        .collect();
    for expectation in &experiment.expect {
        let key = format!("{claim}/{}", report.id);
        report.comparisons.push(compare(expectation, &arms, &key)?);
    }
    report.host_hash = subject.host().to_owned();
    report.arms = arms.into_iter().map(|arm| arm.report).collect();
    Ok(report)
}

fn finish(bench: &mut Bench, subject: &dyn Subject, arm: &Arm, seeds: &[u64]) -> Result<Finished> {
    let mut seen = Vec::new();
    let mut runs = Vec::new();
    for seed in seeds {
        let folder = bench
            .runs
            .join(name(bench.experiment, subject, arm, *seed)?);
        seen.push(made(bench, subject, arm, *seed, &folder)?);
        runs.push(folder);
    }
    let mut scores: BTreeMap<String, Vec<Scores>> = BTreeMap::new();
    for one in &seen {
        for (test, of_test) in &one.scores {
            let all = scores.entry(test.clone()).or_default();
            all.push(of_test.clone());
        }
    }
    let figures = used(bench)
        .iter()
        .map(|(test, metric)| figure(test, *metric, &scores[test]))
        .collect();
    let Value::Object(method) = json!(arm.method) else {
        unreachable!("a named method is a table")
    };
    let report = ArmReport {
        id: arm.id.clone(),
        method,
        learning_rate: None,
        tried: Vec::new(),
        trained_parameters: seen.iter().map(|one| one.changed).max().unwrap_or_default(),
        seconds: seen.iter().map(|one| one.seconds).sum::<f64>() / seen.len() as f64,
        peak_memory: seen.iter().filter_map(|one| one.peak_memory).max(),
        figures,
        runs,
    };
    Ok(Finished { report, scores })
}

/// A folder's name from all that its scores depend on.
fn name(experiment: &Experiment, subject: &dyn Subject, arm: &Arm, seed: u64) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let all = json!([subject.host(), subject.key(), arm.method, seed, version]);
    let hash = blake3::hash(all.to_string().as_bytes()).to_hex();
    Ok(format!("{}-{}-{}", experiment.id, arm.id, &hash[..12]))
}

/// An arm under a seed: read where it is measured, made otherwise.
fn made(
    bench: &mut Bench,
    subject: &dyn Subject,
    arm: &Arm,
    seed: u64,
    folder: &Path,
) -> Result<Seen> {
    let label = format!("{}: {}, seed {seed}", bench.experiment.id, arm.id);
    let path = folder.join("scores.json");
    if path.is_file() {
        (bench.say)(&format!("{label}: finished before"));
        return read_json(path);
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    memory::reset_peak();
    let seen = subject.arm(bench, arm, seed, folder)?;
    (bench.say)(&format!(
        "{label}: {} items in {:.0} s",
        subject.count(),
        seen.seconds
    ));
    atomic_json(&path, &seen)?;
    // Numbers are rounded as text; so the first time gives what later times read.
    read_json(path)
}

/// Refuses an experiment that a kind could not run, or could not be judged by.
///
/// # Errors
/// The key, what was found and what was expected.
pub(super) fn check(experiment: &Experiment, kind: &dyn Kind) -> Result<()> {
    let training = !experiment.recipe.is_empty()
        || !experiment.prepare.is_empty()
        || experiment.house.is_some();
    if training {
        let problem =
            "stands beside recipe, prepare or house; an experiment trains all its arms or none";
        return Err(Error::config(kind.key(), problem));
    }
    kind.check(experiment)?;
    for tier in [Tier::Smoke, Tier::Full] {
        if !experiment.budget(tier).recipe.is_empty() {
            let key = format!("tiers.{}.recipe", tier.name());
            return Err(Error::config(key, "is for arms that train; leave it out"));
        }
    }
    check_tests(experiment, kind)?;
    for (number, arm) in experiment.arms.iter().enumerate() {
        if !arm.learning_rates.is_empty() {
            let key = format!("arms[{number}].learning_rates");
            let problem = "is for arms that train; here a rate is an option of the method";
            return Err(Error::config(key, problem));
        }
        kind.check_method(&arm.method)?;
    }
    Ok(())
}

fn check_tests(experiment: &Experiment, kind: &dyn Kind) -> Result<()> {
    let known = kind.tests();
    let metric = |id: &str| known.iter().find(|(name, _)| *name == id);
    for test in &experiment.tests {
        let key = format!("tests.{}", test.id);
        if !test.data.is_empty() {
            let problem = format!(
                "is for arms that train; the items are those of `{}`",
                kind.key()
            );
            return Err(Error::config(format!("{key}.data"), problem));
        }
        if metric(&test.id).is_none() {
            let hint = suggest(&test.id, known.iter().map(|(name, _)| *name));
            let problem = format!("is no score of {}; {hint}", kind.key());
            return Err(Error::config(key, problem));
        }
    }
    for one in &experiment.expect {
        let (found, test) = (one.metric.name(), &one.test);
        match metric(test) {
            Some((_, wanted)) if *wanted != one.metric => {
                let problem = format!("is {found}; {test} has {}", wanted.name());
                return Err(Error::config("metric", problem));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a count that is 0.
///
/// # Errors
/// The key.
pub(super) fn at_least_one(kind: &str, counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|(_, count)| *count == 0) {
        Some((key, _)) => {
            let problem = "is 0; must be at least 1";
            Err(Error::config(format!("{kind}.{key}"), problem))
        }
        None => Ok(()),
    }
}

/// Refuses runs made first, where nothing is built upon them.
///
/// # Errors
/// Such runs.
pub(super) fn no_first(kind: &str, experiment: &Experiment) -> Result<()> {
    match experiment.first.is_empty() {
        true => Ok(()),
        false => Err(Error::config(
            kind,
            "stands beside first; its model is not made here",
        )),
    }
}

/// Options of an arm's method, read strictly.
///
/// # Errors
/// Unknown keys, values of another type.
pub(super) fn options<T: serde::de::DeserializeOwned + Serialize + Default>(
    method: &Named,
) -> Result<T> {
    crate::recipe::read_typed(&Value::Object(method.options.clone())).map_err(|error| match error {
        Error::Config { key, problem } => Error::config(format!("method.{key}"), problem),
        other => other,
    })
}
