//! How is a weight matrix split into factors? Singular values and QR in f64, cut to a rank.

use burn::tensor::{Device, Tensor, TensorData};
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::to_vec;

/// `left · right`, the product of two thin matrices.
pub(crate) struct Factors {
    /// `[rows, rank]`.
    pub(crate) left: Tensor<2>,
    /// `[rank, columns]`.
    pub(crate) right: Tensor<2>,
}

/// The `rank` leading singular triplets of `matrix`; `share` of each singular value (a power)
/// goes into the left factor, the rest into the right one.
///
/// # Errors
/// Values that are not finite, for which no decomposition exists.
pub(crate) fn truncated_svd(matrix: &Tensor<2>, rank: usize, share: f64) -> Result<Factors> {
    let wide = to_f64(matrix);
    let svd = wide
        .thin_svd()
        .map_err(|problem| no_decomposition(&problem))?;
    let rank = rank.min(svd.S().dim());
    let value = |k: usize| svd.S().column_vector()[k].max(0.0);
    Ok(Factors {
        left: from_fn(wide.nrows(), rank, matrix, |i, k| {
            svd.U()[(i, k)] * value(k).powf(share)
        }),
        right: from_fn(rank, wide.ncols(), matrix, |k, j| {
            svd.V()[(j, k)] * value(k).powf(1.0 - share)
        }),
    })
}

/// The first `rank` columns of `Q` and rows of `R` in `matrix = Q R`.
pub(crate) fn truncated_qr(matrix: &Tensor<2>, rank: usize) -> Factors {
    let wide = to_f64(matrix);
    let qr = wide.qr();
    let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
    Factors {
        left: from_fn(wide.nrows(), rank, matrix, |i, k| q[(i, k)]),
        right: from_fn(rank, wide.ncols(), matrix, |k, j| {
            if k <= j { r[(k, j)] } else { 0.0 }
        }),
    }
}

fn to_f64(matrix: &Tensor<2>) -> Mat<f64> {
    let [rows, columns] = matrix.dims();
    let values = to_vec(matrix.clone());
    Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]))
}

fn from_fn(
    rows: usize,
    columns: usize,
    like: &Tensor<2>,
    value: impl Fn(usize, usize) -> f64,
) -> Tensor<2> {
    let device: Device = like.device().without_autodiff();
    let mut values = Vec::with_capacity(rows * columns);
    for i in 0..rows {
        values.extend((0..columns).map(|j| value(i, j) as f32));
    }
    Tensor::from_data(TensorData::new(values, [rows, columns]), &device)
}

fn no_decomposition(problem: &impl std::fmt::Debug) -> Error {
    Error::Numeric(format!(
        "a weight has no singular value decomposition ({problem:?}); does it hold NaN or infinity?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Tensor<2> {
        let device = Device::flex();
        Tensor::from_floats(
            [
                [3.0, 0.0, 4.0],
                [1.0, 2.0, -2.0],
                [0.5, 0.5, 1.0],
                [2.0, 0.0, 1.0],
            ],
            &device,
        )
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f32 {
        to_vec((a - b).abs().max())[0]
    }

    #[test]
    fn full_rank_factors_give_the_matrix_back() {
        for share in [0.0, 0.5, 1.0] {
            let svd = truncated_svd(&matrix(), 3, share).unwrap();
            assert!(distance(svd.left.matmul(svd.right), matrix()) < 1e-6);
        }
        let qr = truncated_qr(&matrix(), 3);
        assert!(distance(qr.left.matmul(qr.right), matrix()) < 1e-6);
    }

    #[test]
    fn a_wide_matrix_has_its_factors_too() {
        let wide = matrix().transpose();
        let qr = truncated_qr(&wide, 3);
        assert!(distance(qr.left.matmul(qr.right), wide.clone()) < 1e-6);
        let svd = truncated_svd(&wide, 3, 0.5).unwrap();
        assert!(distance(svd.left.matmul(svd.right), wide) < 1e-6);
    }
}
