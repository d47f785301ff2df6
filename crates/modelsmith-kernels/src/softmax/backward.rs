//! Their gradients, from the results.

use super::Softmax;
use super::flex::{backward, bias_gradient, log_backward};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};

#[derive(Debug)]
struct Plain;

impl Backward<Flex, 1> for Plain {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let p = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |grad| backward(&p, grad));
    }
}

#[derive(Debug)]
struct Biased;

impl Backward<Flex, 2> for Biased {
    /// The probabilities, and the lengths of the bias.
    type State = (FlexTensor, Vec<usize>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (p, lengths) = ops.state;
        let grad = backward(&p, grads.consume::<Flex>(&ops.node));
        let [scores, bias] = ops.parents;
        if let Some(node) = bias {
            grads.register::<Flex>(node.id, bias_gradient(grad.clone(), &lengths));
        }
        if let Some(node) = scores {
            grads.register::<Flex>(node.id, grad);
        }
    }
}

#[derive(Debug)]
struct Log;

impl Backward<Flex, 1> for Log {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let y = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |grad| log_backward(&y, grad));
    }
}

impl<C: CheckpointStrategy> Softmax for Autodiff<Flex, C> {
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let p = Flex::fused_softmax(x);
        match Plain.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(p.clone(), p),
            OpsKind::UnTracked(prep) => prep.finish(p),
        }
    }

    fn fused_softmax_biased(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, scores), (bias, offsets)) = (x.into_parts(), bias.into_parts());
        let lengths = bias.shape().to_vec();
        let p = Flex::fused_softmax_biased(x, bias);
        match Biased
            .prepare::<C>([scores, offsets])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((p.clone(), lengths), p),
            OpsKind::UnTracked(prep) => prep.finish(p),
        }
    }

    fn fused_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::fused_log_softmax(x);
        match Log.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(y.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
