//! Trains all weights of a network on labelled images.

use super::{learnt, logits, losses};
use crate::pool::within;
use crate::signals::Stop;
use crate::train::{Schedule, update};
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::ImageHost;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::roles::{Optimize, Optimizer};
use modelsmith_data::images::{ImageBatch, ImageSet, Normalisation, epoch_order};
use modelsmith_methods::optimize::AdamW;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long and how fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fit {
    /// Times that every image is seen.
    pub epochs: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Peak learning rate of Adam.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    pub schedule: Schedule,
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 64,
            learning_rate: 3e-4,
            schedule: Schedule::Constant,
        }
    }
}

impl Fit {
    /// Refuses counts of 0 and a rate that is none.
    ///
    /// # Errors
    /// The key, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        if self.epochs == 0 || self.batch_size == 0 {
            return Err(Error::config(
                "epochs, batch_size",
                "hold 0; must be at least 1",
            ));
        }
        match self.learning_rate.is_finite() && self.learning_rate > 0.0 {
            true => Ok(()),
            false => {
                let problem = format!("is {}; must be above 0", self.learning_rate);
                Err(Error::config("learning_rate", problem))
            }
        }
    }
}

/// Trains the network by Adam without decay on the cross entropy; the images' order depends on seed and epoch only. Its
/// weights are frozen again at the end.
///
/// # Errors
/// No image, images of another size or a class that the network has not, a loss that is not finite, a signal.
pub fn fit(
    host: &mut dyn ImageHost,
    set: &ImageSet,
    by: &Normalisation,
    fit: &Fit,
    seed: u64,
    stop: &Stop,
) -> Result<()> {
    fit.check()?;
    let classes = host.classes();
    if set.is_empty() || set.labels().iter().any(|label| *label >= classes) {
        return Err(Error::Failed(format!(
            "{} images with labels up to {:?}; expected at least one, of {classes} classes",
            set.len(),
            set.labels().iter().max()
        )));
    }
    let learnt = learnt(host);
    host.set_trainable(&|name| learnt.contains(name));
    let done = epochs(host, (set, by), fit, seed, stop);
    host.set_trainable(&|_| false);
    done
}

fn epochs(
    host: &mut dyn ImageHost,
    (set, by): (&ImageSet, &Normalisation),
    fit: &Fit,
    seed: u64,
    stop: &Stop,
) -> Result<()> {
    let mut optimizer = AdamW::default().optimizer()?;
    let total = fit.epochs * set.len().div_ceil(fit.batch_size) as u64;
    let mut step = 0;
    for epoch in 0..fit.epochs {
        for numbers in epoch_order(set.len(), seed, epoch).chunks(fit.batch_size) {
            if let Some((_, name)) = stop.requested() {
                return Err(Error::Failed(format!("stopped by {name} while training")));
            }
            let rate = fit.learning_rate * fit.schedule.factor(step, 0, total);
            let batch = set.batch(numbers, by);
            within(|| take_step(host, &mut *optimizer, &batch, rate)).map_err(|error| {
                Error::Numeric(format!("step {} of {total}: {error}", step + 1))
            })?;
            step += 1;
        }
    }
    Ok(())
}

fn take_step(
    host: &mut dyn ImageHost,
    optimizer: &mut dyn Optimizer,
    batch: &ImageBatch,
    learning_rate: f64,
) -> Result<()> {
    let loss: Tensor<1> = losses(logits(host, batch)?, &batch.labels, &host.device()).mean();
    let value = to_vec(loss.clone().without_autodiff())[0];
    if !value.is_finite() {
        return Err(Error::Numeric(format!(
            "the loss is {value}; lower the learning rate"
        )));
    }
    let gradients: BTreeMap<String, Flat> = host.take_gradients(&mut loss.backward());
    let rates = |_: &str, _: &[usize]| (learning_rate, 0.0);
    update(host, optimizer, (&gradients, 1.0), rates)
}
