//! Scores of single held-out items, so that arms can be compared item by item.

use crate::model::Model;
use crate::train::{Prepared, outputs, prepare};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Dataset;
use modelsmith_hosts::Head;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Scores of the items of a test, in the order of their rows; those that the test has not are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// 1 where every token of the answer (or the class) has the highest score, else 0.
    pub exact: Vec<f64>,
    /// Mean negative log-likelihood of the answer's tokens (or of the class).
    pub loss: Vec<f64>,
    /// A number in the test's own unit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub amount: Vec<f64>,
    /// Hash of the files that the items are from.
    pub data_hash: String,
}

/// What was seen of one item.
#[derive(Clone, Copy, Default)]
struct Seen {
    places: usize,
    right: usize,
    loss: f64,
}

/// Scores every row of `data`.
///
/// # Errors
/// Rows that cannot be read, that share sequences, or that have nothing to predict; a loss that
/// is not finite.
pub(super) fn score(model: &Model, data: &Dataset) -> Result<Scores> {
    if model.host.head() == Head::MaskedLm {
        return Err(Error::Usage(
            "claims score causal language models and classifiers".into(),
        ));
    }
    let hooks = model.hooks();
    let mut items = BTreeMap::new();
    let mut rows = data.train.clone();
    while let Some(batch) = rows.next_in_epoch()? {
        if batch.rows.len() != batch.shape[0] {
            return Err(Error::config(
                "data.packing",
                "must be none where items are scored",
            ));
        }
        let prepared = prepare(&batch, model.host.head(), None, &model.device)?;
        let seen = score_batch(model, &prepared, batch.shape, &hooks)?;
        items.extend(batch.rows.iter().copied().zip(seen));
    }
    let mut scores = Scores {
        data_hash: data.hash.clone(),
        ..Scores::default()
    };
    for (row, seen) in items {
        let loss = seen.loss / seen.places.max(1) as f64;
        if seen.places == 0 || !loss.is_finite() {
            return Err(Error::Numeric(format!(
                "item {row}: the loss over {} places is {loss}",
                seen.places
            )));
        }
        scores
            .exact
            .push(f64::from(u8::from(seen.right == seen.places)));
        scores.loss.push(loss);
    }
    Ok(scores)
}

fn score_batch(
    model: &Model,
    prepared: &Prepared,
    shape: [usize; 2],
    hooks: &[&dyn Hooks],
) -> Result<Vec<Seen>> {
    let count = prepared.targets.len();
    let mut seen = vec![Seen::default(); shape[0]];
    if count == 0 {
        return Ok(seen);
    }
    let pass = Pass::default();
    let hidden = model.host.hidden(&prepared.input, &pass, hooks, None)?;
    let logits = outputs(&model.host, hidden, prepared, &pass, hooks);
    let targets = TensorData::new(prepared.targets.clone(), [count, 1]);
    let chosen = Tensor::<2, Int>::from_data(targets, &model.device);
    let best = logits.clone().argmax(1).into_data().convert::<i64>();
    let losses = to_vec(log_softmax(logits, 1).gather(1, chosen).neg());
    for (at, (best, loss)) in best.iter::<i64>().zip(losses).enumerate() {
        // Heads that give one output a row have no places.
        let row = prepared
            .places
            .get(at)
            .map_or(at, |place| *place as usize / shape[1]);
        seen[row].places += 1;
        seen[row].right += usize::from(best == prepared.targets[at]);
        seen[row].loss += f64::from(loss);
    }
    Ok(seen)
}
