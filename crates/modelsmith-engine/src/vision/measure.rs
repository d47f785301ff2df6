//! What a network makes of each image.

use super::{TOGETHER, logits, losses};
use crate::pool::within;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::ImageHost;
use modelsmith_core::parameters::to_vec;
use modelsmith_data::images::{ImageSet, Normalisation};

/// Scores image by image, in the order of the set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// 1 where the class has the highest score, else 0.
    pub exact: Vec<f64>,
    /// Negative log-likelihood of the class.
    pub loss: Vec<f64>,
}

impl Measured {
    /// Mean loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss.iter().sum::<f64>() / self.loss.len().max(1) as f64
    }
}

/// Scores of all images.
///
/// # Errors
/// Images of another size, a loss that is not finite.
pub fn measure(host: &dyn ImageHost, set: &ImageSet, by: &Normalisation) -> Result<Measured> {
    let mut measured = Measured::default();
    for batch in set.batches(TOGETHER, by) {
        let (best, losses) = within(|| {
            let logits = logits(host, &batch)?;
            let best = logits.clone().argmax(1).into_data().convert::<i64>();
            let losses = losses(logits, &batch.labels, &host.device());
            Ok::<_, Error>((best, to_vec(losses)))
        })?;
        for (best, label) in best.iter::<i64>().zip(&batch.labels) {
            let right = usize::try_from(best) == Ok(*label);
            measured.exact.push(f64::from(u8::from(right)));
        }
        measured.loss.extend(losses.into_iter().map(f64::from));
    }
    match measured.loss.iter().position(|loss| !loss.is_finite()) {
        None => Ok(measured),
        Some(at) => Err(Error::Numeric(format!(
            "the loss of image {} is {}",
            at + 1,
            measured.loss[at]
        ))),
    }
}
