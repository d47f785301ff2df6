//! The behaviour probe: a softmax head on features that were computed once.
//!
//! ```text
//! logits = W h + b       W: [classes, width], b: [classes]
//! loss   = mean of -log softmax(logits)[class]
//! ```
//!
//! Weights and biases start uniform in ±1/√width, Adam without decay moves them, and the epoch with the
//! best accuracy on held-out texts is kept (on a tie the one with the lower held-out loss).

use super::adam::Adam;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a probe is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeOptions {
    /// Step size of Adam.
    pub learning_rate: f64,
    /// Passes over the texts.
    pub epochs: usize,
    /// Texts of a step.
    pub batch_size: usize,
    /// Share of the texts that choose the epoch.
    pub held_out: f64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            epochs: 20,
            batch_size: 16,
            held_out: 0.1,
        }
    }
}

impl ProbeOptions {
    pub(super) fn check(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: String| Err(Error::config(format!("method.probe.{key}"), problem));
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let found = self.learning_rate;
            return refuse(
                "learning_rate",
                format!("is {found}; give a number above 0"),
            );
        }
        for (key, count) in [("epochs", self.epochs), ("batch_size", self.batch_size)] {
            if count == 0 {
                return refuse(key, "is 0; give at least 1".into());
            }
        }
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            let found = self.held_out;
            return refuse(
                "held_out",
                format!("is {found}; give a share between 0 and 1"),
            );
        }
        Ok(())
    }
}

/// Features with their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// Features of each text, `[texts][width]`.
    pub features: Vec<Vec<f32>>,
    /// Class of each text.
    pub classes: Vec<usize>,
}

impl Examples {
    /// Numbers of a feature; 0 where there is none.
    pub fn width(&self) -> usize {
        self.features.first().map_or(0, Vec::len)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.features.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// Classes that occur, by the largest number.
    pub fn class_count(&self) -> usize {
        self.classes.iter().max().map_or(0, |most| most + 1)
    }

    fn check(&self) -> Result<()> {
        let width = self.width();
        let fail = |problem: String| Err(Error::Failed(format!("probe: {problem}")));
        if self.features.len() != self.classes.len() {
            return fail("each text needs one class".into());
        }
        if width == 0 || self.features.iter().any(|row| row.len() != width) {
            return fail("features must all have the same width, above 0".into());
        }
        if self
            .features
            .iter()
            .flatten()
            .any(|value| !value.is_finite())
        {
            return Err(Error::Numeric(
                "a hidden state is infinite or not a number; the model is broken".into(),
            ));
        }
        for class in 0..self.class_count().max(2) {
            if !self.classes.contains(&class) {
                return fail(format!(
                    "no text has class {class}; give texts of each class"
                ));
            }
        }
        Ok(())
    }
}

/// A trained head.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// A row a class, `[classes][width]`.
    pub weight: Vec<Vec<f64>>,
    /// `[classes]`.
    pub bias: Vec<f64>,
    /// Share of held-out texts that it gets right.
    pub accuracy: f64,
    /// The epoch it is of, from 1.
    pub epoch: usize,
    /// Texts that chose the epoch.
    pub held_out: usize,
}

impl Probe {
    /// Trains on most of the examples and chooses the epoch by the rest.
    ///
    /// # Errors
    /// Examples of fewer than two classes, features that are not finite or of different widths, too
    /// few texts to hold any out.
    pub fn train(examples: &Examples, options: &ProbeOptions, seed: u64) -> Result<Self> {
        options.check()?;
        examples.check()?;
        let mut order: Vec<usize> = (0..examples.len()).collect();
        Stream::new(seed, "surgery/split").shuffle(&mut order);
        let held = (examples.len() as f64 * options.held_out).round() as usize;
        if held == 0 || held == examples.len() {
            return Err(Error::Failed(format!(
                "probe: {} texts cannot be split with {} held out; give more texts",
                examples.len(),
                options.held_out
            )));
        }
        let (held, mut training) = (order.split_off(examples.len() - held), order);
        let mut probe = Self::fresh(examples.class_count(), examples.width(), seed);
        let mut adam = Adam::new(options.learning_rate, probe.count());
        let mut best: Option<(f64, Self)> = None;
        for epoch in 1..=options.epochs {
            Stream::new(seed, &format!("surgery/epoch/{epoch}")).shuffle(&mut training);
            for batch in training.chunks(options.batch_size) {
                probe.step(examples, batch, &mut adam);
            }
            let (accuracy, loss) = probe.score(examples, &held);
            let better = |(least, best): &(f64, Self)| {
                accuracy > best.accuracy || (accuracy == best.accuracy && loss < *least)
            };
            if best.as_ref().is_none_or(better) {
                let found = Self {
                    accuracy,
                    epoch,
                    held_out: held.len(),
                    ..probe.clone()
                };
                best = Some((loss, found));
            }
        }
        best.map(|(_, probe)| probe)
            .ok_or_else(|| Error::Failed("probe: no epoch was trained".into()))
    }

    /// The head before training.
    pub(super) fn fresh(classes: usize, width: usize, seed: u64) -> Self {
        let bound = 1.0 / (width as f32).sqrt();
        let mut stream = Stream::new(seed, "surgery/probe");
        let mut draw = |count| -> Vec<f64> {
            let values = stream.uniform(count, -bound, bound);
            values.into_iter().map(f64::from).collect()
        };
        Self {
            weight: (0..classes).map(|_| draw(width)).collect(),
            bias: draw(classes),
            accuracy: 0.0,
            epoch: 0,
            held_out: 0,
        }
    }

    fn count(&self) -> usize {
        self.weight.iter().map(Vec::len).sum::<usize>() + self.bias.len()
    }

    /// Logits of a feature, `[classes]`.
    pub fn logits(&self, feature: &[f32]) -> Vec<f64> {
        let rows = self.weight.iter().zip(&self.bias);
        rows.map(|(row, bias)| {
            let products = row.iter().zip(feature).map(|(w, h)| w * f64::from(*h));
            products.sum::<f64>() + bias
        })
        .collect()
    }

    /// Probabilities of the classes, `[classes]`.
    pub fn probabilities(&self, feature: &[f32]) -> Vec<f64> {
        let logits = self.logits(feature);
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    /// The likeliest class, the first of several.
    pub fn class(&self, feature: &[f32]) -> usize {
        let logits = self.logits(feature);
        (1..logits.len()).fold(0, |best, class| match logits[class] > logits[best] {
            true => class,
            false => best,
        })
    }

    /// One step on the mean loss of a batch.
    fn step(&mut self, examples: &Examples, batch: &[usize], adam: &mut Adam) {
        let (classes, width) = (self.weight.len(), examples.width());
        let mut gradients = vec![0.0; self.count()];
        for text in batch {
            let feature = &examples.features[*text];
            let mut errors = self.probabilities(feature);
            errors[examples.classes[*text]] -= 1.0;
            for (class, error) in errors.iter().enumerate() {
                let error = error / batch.len() as f64;
                let row = &mut gradients[class * width..][..width];
                row.iter_mut()
                    .zip(feature)
                    .for_each(|(sum, h)| *sum += error * f64::from(*h));
                gradients[classes * width + class] += error;
            }
        }
        let mut flat: Vec<f64> = self.weight.concat();
        flat.extend(&self.bias);
        adam.step(&mut flat, &gradients);
        self.bias = flat.split_off(classes * width);
        self.weight = flat.chunks(width).map(<[f64]>::to_vec).collect();
    }

    /// Accuracy and mean loss on some of the texts.
    fn score(&self, examples: &Examples, texts: &[usize]) -> (f64, f64) {
        let (mut right, mut loss) = (0.0, 0.0);
        for text in texts {
            let (feature, class) = (&examples.features[*text], examples.classes[*text]);
            right += f64::from(u8::from(self.class(feature) == class));
            loss -= self.probabilities(feature)[class]
                .max(f64::MIN_POSITIVE)
                .ln();
        }
        (right / texts.len() as f64, loss / texts.len() as f64)
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
