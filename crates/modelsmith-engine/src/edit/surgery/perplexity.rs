//! Perplexity of a host on text, in windows that do not overlap.

use crate::pool::within;
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
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
    pub fn perplexity(&self, host: &Transformer) -> Result<f64> {
        let mut sum = 0.0;
        for batch in self.rows.chunks(BATCH) {
            sum -= log_probabilities(host, batch)?
                .iter()
                .flatten()
                .sum::<f64>();
        }
        let loss = sum / self.tokens() as f64;
        match loss.is_finite() {
            true => Ok(loss.exp()),
            false => Err(Error::Numeric(format!("the loss on text is {loss}"))),
        }
    }
}

/// Log-probability of each token of each row but the first, given those before it.
pub(super) fn log_probabilities(host: &Transformer, rows: &[Vec<u32>]) -> Result<Vec<Vec<f64>>> {
    if !matches!(host.head(), modelsmith_hosts::Head::CausalLm) {
        return Err(Error::Usage(format!(
            "{} does not predict next tokens",
            host.info().architecture
        )));
    }
    let device = host.device();
    let input = TokenInput::from_ids(rows, host.pad_token().unwrap_or(0), false, &device);
    let logits = within(|| host.forward(&input, &Pass::default(), &[]))?;
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
