//! The search for target activations: gradient descent on a vector that is added at the lookup token,
//! for many facts side by side (ROME, Meng et al., arXiv 2202.05262, equation 4).
//!
//! Texts in front of the lookup token do not depend on the vector: their keys and values are computed once, and
//! so is the stream of the others up to the block at which the vector is added. A step runs the blocks behind it on
//! the tokens from the lookup on, and the head where an answer is predicted.

mod adam;
mod group;

use super::editor::Figures;
use super::facts::Fact;
use super::mlps::Mlp;
use faer::Mat;
use group::Group;
use modelsmith_core::error::Result;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{Reference, Search};

/// Facts that are searched for side by side, and rows of logits of a step at most.
const FACTS: usize = 64;
const LOGITS: usize = 48 << 20;

/// What was found for a batch of facts.
pub(crate) struct Targets {
    /// Target activations, `[width, facts]`.
    pub(crate) values: Mat<f64>,
    /// Steps of Adam taken.
    pub(crate) steps: Vec<usize>,
    /// Loss at the end.
    pub(crate) losses: Vec<f64>,
}

/// Target activations at block `layer` for all facts.
///
/// # Errors
/// Prompts that are longer than the model's positions, losses that are not finite.
pub(crate) fn targets(
    host: &Transformer,
    mlps: &[Mlp],
    facts: &[Fact],
    layer: usize,
    reference: Reference,
    options: &Search,
) -> Result<Targets> {
    let width = mlps[layer].site.outputs;
    let mut found = Targets {
        values: Mat::zeros(width, facts.len()),
        steps: vec![0; facts.len()],
        losses: vec![0.0; facts.len()],
    };
    let mut order: Vec<usize> = (0..facts.len()).collect();
    // Facts of similar shape share a group, so that little of it is padding.
    order.sort_by_key(|number| shape(&facts[*number]));
    let mut begin = 0;
    while begin < order.len() {
        let end = (begin + 1..=order.len())
            .take_while(|end| fits(host, facts, &order[begin..*end]))
            .last()
            .unwrap_or(begin + 1);
        let group = Group::new(host, mlps, facts, &order[begin..end], layer, reference)?;
        group.search(options, &mut found)?;
        begin = end;
    }
    Ok(found)
}

impl Targets {
    /// Means over the facts.
    pub(crate) fn figures(&self) -> Figures {
        let count = self.steps.len() as f64;
        Figures {
            facts: self.steps.len(),
            steps: self.steps.iter().sum::<usize>() as f64 / count,
            loss: self.losses.iter().sum::<f64>() / count,
            ..Figures::default()
        }
    }
}

fn shape(fact: &Fact) -> (usize, usize) {
    let after = fact.bare.ids.len() - fact.bare.lookup + fact.target.len();
    (fact.bare.lookup, after)
}

fn fits(host: &Transformer, facts: &[Fact], numbers: &[usize]) -> bool {
    let places = |number: &usize| {
        let fact = &facts[*number];
        1 + (1 + fact.prefixed.len()) * fact.target.len()
    };
    let rows: usize = numbers.iter().map(places).sum();
    numbers.len() <= FACTS && rows * host.vocab_size() <= LOGITS || numbers.len() == 1
}
