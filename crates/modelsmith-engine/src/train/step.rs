//! One optimizer step: gradients over its batches, clipping, the update of every parameter.

use super::config::{ParameterGroup, TrainConfig};
use super::loss::{Prepared, loss_of_hidden};
use crate::pool::within;
use crate::train::rematerialise;
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{DrawKey, Pass};
use modelsmith_core::parameters::{Flat, Named, Parameters};
use modelsmith_core::roles::{Adapter, Optimizer, Progress, Update};
use modelsmith_hosts::Transformer;
use modelsmith_kernels::square_sum;
use std::collections::BTreeMap;

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Mean negative log-likelihood over the places that count.
    pub loss: f64,
    /// The method's own terms of the loss and its penalty, if it has any.
    pub penalty: Option<f64>,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Tokens that were not padding.
    pub tokens: u64,
    /// Figures of the method, by name.
    pub measures: Vec<(&'static str, f64)>,
}

/// Learning rate and decay of a parameter by name, from the groups of the recipe.
pub struct Groups {
    groups: Vec<(regex::Regex, ParameterGroup)>,
    learning_rate: f64,
    weight_decay: f64,
}

impl Groups {
    /// Compiles the groups.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(config: &TrainConfig) -> Result<Self> {
        let groups = config.groups.iter().map(|group| {
            let regex = regex::Regex::new(&group.pattern)
                .map_err(|error| Error::config("train.groups.pattern", error))?;
            Ok((regex, group.clone()))
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            learning_rate: config.learning_rate,
            weight_decay: config.weight_decay,
        })
    }

    /// Peak learning rate and weight decay of a parameter.
    pub fn of(&self, name: &str, shape: &[usize]) -> (f64, f64) {
        let vector = shape.len() < 2;
        let common = if vector { 0.0 } else { self.weight_decay };
        match self.groups.iter().find(|(regex, _)| regex.is_match(name)) {
            Some((_, group)) => (
                group.learning_rate.unwrap_or(self.learning_rate),
                group.weight_decay.unwrap_or(common),
            ),
            None => (self.learning_rate, common),
        }
    }
}

/// The constants of all steps of a run.
pub struct Stepper<'a> {
    /// The frozen host.
    pub host: &'a Transformer,
    /// Training options.
    pub config: &'a TrainConfig,
    /// Learning rates and decays by parameter.
    pub groups: Groups,
    /// Seed of the random draws.
    pub seed: u64,
}

impl Stepper<'_> {
    /// Takes one step over the batches of its window.
    ///
    /// # Errors
    /// A loss or gradient that is not finite (nothing was changed), and what host, method and
    /// optimizer refuse.
    pub fn step(
        &self,
        adapter: &mut dyn Adapter,
        optimizer: &mut dyn Optimizer,
        window: &[Prepared],
        progress: Progress,
    ) -> Result<StepReport> {
        within(|| self.step_here(adapter, optimizer, window, progress))
    }

    fn step_here(
        &self,
        adapter: &mut dyn Adapter,
        optimizer: &mut dyn Optimizer,
        window: &[Prepared],
        progress: Progress,
    ) -> Result<StepReport> {
        adapter.before_step(progress)?;
        let places: usize = window.iter().map(|batch| batch.targets.len()).sum();
        let mut gradients = BTreeMap::new();
        let (mut loss, mut terms) = (0.0, None);
        for (micro, batch) in window.iter().enumerate() {
            let share = self.backward(adapter, batch, micro, places, progress, &mut gradients)?;
            loss += share.loss;
            terms = sum(terms, share.terms);
        }
        let penalty = sum(terms, self.penalty(adapter, &mut gradients, progress)?);
        adapter.after_backward(progress, &mut gradients)?;
        let gradient_norm = global_norm(&gradients);
        if !gradient_norm.is_finite() {
            return Err(Error::Numeric(format!(
                "step {}: the gradient norm is {gradient_norm} over rows {}; nothing was changed in this step; lower train.learning_rate or set train.clip_norm",
                progress.step + 1,
                rows_of(window)
            )));
        }
        let scale = clip_factor(gradient_norm, self.config.clip_norm);
        let factor = self.config.schedule.factor(
            progress.step,
            self.config.warmup(progress.total_steps),
            progress.total_steps,
        );
        self.update(adapter, optimizer, &gradients, scale, factor)?;
        adapter.after_step(progress, &gradients, scale)?;
        Ok(StepReport {
            loss,
            penalty,
            gradient_norm,
            learning_rate: self.config.learning_rate * factor,
            tokens: window.iter().map(|batch| batch.tokens).sum(),
            measures: adapter.measures(),
        })
    }

    /// Adds the gradients of one batch, whose loss is its share of the window's mean.
    fn backward(
        &self,
        adapter: &dyn Adapter,
        batch: &Prepared,
        micro: usize,
        places: usize,
        progress: Progress,
        gradients: &mut BTreeMap<String, Flat>,
    ) -> Result<Share> {
        let pass = Pass {
            training: Some(DrawKey {
                seed: self.seed,
                step: progress.step,
                micro: micro as u64,
            }),
            offset: 0,
            valid: batch.input.mask.clone(),
            tasks: None,
        };
        let hooks = [adapter.hooks()];
        let finite = |loss: f64| {
            if loss.is_finite() {
                return Ok(loss);
            }
            Err(Error::Numeric(format!(
                "step {}: the loss of the batch with rows {} is {loss}; nothing was changed in this step; look at these rows, or lower train.learning_rate",
                progress.step + 1,
                rows_of(std::slice::from_ref(batch))
            )))
        };
        if self.config.gradient_checkpointing {
            return rematerialise::backward(
                self.host, adapter, batch, &pass, places, gradients, &finite,
            );
        }
        let hidden = self.host.hidden(&batch.input, &pass, &hooks, None)?;
        let loss = loss_of_hidden(self.host, hidden, batch, &pass, &hooks)
            .div_scalar(places.max(1) as f64);
        let value = finite(scalar(&loss))?;
        let terms = terms_of(adapter, batch.share_of(places));
        let values = Share {
            loss: value,
            terms: terms
                .as_ref()
                .map(|terms| finite(scalar(terms)))
                .transpose()?,
        };
        let loss = match terms {
            Some(terms) => loss + terms,
            None => loss,
        };
        if !loss.is_tracked() {
            return Err(Error::Failed(
                "no trained parameter takes part in the loss; the adapter is attached where this head does not look".into(),
            ));
        }
        add(gradients, adapter.take_gradients(&mut loss.backward()));
        Ok(values)
    }

    fn penalty(
        &self,
        adapter: &dyn Adapter,
        gradients: &mut BTreeMap<String, Flat>,
        progress: Progress,
    ) -> Result<Option<f64>> {
        let Some(penalty) = adapter.penalty() else {
            return Ok(None);
        };
        let value = scalar(&penalty);
        if !value.is_finite() {
            let step = progress.step + 1;
            return Err(Error::Numeric(format!(
                "step {step}: the penalty is {value}"
            )));
        }
        if penalty.is_tracked() {
            add(gradients, adapter.take_gradients(&mut penalty.backward()));
        }
        Ok(Some(value))
    }

    fn update(
        &self,
        adapter: &mut dyn Adapter,
        optimizer: &mut dyn Optimizer,
        gradients: &BTreeMap<String, Flat>,
        scale: f64,
        factor: f64,
    ) -> Result<()> {
        let rates = |name: &str, shape: &[usize]| {
            let (rate, weight_decay) = self.groups.of(name, shape);
            (rate * factor, weight_decay)
        };
        update(adapter, optimizer, (gradients, scale), rates)
    }
}

/// Moves the parameters that have a gradient, which is multiplied by `scale`. `rates` gives learning rate and weight decay
/// of a parameter by its name and shape.
///
/// # Errors
/// What the optimizer cannot go on with.
pub(crate) fn update(
    parameters: &mut dyn Parameters,
    optimizer: &mut dyn Optimizer,
    (gradients, scale): (&BTreeMap<String, Flat>, f64),
    rates: impl Fn(&str, &[usize]) -> (f64, f64),
) -> Result<()> {
    let mut done = Ok(());
    parameters.update(&mut |parameters| {
        let updates = parameters
            .iter_mut()
            .filter_map(|Named { name, value, .. }| {
                let gradient = gradients.get(name)?.values.clone();
                let (learning_rate, weight_decay) = rates(name, &value.shape);
                Some(Update {
                    name,
                    value,
                    gradient,
                    scale,
                    learning_rate,
                    weight_decay,
                })
            });
        done = optimizer.update_all(updates.collect());
    });
    done
}

/// What one batch adds to the figures of its step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Its part of the mean loss.
    pub(crate) loss: f64,
    /// Its part of the method's own terms.
    pub(crate) terms: Option<f64>,
}

/// The terms that the last pass left in the adapter, at the weight of a batch that is `share` of the step.
pub(crate) fn terms_of(adapter: &dyn Adapter, share: f64) -> Option<Tensor<1>> {
    adapter.take_terms().map(|terms| terms.mul_scalar(share))
}

/// The sum of what is there.
pub(crate) fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}

/// Adds gradients to those already there.
pub(crate) fn add(total: &mut BTreeMap<String, Flat>, more: BTreeMap<String, Flat>) {
    for (name, gradient) in more {
        match total.get_mut(&name) {
            Some(sum) => sum.change(|sum| sum + gradient.values),
            None => {
                total.insert(name, gradient);
            }
        }
    }
}

/// The value of a one-element tensor.
pub(crate) fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().without_autodiff().into_scalar::<f32>())
}

/// Euclidean norm over all gradients together.
pub fn global_norm(gradients: &BTreeMap<String, Flat>) -> f64 {
    let values = gradients.values().map(|gradient| gradient.values.clone());
    square_sum(&values.collect::<Vec<_>>()).sqrt()
}

/// What gradients are multiplied by so that their global norm is at most `limit`, as
/// `torch.nn.utils.clip_grad_norm_` does; a limit of 0 leaves them.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    let factor = limit / (norm + 1e-6);
    if limit > 0.0 && factor < 1.0 {
        factor
    } else {
        1.0
    }
}

fn rows_of(window: &[Prepared]) -> String {
    let rows: Vec<String> = window
        .iter()
        .flat_map(|batch| &batch.rows)
        .map(|row| (row + 1).to_string())
        .collect();
    let more = rows.len().saturating_sub(16);
    let shown = rows[..rows.len() - more].join(", ");
    if more > 0 {
        format!("{shown} and {more} more")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use serde_json::Value;

    const PARITY: &str = include_str!("../../../../parity/optimize/clip.json");

    fn numbers(value: &Value, out: &mut Vec<f32>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| numbers(item, out)),
            other => out.push(other.as_f64().unwrap() as f32),
        }
    }

    fn flats(value: &Value) -> BTreeMap<String, Flat> {
        let tensors = value.as_array().unwrap().iter().enumerate();
        tensors
            .map(|(at, tensor)| {
                let mut values = Vec::new();
                numbers(tensor, &mut values);
                let count = values.len();
                (
                    at.to_string(),
                    Flat::from_vec(values, &[count], &Device::flex()),
                )
            })
            .collect()
    }

    #[test]
    fn clipping_agrees_with_torch() {
        let cases: BTreeMap<String, Value> = serde_json::from_str(PARITY).unwrap();
        assert_eq!(cases.len(), 2);
        for case in cases.values() {
            let gradients = flats(&case["gradients"]);
            let norm = global_norm(&gradients);
            assert!((norm - case["norm"].as_f64().unwrap()).abs() < 1e-5);
            let factor = clip_factor(norm, case["max_norm"].as_f64().unwrap()) as f32;
            for (name, expected) in flats(&case["clipped"]) {
                for (ours, theirs) in gradients[&name].to_vec().iter().zip(expected.to_vec()) {
                    assert!((ours * factor - theirs).abs() < 1e-6, "{ours} {theirs}");
                }
            }
        }
    }

    #[test]
    fn groups_choose_by_name_and_vectors_do_not_decay() {
        let config = TrainConfig {
            weight_decay: 0.1,
            groups: vec![ParameterGroup {
                pattern: "lora_B".into(),
                learning_rate: Some(0.5),
                weight_decay: None,
            }],
            ..TrainConfig::default()
        };
        let groups = Groups::new(&config).unwrap();
        assert_eq!(groups.of("pairs.0.lora_A", &[2, 2]), (1e-3, 0.1));
        assert_eq!(groups.of("pairs.0.lora_B", &[2, 2]), (0.5, 0.1));
        assert_eq!(groups.of("pairs.0.magnitude", &[2]), (1e-3, 0.0));
    }
}
