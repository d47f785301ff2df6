//! Its place in the graph.

use super::Attention;
use super::flex::Inputs;
use super::forward::Normaliser;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use modelsmith_core::mask::Band;

#[derive(Debug)]
struct Attend;

/// What the gradients are computed from.
#[derive(Clone, Debug)]
struct State {
    inputs: Inputs,
    y: FlexTensor,
    normaliser: Normaliser,
}

impl Backward<Flex, 3> for Attend {
    type State = State;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let State {
            inputs,
            y,
            normaliser,
        } = ops.state;
        let grad = grads.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = inputs.backward(&y, &normaliser, grad, wanted);
        for (parent, found) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (parent, found) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> Attention for Autodiff<Flex, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self> {
        attend::<C>([q, k, v], |qkv| Inputs::new(qkv, None, band, scale))
    }

    fn fused_attention_biased(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        band: Band,
        scale: f32,
    ) -> FloatTensor<Self> {
        let bias = Some(bias.into_primitive());
        attend::<C>([q, k, v], |qkv| Inputs::new(qkv, bias, band, scale))
    }
}

fn attend<C: CheckpointStrategy>(
    qkv: [FloatTensor<Autodiff<Flex, C>>; 3],
    inputs: impl FnOnce([FlexTensor; 3]) -> Inputs,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = qkv.each_ref().map(|x| x.node());
    let inputs = inputs(qkv.map(|x| x.into_primitive()));
    match Attend.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (y, normaliser) = inputs.forward_tracked();
            let state = State {
                inputs,
                y: y.clone(),
                normaliser,
            };
            prep.finish(state, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(inputs.forward()),
    }
}
