//! The sum of squares over many tensors: what the global norm of gradients is the root of.

mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies_plain;
use burn::tensor::Tensor;

/// Sum of the squares of all values of all tensors. Any float dtype and device; `f32` on the CPU is
/// fused: squares are added in `f32` over a few thousand values at a time, these sums in `f64`.
pub fn square_sum(tensors: &[Tensor<1>]) -> f64 {
    let on_cpu: Vec<&Tensor<1>> = tensors.iter().collect();
    match applies_plain(&on_cpu) {
        true => flex::square_sum(tensors),
        false => reference(tensors),
    }
}

/// The same, composed of burn's operations.
pub fn reference(tensors: &[Tensor<1>]) -> f64 {
    let squares = tensors.iter().map(|tensor| {
        let plain = tensor.clone().without_autodiff();
        f64::from(plain.square().sum().into_scalar::<f32>())
    });
    squares.sum()
}
