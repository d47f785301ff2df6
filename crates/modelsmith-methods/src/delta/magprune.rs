//! DELLA's MagPrune: larger entries are kept with a larger probability, and each is divided by its own.
//!
//! ```text
//! q_i = (density - ε) + 2 ε (rank_i - 1) / (n - 1)        ranks of |ΔW| within a row, ascending from 1
//! ```

use super::select::size;
use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of MagPrune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Della {
    /// Mean probability of an entry to be kept, 0 to 1.
    pub density: f64,
    /// Half the width of the window of probabilities; `density ± epsilon` lies inside 0 to 1.
    pub epsilon: f64,
}

impl Default for Della {
    fn default() -> Self {
        Self {
            density: 0.5,
            epsilon: 0.15,
        }
    }
}

impl Method for Della {
    const CARD: Card = Card {
        id: "magprune",
        number: None,
        title: "DELLA MagPrune",
        family: Family::Delta,
        paper: "Deep et al. 2024, DELLA-Merging",
        summary: "Drops entries at random, small ones more often, and rescales each by its own probability",
    };
}

/// Refuses a window of probabilities that leaves 0 to 1.
///
/// # Errors
/// The key, both numbers and what they must satisfy.
pub(super) fn check_window(key: &str, density: f64, epsilon: f64) -> Result<()> {
    if epsilon >= 0.0 && density - epsilon > 0.0 && density + epsilon < 1.0 {
        return Ok(());
    }
    let problem = format!(
        "is {epsilon} with a density of {density}; density ± epsilon must lie inside 0 to 1"
    );
    Err(Error::config(key, problem))
}

impl Operator for Della {
    fn check(&self) -> Result<()> {
        within("method.density", self.density, 0.0, 1.0)?;
        check_window("method.epsilon", self.density, self.epsilon)
    }

    fn apply(&self, place: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        let (_, columns) = place.matrix();
        let words = place.words();
        let mut number = 0;
        for row in delta.chunks_mut(columns.max(1)) {
            let probabilities = keep_probabilities(row, self.density, self.epsilon);
            for (value, q) in row.iter_mut().zip(probabilities) {
                let kept = words.unit(number) < q;
                *value = if kept {
                    (f64::from(*value) / q) as f32
                } else {
                    0.0
                };
                number += 1;
            }
        }
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The probability of each entry of a row to be kept; of equal magnitudes the first ranks lower.
pub fn keep_probabilities(row: &[f32], density: f64, epsilon: f64) -> Vec<f64> {
    let key = |(index, value): (usize, &f32)| u64::from(size(*value)) << 32 | index as u64;
    let mut order: Vec<u64> = row.iter().enumerate().map(key).collect();
    order.sort_unstable();
    let steps = (row.len().max(2) - 1) as f64;
    let mut probabilities = vec![0.0; row.len()];
    for (rank, key) in order.into_iter().enumerate() {
        let index = (key & u64::from(u32::MAX)) as usize;
        probabilities[index] = (density - epsilon) + 2.0 * epsilon * rank as f64 / steps;
    }
    probabilities
}
