//! Prompt and target as tokens, and where the one ends.
//!
//! The texts are joined with one space and tokenised together, and the target's tokens are the last T of
//! them, T being those of the target alone. Where the joined tokens do not end so (a token spans the
//! boundary), both are tokenised apart and put together.

use modelsmith_core::error::{Error, Result};
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::target_text;

/// Tokens of which those from `prefix` on are predicted, each from all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Tokens that are given, at least one.
    pub prefix: usize,
}

impl Query {
    /// A target behind a prompt.
    ///
    /// # Errors
    /// A prompt or a target without a token.
    pub fn new(tokenizer: &Tokenizer, prompt: &str, target: &str) -> Result<Self> {
        let with_space = target_text(target);
        let target = target_ids(tokenizer, &with_space)?;
        let joined = prompt_ids(tokenizer, &format!("{prompt}{with_space}"))?;
        if with_space.trim().is_empty() {
            return Err(Error::Usage(format!(
                "the target behind {prompt:?} is empty; give it in words"
            )));
        }
        let query = if joined.len() > target.len() && joined.ends_with(&target) {
            Self {
                prefix: joined.len() - target.len(),
                ids: joined,
            }
        } else {
            let mut ids = prompt_ids(tokenizer, prompt)?;
            let prefix = ids.len();
            ids.extend(target);
            Self { ids, prefix }
        };
        if query.prefix == 0 || query.prefix == query.ids.len() {
            return Err(Error::Usage(format!(
                "the prompt {prompt:?} or the target {with_space:?} has no token; give both in words"
            )));
        }
        Ok(query)
    }

    /// The predicted tokens.
    pub fn target(&self) -> &[u32] {
        &self.ids[self.prefix..]
    }
}

/// Tokens of a text that goes on: what the tokenizer adds in front stays, what it adds behind goes.
///
/// # Errors
/// A text that the tokenizer cannot express.
pub fn prompt_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut encoded = tokenizer.encode_with_offsets(text, true, true)?;
    let is_text = |span: &(usize, usize)| span.0 < span.1;
    let last = encoded.offsets.iter().rposition(is_text);
    // A text of no token still has what stands in front of every text.
    let end = last.map_or(encoded.ids.len().min(1), |last| last + 1);
    encoded.ids.truncate(end);
    Ok(encoded.ids)
}

/// Tokens of a target with its space. A tokenizer that puts a space of its own in front of every text
/// would make it two; the text without its space has the tokens that stand behind a prompt then.
///
/// # Errors
/// A text that the tokenizer cannot express.
pub(in crate::edit) fn target_ids(tokenizer: &Tokenizer, with_space: &str) -> Result<Vec<u32>> {
    let ids = tokenizer.encode(with_space, false)?;
    let bare = tokenizer.encode(with_space.trim_start(), false)?;
    let doubled = ids.len() == bare.len() + 1 && ids.ends_with(&bare);
    let own_space = doubled && starts_with_space(tokenizer, &bare);
    Ok(if own_space { bare } else { ids })
}

fn starts_with_space(tokenizer: &Tokenizer, ids: &[u32]) -> bool {
    let first = ids.first().and_then(|id| tokenizer.token(*id));
    first.is_some_and(|token| token.starts_with(['▁', 'Ġ', ' ']))
}
