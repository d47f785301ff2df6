//! Experiments whose arms write facts of the house world into its model: the same facts, seed by seed, by every
//! editor.

use super::arms::Bench;
use super::experiment::{Finished, compare, figure, used};
use super::file::{Arm, Experiment, HouseEdits, Metric, Tier};
use super::house_data::write_rows;
use super::items::Scores;
use super::report::{ArmReport, ExperimentReport};
use crate::edit::measure::{
    Forced, MeasureOptions, Outcome, Protocol, Query, Record, Scored, forced, score,
};
use crate::edit::{self, EditFolder, EditOptions, GraceEditor, Guard, Statement};
use crate::recipe::Named;
use crate::{adapter_folder, house, memory, registry};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::hooks::Hooks;
use modelsmith_core::host::Host;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::Adapter;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_data::house::{documents, facts};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::grace::GraceConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

/// Facts that nobody edited, told as sentences: the loss on each.
pub(super) const OTHERS: &str = "others";

/// Tests of an experiment of this kind by name, with the score of a request that each is.
pub(super) const SCORES: [(&str, Protocol, &str); 6] = [
    ("efficacy", Protocol::PairProb, "ES"),
    ("paraphrase", Protocol::PairProb, "PS"),
    ("neighbourhood", Protocol::PairProb, "NS"),
    ("recall", Protocol::ForcedSequence, "EAcc"),
    ("recall_paraphrase", Protocol::ForcedSequence, "PAcc"),
    ("recall_neighbours", Protocol::ForcedSequence, "NAcc"),
];

/// The codebook, which writes no weights and so stands beside the editors.
const GRACE: &str = "grace";

/// The facts of one seed, and what must stay.
struct Facts {
    requests: Vec<EditRequest>,
    others: Vec<String>,
}

/// An arm under one seed, as it is kept.
#[derive(Serialize, Deserialize)]
struct Seen {
    seconds: f64,
    peak_memory: Option<u64>,
    changed: u64,
    scores: BTreeMap<String, Scores>,
}

/// The model that all arms edit.
struct Base {
    /// What is written, its count within the tier's limit.
    edits: HouseEdits,
    host: Transformer,
    tokenizer: Tokenizer,
    hash: String,
    corpus: PathBuf,
    device: Device,
}

/// Runs an experiment of this kind.
///
/// # Errors
/// No house model in the folder, edits that cannot be made or measured, a signal.
pub(super) fn run(
    bench: &mut Bench,
    edits: &HouseEdits,
    mut report: ExperimentReport,
    claim: &str,
) -> Result<ExperimentReport> {
    let base = Base::open(bench, edits)?;
    let experiment = bench.experiment;
    let mut arms = Vec::new();
    for arm in &experiment.arms {
        arms.push(finish(bench, &base, arm, &report.seeds)?);
    }
    let first = base.facts(report.seeds[0])?;
    let alone = measured(&base.scored(&[]), &first, experiment)?;
    report.untrained = used(bench)
        .iter()
        .map(|(test, metric)| figure(test, *metric, std::slice::from_ref(&alone[test])))
        .collect();
    report.steps = first.requests.len() as u64;
    report
        .data
        .insert("train".into(), hash_of(&first.requests)?);
    for expectation in &experiment.expect {
        let key = format!("{claim}/{}", report.id);
        report.comparisons.push(compare(expectation, &arms, &key)?);
    }
    report.host_hash = base.hash;
    report.arms = arms.into_iter().map(|arm| arm.report).collect();
    Ok(report)
}

fn finish(bench: &mut Bench, base: &Base, arm: &Arm, seeds: &[u64]) -> Result<Finished> {
    let mut seen = Vec::new();
    let mut runs = Vec::new();
    for seed in seeds {
        let folder = bench.runs.join(name(bench.experiment, base, arm, *seed)?);
        seen.push(made(bench, base, arm, *seed, folder.clone())?);
        runs.push(folder);
    }
    let mut scores: BTreeMap<String, Vec<Scores>> = BTreeMap::new();
    for one in &seen {
        for (test, of_test) in &one.scores {
            scores
                .entry(test.clone())
                .or_default()
                .push(of_test.clone());
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

/// A folder's name from all that its edits depend on.
fn name(experiment: &Experiment, base: &Base, arm: &Arm, seed: u64) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let all = json!([
        base.hash,
        base.edits,
        arm.method,
        experiment.tests,
        seed,
        version
    ]);
    let hash = blake3::hash(all.to_string().as_bytes()).to_hex();
    Ok(format!("{}-{}-{}", experiment.id, arm.id, &hash[..12]))
}

/// The edits of an arm under a seed: read where they are measured, made otherwise.
fn made(bench: &mut Bench, base: &Base, arm: &Arm, seed: u64, folder: PathBuf) -> Result<Seen> {
    let label = format!("{}: {}, seed {seed}", bench.experiment.id, arm.id);
    let path = folder.join("scores.json");
    if path.is_file() {
        (bench.say)(&format!("{label}: finished before"));
        return read_json(path);
    }
    std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    memory::reset_peak();
    let facts = base.facts(seed)?;
    let seen = match arm.method.name == GRACE {
        true => codebook(bench, base, arm, seed, &facts)?,
        false => weights(bench, base, arm, seed, &facts, folder.join("edits"))?,
    };
    (bench.say)(&format!(
        "{label}: {} facts in {:.0} s",
        facts.requests.len(),
        seen.seconds
    ));
    atomic_json(path, &seen)?;
    Ok(seen)
}

/// Edits of weights; a folder that was left without scores is made anew, so that its seconds are of all batches.
fn weights(
    bench: &Bench,
    base: &Base,
    arm: &Arm,
    seed: u64,
    facts: &Facts,
    folder: PathBuf,
) -> Result<Seen> {
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    }
    let single = edit::writes_one(&arm.method)?;
    let options = EditOptions {
        host: base.edits.folder.clone(),
        method: arm.method.clone(),
        batch: if single { 1 } else { base.edits.batch },
        output: folder.clone(),
        corpus: Some(base.corpus.clone()),
        corpus_limit: 0,
        guard: Guard {
            action: edit::Action::Off,
            ..Guard::default()
        },
        guard_texts: None,
        seed,
        device: bench.device.clone(),
    };
    let statements: Vec<Statement> = facts.requests.iter().map(Statement::from).collect();
    let made = edit::run(&options, &statements, bench.stop, &mut |_| {})?;
    let opened = EditFolder::open(&folder)?;
    let numbers = |(weight, ..): &(String, f64, f64)| {
        let found = base.host.weight(weight);
        found.map_or(0, |one| one.shape.iter().product::<usize>() as u64)
    };
    let host = edit::edited(&opened, None, None, &base.device)?;
    let model = Scored {
        host: &host,
        ..base.scored(&[])
    };
    Ok(Seen {
        seconds: made.seconds,
        peak_memory: memory::peak_resident(),
        changed: made.norms.iter().map(numbers).sum(),
        scores: measured(&model, facts, bench.experiment)?,
    })
}

/// A codebook: written in one go, as its past states are not kept.
fn codebook(bench: &Bench, base: &Base, arm: &Arm, seed: u64, facts: &Facts) -> Result<Seen> {
    let config = grace(&arm.method)?;
    let mut editor = GraceEditor::new(&base.host, &base.tokenizer, config, seed)?;
    let begun = Instant::now();
    for request in &facts.requests {
        if let Some((_, name)) = bench.stop.requested() {
            return Err(Error::Failed(format!(
                "stopped by {name}; this codebook is made anew when the claim is"
            )));
        }
        if !edit::is_right(&base.scored(&[editor.grace.hooks()]), request)? {
            editor.write(&Statement::from(request))?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    // Key, value and radius of each.
    let book = &editor.grace.book;
    let numbers = book.widths().iter().sum::<usize>() + 1;
    Ok(Seen {
        seconds,
        peak_memory: memory::peak_resident(),
        changed: (numbers * book.len()) as u64,
        scores: measured(
            &base.scored(&[editor.grace.hooks()]),
            facts,
            bench.experiment,
        )?,
    })
}

/// Options of an arm that is a codebook.
///
/// # Errors
/// Unknown options.
fn grace(method: &Named) -> Result<GraceConfig> {
    registry::grace_options(&method.options)
}

/// Refuses a method that is neither an editor nor the codebook.
///
/// # Errors
/// As the registry of editors.
fn check_method(method: &Named) -> Result<()> {
    match method.name == GRACE {
        true => grace(method)?.check(),
        false => registry::edit_method(method).map(|_| ()),
    }
}

impl Base {
    fn open(bench: &Bench, edits: &HouseEdits) -> Result<Self> {
        let device = crate::device::device(&bench.device)?;
        let data = &bench.places.data;
        for folder in [data, &bench.runs] {
            std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        }
        let corpus = data.join("corpus.jsonl");
        let texts = documents(&house::config_of(&edits.folder)?)?;
        let texts = texts.iter().take(edits.corpus);
        write_rows(&corpus, texts.map(|text| json!({ "text": text })))?;
        let count = match bench.experiment.budget(bench.tier).items {
            0 => edits.count,
            most => edits.count.min(most),
        };
        Ok(Self {
            edits: HouseEdits {
                count,
                ..edits.clone()
            },
            host: modelsmith_hosts::load(&edits.folder, &device)?,
            tokenizer: Tokenizer::load(&edits.folder)?,
            hash: adapter_folder::base_hash(&edits.folder)?,
            corpus,
            device,
        })
    }

    fn scored<'s>(&'s self, hooks: &'s [&'s dyn Hooks]) -> Scored<'s> {
        Scored {
            host: &self.host,
            tokenizer: &self.tokenizer,
            hooks,
        }
    }

    /// The facts that a seed writes, and sentences of others in turning wordings.
    fn facts(&self, seed: u64) -> Result<Facts> {
        let config = house::config_of(&self.edits.folder)?;
        let requests = house::edits(&config, self.edits.count, seed)?;
        let edited: BTreeSet<&str> = requests.iter().map(|one| one.id.as_str()).collect();
        let mut rest = facts(&config)?;
        rest.retain(|fact| !edited.contains(format!("house-{}", fact.id).as_str()));
        Stream::new(seed, "claim/others").shuffle(&mut rest);
        let others = rest.iter().take(self.edits.others).enumerate();
        let others = others
            .map(|(number, fact)| {
                let prompt = &fact.prompts[number % fact.prompts.len()];
                format!("{prompt} {}.", fact.object)
            })
            .collect();
        Ok(Facts { requests, others })
    }
}

/// The scores that the experiment's tests are, request by request.
fn measured(
    model: &Scored<'_>,
    facts: &Facts,
    experiment: &Experiment,
) -> Result<BTreeMap<String, Scores>> {
    let (records, _) = score(model, &facts.requests, &MeasureOptions::default())?;
    let data_hash = hash_of(&facts.requests)?;
    let mut all = BTreeMap::new();
    for test in &experiment.tests {
        let mut scores = Scores {
            data_hash: data_hash.clone(),
            ..Scores::default()
        };
        match SCORES.iter().find(|(name, ..)| *name == test.id) {
            Some((_, protocol, key)) => {
                scores.exact = records
                    .iter()
                    .map(|record| value(record, *protocol, key))
                    .collect::<Result<_>>()?;
            }
            None => scores.loss = losses(model, &facts.others)?,
        }
        all.insert(test.id.clone(), scores);
    }
    Ok(all)
}

fn value(record: &Record, protocol: Protocol, key: &str) -> Result<f64> {
    let of = record.scores.get(&protocol);
    let found = of.and_then(|scores| scores.get(key)).copied();
    found.ok_or_else(|| Error::Failed(format!("request {} has no score {key}", record.id)))
}

/// Mean loss a token of each text.
fn losses(model: &Scored<'_>, texts: &[String]) -> Result<Vec<f64>> {
    let query = |text: &String| {
        let ids = model.tokenizer.encode(text, false)?;
        Ok(Query { ids, prefix: 1 })
    };
    let queries: Vec<Query> = texts.iter().map(query).collect::<Result<_>>()?;
    let found = forced(model, &queries)?;
    let loss = |(one, query): (&Forced, &Query)| {
        Outcome::new(&one.log_probs, &one.best, query.target()).loss
    };
    Ok(found.iter().zip(&queries).map(loss).collect())
}

fn hash_of(requests: &[EditRequest]) -> Result<String> {
    let bytes = serde_json::to_vec(requests).map_err(|error| Error::Failed(error.to_string()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// What an experiment of this kind may hold.
///
/// # Errors
/// The key, what was found and what was expected.
pub(super) fn check(experiment: &Experiment, edits: &HouseEdits) -> Result<()> {
    for (key, value) in [
        ("count", edits.count),
        ("batch", edits.batch),
        ("others", edits.others),
    ] {
        if value == 0 {
            let key = format!("edits.{key}");
            return Err(Error::config(key, "is 0; must be at least 1"));
        }
    }
    let training = !experiment.recipe.is_empty()
        || !experiment.first.is_empty()
        || !experiment.prepare.is_empty()
        || experiment.house.is_some();
    if training {
        let problem =
            "stands beside recipe, first, prepare or house; an experiment edits or trains";
        return Err(Error::config("edits", problem));
    }
    for tier in [Tier::Smoke, Tier::Full] {
        if !experiment.budget(tier).recipe.is_empty() {
            let key = format!("tiers.{}.recipe", tier.name());
            return Err(Error::config(key, "is for arms that train; leave it out"));
        }
    }
    for test in &experiment.tests {
        if !test.data.is_empty() {
            let problem = "is for arms that train; the facts are those of `edits`";
            return Err(Error::config(format!("tests.{}.data", test.id), problem));
        }
        let known = SCORES.iter().map(|(name, ..)| *name).chain([OTHERS]);
        if !known.clone().any(|name| name == test.id) {
            let hint = modelsmith_core::error::suggest(&test.id, known);
            let key = format!("tests.{}", test.id);
            return Err(Error::config(key, format!("is no score of edits; {hint}")));
        }
    }
    for one in &experiment.expect {
        let wanted = match one.test == OTHERS {
            true => Metric::Loss,
            false => Metric::Exact,
        };
        if one.metric != wanted {
            let problem = format!(
                "is {}; {} has {}",
                one.metric.name(),
                one.test,
                wanted.name()
            );
            return Err(Error::config("metric", problem));
        }
    }
    for (number, arm) in experiment.arms.iter().enumerate() {
        if !arm.learning_rates.is_empty() {
            let key = format!("arms[{number}].learning_rates");
            let problem = "is for arms that train; an editor's rate is an option of its method";
            return Err(Error::config(key, problem));
        }
        check_method(&arm.method)?;
    }
    Ok(())
}
