//! Merges whose every entry is a fixed linear combination of the inputs' entries.

use super::{Blend, Block, Job};
use modelsmith_core::Result;
use modelsmith_core::error::Error;

/// `Σ c x`, over differences from an anchor where there is one: `a + Σ c (x - a)`.
///
/// A sum of coefficients of 1 is anchored at the first input, so that equal inputs come out as they are, to the bit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Combination {
    anchor: Option<usize>,
    coefficients: Vec<(usize, f32)>,
}

impl Combination {
    /// `anchor + Σ c (x - anchor)`.
    pub(super) fn around(anchor: usize, coefficients: Vec<(usize, f64)>) -> Self {
        let rest = coefficients
            .into_iter()
            .filter(|(input, _)| *input != anchor);
        Self {
            anchor: Some(anchor),
            coefficients: rest.map(|(input, c)| (input, c as f32)).collect(),
        }
    }

    /// `Σ c x`.
    pub(super) fn of(coefficients: Vec<(usize, f64)>) -> Self {
        let sum: f64 = coefficients.iter().map(|(_, c)| c).sum();
        match coefficients.first() {
            Some((first, _)) if (sum - 1.0).abs() < 1e-9 => {
                Self::around(*first, coefficients.clone())
            }
            _ => Self {
                anchor: None,
                coefficients: coefficients
                    .into_iter()
                    .map(|(input, c)| (input, c as f32))
                    .collect(),
            },
        }
    }
}

impl Blend for Combination {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let inputs = &*block.inputs;
        let anchor = self.anchor.map(|anchor| inputs[anchor].as_slice());
        match anchor {
            Some(anchor) => out.copy_from_slice(anchor),
            None => out.fill(0.0),
        }
        crate::wide!({
            for (input, c) in &self.coefficients {
                match anchor {
                    Some(anchor) => {
                        for ((out, x), a) in out.iter_mut().zip(&inputs[*input]).zip(anchor) {
                            *out += c * (x - a);
                        }
                    }
                    None => {
                        for (out, x) in out.iter_mut().zip(&inputs[*input]) {
                            *out += c * x;
                        }
                    }
                }
            }
        });
    }
}

/// The weighted sum, or with `normalize` the weighted mean.
pub(super) fn linear(job: &Job<'_>) -> Result<Combination> {
    let weights: Vec<(usize, f64)> = (0..job.inputs.len())
        .map(|input| (input, job.of(input, "weight")))
        .collect();
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    if !job.flag("normalize") {
        return Ok(Combination::of(weights));
    }
    if sum.abs() < 1e-9 {
        let problem = format!(
            "of {} sum to {sum}, which cannot be normalized; set normalize: false or other weights",
            job.place.name
        );
        return Err(Error::config("parameters.weight", problem));
    }
    let normalized = weights
        .into_iter()
        .map(|(input, weight)| (input, weight / sum));
    Ok(Combination::of(normalized.collect()))
}

/// The one input, times `scale`.
pub(super) fn passthrough(job: &Job<'_>) -> Combination {
    Combination::of(vec![(0, job.of(0, "scale"))])
}
