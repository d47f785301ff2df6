//! What does a large codebook of GRACE add to a pass? The house model with and without one, by turns.
//!
//! Keys are those of prompts about the model's own world, alone and behind another statement. Half of the prompts
//! that are timed are keys, so that they get a value; the others are about another world.

use crate::edit::GraceEditor;
use crate::house::config_of;
use burn::tensor::{Device, Tensor};
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Tokenizer;
use modelsmith_data::house::{Fact, HouseConfig, facts};
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::grace::{Codebook, Entry, Grace, GraceConfig, Replacement};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Prompts of a pass.
const BATCHES: [usize; 3] = [1, 8, 32];

/// Pairs of passes at least, of which the median counts.
const PAIRS: usize = 20;

/// Prompts whose keys are read at once.
const AT_ONCE: usize = 32;

/// What is measured.
#[derive(Clone, Debug)]
pub struct GraceOptions {
    /// Folder of a house model.
    pub model: PathBuf,
    /// The layer that the codebook is at; empty chooses one.
    pub module: String,
    /// Keys of the codebook.
    pub keys: usize,
    /// Radius of each.
    pub radius: f64,
    /// Seconds for each batch size at least.
    pub seconds: f64,
}

/// What a codebook adds to passes.
#[derive(Clone, Debug, Serialize)]
pub struct GraceCost {
    /// Keys of the codebook.
    pub keys: usize,
    /// Their width.
    pub width: usize,
    /// Share of the timed prompts that hit an entry.
    pub hits: f64,
    /// Seconds of a look-up alone.
    pub look_up_seconds: f64,
    /// Batch sizes.
    pub rows: Vec<GraceRow>,
}

/// A batch size.
#[derive(Clone, Debug, Serialize)]
pub struct GraceRow {
    /// `grace_lookup_b` and the size.
    pub name: String,
    /// Prompts of a pass.
    pub batch: usize,
    /// Median seconds of a pass of the host alone.
    pub bare_seconds: f64,
    /// The same with the codebook.
    pub seconds: f64,
    /// The median, over pairs of passes, of the second over the first.
    pub ratio: f64,
}

/// Measures passes with and without a codebook.
///
/// # Errors
/// A folder without a house model, a layer that it does not have, numbers out of range.
pub fn grace(options: &GraceOptions) -> Result<GraceCost> {
    check(options)?;
    let device = Device::flex();
    let host = modelsmith_hosts::load(&options.model, &device)?;
    let tokenizer = Tokenizer::load(&options.model)?;
    let world = config_of(&options.model)?;
    let other = HouseConfig {
        seed: world.seed + 1,
        ..world
    };
    let facts = [facts(&world)?, facts(&other)?];
    let ids = |texts: Vec<String>| -> Result<Vec<Vec<u32>>> {
        let ids = texts.iter().map(|text| tokenizer.encode(text, true));
        ids.collect()
    };
    let config = GraceConfig {
        module: options.module.clone(),
        replacement: Replacement::ReplaceLast,
        ..GraceConfig::default()
    };
    let mut grace = GraceEditor::new(&host, &tokenizer, config, 0)?.grace;
    grace.book = filled(
        &host,
        &grace,
        &ids(texts(&facts[0], options.keys))?,
        options,
    )?;
    grace.recount();
    let asked = facts[0].iter().zip(&facts[1]);
    let asked = asked.flat_map(|(own, other)| [own.prompts[0].clone(), other.prompts[0].clone()]);
    let asked = ids(asked.take(8 * BATCHES[2]).collect())?;
    let rows = BATCHES.map(|batch| compare(&host, &grace, &asked, batch, options.seconds));
    let mut queries = Vec::new();
    for rows in asked.chunks(AT_ONCE) {
        queries.extend(keys(&host, &grace, rows)?);
    }
    let begun = Instant::now();
    let found = queries.chunks_exact(grace.site().inputs);
    let hits = found
        .filter(|query| grace.book.hit(query).is_some())
        .count();
    Ok(GraceCost {
        keys: grace.book.len(),
        width: grace.site().inputs,
        look_up_seconds: begun.elapsed().as_secs_f64() / asked.len() as f64,
        hits: hits as f64 / asked.len() as f64,
        rows: rows.into_iter().collect::<Result<_>>()?,
    })
}

fn check(options: &GraceOptions) -> Result<()> {
    let problem = match options {
        GraceOptions { keys: 0, .. } => "a codebook of 0 keys; expected 1 or more".to_owned(),
        GraceOptions { radius, .. } if !(radius.is_finite() && *radius > 0.0) => {
            format!("a radius of {radius}; expected a number above 0")
        }
        GraceOptions { seconds, .. } if !(0.0..=60.0).contains(seconds) => {
            format!("{seconds} seconds for each batch size; expected 0 to 60")
        }
        _ => return Ok(()),
    };
    Err(Error::Usage(problem))
}

/// `count` prompts: the facts' own, then these behind statements of other facts.
fn texts(facts: &[Fact], count: usize) -> Vec<String> {
    let prompts: Vec<&String> = facts.iter().flat_map(|fact| &fact.prompts).collect();
    let behind = |number: usize| {
        let other = &facts[number * 7 % facts.len()];
        let prompt = prompts[number * 3 % prompts.len()];
        format!("{} {}. {prompt}", other.prompts[1], other.object)
    };
    let own = prompts.iter().map(|prompt| (*prompt).clone());
    own.chain((0..).map(behind)).take(count).collect()
}

/// A codebook of the prompts' keys, with values of zeros.
fn filled(
    host: &Transformer,
    grace: &Grace,
    prompts: &[Vec<u32>],
    options: &GraceOptions,
) -> Result<Codebook> {
    let entry = |number: usize| Entry {
        id: number.to_string(),
        radius: options.radius,
        label: vec![1],
    };
    let mut all = Vec::new();
    for rows in prompts.chunks(AT_ONCE) {
        all.extend(keys(host, grace, rows)?);
    }
    let (widths, count) = (grace.book.widths(), prompts.len());
    let values = vec![0.0; count * widths[1]];
    Codebook::from_parts(widths, (0..count).map(entry).collect(), all, values)
}

/// What the layer reads at the last tokens of prompts.
fn keys(host: &Transformer, grace: &Grace, rows: &[Vec<u32>]) -> Result<Vec<f32>> {
    let path = &grace.site().path;
    let capture = Capture::new([path], Side::Input);
    host.hidden(&input(rows), &Pass::default(), &[&capture], None)?;
    let seen: Tensor<3> = capture.take()[path].tensor()?;
    let last = seen.dims()[1] - 1;
    Ok(to_vec(seen.narrow(1, last, 1)))
}

fn input(rows: &[Vec<u32>]) -> TokenInput {
    TokenInput::from_ids(rows, 0, true, &Device::flex())
}

/// Passes of the same prompts without and with the codebook, each first by turns.
fn compare(
    host: &Transformer,
    grace: &Grace,
    prompts: &[Vec<u32>],
    batch: usize,
    budget: f64,
) -> Result<GraceRow> {
    let sides: [&[&dyn Hooks]; 2] = [&[], &[grace]];
    let mut seconds = [Vec::new(), Vec::new()];
    let (mut ratios, mut total) = (Vec::new(), 0.0);
    let pairs = prompts.chunks(batch).cycle().enumerate();
    for (pair, rows) in pairs {
        if ratios.len() >= PAIRS && total >= budget {
            break;
        }
        let input = input(rows);
        for side in [pair % 2, 1 - pair % 2] {
            let begun = Instant::now();
            host.forward(&input, &Pass::default(), sides[side])?;
            seconds[side].push(begun.elapsed().as_secs_f64());
        }
        let [bare, with] = [0, 1].map(|side| seconds[side][pair]);
        ratios.push(with / bare);
        total += bare + with;
    }
    let [bare, with] = seconds.map(median);
    Ok(GraceRow {
        name: format!("grace_lookup_b{batch}"),
        batch,
        bare_seconds: bare,
        seconds: with,
        ratio: median(ratios),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
