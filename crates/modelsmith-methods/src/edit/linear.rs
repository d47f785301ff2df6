//! Linear algebra of the closed forms, in f64 through `faer`.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, MatRef, Side};
use modelsmith_core::error::{Error, Result};
use std::sync::OnceLock;

/// What is added to a diagonal, relative to its mean, where a matrix is singular or nearly so.
const RIDGE: f64 = 1e-6;

/// A matrix whose pivots differ by more than this factor counts as singular.
const NEARLY: f64 = 1e-12;

/// The uncentred second moment `C = E[k kᵀ]` `[f, f]` of a layer's keys over ordinary text, with what
/// editors derive from it once.
pub struct Moment {
    matrix: Mat<f64>,
    tokens: u64,
    factor: OnceLock<Option<Llt<f64>>>,
    spectrum: OnceLock<Option<(Vec<f64>, Mat<f64>)>>,
}

impl Moment {
    /// From the mean of `k kᵀ` over `tokens` tokens.
    pub fn new(matrix: Mat<f64>, tokens: u64) -> Self {
        Self {
            matrix,
            tokens,
            factor: OnceLock::new(),
            spectrum: OnceLock::new(),
        }
    }

    /// `[f, f]`.
    pub fn matrix(&self) -> MatRef<'_, f64> {
        self.matrix.as_ref()
    }

    /// Tokens it is the mean of.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// `tr C`, the mean squared length of the keys.
    pub fn trace(&self) -> f64 {
        let diagonal = (0..self.matrix.nrows()).map(|place| self.matrix[(place, place)]);
        diagonal.sum()
    }

    /// `C⁻¹ x`; with a small ridge where the moment is singular or nearly so.
    ///
    /// # Errors
    /// A moment that is not positive even so.
    pub fn solve(&self, x: MatRef<'_, f64>) -> Result<Mat<f64>> {
        let factor = self.factor.get_or_init(|| factor(self.matrix.clone()));
        match factor {
            Some(factor) => Ok(factor.solve(x)),
            None => Err(not_positive("the second moment of the keys")),
        }
    }

    /// Eigenvalues, rising, and eigenvectors as columns.
    ///
    /// # Errors
    /// A moment that is not finite.
    pub fn spectrum(&self) -> Result<(&[f64], MatRef<'_, f64>)> {
        let found = self.spectrum.get_or_init(|| {
            let eigen = self.matrix.self_adjoint_eigen(Side::Lower).ok()?;
            let values = eigen.S().column_vector().iter().copied().collect();
            Some((values, eigen.U().to_owned()))
        });
        match found {
            Some((values, vectors)) => Ok((values, vectors.as_ref())),
            None => Err(Error::Numeric(
                "the second moment of the keys has no eigenvalues; it is not finite".into(),
            )),
        }
    }
}

/// `A⁻¹ B` for a symmetric positive `A`; with a ridge of 1e-6 of the mean diagonal where it is not.
///
/// # Errors
/// A matrix that is not positive even so.
pub(super) fn solve_symmetric(a: Mat<f64>, b: MatRef<'_, f64>) -> Result<Mat<f64>> {
    match factor(a) {
        Some(factor) => Ok(factor.solve(b)),
        None => Err(not_positive("the matrix of keys")),
    }
}

/// The Cholesky factor of a symmetric matrix, of the ridged one where it is singular or nearly so.
fn factor(a: Mat<f64>) -> Option<Llt<f64>> {
    let sound = |factor: &Llt<f64>| {
        let pivots = (0..a.nrows()).map(|place| factor.L()[(place, place)].powi(2));
        let (low, high) = pivots.fold((f64::MAX, 0.0_f64), |(low, high), pivot| {
            (low.min(pivot), high.max(pivot))
        });
        low > NEARLY * high
    };
    match a.llt(Side::Lower) {
        Ok(factor) if sound(&factor) => Some(factor),
        _ => ridged(a).llt(Side::Lower).ok(),
    }
}

/// The product of two matrices.
pub fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    a * b
}

/// `x` times `scale`.
pub(super) fn scaled(x: MatRef<'_, f64>, scale: f64) -> Mat<f64> {
    x * faer::Scale(scale)
}

/// Adds `value` to the diagonal.
pub(super) fn add_diagonal(x: &mut Mat<f64>, value: f64) {
    for place in 0..x.nrows().min(x.ncols()) {
        x[(place, place)] += value;
    }
}

fn ridged(mut x: Mat<f64>) -> Mat<f64> {
    let size = x.nrows();
    let mean = (0..size).map(|place| x[(place, place)]).sum::<f64>() / size.max(1) as f64;
    add_diagonal(&mut x, RIDGE * mean);
    x
}

fn not_positive(what: &str) -> Error {
    Error::Numeric(format!(
        "{what} is not positive definite or not finite; collect the moment over more text than the width \
         of the MLP has numbers"
    ))
}
