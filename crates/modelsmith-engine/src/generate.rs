//! Text from a language model, token by token: batches padded on the left, a key-value cache, rows
//! that end each in their time. Where an encoder stands beside the decoder, it reads the prompts
//! once, and the answers begin behind a token of their own.
//!
//! Every draw is keyed by (seed, row, position), so a row's text does not depend on the others in
//! its batch beyond the rounding of the arithmetic.

use crate::pool::within;
use crate::sampler::Sampler;
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass, virtual_tokens};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{Head, KvCache, TokenInput, Transformer};
use std::sync::Arc;

/// How far to generate, and how.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens of each row at most.
    pub max_new_tokens: usize,
    /// Tokens before which a row does not end.
    pub min_new_tokens: usize,
    /// Tokens that end a row.
    pub eos: Vec<u32>,
    /// How a token is chosen.
    pub sampler: Sampler,
    /// Number of each prompt's task, for adapters that know several; their own choice where empty.
    pub tasks: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            min_new_tokens: 0,
            eos: Vec::new(),
            sampler: Sampler::default(),
            tasks: Vec::new(),
        }
    }
}

/// A row that is not finished: its number among the prompts, and its tokens.
struct Row {
    number: usize,
    tokens: Vec<u32>,
    prompt: usize,
}

/// Continues each prompt, or answers it; returns the new tokens of each, without the one that ended it.
///
/// `on_token` is told every token with the number of its row as it comes, and ends the row by
/// returning false (the token stays). A row also ends where the model has no further position.
///
/// # Errors
/// A host that does not predict next tokens, an empty prompt, one that is longer than the model's
/// positions, ids outside the vocabulary, senseless sampling, logits that are not numbers.
pub fn generate(
    host: &Transformer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    hooks: &[&dyn Hooks],
    on_token: &mut dyn FnMut(usize, u32) -> bool,
) -> Result<Vec<Vec<u32>>> {
    let room = room(host, hooks);
    check(host, prompts, options, room)?;
    let mut found = vec![Vec::new(); prompts.len()];
    let start = host.decoder_start();
    let row = |(number, prompt): (usize, &Vec<u32>)| {
        let tokens = start.map_or_else(|| prompt.clone(), |start| vec![start]);
        Row {
            number,
            prompt: tokens.len(),
            tokens,
        }
    };
    let mut rows: Vec<Row> = prompts.iter().enumerate().map(row).collect();
    if options.max_new_tokens == 0 {
        return Ok(found);
    }
    let mut cache = KvCache::new();
    let mut fresh: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens.clone()).collect();
    let mut source = start.map(|_| Box::new(padded(host, prompts)));
    // Prompts of adapters are asked for in the first pass, in which all rows are there.
    let mut tasks = (!options.tasks.is_empty()).then(|| Arc::from(&options.tasks[..]));
    while !rows.is_empty() {
        let input = TokenInput {
            source: source.take(),
            tasks: tasks.take(),
            ..padded(host, &fresh)
        };
        let logits = within(|| last_logits(host, &input, hooks, &mut cache))?;
        let mut going = Vec::new();
        for (row, logits) in rows.iter_mut().zip(logits) {
            going.push(step(room, options, row, logits, on_token)?);
        }
        retire(&mut rows, &going, &mut found, &mut cache, hooks)?;
        let last = |row: &Row| row.tokens[row.tokens.len() - 1..].to_vec();
        fresh = rows.iter().map(last).collect();
    }
    Ok(found)
}

/// Tokens of a row that the positions of the model suffice for, beside what hooks put in front.
pub(crate) fn room(host: &Transformer, hooks: &[&dyn Hooks]) -> usize {
    let limit = host.position_limit().unwrap_or(usize::MAX);
    limit.saturating_sub(virtual_tokens(hooks))
}

fn check(
    host: &Transformer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    room: usize,
) -> Result<()> {
    options.sampler.check()?;
    if !matches!(host.head(), Head::CausalLm | Head::Seq2SeqLm(_)) {
        return Err(Error::Usage(format!(
            "{} does not predict next tokens; generate with a causal language model, or with an \
             encoder and a decoder",
            host.info().architecture
        )));
    }
    if let Some(row) = prompts.iter().position(Vec::is_empty) {
        return Err(Error::Usage(format!(
            "prompt {row} has no token; give at least the token that begins a text"
        )));
    }
    if !options.tasks.is_empty() && options.tasks.len() != prompts.len() {
        return Err(Error::Usage(format!(
            "{} tasks were given for {} prompts; give one for each",
            options.tasks.len(),
            prompts.len()
        )));
    }
    match prompts.iter().find(|prompt| prompt.len() > room) {
        Some(prompt) => Err(Error::Usage(format!(
            "a prompt of {} tokens is longer than the {room} positions that the model has for it; \
             shorten it",
            prompt.len()
        ))),
        None => Ok(()),
    }
}

/// Rows of different lengths that end together.
fn padded(host: &Transformer, rows: &[Vec<u32>]) -> TokenInput {
    let pad = host.pad_token().unwrap_or(0);
    TokenInput::from_ids(rows, pad, true, &host.device())
}

/// Reads the new tokens of each row and returns the logits after the last of them.
fn last_logits(
    host: &Transformer,
    input: &TokenInput,
    hooks: &[&dyn Hooks],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>> {
    let pass = Pass {
        offset: cache.len(),
        ..Pass::default()
    };
    let hidden = host.hidden(input, &pass, hooks, Some(cache))?;
    let time = hidden.dims()[1];
    let last: Tensor<3> = hidden.narrow(1, time - 1, 1);
    let logits = host.logits(last, input, &pass, hooks);
    let classes = logits.dims()[2];
    let values = to_vec(logits);
    Ok(values.chunks(classes).map(<[f32]>::to_vec).collect())
}

/// Chooses a row's next token; false when the row ends.
fn step(
    room: usize,
    options: &GenerateOptions,
    row: &mut Row,
    logits: Vec<f32>,
    on_token: &mut dyn FnMut(usize, u32) -> bool,
) -> Result<bool> {
    let position = row.tokens.len() - row.prompt;
    let early = position < options.min_new_tokens;
    let forbidden: &[u32] = if early { &options.eos } else { &[] };
    let sampler = &options.sampler;
    let token = sampler.next(logits, &row.tokens, forbidden, row.number, position)?;
    if options.eos.contains(&token) && !early {
        return Ok(false);
    }
    row.tokens.push(token);
    let wanted = on_token(row.number, token);
    Ok(wanted && row.tokens.len() < room && position + 1 < options.max_new_tokens)
}

/// Takes the rows that ended out of the batch.
fn retire(
    rows: &mut Vec<Row>,
    going: &[bool],
    found: &mut [Vec<u32>],
    cache: &mut KvCache,
    hooks: &[&dyn Hooks],
) -> Result<()> {
    if going.iter().all(|going| *going) {
        return Ok(());
    }
    let kept: Vec<usize> = (0..rows.len()).filter(|row| going[*row]).collect();
    let mut staying = Vec::with_capacity(kept.len());
    for (row, going) in std::mem::take(rows).into_iter().zip(going) {
        match going {
            true => staying.push(row),
            false => found[row.number] = row.tokens[row.prompt..].to_vec(),
        }
    }
    *rows = staying;
    if !rows.is_empty() {
        cache.select(&kept)?;
        hooks.iter().for_each(|hook| hook.keep_rows(&kept));
    }
    Ok(())
}
