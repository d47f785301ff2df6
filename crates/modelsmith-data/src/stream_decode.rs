//! Text from tokens as they come, never half a character.

use crate::Tokenizer;
use modelsmith_core::error::Result;

/// Tokens that are held back while the text ends in an incomplete character. A character has four
/// bytes at most, but a text may spell U+FFFD itself, which cannot be told from an incomplete one,
/// so more are held; the bound keeps a stream of invalid bytes flowing.
const MOST_HELD: usize = 256;
/// Tokens of a prompt that the first token after it is decoded with.
const CONTEXT: usize = 16;

/// Decodes a stream of tokens.
///
/// The pieces that [`StreamDecoder::push`] and [`StreamDecoder::finish`] return, joined, are the
/// text of all tokens.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// First token decoded together with new ones, as context for spaces at their start.
    context: usize,
    /// First token whose text is not out yet.
    pending: usize,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the start of a text; `skip_special` leaves special tokens out.
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            context: 0,
            pending: 0,
        }
    }

    /// A decoder that continues after `prompt`, whose text is not given out again.
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[u32], skip_special: bool) -> Self {
        let tail = prompt.len().saturating_sub(CONTEXT);
        let ids = prompt[tail..].to_vec();
        Self {
            tokenizer,
            skip_special,
            context: 0,
            pending: ids.len(),
            ids,
        }
    }

    /// Takes a token and returns the text that is now certain, often one word, possibly nothing.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let fresh = self.fresh()?;
        let incomplete = fresh.ends_with('\u{FFFD}');
        if fresh.is_empty() || (incomplete && self.ids.len() - self.pending < MOST_HELD) {
            return Ok(String::new());
        }
        self.advance();
        Ok(fresh)
    }

    /// Returns what was held back, with U+FFFD for characters that never became complete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let fresh = self.fresh()?;
        self.advance();
        Ok(fresh)
    }

    fn advance(&mut self) {
        self.context = self.pending;
        self.pending = self.ids.len();
        if self.context > 1024 {
            self.ids.drain(..self.context);
            self.pending -= self.context;
            self.context = 0;
        }
    }

    /// Text of the pending tokens as it reads behind their context.
    fn fresh(&self) -> Result<String> {
        let before = self
            .tokenizer
            .decode(&self.ids[self.context..self.pending], self.skip_special)?;
        let all = self
            .tokenizer
            .decode(&self.ids[self.context..], self.skip_special)?;
        let shared = before
            .bytes()
            .zip(all.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let cut = (0..=shared)
            .rev()
            .find(|&at| all.is_char_boundary(at))
            .unwrap_or(0);
        Ok(all[cut..].to_string())
    }
}
