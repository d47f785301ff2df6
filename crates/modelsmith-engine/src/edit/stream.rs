//! A stream of facts into a codebook: those that the model answers already are passed over, and every so
//! many facts the model is measured, as a stream's past states cannot be made again.

use super::curve::{Curve, CurveOptions, Meter};
use super::facts::Statement;
use super::grace::GraceEditor;
use super::measure::{Query, Scored, forced};
use crate::fresh_folder::FreshFolder;
use crate::signals::Stop;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::roles::Adapter;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_methods::edit::grace::{GraceConfig, Operation};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CURVE: &str = "curve.json";

/// What is asked of a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Folder of the host.
    pub host: PathBuf,
    /// Options of the codebook.
    pub config: GraceConfig,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// Facts between measurements; 0 measures the end alone.
    pub every: usize,
    /// Facts measured at a time at most; 0 for all.
    pub most: usize,
    /// Texts whose perplexity is measured.
    pub texts: Vec<String>,
    /// Seed of cold values, and of which facts are measured.
    pub seed: u64,
    /// Where to compute.
    pub device: String,
}

/// What a stream came to.
#[derive(Clone, Debug, Serialize)]
pub struct Streamed {
    /// The codebook's folder.
    pub output: PathBuf,
    /// Facts written.
    pub facts: usize,
    /// Facts that were right already.
    pub right: usize,
    /// Entries.
    pub entries: usize,
    /// Structural steps by kind.
    pub operations: BTreeMap<String, usize>,
    /// Mean steps of Adam of a fact.
    pub steps: f64,
    /// Seconds of writing alone.
    pub seconds: f64,
    /// Measurements.
    pub curve: Curve,
}

/// Writes requests one after the other into a new codebook.
///
/// # Errors
/// A fact that cannot be written, a signal; nothing is left then.
pub fn stream(
    options: &StreamOptions,
    requests: &[EditRequest],
    stop: &Stop,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Streamed> {
    let device = crate::device::device(&options.device)?;
    let fresh = FreshFolder::begin(&options.output, &[&options.host])?;
    let host = modelsmith_hosts::load(&options.host, &device)?;
    let tokenizer = Tokenizer::load(&options.host)?;
    let mut editor = GraceEditor::new(&host, &tokenizer, options.config.clone(), options.seed)?;
    let measured = CurveOptions {
        edits: Vec::new(),
        requests: Vec::new(),
        every: options.every,
        most: options.most,
        texts: options.texts.clone(),
        seed: options.seed,
        device: options.device.clone(),
        report: None,
    };
    let bare = Scored {
        host: &host,
        tokenizer: &tokenizer,
        hooks: &[],
    };
    let meter = Meter::new(&measured, &bare, requests)?;
    let mut points = vec![meter.point(&bare, 0, &meter.sample(requests), &[], BTreeMap::new())?];
    let mut operations: BTreeMap<String, usize> = BTreeMap::new();
    let (mut written, mut right, mut steps, mut seconds, mut last) = (0, 0, 0, 0.0, 0);
    for (number, request) in requests.iter().enumerate() {
        if let Some((_, name)) = stop.requested() {
            return Err(Error::Failed(format!(
                "stopped by {name} after {number} facts; nothing was written"
            )));
        }
        let begun = Instant::now();
        if is_right(&bare_with(&bare, &[editor.grace.hooks()]), request)? {
            right += 1;
        } else {
            let step = editor.write(&Statement::from(request))?;
            *operations.entry(name_of(step.operation)).or_default() += 1;
            steps += step.steps;
            written += 1;
        }
        seconds += begun.elapsed().as_secs_f64();
        let facts = number + 1;
        if (options.every > 0 && facts >= last + options.every) || facts == requests.len() {
            last = facts;
            let hooks = [editor.grace.hooks()];
            let model = bare_with(&bare, &hooks);
            let chosen = meter.sample(&requests[..facts]);
            let now = std::slice::from_ref(request);
            points.push(meter.point(&model, facts, &chosen, now, BTreeMap::new())?);
        }
        progress(facts, requests.len());
    }
    let steps = steps as f64 / written.max(1) as f64;
    let curve = Curve {
        edits: options.output.clone(),
        method: "grace".to_owned(),
        points,
        steps,
    };
    editor.save(fresh.path())?;
    atomic_json(fresh.path().join(CURVE), &curve)?;
    let entries = editor.grace.book.len();
    fresh.publish()?;
    Ok(Streamed {
        output: options.output.clone(),
        facts: written,
        right,
        entries,
        operations,
        steps,
        seconds,
        curve,
    })
}

/// The measurements of a stream that was written to a folder; `None` where there are none.
pub(crate) fn stored_curve(folder: &Path) -> Result<Option<Curve>> {
    let path = folder.join(CURVE);
    if !path.is_file() {
        return Ok(None);
    }
    let curve: Curve = read_json(path)?;
    Ok(Some(Curve {
        edits: folder.to_path_buf(),
        ..curve
    }))
}

fn bare_with<'a>(
    bare: &Scored<'a>,
    hooks: &'a [&'a dyn modelsmith_core::hooks::Hooks],
) -> Scored<'a> {
    Scored { hooks, ..*bare }
}

/// Whether the model gives the new target, token by token.
pub(crate) fn is_right(model: &Scored<'_>, request: &EditRequest) -> Result<bool> {
    let query = Query::new(model.tokenizer, &request.filled(), &request.target_new)?;
    let found = forced(model, std::slice::from_ref(&query))?;
    Ok(found.first().is_some_and(|one| one.best == query.target()))
}

fn name_of(operation: Operation) -> String {
    match operation {
        Operation::Added => "added",
        Operation::Split => "split",
        Operation::Expanded => "expanded",
        Operation::Inside => "inside",
    }
    .to_owned()
}
