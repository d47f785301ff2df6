//! Text as it comes, up to a stop string and never a part of one.

use modelsmith_core::error::Result;
use modelsmith_data::StreamDecoder;

/// Decodes one row's tokens and watches for the texts that end it.
#[derive(Debug)]
pub struct TextStream<'a> {
    decoder: StreamDecoder<'a>,
    stops: &'a [String],
    /// Decoded text that may be the beginning of a stop string.
    held: String,
    ended: bool,
}

impl<'a> TextStream<'a> {
    /// Watches what `decoder` gives for any of `stops`; empty ones are left aside.
    pub fn new(decoder: StreamDecoder<'a>, stops: &'a [String]) -> Self {
        Self {
            decoder,
            stops,
            held: String::new(),
            ended: false,
        }
    }

    /// Takes a token and returns the text that is certain to belong to the answer.
    ///
    /// # Errors
    /// A token that cannot be decoded.
    pub fn push(&mut self, token: u32) -> Result<String> {
        if self.ended {
            return Ok(String::new());
        }
        let fresh = self.decoder.push(token)?;
        self.held.push_str(&fresh);
        Ok(self.release())
    }

    /// Returns what was held back, when the tokens are at an end.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self) -> Result<String> {
        if self.ended {
            return Ok(String::new());
        }
        let fresh = self.decoder.finish()?;
        self.held.push_str(&fresh);
        let certain = self.release();
        Ok(certain + &std::mem::take(&mut self.held))
    }

    /// Whether a stop string has come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Cuts the held text where it can no longer become a stop string.
    fn release(&mut self) -> String {
        let stops = self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(place) = stops.clone().filter_map(|stop| self.held.find(stop)).min() {
            self.ended = true;
            self.held.truncate(place);
            return std::mem::take(&mut self.held);
        }
        let open = stops.map(|stop| overlap(&self.held, stop)).max();
        let rest = self.held.split_off(self.held.len() - open.unwrap_or(0));
        std::mem::replace(&mut self.held, rest)
    }
}

/// Bytes of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(place, _)| place);
    let fits = |length: &usize| text.ends_with(&stop[..*length]);
    lengths.filter(fits).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn a_beginning_of_a_stop_string_is_held_back() {
        assert_eq!(overlap("one\n", "\n\n"), 1);
        assert_eq!(overlap("the EN", "END"), 2);
        assert_eq!(overlap("the", "END"), 0);
        assert_eq!(overlap("\u{e9}", "\u{e9}\u{e9}"), 2);
    }
}
