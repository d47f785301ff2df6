//! Attention where its probabilities are looked at or changed on the way.

use burn::tensor::Tensor;
use modelsmith_core::hooks::{AttentionShape, Qkv};
use modelsmith_kernels::reference;

/// Attends: `[batch, heads, time, head_dim]`. `inspect` sees the probabilities
/// `[batch, heads, time, keys]` before the values are mixed and returns those to use.
pub(crate) fn attend(
    shape: &AttentionShape,
    qkv: Qkv,
    inspect: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let Qkv { q, k, v, mask } = qkv;
    reference::attention(q, k, v, shape.scale, &mask, inspect)
}

/// `[batch, heads, time, dim]` to `[batch, time, heads * dim]`.
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, time, dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, time, heads * dim])
}
