//! Extrapolation (EXPO): the difference times a number.
//!
//! ```text
//! W = W_post + α ΔW = W_pre + (1 + α) ΔW        α < 0 goes back towards the base, -1 reaches it
//! ```
//!
//! Task arithmetic's factor λ is `1 + α`.

use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scale {
    /// How far beyond the post-trained weights; negative values interpolate, -1 gives the base.
    pub alpha: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { alpha: 0.3 }
    }
}

impl Method for Scale {
    const CARD: Card = Card {
        id: "expo",
        number: None,
        title: "Extrapolation",
        family: Family::Delta,
        paper: "Zheng et al. 2024, Weak-to-Strong Extrapolation Expedites Alignment",
        summary: "Multiplies the difference: further than the post-trained weights, or back towards the base",
    };
}

impl Operator for Scale {
    fn check(&self) -> Result<()> {
        within("method.alpha", self.alpha, -100.0, 100.0)
    }

    fn apply(&self, _: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        let factor = (1.0 + self.alpha) as f32;
        for value in delta {
            *value *= factor;
        }
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
