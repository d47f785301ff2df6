//! Model Surgery (Wang et al., NAACL 2025): a behaviour is moved by adding one direction to a few rows
//! of the matrices in front of the MLPs' activations.
//!
//! ```text
//! p(class | text) = softmax(W h + b)       h: mean of the last hidden state over the text's tokens
//! v = W[class]                             the class to avoid; neither scaled nor a difference
//! region = the K rows with the largest -cos(row, v), over all blocks together
//! row += alpha v                           for the rows of the region
//! ```
//!
//! No gradient passes the language model. What the sum does depends on the network: the sign of alpha
//! that moves the behaviour the wanted way, and its size, are found by a [`sweep`](choose), never
//! assumed.
//!
//! Other choices than the paper's are options: [`Form`], [`Region`], [`Target`], folded gains.

mod adam;
mod direction;
mod patch;
mod probe;
mod prune;
mod region;
mod sweep;

pub use direction::{Form, direction};
pub use patch::{Patch, Rows};
pub use probe::{Examples, Probe, ProbeOptions};
pub use prune::set_difference;
pub use region::{Candidate, Region, Selector, cosines};
pub use sweep::{Choice, Point, Warning, choose};

use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which matrices have rows that may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Those in front of the activation: the paper's.
    #[default]
    Gate,
    /// Those that the gate is multiplied with.
    Up,
    /// Both.
    Both,
}

/// How long the direction is before alpha multiplies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// As the probe was trained: the paper's. Alpha is then tied to the probe's learning rate and epochs.
    #[default]
    Trained,
    /// The mean length of all rows of the target matrices.
    MeanRow,
}

/// Model Surgery's options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Surgery {
    /// Rows changed; 0 takes four times the model's width, but at most a twentieth of all rows.
    pub rows: usize,
    /// Multiplies the direction; either sign. A sweep finds it.
    pub alpha: f64,
    /// Which rows are changed.
    pub region: Region,
    /// Which matrices they are rows of.
    pub target: Target,
    /// What the direction is made of.
    pub direction: Form,
    /// How long the direction is.
    pub length: Length,
    /// Whether cosines are between what rows and direction are to a normalised state before the norm's gain.
    pub fold_gain: bool,
    /// Texts of this many tokens or more, their special tokens among them, are left out.
    pub max_tokens: usize,
    /// Share of held-out texts that the probe must get right; below it the direction is mostly noise.
    pub min_accuracy: f64,
    /// How the probe is trained.
    pub probe: ProbeOptions,
    /// Seed of the split, the batches, the probe's start and of random rows.
    pub seed: u64,
}

impl Default for Surgery {
    fn default() -> Self {
        Self {
            rows: 0,
            alpha: 1.0,
            region: Region::default(),
            target: Target::default(),
            direction: Form::default(),
            length: Length::default(),
            fold_gain: false,
            max_tokens: 100,
            min_accuracy: 0.75,
            probe: ProbeOptions::default(),
            seed: 0,
        }
    }
}

impl Method for Surgery {
    const CARD: Card = Card {
        id: "surgery",
        number: Some(2),
        title: "Model Surgery",
        family: Family::Edit,
        paper: "Wang et al., NAACL 2025, arXiv 2407.08770",
        summary: "adds a probe's direction to the rows of MLP gates that oppose it most",
    };
}

impl Surgery {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: String| Err(Error::config(format!("method.{key}"), problem));
        if !self.alpha.is_finite() {
            return refuse("alpha", format!("is {}; give a finite number", self.alpha));
        }
        if self.max_tokens == 0 {
            return refuse("max_tokens", "is 0; no text is that short".into());
        }
        if !(0.0..=1.0).contains(&self.min_accuracy) {
            let found = self.min_accuracy;
            return refuse("min_accuracy", format!("is {found}; give a share, 0 to 1"));
        }
        self.probe.check()
    }

    /// Rows that are changed in a model of `width` with `total` rows.
    ///
    /// # Errors
    /// More rows than there are.
    pub fn count(&self, width: usize, total: usize) -> Result<usize> {
        if self.rows > total {
            return Err(Error::config(
                "method.rows",
                format!("is {}; the target matrices have {total} rows", self.rows),
            ));
        }
        Ok(match self.rows {
            0 => (4 * width).min(total / 20).max(1),
            rows => rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_count_is_the_papers_at_its_width_and_a_twentieth_of_a_small_model() {
        let options = Surgery::default();
        assert_eq!(options.count(4096, 352_256).unwrap(), 16_384);
        assert_eq!(options.count(64, 860).unwrap(), 43);
        let many = Surgery {
            rows: 861,
            ..options
        };
        let error = many.count(64, 860).unwrap_err().to_string();
        assert!(error.contains("method.rows: is 861"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_key() {
        let bad = |change: fn(&mut Surgery)| {
            let mut options = Surgery::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(bad(|o| o.alpha = f64::NAN).starts_with("method.alpha"));
        assert!(bad(|o| o.max_tokens = 0).starts_with("method.max_tokens"));
        assert!(bad(|o| o.min_accuracy = 1.5).starts_with("method.min_accuracy"));
        assert!(bad(|o| o.probe.batch_size = 0).starts_with("method.probe.batch_size"));
        assert!(bad(|o| o.probe.held_out = 1.0).starts_with("method.probe.held_out"));
        assert!(Surgery::default().check().is_ok());
    }
}
