//! Which entries of a difference may be left out, and what do the others make up for?
//!
//! ```text
//! drop     ΔŴ = (1 - M) ⊙ ΔW
//! DARE-k   ΔŴ = k M ⊙ ΔW + (1 - k p) / (1 - p) (1 - M) ⊙ ΔW        k = 0: DARE,  k = 1: nothing changes
//! ```
//!
//! `M` is 1 where an entry is dropped, with probability `p`. The expectation of ΔŴ is ΔW; the loss grows, to second order,
//! by `½ (1-k)² p/(1-p) Σ H_ii ΔW_i²`. The biased masks of the paper's study take `M = 1[ΔW < 0]` or, with a gradient `G`,
//! `M = 1[ΔW G < 0]`; `p` then stays the number that the factors are made of.

use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::random::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of plain dropping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drop {
    /// Probability of an entry to be dropped, 0 to 1.
    pub p: f64,
}

/// Options of DARE and its generalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dare {
    /// Probability of an entry to be dropped, 0 to 1.
    pub p: f64,
    /// Factor of dropped entries; 0 is DARE, 1 changes nothing, negative values turn signs.
    pub k: f64,
    /// What decides which entries are dropped.
    pub mask: Bias,
}

/// What decides which entries are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// Chance alone.
    #[default]
    Random,
    /// The sign: negative entries.
    Sign,
    /// The sign of the product with the gradient: entries whose removal the loss would notice to first order.
    Gradient,
}

impl Default for Drop {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl Default for Dare {
    fn default() -> Self {
        Self {
            p: 0.9,
            k: 0.0,
            mask: Bias::Random,
        }
    }
}

impl Method for Drop {
    const CARD: Card = Card {
        id: "drop",
        number: None,
        title: "Random dropping",
        family: Family::Delta,
        paper: "Yu et al. 2024, Language Models are Super Mario (its ablation without rescaling)",
        summary: "Sets a random part of the difference to zero",
    };
}

impl Method for Dare {
    const CARD: Card = Card {
        id: "dare",
        number: Some(16),
        title: "DARE with factor k",
        family: Family::Delta,
        paper: "Tang et al. 2024, A Unified View of Delta Parameter Editing; Yu et al. 2024 for k = 0",
        summary: "Scales a random part of the difference by k and the rest so that the mean stays",
    };
}

impl Operator for Drop {
    fn check(&self) -> Result<()> {
        within("method.p", self.p, 0.0, 1.0)
    }

    fn apply(&self, place: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        let words = place.words();
        mix(delta, self.p, 0.0, 1.0, words);
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Dare {
    /// Factors of dropped and of kept entries.
    pub fn factors(&self) -> (f32, f32) {
        // At p = 1 nothing is kept, so there is nothing to divide.
        let kept = if self.p < 1.0 {
            (1.0 - self.k * self.p) / (1.0 - self.p)
        } else {
            0.0
        };
        (self.k as f32, kept as f32)
    }

    /// Variance of the factor of an entry, `(1 - k)² p / (1 - p)`, whose mean is 1: to second order the loss grows by half
    /// of it times `Σ H_ii ΔW_i²`. Infinite at `p = 1`.
    pub fn variance(&self) -> f64 {
        (1.0 - self.k).powi(2) * self.p / (1.0 - self.p)
    }

    /// Applies it with a mask given, 1 (true) where an entry is dropped; the slices are equally long.
    pub fn with_mask(&self, delta: &mut [f32], dropped: impl Fn(usize, f32) -> bool) {
        let (drop, keep) = self.factors();
        for (index, value) in delta.iter_mut().enumerate() {
            *value *= if dropped(index, *value) { drop } else { keep };
        }
    }
}

impl Operator for Dare {
    fn check(&self) -> Result<()> {
        within("method.p", self.p, 0.0, 1.0)?;
        within("method.k", self.k, -10.0, 10.0)
    }

    fn apply(&self, place: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        match self.mask {
            Bias::Random => {
                let (drop, keep) = self.factors();
                mix(delta, self.p, drop, keep, place.words());
            }
            Bias::Sign => self.with_mask(delta, |_, value| value < 0.0),
            Bias::Gradient => {
                let gradient = place
                    .gradient
                    .filter(|gradient| gradient.len() == delta.len());
                let gradient = gradient.ok_or_else(|| {
                    let problem = format!("needs a gradient of the shape of {}", place.name);
                    Error::config("method.mask", problem)
                })?;
                self.with_mask(delta, |index, value| value * gradient[index] < 0.0);
            }
        }
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Multiplies each entry by `drop` with probability `p`, else by `keep`.
fn mix(delta: &mut [f32], p: f64, drop: f32, keep: f32, words: Counter) {
    let bound = Counter::bound(p);
    crate::wide!({
        for (number, value) in (0_u64..).zip(delta.iter_mut()) {
            let dropped = u64::from(words.word(number)) < bound;
            *value *= if dropped { drop } else { keep };
        }
    });
}
