//! How likely are the targets under a linear head? The loss of language models, without the logits.
//!
//! ```text
//! loss = - sum_i log softmax(W h_i)[t_i]
//! ```
//! The logits `[rows, classes]` of a vocabulary are the largest tensor of a training step. Here a
//! chunk of rows is projected, turned into its losses and, where gradients are wanted, at once into
//! `dlogits = softmax - onehot` and on to `dlogits W`, so that no more than a chunk of logits is
//! ever held (the idea of Wijmans et al., arXiv 2411.09009, and of Hsu et al., arXiv 2410.10989).

mod backward;
mod flex;
#[cfg(target_arch = "x86_64")]
mod online;
#[cfg(test)]
mod tests;

use crate::switch::applies_to_weight;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor, activation};

/// The backend's side of the operation.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearCrossEntropy: Backend {
    /// The summed loss, `[1]`.
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Summed negative log-likelihood `[1]` of `targets` `[rows]` under the logits `hidden weightᵀ`,
/// for `hidden` `[rows, width]` and `weight` `[classes, width]`.
///
/// Gradients flow to `hidden` and to `weight`, each only when it is tracked; they are computed in
/// the forward pass. Any float dtype; `f32` on the CPU is fused. Logits, exponentials and their sums
/// are `f32` (relative error of a row's loss about 1e-6), the sum over rows is `f64`. No rows give 0.
/// The weight may be `bf16` beside `f32`, with the consequences that [`linear()`](crate::linear()) names.
///
/// # Panics
/// When the shapes do not fit or a target is not a class.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    check(&hidden, &weight, &targets);
    let (hidden, weight) = (hidden.into_dispatch(), weight.into_dispatch());
    if !applies_to_weight(&weight, &[&hidden]) {
        let (hidden, weight) = (Tensor::from_dispatch(hidden), Tensor::from_dispatch(weight));
        return reference(hidden, weight, targets);
    }
    let targets = targets.into_dispatch();
    Tensor::from_dispatch(Dispatch::linear_cross_entropy(hidden, weight, targets))
}

/// The same, composed of burn's operations.
pub fn reference(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let rows = targets.dims()[0];
    if rows == 0 {
        return hidden.sum() * 0.0;
    }
    let weight = weight.cast(hidden.dtype());
    let logits = hidden.matmul(weight.transpose());
    activation::log_softmax(logits, 1)
        .gather(1, targets.reshape([rows, 1]))
        .sum()
        .neg()
}

fn check(hidden: &Tensor<2>, weight: &Tensor<2>, targets: &Tensor<1, Int>) {
    let ([rows, width], [classes, inputs]) = (hidden.dims(), weight.dims());
    let [count] = targets.dims();
    assert!(
        width == inputs && rows == count,
        "linear_cross_entropy: hidden [{rows}, {width}], weight [{classes}, {inputs}] and targets \
         [{count}] do not fit; they must be [rows, width], [classes, width] and [rows]"
    );
}
