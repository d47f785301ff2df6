//! Magnitude pruning: the largest entries of a difference are kept, the others set to zero, nothing is rescaled.

use super::select::{Border, End};
use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of magnitude pruning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Magnitude {
    /// Part of the entries that is kept, 0 to 1; `floor(density * entries)` of each tensor.
    pub density: f64,
}

impl Default for Magnitude {
    fn default() -> Self {
        Self { density: 0.2 }
    }
}

impl Method for Magnitude {
    const CARD: Card = Card {
        id: "magnitude",
        number: None,
        title: "Magnitude pruning",
        family: Family::Delta,
        paper: "Yadav et al. 2023, TIES-Merging (its trimming)",
        summary: "Keeps the largest entries of the difference and drops the rest",
    };
}

impl Operator for Magnitude {
    fn check(&self) -> Result<()> {
        within("method.density", self.density, 0.0, 1.0)
    }

    fn apply(&self, _: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        trim(delta, (self.density * delta.len() as f64) as usize);
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Keeps the `count` largest magnitudes; of equal ones the first.
pub(super) fn trim(delta: &mut [f32], count: usize) {
    match Border::of(delta, count, End::Largest) {
        Some(border) => border.zero(delta, 0, false),
        None => delta.fill(0.0),
    }
}
