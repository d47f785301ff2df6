//! What was measured of one request, with every number that its scores are made of.

use super::entropy::text_entropy;
use super::outcome::{Favoured, Outcome, Pair, magnitude, mean, success};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How a number came about; numbers of different protocols are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Probabilities of two targets compared.
    #[serde(rename = "pair.prob")]
    PairProb,
    /// Teacher-forced: all tokens of the target must have the highest score.
    #[serde(rename = "tf.seq")]
    ForcedSequence,
    /// Teacher-forced: the share of tokens with the highest score.
    #[serde(rename = "tf.token")]
    ForcedToken,
    /// Written freely by top-k sampling.
    #[serde(rename = "gen.topk")]
    SampledText,
    /// Written freely, the likeliest token each time.
    #[serde(rename = "gen.greedy")]
    GreedyText,
}

/// What a prompt is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// The prompt of the edit.
    Rewrite,
    /// Another wording of it.
    Paraphrase,
    /// The same of another subject.
    Neighbour,
    /// A question that follows from the edit.
    Portability,
    /// A question whose answer must stay.
    Locality,
}

/// A prompt and how the targets fared behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// What it is there for.
    pub set: Set,
    /// Kind of portability or locality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The text before the targets.
    pub prompt: String,
    /// The new target of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Outcome>,
    /// The true target, of neighbours their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<Outcome>,
    /// The answers of portability and locality.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Outcome>,
    /// Share of the places of the (first) true answer at which the likeliest token is that of the model
    /// before the first edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

/// An answer that was written freely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freely {
    /// `rewrite` or `paraphrase`.
    pub set: Set,
    /// The text before it.
    pub prompt: String,
    /// What was written.
    pub text: String,
    /// Whether it is the new target, normalised.
    pub right: bool,
}

/// Scores by protocol and name, as shares of 1.
pub type Scores = BTreeMap<Protocol, BTreeMap<String, f64>>;

/// All of one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The request.
    pub id: String,
    /// Prompts with their targets.
    pub asked: Vec<Asked>,
    /// Texts that were sampled, prompts included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
    /// Cosine of the texts with reference texts, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// Perplexity of texts about the subject, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub essence: Option<f64>,
    /// Answers written freely.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freely: Vec<Freely>,
    /// What follows from all this.
    pub scores: Scores,
}

impl Record {
    /// Makes [`Record::scores`] from the rest.
    pub fn scored(mut self) -> Self {
        let mut scores = Scores::new();
        pairs(&self.asked, &mut scores);
        accuracies(&self.asked, &mut scores);
        probes(&self.asked, &mut scores);
        let mut put =
            |protocol, name: &str, value: Option<f64>| put(&mut scores, protocol, name, value);
        let entropies = self.texts.iter().map(|text| text_entropy(text));
        put(Protocol::SampledText, "GE", mean(entropies));
        put(Protocol::SampledText, "RS", self.reference);
        for (set, name) in [(Set::Rewrite, "EFree"), (Set::Paraphrase, "PFree")] {
            let own = self.freely.iter().filter(|one| one.set == set);
            let right = mean(own.map(|one| f64::from(u8::from(one.right))));
            put(Protocol::GreedyText, name, right);
        }
        self.scores = scores;
        self
    }
}

fn put(scores: &mut Scores, protocol: Protocol, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        let of = scores.entry(protocol).or_default();
        of.insert(name.to_owned(), value);
    }
}

/// ES, PS, NS and EM, PM, NM: for requests that have a true target.
fn pairs(asked: &[Asked], scores: &mut Scores) {
    for (set, letter, favoured) in [
        (Set::Rewrite, "E", Favoured::New),
        (Set::Paraphrase, "P", Favoured::New),
        (Set::Neighbour, "N", Favoured::Truth),
    ] {
        let both = asked.iter().filter(|one| one.set == set);
        let pairs: Vec<Pair<'_>> = both
            .filter_map(|one| {
                Some(Pair {
                    new: one.new.as_ref()?,
                    truth: one.truth.as_ref()?,
                })
            })
            .collect();
        let mut put = |name: String, value| put(scores, Protocol::PairProb, &name, value);
        put(format!("{letter}S"), success(&pairs, favoured));
        put(format!("{letter}M"), magnitude(&pairs, favoured));
    }
}

/// Accuracies of the wanted target: all tokens, and token by token.
fn accuracies(asked: &[Asked], scores: &mut Scores) {
    for (set, sequence, token) in [
        (Set::Rewrite, "EAcc", "Efficacy"),
        (Set::Paraphrase, "PAcc", "Paraphrase"),
        (Set::Neighbour, "NAcc", "Specificity"),
    ] {
        let wanted: Vec<&Outcome> = asked
            .iter()
            .filter(|one| one.set == set)
            .filter_map(|one| match set {
                Set::Neighbour => one.truth.as_ref(),
                _ => one.new.as_ref(),
            })
            .collect();
        let exact = wanted.iter().map(|one| f64::from(u8::from(one.is_exact())));
        put(scores, Protocol::ForcedSequence, sequence, mean(exact));
        let tokens = wanted.iter().map(|one| one.token_accuracy());
        put(scores, Protocol::ForcedToken, token, mean(tokens));
    }
}

/// Portability (the best of the right answers) and locality (agreement), by kind and over all.
fn probes(asked: &[Asked], scores: &mut Scores) {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for one in asked {
        let (name, value) = match one.set {
            Set::Portability => {
                let answers = one.answers.iter().map(Outcome::token_accuracy);
                ("Portability", answers.max_by(f64::total_cmp))
            }
            Set::Locality => ("Locality", one.agreement),
            Set::Neighbour => ("NAgreement", one.agreement),
            _ => continue,
        };
        let Some(value) = value else { continue };
        values.entry(name.to_owned()).or_default().push(value);
        if let Some(kind) = &one.kind {
            values
                .entry(format!("{name}.{kind}"))
                .or_default()
                .push(value);
        }
    }
    for (name, values) in values {
        put(scores, Protocol::ForcedToken, &name, mean(values));
    }
}

/// Writes records as lines of JSON.
///
/// # Errors
/// A file that cannot be written.
pub fn write_records(path: &Path, records: &[Record]) -> Result<()> {
    let mut bytes = Vec::new();
    for record in records {
        serde_json::to_writer(&mut bytes, record).map_err(|error| Error::file(path, error))?;
        bytes.push(b'\n');
    }
    atomic_bytes(path, &bytes)
}

/// Reads what [`write_records`] wrote.
///
/// # Errors
/// Lines that are no records, with their numbers.
pub fn read_records(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                let problem = format!("line {}: no record of a measurement: {error}", number + 1);
                Error::file(path, problem)
            })
        })
        .collect()
}
