//! Experiments whose arms write facts of the house world into its model: the same facts, seed by seed, by every
//! editor.

use super::arms::Bench;
use super::file::{Arm, Experiment, Metric};
use super::house_data::write_rows;
use super::items::Scores;
use super::measured::{ByTest, Kind, Seen, Subject, at_least_one, no_first, options};
use crate::edit::measure::{
    Forced, MeasureOptions, Outcome, Protocol, Query, Record, Scored, forced, score,
};
use crate::edit::{
    self, EditFolder, EditOptions, GateConfig, GateEditor, GateKind, GraceEditor, Guard,
    MendConfig, MendEditor, Statement,
};
use crate::recipe::Named;
use crate::{adapter_folder, house, memory, registry};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_core::host::Host;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::Adapter;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_data::house::{Fact, documents, facts};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::grace::GraceConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Facts that nobody edited, told as sentences: the loss on each.
const OTHERS: &str = "others";

/// Tests of an experiment of this kind by name, with the score of a request that each is.
const SCORES: [(&str, Protocol, &str); 6] = [
    ("efficacy", Protocol::PairProb, "ES"),
    ("paraphrase", Protocol::PairProb, "PS"),
    ("neighbourhood", Protocol::PairProb, "NS"),
    ("recall", Protocol::ForcedSequence, "EAcc"),
    ("recall_paraphrase", Protocol::ForcedSequence, "PAcc"),
    ("recall_neighbours", Protocol::ForcedSequence, "NAcc"),
];

/// The codebook, which writes no weights and so stands beside the editors.
const GRACE: &str = "grace";

/// An editor that is trained on other facts before it writes.
const MEND: &str = "mend";

/// Facts that it is trained on at least, those that are asked later among them still.
const TRAINING: usize = 1000;

/// What the codebook is compared with, which writes no weights either.
const GATES: [(&str, GateKind); 2] = [("memory", GateKind::Memory), ("defer", GateKind::Defer)];

/// Facts of the house world to write into the house model. Tests: `efficacy`, `paraphrase`, `neighbourhood` (the
/// likelier of two answers), `recall`, `recall_paraphrase`, `recall_neighbours` (all tokens of the answer), `others`
/// (loss on facts that were not edited).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HouseEdits {
    /// Folder of the house model.
    pub folder: PathBuf,
    /// Facts; a tier's `items` are a limit of them. Every seed draws others.
    pub count: usize,
    /// Facts of a batch, of editors that write several at once.
    pub batch: usize,
    /// Documents of the world for the moments of the keys.
    pub corpus: usize,
    /// Sentences of facts that are not edited, for the test `others`.
    pub others: usize,
}

impl Default for HouseEdits {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("assets/house"),
            count: 200,
            batch: 10,
            corpus: 1000,
            others: 100,
        }
    }
}

/// The facts of one seed, and what must stay.
struct Facts {
    requests: Vec<EditRequest>,
    others: Vec<String>,
    /// The first wording of all of them.
    asked: BTreeSet<String>,
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

impl Kind for HouseEdits {
    fn key(&self) -> &'static str {
        "edits"
    }

    fn tests(&self) -> Vec<(&'static str, Metric)> {
        let scores = SCORES.iter().map(|(name, ..)| (*name, Metric::Exact));
        scores.chain([(OTHERS, Metric::Loss)]).collect()
    }

    fn check(&self, experiment: &Experiment) -> Result<()> {
        let counts = [
            ("count", self.count),
            ("batch", self.batch),
            ("others", self.others),
        ];
        at_least_one(self.key(), &counts)?;
        no_first(self.key(), experiment)
    }

    fn check_method(&self, method: &Named) -> Result<()> {
        match (method.name.as_str(), gate(method)) {
            (GRACE, _) => grace(method)?.check(),
            (MEND, _) => options::<MendConfig>(method)?.check(),
            (_, Some(_)) => options::<GateConfig>(method)?.check(),
            _ => registry::edit_method(method).map(|_| ()),
        }
    }

    fn open(&self, bench: &mut Bench) -> Result<Box<dyn Subject>> {
        Ok(Box::new(Base::open(bench, self)?))
    }
}

impl Subject for Base {
    fn host(&self) -> &str {
        &self.hash
    }

    fn key(&self) -> Value {
        json!(self.edits)
    }

    fn count(&self) -> usize {
        self.edits.count
    }

    fn alone(&self, seed: u64) -> Result<ByTest> {
        measured(&self.scored(&[]), &self.facts(seed)?)
    }

    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, folder: &Path) -> Result<Seen> {
        let facts = self.facts(seed)?;
        match (arm.method.name.as_str(), gate(&arm.method)) {
            (GRACE, _) => codebook(bench, self, arm, seed, &facts),
            (MEND, _) => trained(bench, self, arm, seed, &facts),
            (_, Some(kind)) => gated(bench, self, (kind, arm), seed, &facts),
            _ => weights(bench, self, arm, seed, &facts, folder.join("edits")),
        }
    }
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
    let asked = EditOptions {
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
    let made = edit::run(&asked, &statements, bench.stop, &mut |_| {})?;
    let opened = EditFolder::open(&folder)?;
    let host = edit::edited(&opened, None, None, &base.device)?;
    Ok(Seen {
        seconds: made.seconds,
        peak_memory: memory::peak_resident(),
        changed: numbers(&base.host, &made.norms),
        scores: measured(&base.edited(&host), facts)?,
    })
}

/// A codebook: written in one go, as its past states are not kept.
fn codebook(bench: &Bench, base: &Base, arm: &Arm, seed: u64, facts: &Facts) -> Result<Seen> {
    let config = grace(&arm.method)?;
    let mut editor = GraceEditor::new(&base.host, &base.tokenizer, config, seed)?;
    let begun = Instant::now();
    for request in &facts.requests {
        bench.stopped()?;
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
        scores: measured(&base.scored(&[editor.grace.hooks()]), facts)?,
    })
}

/// A gate: trained on each fact that the model does not know yet.
fn gated(
    bench: &Bench,
    base: &Base,
    (kind, arm): (GateKind, &Arm),
    seed: u64,
    facts: &Facts,
) -> Result<Seen> {
    let config = options(&arm.method)?;
    let mut editor = GateEditor::new(&base.host, &base.tokenizer, kind, config, seed)?;
    let begun = Instant::now();
    for request in &facts.requests {
        bench.stopped()?;
        if !edit::is_right(&base.scored(&[&editor.gate]), request)? {
            editor.write(&Statement::from(request))?;
        }
    }
    Ok(Seen {
        seconds: begun.elapsed().as_secs_f64(),
        peak_memory: memory::peak_resident(),
        changed: editor.trained() as u64,
        scores: measured(&base.scored(&[&editor.gate]), facts)?,
    })
}

/// An editor that is trained first: its seconds are of training and of writing.
fn trained(bench: &Bench, base: &Base, arm: &Arm, seed: u64, facts: &Facts) -> Result<Seen> {
    let config = options(&arm.method)?;
    let mut editor = MendEditor::new(&base.host, &base.tokenizer, config, seed)?;
    let begun = Instant::now();
    editor.train(&base.training(seed, facts)?, &mut || bench.stopped())?;
    for request in &facts.requests {
        bench.stopped()?;
        if !edit::is_right(&base.edited(&editor.host), request)? {
            editor.write(&Statement::from(request))?;
        }
    }
    Ok(Seen {
        seconds: begun.elapsed().as_secs_f64(),
        peak_memory: memory::peak_resident(),
        changed: editor.changed() as u64,
        scores: measured(&base.edited(&editor.host), facts)?,
    })
}

/// Which gate an arm is, if it is one.
fn gate(method: &Named) -> Option<GateKind> {
    let found = GATES.iter().find(|(name, _)| *name == method.name);
    found.map(|(_, kind)| *kind)
}

/// Options of an arm that is a codebook.
///
/// # Errors
/// Unknown options.
fn grace(method: &Named) -> Result<GraceConfig> {
    registry::grace_options(&method.options)
}

impl Base {
    fn open(bench: &Bench, edits: &HouseEdits) -> Result<Self> {
        let device = crate::device::device(&bench.device)?;
        let data = &bench.places.data;
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

    /// The model with edited weights.
    fn edited<'s>(&'s self, host: &'s Transformer) -> Scored<'s> {
        Scored {
            host,
            ..self.scored(&[])
        }
    }

    /// Facts for an editor to be trained on: none of those that are asked is among them, or among what stays.
    fn training(&self, seed: u64, facts: &Facts) -> Result<Vec<EditRequest>> {
        let config = house::config_of(&self.edits.folder)?;
        let mut found = Vec::new();
        // Each set has other targets and neighbours.
        for set in 0..TRAINING.div_ceil(self.edits.count) {
            let draw = Stream::new(seed, &format!("claim/training/{set}")).below(usize::MAX);
            for mut request in house::edits(&config, self.edits.count, draw as u64)? {
                let free = |prompt: &String| !facts.asked.contains(prompt);
                request.neighbours.retain(|one| free(&one.prompt));
                if free(&request.filled()) {
                    found.push(request);
                }
            }
        }
        Ok(found)
    }

    /// The facts that a seed writes, and sentences of others in turning wordings.
    fn facts(&self, seed: u64) -> Result<Facts> {
        let config = house::config_of(&self.edits.folder)?;
        let requests = house::edits(&config, self.edits.count, seed)?;
        let edited: BTreeSet<&str> = requests.iter().map(|one| one.id.as_str()).collect();
        let all = facts(&config)?;
        let is_edited = |fact: &&Fact| edited.contains(format!("house-{}", fact.id).as_str());
        let (known, mut rest): (Vec<&Fact>, Vec<&Fact>) = all.iter().partition(is_edited);
        Stream::new(seed, "claim/others").shuffle(&mut rest);
        rest.truncate(self.edits.others);
        let first = |fact: &&Fact| fact.prompts[0].clone();
        let asked = known.iter().chain(&rest).map(first).collect();
        let others = rest.iter().enumerate();
        let others = others
            .map(|(number, fact)| {
                let prompt = &fact.prompts[number % fact.prompts.len()];
                format!("{prompt} {}.", fact.object)
            })
            .collect();
        Ok(Facts {
            requests,
            others,
            asked,
        })
    }
}

/// The scores of all tests, request by request.
fn measured(model: &Scored<'_>, facts: &Facts) -> Result<ByTest> {
    let (records, _) = score(model, &facts.requests, &MeasureOptions::default())?;
    let data_hash = hash_of(&facts.requests)?;
    let mut all = ByTest::new();
    for (test, protocol, key) in SCORES {
        let values = records.iter().map(|record| value(record, protocol, key));
        let scores = Scores {
            exact: values.collect::<Result<_>>()?,
            data_hash: data_hash.clone(),
            ..Scores::default()
        };
        all.insert(test.to_owned(), scores);
    }
    let texts = facts.others.iter();
    let rows = texts.map(|text| model.tokenizer.encode(text, false));
    let others = Scores {
        loss: losses(model, rows.collect::<Result<_>>()?)?,
        data_hash,
        ..Scores::default()
    };
    all.insert(OTHERS.to_owned(), others);
    Ok(all)
}

fn value(record: &Record, protocol: Protocol, key: &str) -> Result<f64> {
    let of = record.scores.get(&protocol);
    let found = of.and_then(|scores| scores.get(key)).copied();
    found.ok_or_else(|| Error::Failed(format!("request {} has no score {key}", record.id)))
}

/// Numbers in the weights of which norms are told.
pub(super) fn numbers(host: &Transformer, norms: &[(String, f64, f64)]) -> u64 {
    let of = |(weight, ..): &(String, f64, f64)| {
        let found = host.weight(weight);
        found.map_or(0, |one| one.shape.iter().product::<usize>() as u64)
    };
    norms.iter().map(of).sum()
}

/// Mean loss a token of each text in tokens.
pub(super) fn losses(model: &Scored<'_>, rows: Vec<Vec<u32>>) -> Result<Vec<f64>> {
    let queries: Vec<Query> = rows
        .into_iter()
        .map(|ids| Query { ids, prefix: 1 })
        .collect();
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
