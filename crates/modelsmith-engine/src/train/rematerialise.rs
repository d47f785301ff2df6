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
use super::step::{Share, add, scalar, sum, terms_of};
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
) -> Result<Share> {
    let hooks = [adapter.hooks()];
    let stages = host.stages(&batch.input, pass, &hooks)?;
    let mut entered = vec![stages.embed().without_autodiff()];
    for layer in 0..host.num_layers() {
        let x = entered[layer].clone();
        entered.push(stages.block(layer, x).without_autodiff());
        // The second run leaves the terms that count; these would keep the block's graph.
        drop(adapter.take_terms());
    }
    let last = leaf(entered.pop());
    let hidden = stages.top(last.clone());
    let loss = loss_of_hidden(host, hidden, batch, pass, &hooks).div_scalar(places.max(1) as f64);
    let mut values = Share {
        loss: finite(scalar(&loss))?,
        terms: None,
    };
    let share = batch.share_of(places);
    let mut terms = |adapter: &dyn Adapter| -> Result<Option<Tensor<1>>> {
        let terms = terms_of(adapter, share);
        let value = terms.as_ref().map(|terms| finite(scalar(terms)));
        values.terms = sum(values.terms, value.transpose()?);
        Ok(terms)
    };
    let loss = match terms(adapter)? {
        Some(terms) => loss + terms,
        None => loss,
    };
    let mut taken = loss.backward();
    let mut flowing = last.grad_remove(&mut taken);
    add(gradients, adapter.take_gradients(&mut taken));
    for layer in (0..host.num_layers()).rev() {
        let x = leaf(entered.pop());
        let y = stages.block(layer, x.clone());
        flowing = pull(y, flowing, terms(adapter)?, Some(x), adapter, gradients);
    }
    pull(stages.embed(), flowing, None, None, adapter, gradients);
    Ok(values)
}

/// A kept activation as a leaf of a new graph.
fn leaf(kept: Option<Tensor<3>>) -> Tensor<3> {
    // One activation is kept for each block, and each block takes one.
    let kept = kept.expect("an activation is kept for every block");
    kept.autodiff().require_grad()
}

/// Adds the parameters' gradients of `<y, g>` and of the block's terms, and returns the gradient with respect
/// to `x`.
fn pull(
    y: Tensor<3>,
    g: Option<Tensor<3>>,
    terms: Option<Tensor<1>>,
    x: Option<Tensor<3>>,
    adapter: &dyn Adapter,
    gradients: &mut BTreeMap<String, Flat>,
) -> Option<Tensor<3>> {
    let g = g?;
    if !y.is_tracked() {
        return None;
    }
    let root = (y * g).sum();
    let root = match terms {
        Some(terms) => root + terms,
        None => root,
    };
    let mut taken = root.backward();
    let flowing = x.and_then(|x| x.grad_remove(&mut taken));
    add(gradients, adapter.take_gradients(&mut taken));
    flowing
}
