//! Whether an operation takes its fused form.

use burn::backend::{DType, DispatchTensor, DispatchTensorKind, TensorMetadata};
use burn::tensor::Tensor;
use std::sync::atomic::{AtomicU8, Ordering};

const UNSET: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNSET);

/// Turns the fused forms on or off for the whole process. Off, every operation is its reference.
pub fn set_fused(on: bool) {
    STATE.store(if on { ON } else { OFF }, Ordering::Relaxed);
}

/// Whether fused forms are taken where they exist: what [`set_fused`] said last, or else the
/// environment variable `MODELSMITH_FUSED` (`0` is off), or else yes.
pub fn fused() -> bool {
    match STATE.load(Ordering::Relaxed) {
        UNSET => {
            let off = std::env::var_os("MODELSMITH_FUSED").is_some_and(|value| value == "0");
            set_fused(!off);
            !off
        }
        state => state == ON,
    }
}

/// Whether the fused form applies to these tensors: all `f32` on the CPU backend.
pub(crate) fn applies(tensors: &[&DispatchTensor]) -> bool {
    fused()
        && tensors
            .iter()
            .all(|tensor| tensor.dtype() == DType::F32 && on_cpu(tensor))
}

/// Whether the fused form of an operation with a weight applies: `f32` on the CPU backend, of which the
/// weight may be stored in `bf16`.
pub(crate) fn applies_to_weight(weight: &DispatchTensor, others: &[&DispatchTensor]) -> bool {
    applies(others) && on_cpu(weight) && matches!(weight.dtype(), DType::F32 | DType::BF16)
}

/// The same as [`applies`] for an operation outside any graph.
pub(crate) fn applies_plain(tensors: &[&Tensor<1>]) -> bool {
    tensors
        .iter()
        .all(|tensor| !tensor.is_autodiff() && applies(&[&(*tensor).clone().into_dispatch()]))
}

/// Whether the tensor lives on the CPU backend, under autodiff or not.
pub(crate) fn on_cpu(tensor: &DispatchTensor) -> bool {
    let flex = |kind: &DispatchTensorKind| matches!(kind, DispatchTensorKind::Flex(_));
    match &tensor.kind {
        DispatchTensorKind::Autodiff(inner) => flex(inner),
        kind => flex(kind),
    }
}
