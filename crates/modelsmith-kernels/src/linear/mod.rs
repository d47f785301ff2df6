//! A dense layer, and one with a low-rank change, in as few passes over memory as there can be.
//!
//! ```text
//! y  = x Wᵀ + b + s (x Aᵀ) Bᵀ
//! dx = g W + s (g B) A;   dW = gᵀ x;   db = sum(g);   dB = s gᵀ (x Aᵀ);   dA = s (g B)ᵀ x
//! ```
//! The low-rank part is added to the product where that lies, forward and backward, and nothing is
//! computed for what is frozen (Hu et al., arXiv 2106.09685, equation 3). Kept for the backward pass
//! are `x`, where a matrix that multiplies it is trained, and the narrow `x Aᵀ`.
//!
//! A few rows at a time, as in generation, are no matrix product but one reading of the weight; they
//! have a loop of their own.

mod backward;
mod few_rows;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies_to_weight;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use modelsmith_core::layers;

/// The backend's side of the operation.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Dense: Backend {
    /// `x Wᵀ + bias + s (x Aᵀ) Bᵀ`. Without a bias that has no values, without a change the rank is 0.
    fn dense(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

/// A low-rank change `scale · b a` of a weight.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Tensor<2>,
    /// `[out, rank]`.
    pub b: Tensor<2>,
    /// Multiplies the product.
    pub scale: f64,
}

/// `x Wᵀ + bias + scale (x aᵀ) bᵀ` for `x` `[batch, time, in]`, `weight` `[out, in]` (any strides,
/// so that a weight stored the other way is a transposed view), `bias` `[out]`.
///
/// Gradients flow to each operand that is tracked, and nothing is computed for the others. Any float
/// dtype; `f32` on the CPU is fused, and equal to [`reference()`] but for the order of the sums.
///
/// The weight may be `bf16` where the rest is `f32`, with sums and result in `f32`. On a processor with
/// a matrix unit the products with it then round their other side to `bf16` too, forward and backward,
/// as PyTorch's autocast does (relative error of a term at most 2^-8); elsewhere that stays exact.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    change: Option<LowRank>,
) -> Tensor<3> {
    check(&x, &weight, bias.as_ref(), change.as_ref());
    let ([_, _, inputs], [outputs, _]) = (x.dims(), weight.dims());
    let device = x.device().without_autodiff();
    let offset = bias.unwrap_or_else(|| Tensor::zeros([0], &device));
    let LowRank { a, b, scale } = change.unwrap_or_else(|| LowRank {
        a: Tensor::zeros([0, inputs], &device),
        b: Tensor::zeros([outputs, 0], &device),
        scale: 0.0,
    });
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let offset = offset.into_dispatch();
    let (a, b) = (a.into_dispatch(), b.into_dispatch());
    if applies_to_weight(&weight, &[&x, &offset, &a, &b]) {
        return Tensor::from_dispatch(Dispatch::dense(x, weight, offset, a, b, scale));
    }
    let (x, weight) = (Tensor::from_dispatch(x), Tensor::from_dispatch(weight));
    let (a, b): (Tensor<2>, Tensor<2>) = (Tensor::from_dispatch(a), Tensor::from_dispatch(b));
    let bias: Tensor<1> = Tensor::from_dispatch(offset);
    let bias = (bias.dims() == [outputs]).then_some(bias);
    let change = (a.dims()[0] > 0).then_some(LowRank { a, b, scale });
    reference(x, weight, bias, change)
}

/// The same, composed of burn's operations.
pub fn reference(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    change: Option<LowRank>,
) -> Tensor<3> {
    let weight = weight.cast(x.dtype());
    let y = layers::linear(x.clone(), weight, bias);
    match change {
        None => y,
        Some(LowRank { a, b, scale }) => {
            let inner = layers::linear(x, a, None) * scale;
            y + layers::linear(inner, b, None)
        }
    }
}

fn check(x: &Tensor<3>, weight: &Tensor<2>, bias: Option<&Tensor<1>>, change: Option<&LowRank>) {
    let ([_, _, width], [outputs, inputs]) = (x.dims(), weight.dims());
    let fits = width == inputs
        && bias.is_none_or(|bias| bias.dims() == [outputs])
        && change.is_none_or(|LowRank { a, b, .. }| {
            a.dims()[1] == inputs && b.dims() == [outputs, a.dims()[0]]
        });
    assert!(
        fits,
        "linear: x {:?}, weight {:?}, bias {:?} and change {:?} do not fit; they must be [batch, \
         time, in], [out, in], [out] and [rank, in] with [out, rank]",
        x.dims(),
        weight.dims(),
        bias.map(Tensor::dims),
        change.map(|LowRank { a, b, .. }| (a.dims(), b.dims())),
    );
}
