//! A model under edits, in memory.

use super::batch::{self, Known, remember};
use super::change::{Change, weight_norm, write};
use super::contexts;
use super::facts::{Fact, Statement};
use super::fine_tune;
use super::guard::Guard;
use super::mlps::{Mlp, mlps};
use super::moments;
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{Edit, FineTune, Lookup, Moment, Way};
use std::collections::BTreeMap;
use std::path::Path;

/// A model that is edited batch after batch.
pub struct Editor {
    /// The model with all edits so far.
    pub host: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    method: Box<dyn Edit>,
    mlps: Vec<Mlp>,
    layers: Vec<usize>,
    lookup: Lookup,
    contexts: Vec<String>,
    moments: BTreeMap<usize, Moment>,
    memory: BTreeMap<usize, Mat<f64>>,
    /// Facts written before, oldest first, where the method looks back at them.
    past: Vec<Fact>,
    seed: u64,
    /// Limits of every change.
    pub guard: Guard,
}

/// What one batch did, as it is kept: enough to make the same change of another copy of the base.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Changes in the order in which they are made.
    pub(crate) changes: Vec<Change>,
    /// Keys to be remembered by layer: width, and values fact by fact.
    pub(crate) keys: BTreeMap<usize, (usize, Vec<f32>)>,
    /// Figures.
    pub figures: Figures,
}

/// Figures of a batch.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Facts written.
    pub facts: usize,
    /// Mean over facts of the steps of the search, or the steps of fine-tuning.
    pub steps: f64,
    /// Mean over facts of the loss at the end of the search.
    pub loss: f64,
    /// Norms by weight: of the change, and of the weight after it.
    pub norms: Vec<(String, f64, f64)>,
    /// Least ratio of ROME's denominator to that of consistent keys.
    pub consistency: Option<f64>,
    /// What the guard would have refused.
    pub warnings: Vec<String>,
}

impl Editor {
    /// An editor of `host`; contexts are sampled under `seed` where none are given.
    ///
    /// # Errors
    /// A host that cannot be edited, layers that it does not have.
    pub fn new(
        host: Transformer,
        tokenizer: Tokenizer,
        method: Box<dyn Edit>,
        contexts: Option<Vec<String>>,
        seed: u64,
    ) -> Result<Self> {
        let mlps = mlps(&host)?;
        let (layers, lookup, scheme) = match method.way() {
            Way::ClosedForm(form) => {
                let plan = form.plan();
                let layers = plan.layers.of(mlps.len(), !plan.single)?;
                (layers, plan.lookup, Some(plan.contexts))
            }
            Way::FineTune(options) => (
                options.layers.of(mlps.len(), false)?,
                Lookup::PromptLast,
                None,
            ),
        };
        let contexts = match (contexts, scheme) {
            (Some(contexts), _) => contexts,
            (None, Some(scheme)) => contexts::sample(&host, &tokenizer, scheme, seed)?,
            (None, None) => Vec::new(),
        };
        Ok(Self {
            host,
            tokenizer,
            method,
            mlps,
            layers,
            lookup,
            contexts,
            moments: BTreeMap::new(),
            memory: BTreeMap::new(),
            past: Vec::new(),
            seed,
            guard: Guard::default(),
        })
    }

    /// Whether [`Editor::collect`] must be called before the first edit.
    pub fn needs_moments(&self) -> bool {
        match self.method.way() {
            Way::ClosedForm(form) => form.plan().moment,
            Way::FineTune(_) => false,
        }
    }

    /// Numbers of the edited blocks.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The contexts in front of prompts.
    pub fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// Collects the moments of the edited layers over texts, in a `file` under a `key` if that is given.
    ///
    /// # Errors
    /// Texts without a token, a file that cannot be read or written.
    pub fn collect(&mut self, texts: &[Vec<u32>], file: Option<(&Path, &str)>) -> Result<()> {
        self.moments = moments::collect(&self.host, &self.mlps, &self.layers, texts, file)?;
        Ok(())
    }

    /// Writes a batch of facts into the model; [`Editor::remember`] then keeps its keys.
    ///
    /// # Errors
    /// A fact that does not fit the model, a change that cannot be computed or that the guard refuses; the model
    /// is as it was then.
    pub fn edit(&mut self, statements: &[Statement]) -> Result<Step> {
        let facts = self.read(statements)?;
        if facts.is_empty() {
            return Err(Error::Usage("a batch of no facts was to be written".into()));
        }
        let before = self.weights_now()?;
        let result = self.try_edit(&facts);
        match &result {
            Ok(_) if self.looks_back() => self.past.extend(facts),
            Ok(_) => {}
            Err(_) => self.put_back(&before)?,
        }
        result
    }

    fn read(&self, statements: &[Statement]) -> Result<Vec<Fact>> {
        let read = |one: &Statement| Fact::read(&self.tokenizer, one, &self.contexts, self.lookup);
        statements.iter().map(read).collect()
    }

    fn looks_back(&self) -> bool {
        matches!(self.method.way(), Way::FineTune(options) if options.looks_back())
    }

    /// Keeps the keys of a batch, so that later ones leave their outputs as they are.
    pub fn remember(&mut self, step: &Step) {
        remember(&mut self.memory, &step.keys);
    }

    /// The edited weights as they are.
    ///
    /// # Errors
    /// None that a host that was loaded can cause.
    pub fn weights_now(&self) -> Result<Vec<(String, Flat)>> {
        let layers = self.layers.iter().map(|layer| &self.mlps[*layer]);
        layers
            .map(|mlp| Ok((mlp.weight.clone(), mlp.stored(&self.host)?)))
            .collect()
    }

    /// Puts back what [`Editor::weights_now`] gave.
    ///
    /// # Errors
    /// As there.
    pub fn put_back(&mut self, weights: &[(String, Flat)]) -> Result<()> {
        weights
            .iter()
            .try_for_each(|(name, value)| self.host.set_weight(name, value))
    }

    /// Frobenius norms of the edited weights, by name.
    pub fn norms(&self) -> Vec<(String, f64)> {
        let names = self.layers.iter().map(|layer| &self.mlps[*layer].weight);
        names
            .map(|name| (name.clone(), weight_norm(&self.host, name)))
            .collect()
    }

    fn try_edit(&mut self, facts: &[Fact]) -> Result<Step> {
        match self.method.way() {
            Way::ClosedForm(form) => {
                let known = Known {
                    mlps: &self.mlps,
                    layers: &self.layers,
                    moments: &self.moments,
                    memory: &self.memory,
                    guard: &self.guard,
                };
                batch::edit(&mut self.host, &known, form, facts)
            }
            Way::FineTune(options) => {
                let options = options.clone();
                self.fine_tune(&options, facts)
            }
        }
    }

    fn fine_tune(&mut self, options: &FineTune, facts: &[Fact]) -> Result<Step> {
        let (mlps, layer, seed) = (&self.mlps, self.layers[0], self.seed);
        let both = (facts, &self.past[..]);
        let (change, steps, loss) =
            fine_tune::change(&self.host, mlps, layer, options, both, seed)?;
        let mut figures = Figures {
            facts: facts.len(),
            steps: steps as f64,
            loss,
            ..Figures::default()
        };
        batch::make(&mut self.host, &self.guard, &change, &mut figures)?;
        let mut changes = vec![change];
        let count = self.past.len();
        let rounds = |facts: usize| facts.checked_div(options.retrain_every).unwrap_or(0);
        if rounds(count) < rounds(count + facts.len()) {
            let all = [&self.past[..], facts].concat();
            let again = fine_tune::rehearsal(&self.host, mlps, layer, options, &all, seed)?;
            batch::make(&mut self.host, &self.guard, &again, &mut figures)?;
            changes.push(again);
        }
        Ok(Step {
            changes,
            keys: BTreeMap::new(),
            figures,
        })
    }

    /// Makes the changes of an earlier batch again.
    ///
    /// # Errors
    /// Changes that are for another model, statements that do not fit it.
    pub fn repeat(&mut self, step: &Step, statements: &[Statement]) -> Result<()> {
        for change in &step.changes {
            write(&mut self.host, change)?;
        }
        remember(&mut self.memory, &step.keys);
        if self.looks_back() {
            self.past.extend(self.read(statements)?);
        }
        Ok(())
    }
}
