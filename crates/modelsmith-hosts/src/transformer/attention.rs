//! Scaled dot-product attention, composed of products and a fused softmax.
//!
//! ```text
//! y = dropout(softmax(scale q kᵀ + bias)) v
//! ```
//! Grouped queries (Ainslie et al., arXiv 2305.13245) share their keys and values without copies:
//! the query heads of a group are laid out as further rows of one product.

use burn::tensor::Tensor;
use modelsmith_core::hooks::{AttentionShape, Qkv};

/// Attends: `[batch, heads, time, head_dim]`. `inspect` sees the probabilities
/// `[batch, heads, time, keys]` before the values are mixed and returns those to use.
pub(crate) fn attend(
    shape: &AttentionShape,
    qkv: Qkv,
    inspect: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [batch, heads, time, dim] = qkv.q.dims();
    let [_, groups, keys, _] = qkv.k.dims();
    let rows = [batch, groups, heads / groups * time, dim];
    let q = (qkv.q * shape.scale).reshape(rows);
    let scores = q.matmul(qkv.k.swap_dims(2, 3));
    let scores = scores.reshape([batch, heads, time, keys]);
    let p = inspect(modelsmith_kernels::softmax(scores, qkv.bias));
    let width = qkv.v.dims()[3];
    p.reshape([batch, groups, heads / groups * time, keys])
        .matmul(qkv.v)
        .reshape([batch, heads, time, width])
}

/// `[batch, heads, time, dim]` to `[batch, time, heads * dim]`.
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, time, dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, time, heads * dim])
}
