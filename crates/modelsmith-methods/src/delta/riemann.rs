//! What does an edit do to a loss, tensor by tensor? A Riemann sum along the way from the weights to the edited ones.
//!
//! ```text
//! ΔL = ∫₀¹ ⟨∇L(W + tΔ̃), Δ̃⟩ dt ≈ Σ_c weight_c ⟨∇L(W + t_c Δ̃), Δ̃⟩
//! left: t = 0, 1/C .. (C-1)/C, weights 1/C        trapezoid: t = 0 .. 1, both ends half
//! ```
//!
//! The left rule is the paper's. On a quadratic loss it is off by `-Δ̃ᵀHΔ̃ / 2C`, for random masks as much as the effect
//! itself; the trapezoid rule, one point more, is exact there. Left sums of different C do not compare.

use modelsmith_core::Result;
use modelsmith_core::error::Error;
use serde::{Deserialize, Serialize};

/// Where the integrand is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// C points, the left end of each step.
    Left,
    /// C + 1 points.
    Trapezoid,
}

/// An estimate of the loss difference with its parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Riemann {
    /// The sum over all tensors.
    pub total: f64,
    /// The share of each tensor, in the order of the perturbations.
    pub tensors: Vec<f64>,
}

/// The sum over `steps` steps. `perturbation` holds Δ̃ of every tensor; `gradient(t)` returns ∇L at `W + tΔ̃` in the same
/// order and lengths.
///
/// # Errors
/// No step, a gradient of another shape or not finite, and whatever `gradient` returns.
pub fn riemann(
    perturbation: &[&[f32]],
    steps: usize,
    rule: Rule,
    mut gradient: impl FnMut(f64) -> Result<Vec<Vec<f32>>>,
) -> Result<Riemann> {
    if steps == 0 {
        return Err(Error::config("points", "is 0; must be at least 1"));
    }
    let points = match rule {
        Rule::Left => steps,
        Rule::Trapezoid => steps + 1,
    };
    let mut tensors = vec![0.0; perturbation.len()];
    for point in 0..points {
        let at_an_end = rule == Rule::Trapezoid && (point == 0 || point == steps);
        let weight = if at_an_end { 0.5 } else { 1.0 } / steps as f64;
        let found = gradient(point as f64 / steps as f64)?;
        check(&found, perturbation)?;
        for ((sum, gradient), change) in tensors.iter_mut().zip(&found).zip(perturbation) {
            *sum += weight * super::sums::dot(gradient, change);
        }
    }
    let total: f64 = tensors.iter().sum();
    if !total.is_finite() {
        return Err(Error::Numeric(
            "a gradient along the edit is not finite".into(),
        ));
    }
    Ok(Riemann { total, tensors })
}

/// Entries of `ΔW ⊙ ∇L` by sign: where the loss falls along the difference, where it stays, where it rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Signs {
    /// Products below 0.
    pub negative: u64,
    /// Products of 0.
    pub zero: u64,
    /// Products above 0.
    pub positive: u64,
}

/// Counts the signs of the products of a difference with a gradient; the slices are equally long.
pub fn signs(delta: &[f32], gradient: &[f32]) -> Signs {
    let mut signs = Signs::default();
    for (delta, gradient) in delta.iter().zip(gradient) {
        // The signs are compared, since a product of small numbers is 0.
        let product = delta.signum() * gradient.signum();
        let count = match *delta == 0.0 || *gradient == 0.0 {
            true => &mut signs.zero,
            false if product < 0.0 => &mut signs.negative,
            false => &mut signs.positive,
        };
        *count += 1;
    }
    signs
}

fn check(gradients: &[Vec<f32>], perturbation: &[&[f32]]) -> Result<()> {
    let lengths = |parts: &mut dyn Iterator<Item = usize>| parts.collect::<Vec<_>>();
    let found = lengths(&mut gradients.iter().map(Vec::len));
    let expected = lengths(&mut perturbation.iter().map(|part| part.len()));
    if found == expected {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "gradients of {found:?} entries for edits of {expected:?}"
    )))
}
