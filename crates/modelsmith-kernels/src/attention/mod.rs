//! Which values answer a query? Scaled dot-product attention (Vaswani et al., arXiv 1706.03762)
//! that never holds the matrix of scores.
//!
//! ```text
//! y = softmax(scale q kᵀ + bias) v
//! ```
//! A block of queries meets the keys block by block, softmax being corrected as greater scores come
//! in; for the backward pass the greatest score and the sum of exponentials of every query are
//! kept, and the probabilities are computed again (Dao, arXiv 2307.08691). Keys that the band hides
//! are skipped, and where they share a block with others, most of the work on them. Query heads
//! that share keys and values (Ainslie et al., arXiv 2305.13245) are further rows of one block.
//!
//! Inputs are read where they lie, so heads may be views of `[batch, time, heads, dim]`; the result
//! and the gradients are such views.

mod backward;
mod block;
mod few;
mod flex;
mod forward;
mod gradient;
mod product;
#[cfg(test)]
mod tests;
mod view;

use crate::switch::applies;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use modelsmith_core::mask::{Band, Mask};

/// The backend's side of the operation.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Attention: Backend {
    /// Attends without a bias.
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Attends; no gradient flows to the bias, whose axes have the lengths of the scores or 1.
    fn fused_attention_biased(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self>;
}

/// `softmax(scale q kᵀ + bias) v` `[batch, heads, time, width]` over the keys that `mask` leaves, for
/// `q` `[batch, heads, time, dim]`, `k` `[batch, kv_heads, keys, dim]`, `v` `[batch, kv_heads, keys,
/// width]`; a head of keys and values serves `heads / kv_heads` query heads in turn.
///
/// Gradients flow to those of `q`, `k` and `v` that are tracked. Any float dtype; `f32` on the CPU is
/// fused, with a relative error of about 1e-6, unless the bias may want a gradient: one that lives
/// on an autodiff device takes the reference, which gives it.
///
/// # Panics
/// When the shapes do not fit, or places are compared with fewer keys than queries.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64, mask: &Mask) -> Tensor<4> {
    check(&q, &k, &v, mask);
    let tracked_bias = mask.bias.as_ref().is_some_and(Tensor::is_autodiff);
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let bias = mask.bias.clone().map(Tensor::into_dispatch);
    let mut all = vec![&q, &k, &v];
    all.extend(&bias);
    if tracked_bias || !applies(&all) {
        let [q, k, v] = [q, k, v].map(Tensor::from_dispatch);
        return reference(q, k, v, scale, mask, |p| p);
    }
    let (band, scale) = (mask.band, scale as f32);
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::fused_attention_biased(q, k, v, bias, band, scale),
        None => Dispatch::fused_attention(q, k, v, band, scale),
    })
}

/// The same, composed of burn's operations; `inspect` sees the probabilities
/// `[batch, heads, time, keys]` before the values are mixed, and returns those to use.
pub fn reference(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    scale: f64,
    mask: &Mask,
    inspect: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [batch, heads, time, dim] = q.dims();
    let [_, groups, keys, width] = v.dims();
    // The query heads of a group are further rows of one product.
    let rows = heads / groups * time;
    let q = (q * scale).reshape([batch, groups, rows, dim]);
    let scores = q.matmul(k.swap_dims(2, 3));
    let scores = scores.reshape([batch, heads, time, keys]);
    let bias = mask.dense(time, keys, &scores.device().without_autodiff());
    let p = inspect(crate::softmax(scores, bias));
    p.reshape([batch, groups, rows, keys])
        .matmul(v)
        .reshape([batch, heads, time, width])
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, mask: &Mask) {
    let ([batch, heads, time, dim], [_, groups, keys, width]) = (q.dims(), v.dims());
    let fits = k.dims() == [batch, groups, keys, dim]
        && v.dims() == [batch, groups, keys, width]
        && heads.checked_rem(groups) == Some(0);
    assert!(
        fits,
        "attention: q {:?}, k {:?} and v {:?} do not fit; they must be [batch, heads, time, dim], \
         [batch, kv_heads, keys, dim] and [batch, kv_heads, keys, width], heads a multiple of \
         kv_heads",
        q.dims(),
        k.dims(),
        v.dims()
    );
    assert!(
        mask.band == Band::default() || keys >= time,
        "attention: {time} queries have places among only {keys} keys"
    );
    if let Some(bias) = &mask.bias {
        let mut axes = bias.dims().into_iter().zip([batch, heads, time, keys]);
        assert!(
            axes.all(|(found, whole)| found == 1 || found == whole),
            "attention: the bias has shape {:?}, the scores {:?}; every axis must have the same \
             length or 1",
            bias.dims(),
            [batch, heads, time, keys]
        );
    }
}
