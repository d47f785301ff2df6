//! Features of texts: the mean of the last hidden state, after the final norm, over a text's tokens.

use super::texts::Texts;
use crate::pool::within;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::surgery::Examples;

/// Texts in one pass.
const BATCH: usize = 32;

/// Mean states of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct States {
    /// A state for each kept text, `[texts][width]`.
    pub states: Vec<Vec<f32>>,
    /// Numbers of the texts that were kept.
    pub kept: Vec<usize>,
}

impl States {
    /// States of the texts of less than `max_tokens` tokens (special ones among them), in order.
    ///
    /// # Errors
    /// Texts that the tokenizer cannot express, or longer than the model reads.
    pub fn of(
        host: &Transformer,
        tokenizer: &Tokenizer,
        texts: &[String],
        max_tokens: usize,
    ) -> Result<Self> {
        let mut rows: Vec<(usize, Vec<u32>)> = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let ids = tokenizer.encode(text, true)?;
            let room = max_tokens.min(host.max_positions().saturating_add(1));
            if !ids.is_empty() && ids.len() < room {
                rows.push((number, ids));
            }
        }
        // Texts of like length share a batch; the padding changes nothing but the cost.
        rows.sort_by_key(|(number, ids)| (ids.len(), *number));
        let mut found: Vec<(usize, Vec<f32>)> = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            let ids: Vec<Vec<u32>> = batch.iter().map(|(_, ids)| ids.clone()).collect();
            let numbers = batch.iter().map(|(number, _)| *number);
            found.extend(numbers.zip(mean_states(host, &ids)?));
        }
        found.sort_by_key(|(number, _)| *number);
        let (kept, states) = found.into_iter().unzip();
        Ok(Self { states, kept })
    }
}

/// Mean last states of rows of tokens, `[rows][width]`.
pub(super) fn mean_states(host: &Transformer, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let pad = host.pad_token().unwrap_or(0);
    let input = TokenInput::from_ids(rows, pad, false, &host.device());
    let means = within(|| host.embed(&input, false, &[]))?;
    let width = means.dims()[1];
    let values = to_vec(means);
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}

/// What a probe of a host's states is trained on. Texts that are too long are left out.
///
/// # Errors
/// As [`States::of`]; no text that is short enough.
pub fn examples(
    host: &Transformer,
    tokenizer: &Tokenizer,
    texts: &Texts,
    max_tokens: usize,
) -> Result<Examples> {
    let States { states, kept } = States::of(host, tokenizer, &texts.texts, max_tokens)?;
    if kept.is_empty() {
        return Err(Error::Usage(format!(
            "none of {} texts has less than {max_tokens} tokens; raise method.max_tokens",
            texts.len()
        )));
    }
    Ok(Examples {
        features: states,
        classes: kept.iter().map(|at| texts.classes[*at]).collect(),
    })
}
