//! Networks that read images: trained as a whole ([`fit()`]), measured image by image ([`measure()`]), and asked for
//! gradients of a loss in all of their weights.

mod fit;
mod gradient;
mod measure;

pub use fit::{Fit, fit};
pub use gradient::{Gradient, fisher_diagonal, mean_gradient};
pub use measure::{Measured, measure};

use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::ImageHost;
use modelsmith_data::images::ImageBatch;
use modelsmith_kernels::log_softmax;
use std::collections::BTreeSet;

/// Images that are computed together where nothing depends on how many.
const TOGETHER: usize = 250;

/// The logits `[batch, classes]` of a batch, without hooks.
fn logits(host: &dyn ImageHost, batch: &ImageBatch) -> Result<Tensor<2>> {
    let data = TensorData::new(batch.values.clone(), batch.shape);
    let images = Tensor::from_data(data, &host.device());
    host.logits(images, &Pass::default(), &[])
}

/// Negative log-likelihoods `[batch, 1]` of classes.
fn losses(logits: Tensor<2>, classes: &[usize], device: &Device) -> Tensor<2> {
    let classes: Vec<i64> = classes.iter().map(|class| *class as i64).collect();
    let shape = [classes.len(), 1];
    let chosen = Tensor::<2, Int>::from_data(TensorData::new(classes, shape), device);
    log_softmax(logits).gather(1, chosen).neg()
}

/// Names of the weights that training learns.
fn learnt(host: &dyn ImageHost) -> BTreeSet<String> {
    let names = host.weight_names().into_iter();
    names.filter(|name| host.learns(name)).collect()
}
