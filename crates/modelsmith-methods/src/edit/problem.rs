//! What a closed form is given at a layer, and what it gives back.

use super::linear::Moment;
use faer::{Mat, MatRef};

/// Keys of `n` facts at a layer `[f, n]`: inputs of the MLP's last layer at the lookup token.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Those of the bare prompts.
    pub bare: Mat<f64>,
    /// Means over the prefixed prompts.
    pub prefixed: Mat<f64>,
    /// Number of prefixed prompts.
    pub contexts: usize,
}

impl Keys {
    /// Means over all prompts (ROME).
    pub fn mean(&self) -> Mat<f64> {
        let count = self.contexts as f64;
        (&self.bare + &self.prefixed * faer::Scale(count)) * faer::Scale(1.0 / (count + 1.0))
    }

    /// Means of the bare prompt and of the mean over the others (MEMIT).
    pub fn halves(&self) -> Mat<f64> {
        if self.contexts == 0 {
            return self.bare.clone();
        }
        (&self.bare + &self.prefixed) * faer::Scale(0.5)
    }

    /// Number of facts.
    pub fn facts(&self) -> usize {
        self.bare.ncols()
    }
}

/// A layer of width `f` to `d` with `n` facts to be written.
pub struct Problem<'a> {
    /// The keys.
    pub keys: &'a Keys,
    /// What the outputs at the lookup tokens of the bare prompts lack, `[d, n]`.
    pub residual: MatRef<'a, f64>,
    /// The weight as it is, `[d, f]`, without the bias.
    pub weight: MatRef<'a, f64>,
    /// Second moment of the keys of ordinary text; present where the plan asks for it.
    pub moment: Option<&'a Moment>,
    /// `Σ k kᵀ` over remembered keys of earlier batches, `[f, f]`.
    pub memory: Option<MatRef<'a, f64>>,
}

/// The change of a weight, `left · right`, `[d, r]` and `[r, f]`.
#[derive(Clone, Debug)]
pub struct Update {
    /// `[d, r]`.
    pub left: Mat<f64>,
    /// `[r, f]`.
    pub right: Mat<f64>,
    /// The keys it was computed from, `[f, n]`, to be remembered.
    pub keys: Mat<f64>,
    /// How far the formula's denominator is from that of consistent keys (1); small values are the cause of
    /// collapse. Absent where there is no such denominator.
    pub consistency: Option<f64>,
}

impl Update {
    /// The change as one matrix `[d, f]`.
    pub fn dense(&self) -> Mat<f64> {
        &self.left * &self.right
    }

    /// Frobenius norm of the change.
    pub fn norm(&self) -> f64 {
        // ‖LR‖² = tr(Lᵀ L R Rᵀ), of matrices r by r.
        if self.left.ncols() < self.left.nrows() {
            let left = self.left.transpose() * &self.left;
            let right = &self.right * self.right.transpose();
            let mut sum = 0.0;
            for column in 0..left.ncols() {
                for row in 0..left.nrows() {
                    sum += left[(row, column)] * right[(row, column)];
                }
            }
            return sum.max(0.0).sqrt();
        }
        self.dense().norm_l2()
    }
}
