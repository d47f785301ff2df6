//! The gradient by the table.

use super::Lookup;
use super::flex::backward;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex, Shape, TensorMetadata};

#[derive(Debug)]
struct Scatter;

impl Backward<Flex, 1> for Scatter {
    /// The ids, and the shape of the table.
    type State = (IntTensor<Flex>, Shape);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (ids, shape) = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
            backward(&grad, ids, &shape)
        });
    }
}

impl<C: CheckpointStrategy> Lookup for Autodiff<Flex, C> {
    fn fused_lookup(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let (table, node) = table.into_parts();
        let shape = table.shape();
        let y = Flex::float_select(table, 0, ids.clone());
        match Scatter.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((ids, shape), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
