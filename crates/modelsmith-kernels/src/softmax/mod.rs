//! Probabilities over the last axis, with the attention bias added on the way.
//!
//! ```text
//! softmax(x, b)_i = exp(x_i + b_i - m) / sum_j exp(x_j + b_j - m),  m = max(x + b)
//! dx = p (g - sum(p g)),  db = dx summed over the axes that b lacks
//! ```
//! The backward passes read the result alone; neither `x` nor `x + b` is kept.

mod backward;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, activation};

/// The backend's side of the operations.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Softmax: Backend {
    /// Over the last axis.
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Of `x + bias`, where every axis of `bias` has the length of that of `x` or 1, the last one
    /// the same length.
    fn fused_softmax_biased(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The logarithm of the softmax over the last axis.
    fn fused_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `softmax(x + bias)` over the last axis; the axes of `bias` have the lengths of those of `x`, or 1.
///
/// Any float dtype; `f32` on the CPU is fused, with a relative error of a probability of about
/// `1e-6 + 6e-8 |x + b - m|`. A masked place (negative infinity) gets exactly 0; a row with nothing
/// but masked places has no distribution and gets NaN, as the composed form gives it.
pub fn softmax<const D: usize>(x: Tensor<D>, bias: Option<Tensor<D>>) -> Tensor<D> {
    let Some(bias) = bias else {
        let x = x.into_dispatch();
        return match applies(&[&x]) {
            true => Tensor::from_dispatch(Dispatch::fused_softmax(x)),
            false => reference(Tensor::from_dispatch(x), None),
        };
    };
    let fits = bias.dims()[D - 1] == x.dims()[D - 1]
        && x.dims()
            .iter()
            .zip(bias.dims())
            .all(|(x, b)| b == *x || b == 1);
    let (x, bias) = (x.into_dispatch(), bias.into_dispatch());
    if !fits || !applies(&[&x, &bias]) {
        let (x, bias) = (Tensor::from_dispatch(x), Tensor::from_dispatch(bias));
        return reference(x, Some(bias));
    }
    Tensor::from_dispatch(Dispatch::fused_softmax_biased(x, bias))
}

/// `log softmax(x)` over the last axis; dtype and masks as in [`softmax`].
pub fn log_softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = x.into_dispatch();
    if !applies(&[&x]) {
        return reference_log(Tensor::from_dispatch(x));
    }
    Tensor::from_dispatch(Dispatch::fused_log_softmax(x))
}

/// [`softmax`] composed of burn's operations.
pub fn reference<const D: usize>(x: Tensor<D>, bias: Option<Tensor<D>>) -> Tensor<D> {
    let x = match bias {
        Some(bias) => x + bias,
        None => x,
    };
    activation::softmax(x, D - 1)
}

/// [`log_softmax`] composed of burn's operations.
pub fn reference_log<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::log_softmax(x, D - 1)
}
