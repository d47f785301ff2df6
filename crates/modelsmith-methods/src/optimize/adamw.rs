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
use modelsmith_core::roles::{Optimize, Optimizer, Update};
use modelsmith_kernels::{AdamWParameter, AdamWStep, adamw};
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

impl AdamW {
    fn step(&self, steps: u32, update: &Update<'_>) -> AdamWStep {
        AdamWStep {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            steps,
            learning_rate: update.learning_rate,
            weight_decay: update.weight_decay,
            scale: update.scale,
        }
    }
}

struct State {
    options: AdamW,
    moments: BTreeMap<String, Moments>,
}

impl State {
    /// The moments for a parameter's next step.
    fn take(&mut self, update: &Update<'_>) -> Result<Moments> {
        let gradient = &update.gradient;
        let mut moments = self.moments.remove(update.name).unwrap_or_else(|| Moments {
            steps: 0,
            first: gradient.zeros_like(),
            second: gradient.zeros_like(),
        });
        let found = [moments.first.dims(), moments.second.dims()];
        if found != [gradient.dims(); 2] {
            return Err(Error::Failed(format!(
                "the optimizer state of {} has {found:?} values, its gradient {:?}; was it saved \
                 by another run?",
                update.name,
                gradient.dims()
            )));
        }
        moments.steps += 1;
        Ok(moments)
    }
}

impl Optimizer for State {
    fn update(&mut self, update: Update<'_>) -> Result<()> {
        self.update_all(vec![update])
    }

    fn update_all(&mut self, updates: Vec<Update<'_>>) -> Result<()> {
        let mut taken = Vec::with_capacity(updates.len());
        for update in &updates {
            taken.push((update.name.to_owned(), self.take(update)?));
        }
        let pairs = updates.into_iter().zip(&mut taken);
        let parameters = pairs.map(|(update, (_, moments))| AdamWParameter {
            step: self.options.step(moments.steps, &update),
            value: &mut update.value.values,
            gradient: update.gradient,
            first: &mut moments.first,
            second: &mut moments.second,
        });
        adamw(parameters.collect());
        self.moments.extend(taken);
        Ok(())
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
                steps: take("steps")?
                    .to_vec()
                    .first()
                    .map_or(0, |steps| *steps as u32),
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
            let mut value = flat(&floats(&case["initial"]));
            let expected = case["parameters_f32"].as_array().unwrap();
            for (gradient, expected) in case["gradients"].as_array().unwrap().iter().zip(expected) {
                let gradient = flat(&floats(gradient)).values;
                let update = Update {
                    name: "w",
                    value: &mut value,
                    gradient,
                    scale: 1.0,
                    learning_rate: rate,
                    weight_decay: decay,
                };
                optimizer.update(update).unwrap();
                for (ours, theirs) in value.to_vec().iter().zip(floats(expected)) {
                    assert!((ours - theirs).abs() < 2e-6, "{name}: {ours} {theirs}");
                }
            }
        }
    }

    fn flat(values: &[f32]) -> Flat {
        Flat::from_vec(values.to_vec(), &[values.len()], &Device::flex())
    }

    /// Steps of parameters `names` that start at 1 and have a gradient of 0.1.
    fn step(optimizer: &mut dyn Optimizer, names: &[&str], values: &mut [Flat]) -> Result<()> {
        let pairs = names.iter().zip(values);
        let updates = pairs.map(|(name, value)| Update {
            name,
            gradient: value.values.ones_like() * 0.1,
            value,
            scale: 1.0,
            learning_rate: 0.01,
            weight_decay: 0.1,
        });
        optimizer.update_all(updates.collect())
    }

    #[test]
    fn a_restored_optimizer_takes_the_same_next_step() {
        let mut first = AdamW::default().optimizer().unwrap();
        let mut a = [flat(&[1.0, 2.0])];
        step(&mut *first, &["w"], &mut a).unwrap();
        let mut b = a.clone();
        let mut second = AdamW::default().optimizer().unwrap();
        second.restore(first.state()).unwrap();
        step(&mut *first, &["w"], &mut a).unwrap();
        step(&mut *second, &["w"], &mut b).unwrap();
        assert_eq!(a[0].to_vec(), b[0].to_vec());
        let surplus = BTreeMap::from([("w/third".to_owned(), flat(&[0.0, 0.0]))]);
        assert!(second.restore(surplus).is_err());
    }

    #[test]
    fn parameters_step_by_themselves_whatever_steps_beside_them() {
        let start = [flat(&[1.0, 2.0]), flat(&[3.0]), flat(&[4.0, 5.0, 6.0])];
        let mut together = start.clone();
        let mut optimizer = AdamW::default().optimizer().unwrap();
        step(&mut *optimizer, &["b"], &mut together[1..2]).unwrap();
        step(&mut *optimizer, &["c", "b", "a"], &mut together).unwrap();
        for (at, (name, steps)) in [("c", 1), ("b", 2), ("a", 1)].into_iter().enumerate() {
            let mut alone = [start[at].clone()];
            let mut optimizer = AdamW::default().optimizer().unwrap();
            for _ in 0..steps {
                step(&mut *optimizer, &[name], &mut alone).unwrap();
            }
            assert_eq!(alone[0].to_vec(), together[at].to_vec(), "{name}");
        }
    }

    #[test]
    fn state_of_another_shape_is_refused() {
        let mut optimizer = AdamW::default().optimizer().unwrap();
        step(&mut *optimizer, &["w"], &mut [flat(&[1.0, 2.0])]).unwrap();
        let error = step(&mut *optimizer, &["w"], &mut [flat(&[1.0])]).unwrap_err();
        assert!(
            error.to_string().contains("optimizer state of w"),
            "{error}"
        );
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
