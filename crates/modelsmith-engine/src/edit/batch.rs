//! A batch of facts written into the weights: search, then layer by layer keys, closed form, write.

use super::change::{Change, matrix, rows, weight_norm, write};
use super::editor::{Figures, Step};
use super::facts::{Fact, Prompt};
use super::guard::Guard;
use super::mlps::Mlp;
use super::rows::{Output, Rows};
use super::search;
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{
    CRome, ClosedForm, Keys, Memory, Moment, Plan, Problem, Reference, Update, product,
};
use std::collections::BTreeMap;

/// What is known of a model and its layers before a batch.
pub(crate) struct Known<'a> {
    /// The MLPs of all blocks.
    pub(crate) mlps: &'a [Mlp],
    /// Numbers of the edited blocks.
    pub(crate) layers: &'a [usize],
    /// Second moments of the keys by layer.
    pub(crate) moments: &'a BTreeMap<usize, Moment>,
    /// `Σ k kᵀ` over remembered keys by layer.
    pub(crate) memory: &'a BTreeMap<usize, Mat<f64>>,
    /// Limits of the changes.
    pub(crate) guard: &'a Guard,
}

/// Writes `facts` into `host`.
///
/// # Errors
/// Prompts that do not fit the model, a closed form that cannot be solved, a change that the guard refuses;
/// the host may have been changed then.
pub(crate) fn edit(
    host: &mut Transformer,
    known: &Known<'_>,
    method: &dyn ClosedForm,
    facts: &[Fact],
) -> Result<Step> {
    let plan = method.plan();
    if plan.single && facts.len() != 1 {
        return Err(Error::Usage(format!(
            "this editor writes one fact at a time; found a batch of {}",
            facts.len()
        )));
    }
    let Some(last) = known.layers.last().copied() else {
        return Err(Error::Usage("no layer is edited".into()));
    };
    let found = search::targets(host, known.mlps, facts, last, plan.reference, plan.search)?;
    let mut step = Step {
        changes: Vec::new(),
        keys: BTreeMap::new(),
        figures: found.figures(),
    };
    let mut sources = Sources::new(host, known, facts)?;
    for (place, layer) in known.layers.iter().copied().enumerate() {
        let left = known.layers.len() - place;
        let at = (layer, last, left);
        let update = solve(host, known, method, &plan, at, &sources, &found.values)?;
        let change = Change::new(&known.mlps[layer], layer, &update);
        make(host, known.guard, &change, &mut step.figures)?;
        if plan.memory == Memory::Solved {
            step.keys.insert(layer, flat(&update.keys));
        }
        step.changes.push(change);
        if left > 1 {
            sources.advance(host, known.layers[place + 1])?;
        }
    }
    if plan.memory == Memory::Edited {
        step.keys = edited_keys(host, known, facts)?;
    }
    Ok(step)
}

/// Makes a change that the guard accepts, and notes its figures.
pub(crate) fn make(
    host: &mut Transformer,
    guard: &Guard,
    change: &Change,
    figures: &mut Figures,
) -> Result<()> {
    let by = change.norm();
    let name = &change.weight;
    let warning = guard.check(change, by, weight_norm(host, name))?;
    figures.warnings.extend(warning);
    write(host, change)?;
    let norms = (name.clone(), by, weight_norm(host, name));
    figures.norms.push(norms);
    let least = figures.consistency.into_iter().chain(change.consistency);
    figures.consistency = least.min_by(f64::total_cmp);
    Ok(())
}

/// The prompts of a batch, run as far as the layer that comes next.
struct Sources<'m> {
    bare: Rows<'m>,
    prefixed: Rows<'m>,
    contexts: usize,
}

impl<'m> Sources<'m> {
    fn new(host: &Transformer, known: &Known<'m>, facts: &[Fact]) -> Result<Self> {
        let bare: Vec<&Prompt> = facts.iter().map(|fact| &fact.bare).collect();
        let prefixed: Vec<&Prompt> = facts.iter().flat_map(|fact| &fact.prefixed).collect();
        let first = known.layers.first().copied().unwrap_or(0);
        Ok(Self {
            bare: Rows::new(host, known.mlps, &bare, first)?,
            prefixed: Rows::new(host, known.mlps, &prefixed, first)?,
            contexts: facts.first().map_or(0, |fact| fact.prefixed.len()),
        })
    }

    /// Runs on to the input of block `next`.
    fn advance(&mut self, host: &Transformer, next: usize) -> Result<()> {
        self.bare.advance(host, next - 1)?;
        self.prefixed.advance(host, next - 1)
    }

    fn keys(&self, host: &Transformer, layer: usize) -> Result<Keys> {
        let bare = self.bare.keys(host, layer)?;
        let all = self.prefixed.keys(host, layer)?;
        let (contexts, scale) = (self.contexts, 1.0 / self.contexts.max(1) as f64);
        let mean = |row: usize, fact: usize| {
            let own = fact * contexts..(fact + 1) * contexts;
            own.map(|column| all[(row, column)]).sum::<f64>() * scale
        };
        Ok(Keys {
            prefixed: Mat::from_fn(bare.nrows(), bare.ncols(), mean),
            bare,
            contexts,
        })
    }
}

/// The change of `layer`, from what the outputs of layer `last` lack.
fn solve(
    host: &Transformer,
    known: &Known<'_>,
    method: &dyn ClosedForm,
    plan: &Plan<'_>,
    (layer, last, left): (usize, usize, usize),
    sources: &Sources<'_>,
    targets: &Mat<f64>,
) -> Result<Update> {
    let keys = sources.keys(host, layer)?;
    let output = match plan.reference {
        Reference::Block => Output::Block,
        Reference::Mlp | Reference::AttentionAndMlp => Output::Mlp,
    };
    let now = sources.bare.outputs(host, last, output)?;
    let residual = (targets - now) * faer::Scale(1.0 / plan.spread.divisor(left));
    let weight = known.mlps[layer].matrix(host)?;
    let moment = match (plan.moment, known.moments.get(&layer)) {
        (true, None) => {
            return Err(Error::Failed(format!(
                "the second moment of the keys of block {layer} was not collected"
            )));
        }
        (true, moment) => moment,
        (false, _) => None,
    };
    let problem = Problem {
        keys: &keys,
        residual: residual.as_ref(),
        weight: weight.as_ref(),
        moment,
        memory: known.memory.get(&layer).map(Mat::as_ref),
    };
    let update = method.solve(&problem)?;
    match known.guard.switches(update.consistency) {
        true => CRome::default().solve(&problem),
        false => Ok(update),
    }
}

/// Keys of a batch as the model has them now.
fn edited_keys(
    host: &Transformer,
    known: &Known<'_>,
    facts: &[Fact],
) -> Result<BTreeMap<usize, (usize, Vec<f32>)>> {
    let mut sources = Sources::new(host, known, facts)?;
    let mut found = BTreeMap::new();
    for (place, layer) in known.layers.iter().copied().enumerate() {
        found.insert(layer, flat(&sources.keys(host, layer)?.halves()));
        if let Some(next) = known.layers.get(place + 1) {
            sources.advance(host, *next)?;
        }
    }
    Ok(found)
}

/// Keys `[f, n]` as they are kept: their width, and their values fact by fact.
fn flat(keys: &Mat<f64>) -> (usize, Vec<f32>) {
    (keys.nrows(), rows(&keys.transpose().to_owned()))
}

/// Adds `K Kᵀ` of a batch to what is remembered.
pub(crate) fn remember(
    memory: &mut BTreeMap<usize, Mat<f64>>,
    keys: &BTreeMap<usize, (usize, Vec<f32>)>,
) {
    for (layer, (width, values)) in keys {
        let sum = memory
            .entry(*layer)
            .or_insert_with(|| Mat::zeros(*width, *width));
        let keys = matrix(values, values.len() / width.max(&1), *width);
        *sum += product(keys.transpose(), keys.as_ref());
    }
}
