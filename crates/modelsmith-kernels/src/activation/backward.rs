//! Their gradients, from the inputs alone.

use super::flex::{activate, activate_backward, gated, gated_backward};
use super::{Activate, Activation};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};

#[derive(Debug)]
struct Single;

impl Backward<Flex, 1> for Single {
    type State = (FlexTensor, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, function) = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
            activate_backward(&x, grad, function)
        });
    }
}

#[derive(Debug)]
struct Gate;

impl Backward<Flex, 2> for Gate {
    type State = (FlexTensor, FlexTensor, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up, function) = ops.state;
        let grad = grads.consume::<Flex>(&ops.node);
        let found = gated_backward(&gate, &up, grad, function);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> Activate for Autodiff<Flex, C> {
    fn fused_activate(x: FloatTensor<Self>, function: Activation) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match Single.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), function), activate(x, function)),
            OpsKind::UnTracked(prep) => prep.finish(activate(x, function)),
        }
    }

    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        function: Activation,
    ) -> FloatTensor<Self> {
        let ((gate, first), (up, second)) = (gate.into_parts(), up.into_parts());
        match Gate
            .prepare::<C>([first, second])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = gated(gate.clone(), &up, function);
                prep.finish((gate, up, function), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(gated(gate, &up, function)),
        }
    }
}
