//! Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), PyTorch's form.
//!
//! ```text
//! w <- w (1 - lr·wd)
//! m <- β₁ m + (1-β₁) g        v <- β₂ v + (1-β₂) g²
//! w <- w - lr/(1-β₁ᵗ) · m / (√v/√(1-β₂ᵗ) + ε)
//! ```
//!
//! `t` counts the steps in which a parameter had a gradient, for each parameter by itself.

use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Optimize, Optimizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Options of AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the denominator; above 0.
    pub epsilon: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl Method for AdamW {
    const CARD: Card = Card {
        id: "adamw",
        number: None,
        title: "AdamW",
        family: Family::Optimize,
        paper: "Loshchilov and Hutter 2019, arXiv 1711.05101",
        summary: "Adam with weight decay decoupled from the gradient.",
    };
}

impl Optimize for AdamW {
    fn optimizer(&self) -> Result<Box<dyn Optimizer>> {
        for (key, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                let problem = format!("is {value}; must be at least 0 and below 1");
                return Err(Error::config(format!("train.optimizer.{key}"), problem));
            }
        }
        if self.epsilon.is_nan() || self.epsilon <= 0.0 {
            let problem = format!("is {}; must be above 0", self.epsilon);
            return Err(Error::config("train.optimizer.epsilon", problem));
        }
        Ok(Box::new(State {
            options: self.clone(),
            moments: BTreeMap::new(),
        }))
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

struct Moments {
    steps: u32,
    first: Tensor<1>,
    second: Tensor<1>,
}

struct State {
    options: AdamW,
    moments: BTreeMap<String, Moments>,
}

impl Optimizer for State {
    fn update(
        &mut self,
        name: &str,
        value: &Flat,
        gradient: &Flat,
        learning_rate: f64,
        weight_decay: f64,
    ) -> Result<Flat> {
        let AdamW {
            beta1,
            beta2,
            epsilon,
        } = self.options;
        let g = gradient.values.clone();
        let old = self.moments.remove(name).unwrap_or_else(|| Moments {
            steps: 0,
            first: g.zeros_like(),
            second: g.zeros_like(),
        });
        let steps = old.steps + 1;
        let first = old.first.mul_scalar(beta1) + g.clone().mul_scalar(1.0 - beta1);
        let second = old.second.mul_scalar(beta2) + g.clone().mul(g).mul_scalar(1.0 - beta2);
        let correction = |beta: f64| 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        let denominator = second
            .clone()
            .sqrt()
            .div_scalar(correction(beta2).sqrt())
            .add_scalar(epsilon);
        let step = first
            .clone()
            .div(denominator)
            .mul_scalar(learning_rate / correction(beta1));
        let decayed = value
            .values
            .clone()
            .mul_scalar(1.0 - learning_rate * weight_decay);
        self.moments.insert(
            name.to_owned(),
            Moments {
                steps,
                first,
                second,
            },
        );
        Ok(Flat {
            shape: value.shape.clone(),
            values: decayed - step,
        })
    }

    fn state(&self) -> BTreeMap<String, Flat> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            let device = moments.first.device();
            let steps = Flat::from_vec(vec![moments.steps as f32], &[1], &device);
            state.insert(format!("{name}/steps"), steps);
            state.insert(format!("{name}/first"), Flat::new(moments.first.clone()));
            state.insert(format!("{name}/second"), Flat::new(moments.second.clone()));
        }
        state
    }

    fn restore(&mut self, mut state: BTreeMap<String, Flat>) -> Result<()> {
        let names: Vec<String> = state
            .keys()
            .filter_map(|key| key.strip_suffix("/steps"))
            .map(str::to_owned)
            .collect();
        for name in names {
            let mut take = |part: &str| {
                let key = format!("{name}/{part}");
                state
                    .remove(&key)
                    .ok_or_else(|| Error::Failed(format!("the optimizer state lacks tensor {key}")))
            };
            let moments = Moments {
                steps: take("steps")?.to_vec()[0] as u32,
                first: take("first")?.values,
                second: take("second")?.values,
            };
            self.moments.insert(name, moments);
        }
        match state.keys().next() {
            Some(key) => Err(Error::Failed(format!(
                "the optimizer state has tensor {key}, which AdamW does not use"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// Values of `torch.optim.AdamW`, with the script that made them, in `parity/optimize`.
    const PARITY: &str = include_str!("../../../../parity/optimize/adamw.json");

    fn floats(value: &Value) -> Vec<f32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn steps_agree_with_torch() {
        let cases: BTreeMap<String, Value> = serde_json::from_str(PARITY).unwrap();
        assert_eq!(cases.len(), 3);
        for (name, case) in &cases {
            let settings = &case["settings"];
            let options = AdamW {
                beta1: settings["betas"][0].as_f64().unwrap(),
                beta2: settings["betas"][1].as_f64().unwrap(),
                epsilon: settings["eps"].as_f64().unwrap(),
            };
            let rate = settings["lr"].as_f64().unwrap();
            let decay = settings["weight_decay"].as_f64().unwrap();
            let mut optimizer = options.optimizer().unwrap();
            let device = Device::flex();
            let flat = |values: Vec<f32>| {
                let count = values.len();
                Flat::from_vec(values, &[count], &device)
            };
            let mut value = flat(floats(&case["initial"]));
            let expected = case["parameters_f32"].as_array().unwrap();
            for (gradient, expected) in case["gradients"].as_array().unwrap().iter().zip(expected) {
                let gradient = flat(floats(gradient));
                value = optimizer
                    .update("w", &value, &gradient, rate, decay)
                    .unwrap();
                for (ours, theirs) in value.to_vec().iter().zip(floats(expected)) {
                    assert!((ours - theirs).abs() < 2e-6, "{name}: {ours} {theirs}");
                }
            }
        }
    }

    #[test]
    fn a_restored_optimizer_takes_the_same_next_step() {
        let device = Device::flex();
        let flat = |values: &[f32]| Flat::from_vec(values.to_vec(), &[2], &device);
        let mut first = AdamW::default().optimizer().unwrap();
        let value = first
            .update("w", &flat(&[1.0, 2.0]), &flat(&[0.1, -0.2]), 0.01, 0.1)
            .unwrap();
        let mut second = AdamW::default().optimizer().unwrap();
        second.restore(first.state()).unwrap();
        let gradient = flat(&[0.3, 0.3]);
        let a = first.update("w", &value, &gradient, 0.01, 0.1).unwrap();
        let b = second.update("w", &value, &gradient, 0.01, 0.1).unwrap();
        assert_eq!(a.to_vec(), b.to_vec());
        let surplus = BTreeMap::from([("w/third".to_owned(), flat(&[0.0, 0.0]))]);
        assert!(second.restore(surplus).is_err());
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let wrong = AdamW {
            beta1: 1.0,
            ..AdamW::default()
        };
        let error = wrong.optimizer().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("train.optimizer.beta1"), "{error}");
    }
}
