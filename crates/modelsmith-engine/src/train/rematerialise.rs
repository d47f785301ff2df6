//! Gradient checkpointing: blocks are run forward without a graph, keeping only what enters each;
//! in the backward pass each is run again with a graph of its own (Chen et al., arXiv 1604.06174,
//! section 4, with one block a segment).
//!
//! ```text
//! x_i = block_i(x_{i-1})             forward, nothing kept but x_{i-1}
//! g_{i-1} = d<block_i(x), g_i>/dx    backward, at x = x_{i-1}
//! ```
//!
//! Random draws are keyed by site and step, so the second run draws what the first drew.

use super::loss::{Prepared, loss_of_hidden};
use super::step::{add, scalar};
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::hooks::Pass;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::Adapter;
use modelsmith_hosts::Transformer;
use std::collections::BTreeMap;

/// Adds the gradients of one batch to `gradients`, holding the activations of one block at a time.
/// `places` divides the loss; `finite` checks its value before anything is added.
///
/// # Errors
/// What the host refuses, and what `finite` does.
pub(crate) fn backward(
    host: &Transformer,
    adapter: &dyn Adapter,
    batch: &Prepared,
    pass: &Pass,
    places: usize,
    gradients: &mut BTreeMap<String, Flat>,
    finite: &dyn Fn(f64) -> Result<f64>,
) -> Result<f64> {
    let hooks = [adapter.hooks()];
    let stages = host.stages(&batch.input, pass, &hooks)?;
    let mut entered = vec![stages.embed().without_autodiff()];
    for layer in 0..host.num_layers() {
        let x = entered[layer].clone();
        entered.push(stages.block(layer, x).without_autodiff());
    }
    let last = leaf(entered.pop());
    let hidden = stages.top(last.clone());
    let loss = loss_of_hidden(host, hidden, batch, pass, &hooks).div_scalar(places.max(1) as f64);
    let value = finite(scalar(&loss))?;
    let mut taken = loss.backward();
    let mut flowing = last.grad_remove(&mut taken);
    add(gradients, adapter.take_gradients(&mut taken));
    for layer in (0..host.num_layers()).rev() {
        let x = leaf(entered.pop());
        let y = stages.block(layer, x.clone());
        flowing = pull(y, flowing, Some(x), adapter, gradients);
    }
    pull(stages.embed(), flowing, None, adapter, gradients);
    Ok(value)
}

/// A kept activation as a leaf of a new graph.
fn leaf(kept: Option<Tensor<3>>) -> Tensor<3> {
    // One activation is kept for each block, and each block takes one.
    let kept = kept.expect("an activation is kept for every block");
    kept.autodiff().require_grad()
}

/// Adds the parameters' gradients of `<y, g>` and returns the gradient with respect to `x`.
fn pull(
    y: Tensor<3>,
    g: Option<Tensor<3>>,
    x: Option<Tensor<3>>,
    adapter: &dyn Adapter,
    gradients: &mut BTreeMap<String, Flat>,
) -> Option<Tensor<3>> {
    let g = g?;
    if !y.is_tracked() {
        return None;
    }
    let mut taken = (y * g).sum().backward();
    let flowing = x.and_then(|x| x.grad_remove(&mut taken));
    add(gradients, adapter.take_gradients(&mut taken));
    flowing
}
