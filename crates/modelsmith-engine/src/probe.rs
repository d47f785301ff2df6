//! A fixed probe: the same tokens through a model before and after it was changed.

use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_hosts::{TokenInput, Transformer};

/// Rows of the probe.
const ROWS: usize = 2;
/// Tokens of each row, where the model reads that many.
const TIME: usize = 24;

/// Logits on tokens drawn from the whole vocabulary, always the same ones.
///
/// # Errors
/// Logits that are not finite.
pub(crate) fn logits(
    host: &Transformer,
    hooks: &[&dyn Hooks],
    device: &Device,
) -> Result<Vec<f32>> {
    let mut stream = Stream::new(0, "probe");
    let time = TIME.min(host.max_positions());
    let mut row = || {
        (0..time)
            .map(|_| stream.below(host.vocab_size()) as u32)
            .collect()
    };
    let rows: Vec<Vec<u32>> = (0..ROWS).map(|_| row()).collect();
    let rows = TokenInput::from_ids(&rows, 0, false, device);
    // An encoder reads what its decoder reads.
    let source = host.decoder_start().map(|_| Box::new(rows.clone()));
    let input = TokenInput { source, ..rows };
    let logits = to_vec(host.forward(&input, &Pass::default(), hooks)?);
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(logit) => Err(Error::Numeric(format!(
            "the model gives a logit of {logit} on a probe of {ROWS} x {time} tokens"
        ))),
        None => Ok(logits),
    }
}

/// The greatest difference of two sets of logits over the greatest size of the first.
pub(crate) fn difference(first: &[f32], second: &[f32]) -> f64 {
    let size = first
        .iter()
        .fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let apart = first
        .iter()
        .zip(second)
        .fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    f64::from(apart) / f64::from(size)
}
