//! The gradients, each only where it is wanted.

use super::Dense;
use super::flex::{
    Change, bias_gradient, forward, input_gradient, narrow_gradient, weight_gradient,
};
use crate::rows;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, DType, Flex};

/// What the backward pass reads.
#[derive(Clone, Debug)]
struct Kept {
    /// Only where a matrix that multiplies it is trained.
    x: Option<FlexTensor>,
    weight: FlexTensor,
    change: Option<Change>,
    /// `x Aᵀ`.
    narrow: Option<FlexTensor>,
}

/// The gradients by input, weight, bias, A and B.
#[derive(Debug)]
struct Gradient;

impl Backward<Flex, 5> for Gradient {
    type State = Kept;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = rows::contiguous(&grads.consume::<Flex>(&ops.node));
        let kept = ops.state;
        let [input, weight, bias, a, b] = ops.parents.map(|parent| parent.map(|node| node.id));
        let inner = kept
            .change
            .as_ref()
            .filter(|_| input.is_some() || a.is_some())
            .map(|change| (change, narrow_gradient(&grad, change)));
        if let Some(id) = bias {
            grads.register::<Flex>(id, bias_gradient(&grad));
        }
        if let (Some(id), Some(x)) = (weight, &kept.x) {
            let in_half = kept.weight.dtype() == DType::BF16;
            grads.register::<Flex>(id, weight_gradient(&grad, x, 1.0, in_half));
        }
        if let (Some(id), Some(x), Some((change, inner))) = (a, &kept.x, &inner) {
            grads.register::<Flex>(id, weight_gradient(inner, x, change.scale, false));
        }
        if let (Some(id), Some(narrow), Some(change)) = (b, &kept.narrow, &kept.change) {
            grads.register::<Flex>(id, weight_gradient(&grad, narrow, change.scale, false));
        }
        if let Some(id) = input {
            let inner = inner.as_ref().map(|(change, inner)| (*change, inner));
            grads.register::<Flex>(id, input_gradient(&grad, &kept.weight, inner));
        }
    }
}

impl<C: CheckpointStrategy> Dense for Autodiff<Flex, C> {
    fn dense(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let keeps_x = weight.is_tracked() || a.is_tracked();
        let keeps_narrow = b.is_tracked();
        let ((x, input), (weight, matrix)) = (x.into_parts(), weight.into_parts());
        let (bias, offset) = bias.into_parts();
        let ((a, down), (b, up)) = (a.into_parts(), b.into_parts());
        let (x, weight) = (rows::contiguous(&x), rows::unflipped(&weight));
        let change = Change::new(&a, &b, scale);
        let (y, narrow) = forward(&x, &weight, &bias, change.as_ref());
        match Gradient
            .prepare::<C>([input, matrix, offset, down, up])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    x: keeps_x.then_some(x),
                    weight,
                    change,
                    narrow: narrow.filter(|_| keeps_narrow),
                };
                prep.finish(kept, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
