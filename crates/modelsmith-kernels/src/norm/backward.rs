//! The gradients by input, weight and bias.

use super::Normalise;
use super::flex::{Moments, affine_backward, backward, forward};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use modelsmith_core::layers::NormKind;

/// What the backward pass reads.
#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    weight: FlexTensor,
    moments: Moments,
    kind: NormKind,
}

/// The gradients with `N` parents: input and weight, and the bias if there is one.
#[derive(Debug)]
struct Gradient<const N: usize>;

impl<const N: usize> Backward<Flex, N> for Gradient<N> {
    type State = Kept;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let kept = ops.state;
        let mut parents = ops.parents.into_iter();
        let input = parents.next().flatten();
        let affine: Vec<_> = parents.collect();
        if affine.iter().any(Option::is_some) {
            let width = kept.weight.shape()[0];
            let found = affine_backward(&kept.x, &grad, &kept.moments, width);
            for (parent, gradient) in affine.into_iter().zip(found) {
                if let Some(node) = parent {
                    grads.register::<Flex>(node.id, gradient);
                }
            }
        }
        if let Some(node) = input {
            let dx = backward(&kept.x, &kept.weight, grad, &kept.moments, kept.kind);
            grads.register::<Flex>(node.id, dx);
        }
    }
}

impl<C: CheckpointStrategy> Normalise for Autodiff<Flex, C> {
    fn fused_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let ((x, input), (weight, scale)) = (x.into_parts(), weight.into_parts());
        let (y, moments) = forward(&x, &weight, None, kind, epsilon);
        let kept = Kept {
            x,
            weight,
            moments,
            kind,
        };
        match Gradient::<2>
            .prepare::<C>([input, scale])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(kept, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_norm_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let ((x, input), (weight, scale)) = (x.into_parts(), weight.into_parts());
        let (bias, offset) = bias.into_parts();
        let (y, moments) = forward(&x, &weight, Some(&bias), kind, epsilon);
        let kept = Kept {
            x,
            weight,
            moments,
            kind,
        };
        match Gradient::<3>
            .prepare::<C>([input, scale, offset])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(kept, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
