//! Options of the search for target activations (ROME, Meng et al., arXiv 2202.05262, section 3.1; the
//! stop at the most probable token is ENCORE's, Gupta et al., arXiv 2502.01636).

use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a change `δ` of an activation is searched that makes a target the answer.
///
/// ```text
/// loss = mean NLL of the target over contexts + kl_factor · KL(now ‖ before at "{subject} is a")
///        + weight_decay · ‖δ‖ / ‖activation‖²
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// Steps of Adam at most, one less than evaluations of the loss.
    pub steps: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Weight of the norm of the change.
    pub weight_decay: f64,
    /// Weight of the divergence from what the model said of the subject before.
    pub kl_factor: f64,
    /// The change is at most this many times as long as the activation.
    pub clamp: f64,
    /// The search stops at a loss below this.
    pub loss_stop: f64,
    /// Evaluations at which the target was the most probable answer in all contexts, after which the search
    /// stops; 0 never stops for that.
    pub patience: usize,
    /// The search also stops when the mean over contexts of the target's probability is above this; 0
    /// never.
    pub probability_stop: f64,
    /// Stops as ENCORE's published code does, which counts the right positions of all contexts and
    /// compares their number with that of the contexts; wrong for targets of several tokens.
    pub count_positions: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            steps: 25,
            learning_rate: 0.5,
            weight_decay: 0.5,
            kl_factor: 0.0625,
            clamp: 0.75,
            loss_stop: 0.05,
            patience: 0,
            probability_stop: 0.0,
            count_positions: false,
        }
    }
}

impl Search {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, found: f64, expected: &str| {
            let problem = format!("is {found}; must be {expected}");
            Err(Error::config(format!("method.search.{key}"), problem))
        };
        if self.steps == 0 {
            return wrong("steps", 0.0, "at least 1");
        }
        let positive = [("learning_rate", self.learning_rate), ("clamp", self.clamp)];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return wrong(key, value, "a number above 0");
            }
        }
        let others = [
            ("weight_decay", self.weight_decay),
            ("kl_factor", self.kl_factor),
            ("loss_stop", self.loss_stop),
            ("probability_stop", self.probability_stop),
        ];
        for (key, value) in others {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(key, value, "0 or a number above it");
            }
        }
        Ok(())
    }

    /// Whether the target counts as the answer, of `right` positions out of `positions` in `contexts`
    /// prefixed contexts.
    pub fn is_hit(&self, right: usize, positions: usize, contexts: usize) -> bool {
        if self.count_positions {
            right == contexts
        } else {
            positions > 0 && right == positions
        }
    }
}

/// Counts the evaluations at which the target was the answer; misses in between do not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hits(usize);

impl Hits {
    /// Counts an evaluation; whether the search has had `patience` with it.
    pub fn ends(&mut self, is_hit: bool, patience: usize) -> bool {
        self.0 += usize::from(is_hit);
        patience > 0 && self.0 >= patience
    }
}

/// The token of a prompt at which a fact is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    /// The last token of the subject.
    #[default]
    SubjectLast,
    /// The last token of the prompt, for models in which the subject does not carry the fact.
    PromptLast,
}

/// What norms of the search refer to, and whose value is the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The output of the edited MLP (ROME).
    Mlp,
    /// The output of the whole block (MEMIT).
    Block,
    /// The outputs of attention and MLP of the block, with a change each; the MLP's is written (PMET).
    AttentionAndMlp,
}

/// Texts in front of each prompt, sampled from the model: (tokens in all, number of each opening).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contexts(pub &'static [(usize, usize)]);

impl Contexts {
    /// ROME's: of five openings, two texts of 5 tokens and two of 10.
    pub const ROME: Self = Self(&[(5, 2), (10, 2)]);
    /// MEMIT's: of five openings, one text of 10 tokens.
    pub const MEMIT: Self = Self(&[(10, 1)]);

    /// Words that the texts begin with.
    pub const OPENINGS: [&'static str; 5] = ["The", "Therefore", "Because", "I", "You"];

    /// Number of prompts of a fact, the bare one among them.
    pub fn count(self) -> usize {
        let each: usize = self.0.iter().map(|(_, count)| count).sum();
        1 + each * Self::OPENINGS.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_as_many_as_published() {
        assert_eq!(Contexts::ROME.count(), 21);
        assert_eq!(Contexts::MEMIT.count(), 6);
    }

    #[test]
    fn a_hit_needs_all_positions_unless_they_are_counted_as_published() {
        let mut search = Search::default();
        assert!(search.is_hit(10, 10, 5));
        assert!(!search.is_hit(5, 10, 5));
        search.count_positions = true;
        assert!(search.is_hit(5, 10, 5));
        assert!(!search.is_hit(10, 10, 5));
    }

    #[test]
    fn the_search_ends_at_the_last_hit_of_its_patience() {
        let flags = [0, 0, 1, 1, 0, 1, 1].map(|flag| flag == 1);
        let end = |patience| {
            let mut hits = Hits::default();
            flags.iter().position(|hit| hits.ends(*hit, patience))
        };
        assert_eq!([end(2), end(3), end(4)], [Some(3), Some(5), Some(6)]);
        assert_eq!([end(5), end(0)], [None, None]);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let search = Search {
            clamp: -1.0,
            ..Search::default()
        };
        let error = search.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "method.search.clamp: is -1; must be a number above 0"
        );
    }
}
