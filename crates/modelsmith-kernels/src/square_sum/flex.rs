//! The loop over pieces.

use crate::math;
use crate::rows::{self, Kernel};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Values whose squares are added in `f32`: fixed, for determinism.
const PIECE: usize = 1 << 12;

/// The sum over `f32` tensors on the CPU.
pub(super) fn square_sum(tensors: &[Tensor<1>]) -> f64 {
    let sums: Vec<f64> = tensors.par_iter().map(of_one).collect();
    sums.iter().sum()
}

fn of_one(tensor: &Tensor<1>) -> f64 {
    let tensor = rows::contiguous(&rows::on_cpu(tensor.clone()));
    let values = rows::values(&tensor);
    let mut sums = vec![0.0; values.len().div_ceil(PIECE)];
    let (count, outputs) = (sums.len(), [(sums.as_mut_slice(), 1)]);
    rows::run(&Squares, 0, count, outputs, [(values, PIECE)]);
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

/// Rows of [`PIECE`] values, of which the last may be shorter.
struct Squares;

impl Kernel<1, 1> for Squares {
    #[inline(always)]
    fn run(&self, _: usize, [sums]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        for (sum, x) in sums.iter_mut().zip(x.chunks(PIECE)) {
            *sum = math::sum_of(x, |x| x * x);
        }
    }
}
