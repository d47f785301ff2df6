//! Rotary position embedding in the half-split layout, in one pass.
//!
//! ```text
//! [x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin]                  (Su et al., arXiv 2104.09864)
//! ```
//! The gradient is the rotation back, by the same cosines and the negated sines.

mod backward;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// The backend's side of the operation.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Rotate: Backend {
    /// `x` rotated; `cos` and `sin` take no gradient.
    fn fused_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Rotates the heads of `x` `[batch, time, heads, dim]` by `cos` and `sin`
/// `[1 or batch, time, 1, dim / 2]`, which are constants: they get no gradient.
///
/// Any float dtype; `f32` on the CPU is fused and rounds as the reference does.
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [batch, time, _, dim] = x.dims();
    let fits = |angles: [usize; 4]| {
        angles == [angles[0], time, 1, dim / 2] && (angles[0] == 1 || angles[0] == batch)
    };
    let fits = dim % 2 == 0 && fits(cos.dims()) && cos.dims() == sin.dims();
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    if !fits || !applies(&[&x, &cos, &sin]) {
        let [x, cos, sin] = [x, cos, sin].map(Tensor::from_dispatch);
        return reference(x, cos, sin);
    }
    Tensor::from_dispatch(Dispatch::fused_rotate(x, cos, sin))
}

/// The same, composed of burn's operations.
pub fn reference(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let dim = x.dims()[3];
    let (cos, sin) = (cos.detach(), sin.detach());
    let first = x.clone().narrow(3, 0, dim / 2);
    let second = x.narrow(3, dim / 2, dim / 2);
    let rotated = first.clone() * cos.clone() - second.clone() * sin.clone();
    Tensor::cat(vec![rotated, second * cos + first * sin], 3)
}
