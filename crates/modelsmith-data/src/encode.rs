//! Text with trained stretches to tokens with trained flags.

use std::ops::Range;

use modelsmith_core::error::Result;

use crate::Tokenizer;
use crate::tokenizer::Encoded;

/// A text, of which some byte ranges count in the loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The text as rendered.
    pub text: String,
    /// Byte ranges that count in the loss, ascending.
    pub trained: Vec<Range<usize>>,
    /// A character put inside special tokens that a user spelled out, so that they stay text; it
    /// is removed before encoding.
    pub(crate) guard: Option<char>,
}

impl Marked {
    /// Encodes the text; a token counts in the loss when it overlaps a trained range.
    ///
    /// `literal` reads every special token in the text as plain text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        add_special: bool,
        literal: bool,
    ) -> Result<(Vec<u32>, Vec<bool>)> {
        let encoded = match self.guard {
            Some(guard) => encode_guarded(tokenizer, &self.text, guard)?,
            None => tokenizer.encode_with_offsets(&self.text, add_special, literal)?,
        };
        let trained = encoded
            .offsets
            .iter()
            .map(|span| self.is_trained(*span))
            .collect();
        Ok((encoded.ids, trained))
    }

    fn is_trained(&self, (start, end): (usize, usize)) -> bool {
        start < end
            && self
                .trained
                .iter()
                .any(|span| span.start < end && start < span.end)
    }
}

/// Encodes the stretches between real special tokens as plain text.
fn encode_guarded(tokenizer: &Tokenizer, text: &str, guard: char) -> Result<Encoded> {
    let mut all = Encoded::default();
    let mut start = 0;
    let mut strip_start = false;
    loop {
        let found = next_special(tokenizer, text, start);
        let end = found.as_ref().map_or(text.len(), |(at, _)| *at);
        let strip_end = found.as_ref().is_some_and(|(_, token)| token.strip_left);
        plain(
            tokenizer,
            text,
            start..end,
            (strip_start, strip_end),
            guard,
            &mut all,
        )?;
        let Some((at, token)) = found else {
            return Ok(all);
        };
        start = at + token.content.len();
        strip_start = token.strip_right;
        all.ids.push(token.id);
        all.offsets.push((at, start));
        all.type_ids.push(0);
    }
}

fn next_special<'a>(
    tokenizer: &'a Tokenizer,
    text: &str,
    from: usize,
) -> Option<(usize, &'a crate::tokenizer::SpecialToken)> {
    let tokens = tokenizer.special_tokens().iter();
    let found = tokens.filter_map(|token| Some((from + text[from..].find(&token.content)?, token)));
    // Tokens are sorted longest first, and min_by_key keeps the first of equals.
    found.min_by_key(|(at, _)| *at)
}

fn plain(
    tokenizer: &Tokenizer,
    text: &str,
    span: Range<usize>,
    (strip_start, strip_end): (bool, bool),
    guard: char,
    all: &mut Encoded,
) -> Result<()> {
    let mut piece = &text[span.clone()];
    let mut offset = span.start;
    if strip_start {
        let trimmed = piece.trim_start();
        offset += piece.len() - trimmed.len();
        piece = trimmed;
    }
    if strip_end {
        piece = piece.trim_end();
    }
    let mut clean = String::with_capacity(piece.len());
    let mut origin = Vec::with_capacity(piece.len() + 1);
    for (at, character) in piece.char_indices().filter(|(_, c)| *c != guard) {
        origin.extend((0..character.len_utf8()).map(|byte| offset + at + byte));
        clean.push(character);
    }
    origin.push(offset + piece.len());
    if clean.is_empty() {
        return Ok(());
    }
    let encoded = tokenizer.encode_with_offsets(&clean, false, true)?;
    let place = |at: usize| origin.get(at).copied().unwrap_or(offset + piece.len());
    all.offsets.extend(
        encoded
            .offsets
            .iter()
            .map(|(start, end)| (place(*start), place(*end))),
    );
    all.ids.extend(encoded.ids);
    all.type_ids.extend(encoded.type_ids);
    Ok(())
}
