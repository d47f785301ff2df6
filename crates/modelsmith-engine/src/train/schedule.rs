//! Learning-rate schedules: step to factor, as `transformers` defines them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate after the warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls in a straight line to 0 at the last step.
    #[default]
    Linear,
    /// Falls along half a cosine to 0 at the last step.
    Cosine,
}

impl Schedule {
    /// Factor of the learning rate at `step` (0 for the first) of `total`, after `warmup` steps
    /// that rise in a straight line from 0.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        let done = (step - warmup) as f64 / span;
        match self {
            Self::Constant => 1.0,
            Self::Linear => (1.0 - done).max(0.0),
            Self::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeMap;

    /// Factors of `transformers`' schedules, with the script that made them.
    const PARITY: &str = include_str!("../../../../parity/optimize/schedules.json");

    #[test]
    fn factors_agree_with_transformers() {
        let cases: BTreeMap<String, Value> = serde_json::from_str(PARITY).unwrap();
        let mut checked = 0;
        for (name, case) in &cases {
            let schedule = match name.split('_').next().unwrap() {
                "constant" => Schedule::Constant,
                "linear" => Schedule::Linear,
                "cosine" => Schedule::Cosine,
                _ => continue,
            };
            let number = |key: &str| case["settings"][key].as_u64().unwrap_or(0);
            let warmup = number("num_warmup_steps");
            let total = number("num_training_steps");
            for (step, factor) in case["factors"].as_array().unwrap().iter().enumerate() {
                let ours = schedule.factor(step as u64, warmup, total);
                let theirs = factor.as_f64().unwrap();
                assert!(
                    (ours - theirs).abs() < 1e-12,
                    "{name} step {step}: {ours} {theirs}"
                );
            }
            checked += 1;
        }
        assert_eq!(checked, 6);
    }
}
