//! Merges on the sphere, and model stock: linear combinations whose coefficients follow from inner products.
//!
//! Everything that these methods compute (directions, tangents, exponentials, the iterations of a Karcher mean) stays in the
//! span of the inputs, so it is computed on coefficients with the Gram matrix `G_ij = ⟨v_i, v_j⟩`: one look at the tensor,
//! whatever the method.

use super::combination::Combination;
use super::{Job, Rule, Source};
use crate::delta::sums::dot;
use modelsmith_core::Result;
use modelsmith_core::error::Error;

/// Below this a length counts as zero.
const EPSILON: f64 = 1e-8;
/// Cosine beyond which SLERP becomes linear interpolation.
const PARALLEL: f64 = 0.9995;

pub(super) fn plan<S: Source>(rule: Rule, job: &Job<'_>, source: &S) -> Result<Combination> {
    // SLERP's base is one of its two ends; elsewhere a base is what the others are differences from.
    let origin = job.base.filter(|_| rule != Rule::Slerp);
    let vectors: Vec<usize> = match rule {
        Rule::Slerp => {
            let base = job.base.unwrap_or(0);
            vec![base, usize::from(base == 0)]
        }
        _ => job.tasks(),
    };
    let gram = Gram::of(source, &vectors, origin)?;
    let coefficients = match rule {
        Rule::Slerp => slerp(&gram, job.common("t")),
        Rule::NuSlerp => nuslerp(&gram, &weights(job, &vectors)),
        Rule::MultiSlerp => multislerp(&gram, &normalized(job, &vectors), job)?,
        Rule::Karcher => karcher(&gram, job.common("max_iter") as usize, job.common("tol")),
        _ => model_stock(&gram),
    };
    let coefficients = vectors.iter().copied().zip(coefficients).collect();
    Ok(match origin {
        Some(base) => Combination::around(base, coefficients),
        None => Combination::of(coefficients),
    })
}

fn weights(job: &Job<'_>, vectors: &[usize]) -> Vec<f64> {
    vectors
        .iter()
        .map(|input| job.of(*input, "weight"))
        .collect()
}

fn normalized(job: &Job<'_>, vectors: &[usize]) -> Vec<f64> {
    let weights = weights(job, vectors);
    let sum: f64 = weights.iter().sum();
    match job.flag("normalize_weights") && sum != 0.0 {
        true => weights.into_iter().map(|weight| weight / sum).collect(),
        false => weights,
    }
}

/// Inner products of vectors.
struct Gram {
    count: usize,
    products: Vec<f64>,
}

impl Gram {
    fn of<S: Source>(source: &S, vectors: &[usize], origin: Option<usize>) -> Result<Self> {
        let count = vectors.len();
        let parts = source.sweep(|block| {
            if let Some(base) = origin {
                block.subtract(base);
            }
            let of = |i: usize| block.inputs[vectors[i]].as_slice();
            let pairs = (0..count).flat_map(|i| (i..count).map(move |j| (i, j)));
            pairs.map(|(i, j)| dot(of(i), of(j))).collect::<Vec<f64>>()
        })?;
        let mut sums = vec![0.0; count * (count + 1) / 2];
        for part in parts {
            for (sum, value) in sums.iter_mut().zip(part) {
                *sum += value;
            }
        }
        let mut products = vec![0.0; count * count];
        let mut sums = sums.into_iter();
        for i in 0..count {
            for j in i..count {
                let value = sums.next().unwrap_or(0.0);
                products[i * count + j] = value;
                products[j * count + i] = value;
            }
        }
        Ok(Self { count, products })
    }

    fn norm(&self, i: usize) -> f64 {
        self.products[i * self.count + i].max(0.0).sqrt()
    }

    /// The inner product of two unit vectors; of a zero vector itself counts.
    fn cosine(&self, i: usize, j: usize) -> f64 {
        let unit = |i| {
            if self.norm(i) > EPSILON {
                self.norm(i)
            } else {
                1.0
            }
        };
        (self.products[i * self.count + j] / (unit(i) * unit(j))).clamp(-1.0, 1.0)
    }

    /// `⟨u_i, Σ c u⟩` over unit vectors.
    fn along(&self, i: usize, coefficients: &[f64]) -> f64 {
        coefficients
            .iter()
            .enumerate()
            .map(|(j, c)| c * self.cosine(i, j))
            .sum()
    }

    /// `|Σ c u|` over unit vectors.
    fn length(&self, coefficients: &[f64]) -> f64 {
        let square = |i: usize| coefficients[i] * self.along(i, coefficients);
        (0..self.count).map(square).sum::<f64>().max(0.0).sqrt()
    }

    /// Coefficients of unit vectors as those of the vectors, times `scale`; zero vectors take none.
    fn on_vectors(&self, coefficients: &[f64], scale: f64) -> Vec<f64> {
        let of = |i: usize| match self.norm(i) {
            norm if norm > EPSILON => scale * coefficients[i] / norm,
            _ => 0.0,
        };
        (0..self.count).map(of).collect()
    }
}

/// `sin((1-t)θ)/sin θ a + sin(tθ)/sin θ b`, θ the angle between a and b; nearly parallel ones are interpolated.
fn slerp(gram: &Gram, t: f64) -> Vec<f64> {
    let cosine = gram.cosine(0, 1);
    if cosine.abs() > PARALLEL {
        return vec![1.0 - t, t];
    }
    arc(cosine.acos(), t)
}

fn arc(angle: f64, t: f64) -> Vec<f64> {
    vec![
        ((1.0 - t) * angle).sin() / angle.sin(),
        (t * angle).sin() / angle.sin(),
    ]
}

/// SLERP with `t` from two weights, interpolating only where the angle vanishes.
fn nuslerp(gram: &Gram, weights: &[f64]) -> Vec<f64> {
    let sum = weights[0] + weights[1];
    let t = if sum.abs() < 1e-6 {
        0.5
    } else {
        weights[1] / sum
    };
    let angle = gram.cosine(0, 1).acos();
    match angle.sin().abs() < EPSILON {
        true => vec![1.0 - t, t],
        false => arc(angle, t),
    }
}

/// From the direction of the weighted sum along the weighted mean of the tangents, with the weighted mean length.
fn multislerp(gram: &Gram, weights: &[f64], job: &Job<'_>) -> Result<Vec<f64>> {
    let length = gram.length(weights);
    if length < EPSILON {
        // Equal inputs leave nothing to turn; opposite ones have no direction between them.
        if (0..gram.count).all(|i| gram.norm(i) <= EPSILON) {
            return Ok(vec![0.0; gram.count]);
        }
        let problem = format!(
            "{}: the weighted directions of the models cancel out",
            job.place.name
        );
        return Err(Error::Numeric(problem));
    }
    let mean: Vec<f64> = weights.iter().map(|weight| weight / length).collect();
    let shared: f64 = (0..gram.count)
        .map(|i| weights[i] * gram.along(i, &mean))
        .sum();
    let tangent: Vec<f64> = weights
        .iter()
        .zip(&mean)
        .map(|(weight, mean)| weight - shared * mean)
        .collect();
    let angle = gram.length(&tangent);
    let turn = if angle > EPSILON {
        angle.sin() / angle
    } else {
        1.0
    };
    let direction: Vec<f64> = mean
        .iter()
        .zip(&tangent)
        .map(|(mean, tangent)| mean * angle.cos() + turn * tangent)
        .collect();
    let scale: f64 = (0..gram.count).map(|i| weights[i] * gram.norm(i)).sum();
    Ok(gram.on_vectors(&direction, scale))
}

/// The Karcher mean of the directions by gradient steps, with the mean length.
fn karcher(gram: &Gram, iterations: usize, tolerance: f64) -> Vec<f64> {
    let present: Vec<bool> = (0..gram.count).map(|i| gram.norm(i) > EPSILON).collect();
    let count = present.iter().filter(|present| **present).count().max(1) as f64;
    let alpha: Vec<f64> = present
        .iter()
        .map(|present| if *present { 1.0 / count } else { 0.0 })
        .collect();
    let mut mean = scaled(&alpha, 1.0 / gram.length(&alpha).max(EPSILON));
    for _ in 0..iterations {
        let mut tangent = vec![0.0; gram.count];
        for i in (0..gram.count).filter(|i| present[*i]) {
            let along = gram.along(i, &mean).clamp(-1.0, 1.0);
            let angle = along.acos();
            if angle.sin() < EPSILON {
                continue;
            }
            let pull = alpha[i] * angle / angle.sin();
            tangent[i] += pull;
            for (tangent, mean) in tangent.iter_mut().zip(&mean) {
                *tangent -= pull * along * mean;
            }
        }
        let step = gram.length(&tangent);
        if step < tolerance {
            break;
        }
        for (mean, tangent) in mean.iter_mut().zip(&tangent) {
            *mean = *mean * step.cos() + tangent * step.sin() / step;
        }
        mean = scaled(&mean, 1.0 / gram.length(&mean).max(EPSILON));
    }
    let scale: f64 = (0..gram.count).map(|i| alpha[i] * gram.norm(i)).sum();
    gram.on_vectors(&mean, scale)
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|value| value * factor).collect()
}

/// `t` times the mean of the task vectors, `t = N cos θ / (1 + (N-1) cos θ)` with the mean cosine of all pairs.
fn model_stock(gram: &Gram) -> Vec<f64> {
    let n = gram.count;
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| gram.cosine(i, j)).sum();
    let cosine = sum / (n * (n - 1) / 2).max(1) as f64;
    let n = n as f64;
    let t = n * cosine / (1.0 + (n - 1.0) * cosine);
    vec![t / n; gram.count]
}
