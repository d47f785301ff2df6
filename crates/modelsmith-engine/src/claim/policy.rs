//! Experiments whose arms are told what is allowed, by feedback on some texts: Revision Transformers (Friedrich et
//! al., ECAI 2023) and what they are compared with, on HateCheck. Nothing of the texts is ever told.
//!
//! The model is tuned to answer by what stands in front of a question, on the texts of every other template, and then
//! frozen. On the other templates the answers to three kinds of texts are turned around: half of those texts are the
//! feedback, the other half is asked about, and so is every fourth text of all other kinds.

use super::arms::Bench;
use super::file::{Arm, Experiment, Metric};
use super::house_data::write_rows;
use super::items::Scores;
use super::measured::{ByTest, Kind, Seen, Subject, at_least_one, options};
use super::toxicity::unknown;
use super::tuned::{self, Tuning};
use crate::edit::rit::{
    Answer, Engine, Filter, Form, Hit, HostSpeaker, Lexicon, Order, Revision, Settings, Speaker,
    Store, TermEmbedder, Wording, polarity_right_negation_aware,
};
use crate::model::{Model, ModelOptions};
use crate::recipe::Named;
use crate::{adapter_folder, memory};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_data::{DataConfig, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

const YES: &str = "Yes, it is allowed.";
const NO: &str = "No, it is not allowed.";

/// Questions behind another of their kind, for each question alone.
const EPISODES: usize = 3;

/// Of the texts of all other kinds, one in so many is asked about.
const STRIDE: usize = 4;

/// Texts on which feedback is given. Arms: `none`, `rit` (options: `neighbours`, `order`, `form`,
/// `half_turned`, with which every other answer of the store says the opposite, and `random`, with which revisions drawn
/// at random stand in the place of the nearest), `copy` (the nearest revision's answer), `tuned` (on
/// the feedback). Tests: `followed` (1 where a text of the changed kinds is answered by the new policy), `kept` (1 where
/// a text of another kind is answered as by the model alone), `kept_apart` (the same, and 1 where a revision was near),
/// `right` (1 where such a text is answered by the old policy).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The run made first that tunes the model; it reads `$CLAIM/episodes.jsonl`.
    pub host: String,
    /// HateCheck: columns `test_case`, `label_gold`, `functionality`, `templ_id`.
    pub texts: PathBuf,
    /// Kinds of texts whose answers are turned around.
    pub changed: Vec<String>,
    /// Texts on which feedback is given.
    pub feedback: usize,
    /// Precision at which the threshold is fitted on the known templates.
    pub precision: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            host: "host".into(),
            texts: PathBuf::new(),
            changed: Vec::new(),
            feedback: 100,
            precision: 0.9,
        }
    }
}

/// Options of the arm `rit`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Retrieval {
    neighbours: usize,
    order: Order,
    form: Form,
    half_turned: bool,
    random: bool,
}

impl Default for Retrieval {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            neighbours: settings.neighbours,
            order: settings.wording.order,
            form: settings.wording.form,
            half_turned: false,
            random: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    text: String,
    allowed: bool,
    kind: String,
    odd: bool,
}

struct World {
    policy: Policy,
    folder: PathBuf,
    model: Model,
    hash: String,
    data_hash: String,
    /// Texts of the known templates.
    known: Vec<Row>,
    /// Texts of the changed kinds, of the others.
    changed: Vec<Row>,
    others: Vec<Row>,
    threshold: f64,
    /// Answers of the model alone to the others.
    before: Vec<String>,
}

/// Texts of one seed.
struct Parts {
    feedback: Vec<Row>,
    asked: Vec<Row>,
}

/// What an arm answered.
struct Answers {
    asked: Vec<String>,
    others: Vec<String>,
    /// Which of the others had a revision near.
    near: Vec<bool>,
}

impl Kind for Policy {
    fn key(&self) -> &'static str {
        "policy"
    }

    fn tests(&self) -> Vec<(&'static str, Metric)> {
        let all = ["followed", "kept", "kept_apart", "right"];
        all.map(|name| (name, Metric::Exact)).to_vec()
    }

    fn check(&self, _: &Experiment) -> Result<()> {
        let counts = [("feedback", self.feedback), ("changed", self.changed.len())];
        at_least_one(self.key(), &counts)?;
        match self.precision > 0.0 && self.precision < 1.0 {
            true => Ok(()),
            false => {
                let problem = format!("is {}; must be between 0 and 1", self.precision);
                Err(Error::config("policy.precision", problem))
            }
        }
    }

    fn check_method(&self, method: &Named) -> Result<()> {
        match method.name.as_str() {
            "none" | "copy" => options::<Map<String, Value>>(method).map(|_| ()),
            "rit" => match options::<Retrieval>(method)?.neighbours {
                0 => Err(Error::config(
                    "method.neighbours",
                    "is 0; must be at least 1",
                )),
                _ => Ok(()),
            },
            "tuned" => options::<Tuning>(method)?.check(),
            other => Err(unknown(other, &["none", "copy", "rit", "tuned"])),
        }
    }

    fn open(&self, bench: &mut Bench) -> Result<Box<dyn Subject>> {
        Ok(Box::new(World::open(bench, self)?))
    }
}

impl World {
    fn open(bench: &mut Bench, policy: &Policy) -> Result<Self> {
        let path = bench.path(&policy.texts)?;
        let (fresh, known): (Vec<Row>, Vec<Row>) =
            rows(&path)?.into_iter().partition(|row| row.odd);
        let (changed, others): (Vec<Row>, Vec<Row>) = fresh
            .into_iter()
            .partition(|row| policy.changed.contains(&row.kind));
        let data = bench.places.data.clone();
        // The tokenizer is the untuned model's; the episodes are its tokens.
        let base = tuned::base(bench, &policy.host)?;
        let tokenizer = Tokenizer::load(&base)?;
        write_rows(&data.join("episodes.jsonl"), episodes(&tokenizer, &known)?)?;
        let folder = tuned::first(bench, &policy.host)?;
        let mut world = Self {
            policy: policy.clone(),
            model: open(bench, &folder)?,
            hash: adapter_folder::base_hash(&folder)?,
            data_hash: crate::train::hash_file(&path)?,
            changed,
            others: others.into_iter().step_by(STRIDE).collect(),
            threshold: 0.0,
            before: Vec::new(),
            folder,
            known,
        };
        if world.changed.len() < 2 {
            let problem = format!("has no two texts of the kinds {:?}", policy.changed);
            return Err(Error::file(path, problem));
        }
        let labelled = world.known.iter().map(|row| Revision {
            answer: row.kind.clone(),
            ..revision(row)
        });
        let mut fitted = world.engine(Retrieval::default())?;
        fitted.extend(labelled)?;
        let threshold = fitted.fit_threshold(policy.precision)?.threshold;
        drop(fitted);
        world.threshold = threshold;
        world.before = world.spoken(&world.model, &world.others)?;
        Ok(world)
    }

    fn engine(&self, retrieval: Retrieval) -> Result<Engine<'static>> {
        let known = self.known.iter().map(|row| row.text.as_str());
        let settings = Settings {
            neighbours: retrieval.neighbours,
            threshold: self.threshold,
            wording: Wording {
                order: retrieval.order,
                form: retrieval.form,
                ..Wording::default()
            },
            ..Settings::default()
        };
        Engine::new(
            Store::new(),
            Box::new(TermEmbedder::fitted(known)),
            settings,
        )
    }

    fn parts(&self, seed: u64) -> Parts {
        let mut feedback = self.changed.clone();
        Stream::new(seed, "claim/policy").shuffle(&mut feedback);
        let asked = feedback.split_off(feedback.len() / 2);
        feedback.truncate(self.policy.feedback);
        Parts { feedback, asked }
    }

    /// Answers of a model to questions alone.
    fn spoken(&self, model: &Model, rows: &[Row]) -> Result<Vec<String>> {
        let wording = Wording::default();
        let prompts = rows.iter().map(|row| wording.prompt(&row.text, &[]));
        let spoken = speaker(model)?.speak(&prompts.collect::<Vec<_>>())?;
        Ok(spoken.iter().map(|text| text.trim().to_owned()).collect())
    }

    fn alone(&self, asked: &[Row]) -> Result<Answers> {
        Ok(Answers {
            asked: self.spoken(&self.model, asked)?,
            others: self.before.clone(),
            near: vec![false; self.others.len()],
        })
    }

    /// Answers with the feedback in a store; `copied` are the revisions' own.
    fn revised(&self, parts: &Parts, retrieval: Retrieval, copied: bool) -> Result<Answers> {
        let mut revisions: Vec<Revision> = parts.feedback.iter().map(revision).collect();
        if retrieval.half_turned {
            // Such a store says nothing of its questions.
            for (number, one) in revisions.iter_mut().enumerate() {
                let turned = number % 2 == 1;
                one.answer = answer((one.answer == YES) != turned).into();
            }
        }
        let mut engine = self.engine(retrieval)?;
        engine.extend(revisions)?;
        let speaker = speaker(&self.model)?;
        let ask = |rows: &[Row]| -> Result<Vec<Answer>> {
            let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
            let mut answers = engine.answer(&speaker, &texts, "")?;
            if retrieval.random {
                behind_random(&engine, &speaker, &texts, &mut answers)?;
            }
            if copied {
                for (answer, text) in answers.iter_mut().zip(texts) {
                    if let Some(copy) = engine.copied(text, "")? {
                        answer.text = copy;
                    }
                }
            }
            Ok(answers)
        };
        let others = ask(&self.others)?;
        let text = |answer: &Answer| answer.text.trim().to_owned();
        Ok(Answers {
            asked: ask(&parts.asked)?.iter().map(text).collect(),
            near: others.iter().map(|one| !one.hits.is_empty()).collect(),
            others: others.iter().map(text).collect(),
        })
    }

    /// Answers of the model tuned on the feedback.
    fn tuned(
        &self,
        (bench, tuning): (&Bench, &Tuning),
        parts: &Parts,
        seed: u64,
        folder: &Path,
    ) -> Result<(Answers, u64)> {
        let tokenizer = self.model.tokenizer()?;
        let wording = Wording::default();
        let row = |row: &Row| {
            let prompt = wording.prompt(&row.text, &[]);
            tokens(&tokenizer, &prompt, answer(!row.allowed))
        };
        let path = folder.join("feedback.jsonl");
        let rows = parts.feedback.iter().map(row);
        write_rows(&path, rows.collect::<Result<Vec<_>>>()?)?;
        let (output, count) = tuning.run(bench, (&self.folder, &path), seed, folder)?;
        let model = open(bench, &output)?;
        let answers = Answers {
            asked: self.spoken(&model, &parts.asked)?,
            others: self.spoken(&model, &self.others)?,
            near: vec![false; self.others.len()],
        };
        Ok((answers, count))
    }

    fn by_test(&self, parts: &Parts, answers: &Answers) -> ByTest {
        let lexicon = Lexicon::default();
        let judged = |text: &String, allowed: bool| {
            polarity_right_negation_aware(text, answer(allowed), &lexicon)
        };
        let asked = answers.asked.iter().zip(&parts.asked);
        let others = answers.others.iter().zip(&self.others);
        let kept: Vec<bool> = answers
            .others
            .iter()
            .zip(&self.before)
            .map(|(a, b)| a == b)
            .collect();
        let apart = kept.iter().zip(&answers.near);
        let all: [(&str, Vec<bool>); 4] = [
            (
                "followed",
                asked
                    .map(|(text, row)| judged(text, !row.allowed))
                    .collect(),
            ),
            (
                "kept_apart",
                apart.map(|(kept, near)| *kept || *near).collect(),
            ),
            ("kept", kept),
            (
                "right",
                others
                    .map(|(text, row)| judged(text, row.allowed))
                    .collect(),
            ),
        ];
        let scores = all.into_iter().map(|(test, flags)| {
            let scores = Scores {
                exact: flags
                    .iter()
                    .map(|flag| f64::from(u8::from(*flag)))
                    .collect(),
                data_hash: self.data_hash.clone(),
                ..Scores::default()
            };
            (test.to_owned(), scores)
        });
        scores.collect()
    }
}

impl Subject for World {
    fn host(&self) -> &str {
        &self.hash
    }

    fn key(&self) -> Value {
        json!([self.policy, self.data_hash])
    }

    fn count(&self) -> usize {
        self.policy.feedback.min(self.changed.len() / 2)
    }

    fn alone(&self, seed: u64) -> Result<ByTest> {
        let parts = self.parts(seed);
        Ok(self.by_test(&parts, &self.alone(&parts.asked)?))
    }

    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, folder: &Path) -> Result<Seen> {
        bench.stopped()?;
        let parts = self.parts(seed);
        let begun = Instant::now();
        let (answers, changed) = match arm.method.name.as_str() {
            "tuned" => {
                let tuning = options(&arm.method)?;
                self.tuned((bench, &tuning), &parts, seed, folder)?
            }
            "rit" => (self.revised(&parts, options(&arm.method)?, false)?, 0),
            "copy" => (self.revised(&parts, Retrieval::default(), true)?, 0),
            _ => (self.alone(&parts.asked)?, 0),
        };
        Ok(Seen {
            seconds: begun.elapsed().as_secs_f64(),
            peak_memory: memory::peak_resident(),
            changed,
            scores: self.by_test(&parts, &answers),
        })
    }
}

/// Asks again where there was a revision, behind as many drawn at random.
fn behind_random(
    engine: &Engine<'_>,
    speaker: &HostSpeaker<'_>,
    texts: &[&str],
    answers: &mut [Answer],
) -> Result<()> {
    let all = engine.store().list(Filter::default());
    let all: Vec<u64> = all.map(|revision| revision.id).collect();
    let mut stream = Stream::new(0, "claim/policy/random");
    let mut drawn = |_: &Hit| Hit {
        id: all[stream.below(all.len())],
        similarity: 0.0,
    };
    let asked: Vec<usize> = (0..texts.len())
        .filter(|at| !answers[*at].hits.is_empty())
        .collect();
    let prompts: Vec<String> = asked
        .iter()
        .map(|at| {
            let hits: Vec<Hit> = answers[*at].hits.iter().map(&mut drawn).collect();
            engine.prompt(texts[*at], &hits)
        })
        .collect();
    for (at, text) in asked.into_iter().zip(speaker.speak(&prompts)?) {
        answers[at].text = text;
    }
    Ok(())
}

fn open(bench: &Bench, folder: &Path) -> Result<Model> {
    Model::load(&ModelOptions {
        host: Some(folder.to_path_buf()),
        device: bench.device.clone(),
        ..ModelOptions::default()
    })
}

/// A model that answers as it was tuned to: with the tokens around its texts, in a few words.
fn speaker(model: &Model) -> Result<HostSpeaker<'_>> {
    let mut speaker = HostSpeaker::new(model)?;
    (speaker.special, speaker.max_tokens, speaker.min_tokens) = (true, 12, 1);
    Ok(speaker)
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let source = Source::open(path, &ReadOptions::from(&DataConfig::default()))?;
    let row = |row: Result<(modelsmith_data::read::Location, Map<String, Value>)>| {
        let (at, columns) = row?;
        let text = |name: &str| match columns.get(name) {
            Some(Value::String(text)) => Ok(text.trim().to_owned()),
            Some(other) => Ok(other.to_string()),
            None => Err(at.error(format!("has no column `{name}`"))),
        };
        // A text without a template has number 0.
        let template = text("templ_id")?;
        let template: u32 = template.trim_end_matches(".0").parse().unwrap_or(0);
        Ok(Row {
            text: text("test_case")?,
            allowed: text("label_gold")? != "hateful",
            kind: text("functionality")?,
            odd: template % 2 == 1,
        })
    };
    source.rows().map(row).collect()
}

fn answer(allowed: bool) -> &'static str {
    if allowed { YES } else { NO }
}

/// The answer turned around.
fn revision(row: &Row) -> Revision {
    Revision {
        question: row.text.clone(),
        answer: answer(!row.allowed).into(),
        ..Revision::default()
    }
}

/// A row of tokens of which the answer counts.
fn tokens(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> Result<Value> {
    let mut ids = tokenizer.encode(prompt, true)?;
    let mut labels = vec![-100_i64; ids.len()];
    let own = tokenizer.encode(answer, false)?;
    for id in own.into_iter().chain(tokenizer.special().eos) {
        ids.push(id);
        labels.push(i64::from(id));
    }
    Ok(json!({"input_ids": ids, "labels": labels}))
}

/// Questions alone, and questions behind one of their kind whose answer, and theirs, may be turned around.
fn episodes(tokenizer: &Tokenizer, rows: &[Row]) -> Result<Vec<Value>> {
    let wording = Wording::default();
    let mut stream = Stream::new(0, "claim/policy/episodes");
    let mut found = Vec::new();
    for row in rows {
        let alone = wording.prompt(&row.text, &[]);
        found.push(tokens(tokenizer, &alone, answer(row.allowed))?);
        let like: Vec<&Row> = rows
            .iter()
            .filter(|other| other.kind == row.kind && other.text != row.text)
            .collect();
        for _ in 0..EPISODES.min(like.len()) {
            let other = like[stream.below(like.len())];
            let turned = stream.below(2) == 1;
            let context = [(other.text.as_str(), answer(other.allowed != turned))];
            let prompt = wording.prompt(&row.text, &context);
            found.push(tokens(tokenizer, &prompt, answer(row.allowed != turned))?);
        }
    }
    Ok(found)
}
