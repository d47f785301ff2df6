//! A change of a weight as it is kept and made: factors in f32, their product added in f64.

use super::mlps::Mlp;
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{Update, product};

/// `left · right` to be added to a weight `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// Number of the block.
    pub(crate) layer: usize,
    /// Name of the weight.
    pub(crate) weight: String,
    /// Whether the weight is stored as `[inputs, outputs]`.
    pub(crate) fan_in_fan_out: bool,
    /// Outputs, rank, inputs.
    pub(crate) sizes: [usize; 3],
    /// `[outputs, rank]`, row by row; absent where `right` is the whole change.
    pub(crate) left: Option<Vec<f32>>,
    /// `[rank, inputs]`, row by row.
    pub(crate) right: Vec<f32>,
    /// See [`Update`].
    pub(crate) consistency: Option<f64>,
}

impl Change {
    /// An update of an MLP, rounded to what is kept.
    pub(crate) fn new(mlp: &Mlp, layer: usize, update: &Update) -> Self {
        let (outputs, rank, inputs) = (
            update.left.nrows(),
            update.left.ncols(),
            update.right.ncols(),
        );
        // Factors larger than the matrix are kept as their product.
        if rank * (outputs + inputs) > outputs * inputs {
            return Self::whole(mlp, layer, &update.dense());
        }
        Self {
            sizes: [outputs, rank, inputs],
            left: Some(rows(&update.left)),
            right: rows(&update.right),
            consistency: update.consistency,
            ..Self::whole(mlp, layer, &Mat::zeros(0, 0))
        }
    }

    /// A change that is no product.
    pub(crate) fn whole(mlp: &Mlp, layer: usize, change: &Mat<f64>) -> Self {
        Self {
            layer,
            weight: mlp.weight.clone(),
            fan_in_fan_out: mlp.site.fan_in_fan_out,
            sizes: [change.nrows(), change.nrows(), change.ncols()],
            left: None,
            right: rows(change),
            consistency: None,
        }
    }

    /// The change as a matrix `[outputs, inputs]`.
    pub(crate) fn dense(&self) -> Mat<f64> {
        let [outputs, rank, inputs] = self.sizes;
        let right = matrix(&self.right, rank, inputs);
        match &self.left {
            Some(left) => product(matrix(left, outputs, rank).as_ref(), right.as_ref()),
            None => right,
        }
    }

    /// Frobenius norm of the change.
    pub(crate) fn norm(&self) -> f64 {
        self.dense().norm_l2()
    }
}

/// Adds a change to the host's weight: the one way in which weights are edited, so that the same changes
/// in the same order give the same bits.
///
/// # Errors
/// A host without that weight, or with one of another shape; a sum that is not finite, which leaves the
/// host as it was.
pub(crate) fn write(host: &mut Transformer, change: &Change) -> Result<()> {
    let name = &change.weight;
    let Some(old) = host.weight(name) else {
        return Err(Error::Failed(format!("the model has no weight {name}")));
    };
    let [outputs, _, inputs] = change.sizes;
    let shape = match change.fan_in_fan_out {
        true => [inputs, outputs],
        false => [outputs, inputs],
    };
    if old.shape != shape {
        return Err(Error::Failed(format!(
            "{name} has shape {:?}; the edit is for {shape:?}, that is for another model",
            old.shape
        )));
    }
    let dense = change.dense();
    let mut values = old.to_vec();
    for row in 0..shape[0] {
        for column in 0..shape[1] {
            let by = match change.fan_in_fan_out {
                true => dense[(column, row)],
                false => dense[(row, column)],
            };
            let value = &mut values[row * shape[1] + column];
            *value = (f64::from(*value) + by) as f32;
        }
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::Numeric(format!(
            "the edit would make {name} infinite or not a number; nothing was written"
        )));
    }
    host.set_weight(name, &Flat::from_vec(values, &shape, &host.device()))
}

/// Frobenius norm of a weight of the host; not a number where it has none of that name.
pub(crate) fn weight_norm(host: &Transformer, name: &str) -> f64 {
    host.weight(name).map_or(f64::NAN, |weight| {
        let values = weight.to_vec();
        let squares = values.iter().map(|value| f64::from(*value).powi(2));
        squares.sum::<f64>().sqrt()
    })
}

/// Row by row, in f32.
pub(crate) fn rows(x: &Mat<f64>) -> Vec<f32> {
    let (count, width) = (x.nrows(), x.ncols());
    (0..count * width)
        .map(|place| x[(place / width, place % width)] as f32)
        .collect()
}

/// The matrix of values that stand row by row.
pub(crate) fn matrix(values: &[f32], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |row, column| {
        f64::from(values[row * columns + column])
    })
}
