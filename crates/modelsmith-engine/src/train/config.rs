//! What a user can set about training.

use super::schedule::Schedule;
use crate::precision::Precision;
use crate::recipe::Named;
use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Training options of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training rows; ignored when `max_steps` is set.
    pub epochs: u64,
    /// Optimizer steps to take; 0 leaves the length to `epochs`.
    pub max_steps: u64,
    /// Batches that one optimizer step gathers; the result equals one large batch.
    pub accumulation: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate after the warmup.
    pub schedule: Schedule,
    /// Steps in which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// The same as a share of all steps; used when `warmup_steps` is 0.
    pub warmup_ratio: f64,
    /// Optimizer by name, with its options.
    pub optimizer: Named,
    /// Decoupled weight decay of matrices; vectors (biases, norms) never decay.
    pub weight_decay: f64,
    /// Other learning rates and decays for parameters by name.
    pub groups: Vec<ParameterGroup>,
    /// Largest global gradient norm; 0 turns clipping off.
    pub clip_norm: f64,
    /// Steps between evaluations on held-out rows; 0 evaluates after each epoch.
    pub eval_every: u64,
    /// Held-out batches an evaluation reads at most; 0 reads all.
    pub eval_batches: u64,
    /// Evaluations without improvement after which training stops; 0 never stops early.
    pub patience: u64,
    /// Whether the adapter with the lowest held-out loss is the one kept at the end.
    pub keep_best: bool,
    /// Steps between checkpoints; 0 writes one after each epoch.
    pub save_every: u64,
    /// Checkpoints kept; the best and the newest always are.
    pub keep_checkpoints: u64,
    /// Recompute the activations of each block in the backward pass instead of keeping them.
    pub gradient_checkpointing: bool,
    /// Numbers that matrices of the host are stored in and multiplied by: `f32`, or `bf16` with sums in `f32`.
    pub dtype: Precision,
    /// Share of tokens hidden for masked language modelling.
    pub mask_probability: f64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: 0,
            accumulation: 1,
            learning_rate: 1e-3,
            schedule: Schedule::default(),
            warmup_steps: 0,
            warmup_ratio: 0.0,
            optimizer: Named::new("adamw"),
            weight_decay: 0.0,
            groups: Vec::new(),
            clip_norm: 1.0,
            eval_every: 0,
            eval_batches: 0,
            patience: 0,
            keep_best: false,
            save_every: 0,
            keep_checkpoints: 2,
            gradient_checkpointing: false,
            dtype: Precision::default(),
            mask_probability: 0.15,
        }
    }
}

/// Parameters that train under settings of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ParameterGroup {
    /// Regular expression that matches somewhere in the parameter's name.
    pub pattern: String,
    /// Peak learning rate; absent keeps the common one.
    pub learning_rate: Option<f64>,
    /// Weight decay; absent keeps the common one.
    pub weight_decay: Option<f64>,
}

impl TrainConfig {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, the value and the range.
    pub fn check(&self) -> Result<()> {
        let positive = [("learning_rate", self.learning_rate)];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return refuse(key, value, "must be above 0");
            }
        }
        let not_negative = [
            ("weight_decay", self.weight_decay),
            ("clip_norm", self.clip_norm),
        ];
        for (key, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(key, value, "must be at least 0");
            }
        }
        for (key, value) in [
            ("warmup_ratio", self.warmup_ratio),
            ("mask_probability", self.mask_probability),
        ] {
            if !(0.0..1.0).contains(&value) {
                return refuse(key, value, "must be at least 0 and below 1");
            }
        }
        if self.accumulation == 0 {
            return refuse("accumulation", 0, "must be at least 1");
        }
        if self.epochs == 0 && self.max_steps == 0 {
            return refuse("epochs", 0, "must be at least 1, or set train.max_steps");
        }
        Ok(())
    }

    /// Warmup steps of a run of `total` steps.
    pub fn warmup(&self, total: u64) -> u64 {
        if self.warmup_steps > 0 {
            self.warmup_steps
        } else {
            (self.warmup_ratio * total as f64).ceil() as u64
        }
    }
}

fn refuse(key: &str, value: impl std::fmt::Display, range: &str) -> Result<()> {
    Err(Error::config(
        format!("train.{key}"),
        format!("is {value}; {range}"),
    ))
}
