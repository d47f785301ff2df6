//! What a sequence of edits did to a model, point by point: the batches of a folder are made again, and every
//! so many facts the model is measured.

use super::change::{weight_norm, write};
use super::folder::EditFolder;
use super::measure::{Before, MeasureOptions, Protocol, Scored, Summary, perplexity_me, score};
use super::session::base_of;
use super::stream::stored_curve;
use crate::report::{curves_page, curves_table};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use modelsmith_core::random::Stream;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_hosts::Transformer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What is measured.
#[derive(Clone, Debug)]
pub struct CurveOptions {
    /// Folders of edits, of any bases.
    pub edits: Vec<PathBuf>,
    /// The requests that were written, with their paraphrases and neighbours.
    pub requests: Vec<EditRequest>,
    /// Facts between points; 0 for the end alone.
    pub every: usize,
    /// Facts measured at a point at most, of those written so far; 0 for all.
    pub most: usize,
    /// Texts whose perplexity is measured.
    pub texts: Vec<String>,
    /// Seed of which facts are measured.
    pub seed: u64,
    /// Where to compute.
    pub device: String,
    /// Page to write.
    pub report: Option<PathBuf>,
}

/// A model after some of its edits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Facts written so far.
    pub facts: usize,
    /// Scores times 100 by name: S, ES, PS, NS and so on.
    pub scores: BTreeMap<String, f64>,
    /// The same for the facts of the last batch alone, right after it.
    pub immediate: BTreeMap<String, f64>,
    /// Perplexity of the texts.
    pub perplexity: Option<f64>,
    /// Norm of each edited weight over what it was.
    pub growth: BTreeMap<String, f64>,
}

/// A folder of edits, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Curve {
    /// The folder.
    pub edits: PathBuf,
    /// The editor.
    pub method: String,
    /// The model before its edits, on facts that were written later, and after them.
    pub points: Vec<Point>,
    /// Mean steps of the search.
    pub steps: f64,
}

/// Scores that are shown, in this order.
pub const SCORES: [(&str, Protocol, &str); 8] = [
    ("ES", Protocol::PairProb, "ES"),
    ("PS", Protocol::PairProb, "PS"),
    ("NS", Protocol::PairProb, "NS"),
    ("EAcc", Protocol::ForcedSequence, "EAcc"),
    ("PAcc", Protocol::ForcedSequence, "PAcc"),
    ("NAcc", Protocol::ForcedSequence, "NAcc"),
    ("Portability", Protocol::ForcedToken, "Portability"),
    ("Locality", Protocol::ForcedToken, "Locality"),
];

/// Measures folders of edits.
///
/// # Errors
/// A base that is gone, batches whose facts are not among the requests, a page that cannot be written.
pub fn curves(options: &CurveOptions) -> Result<Vec<Curve>> {
    let curves: Vec<Curve> = options
        .edits
        .iter()
        .map(|path| curve(path, options))
        .collect::<Result<_>>()?;
    if let Some(path) = &options.report {
        atomic_bytes(path, curves_page(&curves)?.as_bytes())?;
    }
    Ok(curves)
}

/// Headings, and a row for each sequence: as the page shows it.
pub fn curve_table(curves: &[Curve]) -> (Vec<String>, Vec<Vec<String>>) {
    curves_table(curves)
}

fn curve(path: &Path, options: &CurveOptions) -> Result<Curve> {
    if let Some(curve) = stored_curve(path)? {
        return Ok(curve);
    }
    let device = crate::device::device(&options.device)?;
    let folder = EditFolder::open(path)?;
    let (base, mut host) = base_of(&folder, None, &device)?;
    let tokenizer = Tokenizer::load(base)?;
    let known: BTreeMap<&str, &EditRequest> = options
        .requests
        .iter()
        .map(|request| (request.id.as_str(), request))
        .collect();
    let all = written(&folder, &known)?;
    let everything: Vec<EditRequest> = all.iter().flat_map(|(_, part)| part.clone()).collect();
    let meter = Meter::new(options, &scored(&host, &tokenizer), &everything)?;
    let first = meter.sample(&everything);
    let base = scored(&host, &tokenizer);
    let mut points = vec![meter.point(&base, 0, &first, &[], BTreeMap::new())?];
    let mut norms = BTreeMap::new();
    let (mut facts, mut last, mut steps) = (0, 0, 0.0);
    for (place, (number, part)) in all.iter().enumerate() {
        let step = folder.read(*number)?;
        for change in &step.changes {
            if !norms.contains_key(&change.weight) {
                norms.insert(change.weight.clone(), weight_norm(&host, &change.weight));
            }
            write(&mut host, change)?;
        }
        facts += part.len();
        steps += step.figures.steps * part.len() as f64;
        let due = options.every > 0 && facts >= last + options.every;
        if due || place + 1 == all.len() {
            last = facts;
            let chosen = meter.sample(&everything[..facts]);
            let growth = norms
                .iter()
                .map(|(name, before)| (name.clone(), weight_norm(&host, name) / before));
            let model = scored(&host, &tokenizer);
            points.push(meter.point(&model, facts, &chosen, part, growth.collect())?);
        }
    }
    Ok(Curve {
        edits: path.to_path_buf(),
        method: folder.header.method.name.clone(),
        points,
        steps: steps / facts.max(1) as f64,
    })
}

/// Batches by number, with their requests.
fn written(
    folder: &EditFolder,
    known: &BTreeMap<&str, &EditRequest>,
) -> Result<Vec<(u64, Vec<EditRequest>)>> {
    let mut all = Vec::new();
    for number in folder.steps()? {
        let statements = folder.entry(number)?.statements;
        let request = |id: &str| {
            let found = known.get(id).map(|request| (*request).clone());
            found.ok_or_else(|| {
                Error::Usage(format!(
                    "{}: batch {number} wrote request {id:?}, which the file of requests does not have; give \
                     the file that was edited from",
                    folder.path().display()
                ))
            })
        };
        let part = statements.iter().map(|one| request(&one.id));
        all.push((number, part.collect::<Result<_>>()?));
    }
    match all.is_empty() {
        false => Ok(all),
        true => Err(Error::file(
            folder.path(),
            "has no batch of edits to measure",
        )),
    }
}

fn scored<'a>(host: &'a Transformer, tokenizer: &'a Tokenizer) -> Scored<'a> {
    Scored {
        host,
        tokenizer,
        hooks: &[],
    }
}

/// Measures models that came from one.
pub(crate) struct Meter<'a> {
    options: &'a CurveOptions,
    before: Before,
}

impl<'a> Meter<'a> {
    /// A meter of models that came from `model`, which is asked about all `requests` first.
    pub(crate) fn new(
        options: &'a CurveOptions,
        model: &Scored<'_>,
        requests: &[EditRequest],
    ) -> Result<Self> {
        Ok(Self {
            options,
            before: Before::record(model, requests)?,
        })
    }

    /// Some of the requests, always the same ones of the same.
    pub(crate) fn sample(&self, requests: &[EditRequest]) -> Vec<EditRequest> {
        let most = self.options.most;
        if most == 0 || requests.len() <= most {
            return requests.to_vec();
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        Stream::new(self.options.seed, "edit/curve").shuffle(&mut order);
        let chosen: BTreeSet<usize> = order.into_iter().take(most).collect();
        chosen
            .into_iter()
            .map(|number| requests[number].clone())
            .collect()
    }

    /// The model after `facts`, measured on `requests`, and on the `last` ones alone.
    pub(crate) fn point(
        &self,
        model: &Scored<'_>,
        facts: usize,
        requests: &[EditRequest],
        last: &[EditRequest],
        growth: BTreeMap<String, f64>,
    ) -> Result<Point> {
        let texts = &self.options.texts;
        Ok(Point {
            facts,
            scores: self.scores(model, requests)?,
            immediate: match last {
                [] => BTreeMap::new(),
                last => self.scores(model, last)?,
            },
            perplexity: match texts.is_empty() {
                true => None,
                false => Some(perplexity_me(model, texts)?),
            },
            growth,
        })
    }

    fn scores(
        &self,
        model: &Scored<'_>,
        requests: &[EditRequest],
    ) -> Result<BTreeMap<String, f64>> {
        let options = MeasureOptions {
            before: Some(&self.before),
            ..MeasureOptions::default()
        };
        let (_, summary) = score(model, requests, &options)?;
        Ok(shown(&summary))
    }
}

fn shown(summary: &Summary) -> BTreeMap<String, f64> {
    let figures = SCORES.iter().filter_map(|(name, protocol, key)| {
        let figure = summary.figure(*protocol, key)?;
        Some(((*name).to_owned(), figure.mean))
    });
    let harmonic = summary.harmonic.map(|value| ("S".to_owned(), value));
    figures.chain(harmonic).collect()
}
