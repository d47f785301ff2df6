//! Perplexity of a host on text, in windows that do not overlap.

use crate::pool::within;
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_kernels::log_softmax;

/// Windows in one pass.
const BATCH: usize = 16;

/// Texts cut into windows of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    rows: Vec<Vec<u32>>,
}

impl Windows {
    /// Cuts texts into windows of at most `length` tokens; each text begins a new one.
    ///
    /// # Errors
    /// Texts that the tokenizer cannot express; none of two tokens or more.
    pub fn new(tokenizer: &Tokenizer, texts: &[String], length: usize) -> Result<Self> {
        let mut rows = Vec::new();
        for text in texts {
            let ids = tokenizer.encode(text, true)?;
            let windows = ids.chunks(length.max(2)).filter(|window| window.len() > 1);
            rows.extend(windows.map(<[u32]>::to_vec));
        }
        // Windows of like length share a batch.
        rows.sort_by_key(Vec::len);
        match rows.is_empty() {
            true => Err(Error::Usage(
                "there is no text of two tokens to measure the perplexity on".into(),
            )),
            false => Ok(Self { rows }),
        }
    }

    /// Tokens that are predicted.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.len() - 1).sum()
    }

    /// `exp` of the mean loss a token.
    ///
    /// # Errors
    /// A host that does not predict next tokens, a loss that is not finite.
    pub fn perplexity(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<f64> {
        let each = self.losses(host, hooks)?;
        let weighted = each.iter().zip(&self.rows);
        let sum: f64 = weighted
            .map(|(loss, row)| loss * (row.len() - 1) as f64)
            .sum();
        Ok((sum / self.tokens() as f64).exp())
    }

    /// Mean loss a token of each window, those of like length together.
    ///
    /// # Errors
    /// As [`Windows::perplexity`].
    pub fn losses(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<Vec<f64>> {
        let mut losses = Vec::with_capacity(self.rows.len());
        for batch in self.rows.chunks(BATCH) {
            let found = log_probabilities(host, hooks, batch)?;
            losses.extend(
                found
                    .iter()
                    .map(|row| -row.iter().sum::<f64>() / row.len() as f64),
            );
        }
        match losses.iter().find(|loss| !loss.is_finite()) {
            None => Ok(losses),
            Some(loss) => Err(Error::Numeric(format!("the loss on text is {loss}"))),
        }
    }
}

/// Log-probability of each token of each row but the first, given those before it.
pub(super) fn log_probabilities(
    host: &Transformer,
    hooks: &[&dyn Hooks],
    rows: &[Vec<u32>],
) -> Result<Vec<Vec<f64>>> {
    if !matches!(host.head(), modelsmith_hosts::Head::CausalLm) {
        return Err(Error::Usage(format!(
            "{} does not predict next tokens",
            host.info().architecture
        )));
    }
    let device = host.device();
    let input = TokenInput::from_ids(rows, host.pad_token().unwrap_or(0), false, &device);
    let logits = within(|| host.forward(&input, &Pass::default(), hooks))?;
    let [batch, time, vocabulary] = logits.dims();
    let logits = logits.reshape([batch * time, vocabulary]);
    let mut targets = vec![0_i64; batch * time];
    for (number, row) in rows.iter().enumerate() {
        let next = row.iter().skip(1).map(|id| i64::from(*id));
        targets[number * time..]
            .iter_mut()
            .zip(next)
            .for_each(|(target, id)| *target = id);
    }
    let data = TensorData::new(targets, [batch * time, 1]);
    let targets = Tensor::<2, Int>::from_data(data, &device);
    let found = modelsmith_core::parameters::to_vec(log_softmax(logits).gather(1, targets));
    let lines = rows.iter().zip(found.chunks_exact(time));
    Ok(lines
        .map(|(row, line)| {
            line[..row.len() - 1]
                .iter()
                .map(|x| f64::from(*x))
                .collect()
        })
        .collect())
}
