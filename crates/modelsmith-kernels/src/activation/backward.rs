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
            activate_backward(&x, &grad, function)
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
        let found = gated_backward(&gate, &up, &grad, function);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> Activate for Autodiff<Flex, C> {
    fn fused_activate(x: FloatTensor<Self>, function: Activation) -> FloatTensor<Self> {
        let y = activate(x.primitive(), function);
        match Single.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.into_primitive(), function), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        function: Activation,
    ) -> FloatTensor<Self> {
        let y = gated(gate.primitive(), up.primitive(), function);
        match Gate
            .prepare::<C>([gate.node(), up.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = (gate.into_primitive(), up.into_primitive(), function);
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
