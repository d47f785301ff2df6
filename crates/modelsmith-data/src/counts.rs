//! The account of what was used, cut and left out.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What became of the examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows seen.
    pub total: u64,
    /// Examples cut to `max_length`.
    pub truncated: u64,
    /// Examples left out for being longer than `max_length`.
    pub dropped: u64,
    /// Examples without content, left out.
    pub empty: u64,
    /// Examples in which no token counts in the loss, left out.
    pub untrained: u64,
    /// Special tokens spelled in the text of examples.
    pub special_in_text: u64,
    /// Tokens that count in the loss.
    pub trained_tokens: u64,
    /// All tokens.
    pub all_tokens: u64,
}

impl Counts {
    /// Examples that are used.
    pub fn kept(&self) -> u64 {
        self.total - self.dropped - self.empty - self.untrained
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.truncated += other.truncated;
        self.dropped += other.dropped;
        self.empty += other.empty;
        self.untrained += other.untrained;
        self.special_in_text += other.special_in_text;
        self.trained_tokens += other.trained_tokens;
        self.all_tokens += other.all_tokens;
    }
}
