//! The gradients, found in the forward pass and scaled in the backward pass.

use super::LinearCrossEntropy;
use super::flex::{Wanted, forward, rows_of_chunk};
use crate::rows;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex, TensorMetadata};

#[derive(Debug)]
struct Scaled;

impl Backward<Flex, 2> for Scaled {
    /// Gradients of the loss by the hidden states and by the weight.
    type State = [Option<FlexTensor>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = rows::contiguous(&grads.consume::<Flex>(&ops.node));
        let factor = rows::values(&outer)[0];
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(gradient)) = (parent, gradient) {
                let gradient = match factor {
                    1.0 => gradient,
                    factor => Flex::float_mul_scalar(gradient, factor.into()),
                };
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> LinearCrossEntropy for Autodiff<Flex, C> {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let wanted = Wanted {
            hidden: hidden.is_tracked(),
            weight: weight.is_tracked(),
        };
        let chunk = rows_of_chunk(weight.shape()[0]);
        let found = forward(
            hidden.primitive(),
            weight.primitive(),
            targets,
            wanted,
            chunk,
        );
        match Scaled
            .prepare::<C>([hidden.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish([found.hidden, found.weight], found.loss),
            OpsKind::UnTracked(prep) => prep.finish(found.loss),
        }
    }
}
