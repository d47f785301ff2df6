//! What an operation leaves behind: the rows, and the one vector that is added to them.
//!
//! The change of a matrix is of rank one, `indicator(rows) ⊗ alpha v`. Weights are always computed from
//! the base's and the patches on it, so taking a patch off gives back the base's own bits, and a patch may
//! be tried at any alpha.

use super::region::Candidate;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::Flat;
use std::collections::BTreeSet;

/// Rows of one weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Name of the weight.
    pub weight: String,
    /// Number of the block.
    pub block: usize,
    /// The weight is stored as `[inputs, outputs]`, so that its rows are columns.
    pub fan_in_fan_out: bool,
    /// Numbers of the rows, ascending.
    pub rows: Vec<u32>,
}

/// A change of some rows of some matrices by one vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// What is added, `[width]`.
    pub direction: Vec<f32>,
    /// How often it is added.
    pub alpha: f64,
    /// Where.
    pub places: Vec<Rows>,
}

impl Patch {
    /// A patch of chosen rows; `matrices` are the weights that candidates number, without rows.
    ///
    /// # Errors
    /// A candidate of a matrix that is not among them.
    pub fn new(
        direction: Vec<f32>,
        alpha: f64,
        matrices: &[Rows],
        chosen: &[Candidate],
    ) -> Result<Self> {
        let mut places = matrices.to_vec();
        for found in chosen {
            let place = places.get_mut(found.matrix);
            let place = place.ok_or_else(|| {
                Error::Failed(format!("there is no matrix {} to change", found.matrix))
            })?;
            place.rows.push(found.row as u32);
        }
        places.retain(|place| !place.rows.is_empty());
        places
            .iter_mut()
            .for_each(|place| place.rows.sort_unstable());
        Ok(Self {
            direction,
            alpha,
            places,
        })
    }

    /// The same rows and vector at another strength.
    #[must_use]
    pub fn at(&self, alpha: f64) -> Self {
        Self {
            alpha,
            ..self.clone()
        }
    }

    /// Rows changed in all matrices.
    pub fn count(&self) -> usize {
        self.places.iter().map(|place| place.rows.len()).sum()
    }

    /// Frobenius norm of the whole change.
    pub fn norm(&self) -> f64 {
        let square: f64 = self.direction.iter().map(|x| f64::from(*x).powi(2)).sum();
        self.alpha.abs() * (square * self.count() as f64).sqrt()
    }

    /// Rows that another patch changes too.
    pub fn shared_rows(&self, other: &Self) -> usize {
        let rows = |patch: &Self| -> BTreeSet<(String, u32)> {
            let places = patch.places.iter();
            places
                .flat_map(|place| place.rows.iter().map(|row| (place.weight.clone(), *row)))
                .collect()
        };
        rows(self).intersection(&rows(other)).count()
    }

    /// A weight with the patch, or `None` where the patch leaves it as it is. Sums are in f32, as the
    /// weights are.
    ///
    /// # Errors
    /// A weight of another shape, or one that would not be finite.
    pub fn apply(&self, name: &str, weight: &Flat) -> Result<Option<Flat>> {
        let Some(place) = self.places.iter().find(|place| place.weight == name) else {
            return Ok(None);
        };
        let width = self.direction.len();
        let misfit = |expected: String| {
            Error::Failed(format!(
                "{name} has shape {:?}; the patch needs {expected}: it is for another model",
                weight.shape
            ))
        };
        let [first, second] = weight.shape[..] else {
            return Err(misfit("a matrix".into()));
        };
        let (outputs, inputs) = match place.fan_in_fan_out {
            true => (second, first),
            false => (first, second),
        };
        if inputs != width {
            return Err(misfit(format!("{width} inputs")));
        }
        if let Some(row) = place.rows.iter().find(|row| **row as usize >= outputs) {
            return Err(misfit(format!("more than {row} outputs")));
        }
        let added: Vec<f32> = self
            .direction
            .iter()
            .map(|x| self.alpha as f32 * x)
            .collect();
        let mut values = weight.to_vec();
        for row in &place.rows {
            for (column, by) in added.iter().enumerate() {
                let at = match place.fan_in_fan_out {
                    true => column * outputs + *row as usize,
                    false => *row as usize * inputs + column,
                };
                values[at] += by;
            }
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Numeric(format!(
                "alpha {} makes {name} infinite or not a number; choose a smaller one",
                self.alpha
            )));
        }
        let device = weight.values.device();
        Ok(Some(Flat::from_vec(values, &weight.shape, &device)))
    }
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
