//! Evaluation on held-out batches: loss, perplexity, accuracy.

use super::loss::{Masking, Prepared, outputs, prepare};
use super::step::scalar;
use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::random::Stream;
use modelsmith_data::Loader;
use modelsmith_hosts::Transformer;
use modelsmith_kernels::log_softmax;
use serde::Serialize;

/// Figures of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood a place (token, or example for classifiers).
    pub loss: f64,
    /// Share of places whose target has the highest score.
    pub accuracy: f64,
    /// Places counted.
    pub places: u64,
}

impl Evaluation {
    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Reads the batches of one epoch of `loader` (at most `limit` when not 0) and scores them.
///
/// # Errors
/// Rows that cannot be read, no place that counts, a loss that is not finite.
pub fn evaluate(
    host: &Transformer,
    loader: &Loader,
    limit: u64,
    masking: Option<Masking>,
    hooks: &[&dyn Hooks],
    device: &Device,
) -> Result<Evaluation> {
    let mut loader = loader.clone();
    loader.seek(modelsmith_data::Position::default())?;
    let pass = Pass::default();
    let (mut loss, mut correct, mut places) = (0.0, 0u64, 0u64);
    let mut read = 0;
    while limit == 0 || read < limit {
        let Some(batch) = loader.next_in_epoch()? else {
            break;
        };
        // The same tokens are hidden at every evaluation.
        let masking = masking.map(|m| (m, Stream::new(0, &format!("evaluate/{read}"))));
        let prepared = prepare(&batch, host.head(), masking, device)?;
        read += 1;
        if prepared.targets.is_empty() {
            continue;
        }
        let (sum, hits) = score(host, &prepared, &pass, hooks)?;
        loss += sum;
        correct += hits;
        places += prepared.targets.len() as u64;
    }
    if places == 0 {
        return Err(Error::config(
            "data",
            "no held-out token counts in the loss",
        ));
    }
    let loss = loss / places as f64;
    if !loss.is_finite() {
        return Err(Error::Numeric(format!("the held-out loss is {loss}")));
    }
    Ok(Evaluation {
        loss,
        accuracy: correct as f64 / places as f64,
        places,
    })
}

/// Sum of losses and number of right predictions of a batch.
fn score(
    host: &Transformer,
    prepared: &Prepared,
    pass: &Pass,
    hooks: &[&dyn Hooks],
) -> Result<(f64, u64)> {
    let hidden = host.hidden(&prepared.input, pass, hooks, None)?;
    let logits = outputs(host, hidden, prepared, pass, hooks);
    let device = logits.device().without_autodiff();
    let count = prepared.targets.len();
    let data = TensorData::new(prepared.targets.clone(), [count, 1]);
    let targets = Tensor::<2, Int>::from_data(data, &device);
    let hits = logits
        .clone()
        .argmax(1)
        .equal(targets.clone())
        .int()
        .sum()
        .into_scalar::<i64>();
    let loss = log_softmax(logits).gather(1, targets).sum().neg();
    Ok((scalar(&loss), hits.unsigned_abs()))
}
