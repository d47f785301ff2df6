//! What a model says at chosen places: logits are made there only.

use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_hosts::{TokenInput, Transformer};

/// Log-probabilities over the vocabulary `[places, vocabulary]` at flat places `row * time + column` of the
/// last hidden states `[batch, time, width]` of `input`.
pub(crate) fn log_probabilities(
    host: &Transformer,
    hidden: Tensor<3>,
    places: Vec<i64>,
    input: &TokenInput,
) -> Tensor<2> {
    let ([rows, time, width], count) = (hidden.dims(), places.len());
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &host.device());
    let states = hidden.reshape([rows * time, width]).select(0, places);
    let logits = host.logits(states.unsqueeze_dim(0), input, &Pass::default(), &[]);
    modelsmith_kernels::log_softmax(logits).squeeze_dim(0)
}
