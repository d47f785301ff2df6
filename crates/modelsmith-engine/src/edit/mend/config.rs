//! Options of MEND.

use crate::edit::ranges::{above_zero, at_least};
use modelsmith_core::error::Result;
use serde::{Deserialize, Serialize};

/// Options of MEND (Mitchell et al., ICLR 2022, section 3 and appendix C). Its authors train for hundreds of thousands of
/// steps at a rate of 1e-6; rates here are for a thousand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MendConfig {
    /// Blocks whose MLPs are edited, the last ones.
    pub blocks: usize,
    /// Rank of the networks' matrices.
    pub rank: usize,
    /// Facts that the editor is trained on, one a step.
    pub steps: usize,
    /// Learning rate of the networks.
    pub learning_rate: f64,
    /// How far an edit goes at first.
    pub rate: f64,
    /// Learning rate of how far an edit goes.
    pub rate_learning_rate: f64,
    /// What the written fact weighs beside what stays.
    pub edit_weight: f64,
    /// Neighbours that stay, of each step.
    pub neighbours: usize,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
}

impl Default for MendConfig {
    fn default() -> Self {
        Self {
            blocks: 3,
            rank: 64,
            steps: 1000,
            learning_rate: 3e-4,
            rate: 1e-3,
            rate_learning_rate: 1e-3,
            edit_weight: 0.1,
            neighbours: 3,
            clip_norm: 100.0,
        }
    }
}

impl MendConfig {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        at_least(
            1,
            &[
                ("blocks", self.blocks),
                ("rank", self.rank),
                ("steps", self.steps),
                ("neighbours", self.neighbours),
            ],
        )?;
        above_zero(&[
            ("learning_rate", self.learning_rate),
            ("rate", self.rate),
            ("rate_learning_rate", self.rate_learning_rate),
            ("edit_weight", self.edit_weight),
            ("clip_norm", self.clip_norm),
        ])
    }
}
