//! Layer norm and root-mean-square norm over the last axis.
//!
//! ```text
//! x̂ = (x - mean) / sqrt(mean((x - mean)²) + ε)     (the mean is left out by the RMS norm)
//! y = x̂ w + b
//! dx = (u - [mean(u)] - x̂ mean(u x̂)) / sqrt(..),  u = g w;   dw = sum(g x̂);   db = sum(g)
//! ```
//! Kept for the backward pass are `x` and one or two numbers a row.

mod backward;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use modelsmith_core::layers::{NormKind, normalise};

/// The backend's side of the operations.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Normalise: Backend {
    /// Without a bias.
    fn fused_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// With a bias.
    fn fused_norm_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

/// Normalises the last axis of `x` and applies `weight` and `bias` `[width]`, as
/// [`normalise`](modelsmith_core::layers::normalise) does, which is the reference.
///
/// Gradients flow to each of the three that is tracked. Any float dtype; `f32` on the CPU is fused,
/// within about 1e-6 of the greatest value of a row.
pub fn norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    kind: NormKind,
    epsilon: f64,
) -> Tensor<D> {
    let width = [x.dims()[D - 1]];
    let fits = weight.dims() == width && bias.as_ref().is_none_or(|bias| bias.dims() == width);
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let bias = bias.map(Tensor::into_dispatch);
    let fused =
        fits && applies(&[&x, &weight]) && bias.as_ref().is_none_or(|bias| applies(&[bias]));
    if !fused {
        let (x, weight) = (Tensor::from_dispatch(x), Tensor::from_dispatch(weight));
        return normalise(x, weight, bias.map(Tensor::from_dispatch), kind, epsilon);
    }
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::fused_norm_biased(x, weight, bias, kind, epsilon),
        None => Dispatch::fused_norm(x, weight, kind, epsilon),
    })
}

/// The root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467); see [`norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    norm(x, weight, None, NormKind::Rms, epsilon)
}

/// The layer norm (Ba et al., arXiv 1607.06450); see [`norm`].
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    norm(x, weight, bias, NormKind::Layer, epsilon)
}
