//! What a codebook is compared with (Hartvigsen et al., arXiv 2211.11031, section 3): a few trained layers beside one
//! layer of a frozen model, trained on each fact in turn, with nothing that keeps earlier facts apart.
//!
//! ```text
//! Memory   value = softmax(W q + b) V             always in the place of the output
//! Defer    value = M q + c     g = σ(w q + d)     g value + (1 - g) output while training,
//!                                                 value where g > 1/2, else the output, when used
//! ```
//!
//! `q` is the layer's input at the last prompt token, as for the codebook.

use super::facts::{Fact, Statement};
use super::grace::{Layer, Schedule, block_of, usual_module};
use super::mlps::mlps;
use super::ranges::{above_zero, at_least};
use super::rows::numbered;
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_core::sites::{Site, SiteKind};
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::Lookup;
use modelsmith_methods::edit::grace::{PromptEnds, Replacement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    /// A mixture of values.
    Memory,
    /// A linear map behind a gate.
    Defer,
}

/// Options of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Path of the dense layer; empty for the codebook's usual one.
    pub module: String,
    /// Values of a mixture.
    pub values: usize,
    /// Steps of Adam for a fact at most.
    pub steps: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// A fact is done at a loss below this.
    pub loss_stop: f64,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            module: String::new(),
            values: 100,
            steps: 100,
            learning_rate: 1e-2,
            loss_stop: 0.01,
        }
    }
}

impl GateConfig {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        at_least(1, &[("values", self.values), ("steps", self.steps)])?;
        above_zero(&[("learning_rate", self.learning_rate)])
    }
}

/// A model with a gate that is trained on one fact after the other.
pub struct GateEditor<'a> {
    host: &'a Transformer,
    tokenizer: &'a Tokenizer,
    config: GateConfig,
    blocks: BTreeMap<String, usize>,
    block: Option<usize>,
    /// The trained numbers.
    parts: Vec<Flat>,
    /// What is attached.
    pub gate: Gate,
}

/// Trained layers at a layer.
#[derive(Debug)]
pub struct Gate {
    kind: GateKind,
    site: Site,
    /// The trained tensors.
    parts: Vec<Tensor<2>>,
    /// Whether a fact was written; a gate that knows nothing changes nothing.
    used: bool,
    ends: PromptEnds,
}

impl<'a> GateEditor<'a> {
    /// An untrained gate, its numbers drawn by the seed.
    ///
    /// # Errors
    /// Options out of range, a model without MLPs, a layer that it does not have.
    pub fn new(
        host: &'a Transformer,
        tokenizer: &'a Tokenizer,
        kind: GateKind,
        mut config: GateConfig,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        let mlps = mlps(host)?;
        if config.module.is_empty() {
            config.module = usual_module(&mlps);
        }
        let named = |site: &&Site| site.path == config.module && site.kind == SiteKind::Linear;
        let site = host.sites().iter().find(named).cloned().ok_or_else(|| {
            let problem = format!("{} is no dense layer of the model", config.module);
            Error::config("method.module", problem)
        })?;
        let parts = start(kind, &site, config.values, seed, host);
        Ok(Self {
            gate: Gate {
                parts: tensors(&parts)?,
                kind,
                used: false,
                ends: PromptEnds::default(),
                site,
            },
            parts,
            block: block_of(&mlps, &config.module),
            blocks: numbered(&mlps),
            config,
            host,
            tokenizer,
        })
    }

    /// Trains the gate on a fact; the steps it took.
    ///
    /// # Errors
    /// A prompt that does not fit the model, a loss that is not finite; the gate is as it was then.
    pub fn write(&mut self, statement: &Statement) -> Result<usize> {
        let fact = Fact::read(self.tokenizer, statement, &[], Lookup::PromptLast)?;
        let layer = Layer {
            host: self.host,
            blocks: &self.blocks,
            block: self.block,
            path: &self.gate.site.path,
        };
        let (task, query, output) = layer.task(&fact, None)?;
        let device = self.host.device();
        let row = |values: Vec<f32>| {
            let width = values.len();
            Tensor::<2>::from_data(TensorData::new(values, [1, width]), &device)
        };
        let (query, output) = (row(query), row(output));
        let kind = self.gate.kind;
        let value = |parts: &[Tensor<2>]| match kind {
            GateKind::Memory => mixture(parts, query.clone()),
            GateKind::Defer => {
                let gate = gate(parts, query.clone());
                let value = mapped(parts, query.clone());
                value * gate.clone() + output.clone() * (1.0 - gate)
            }
        };
        let schedule = Schedule {
            steps: self.config.steps,
            learning_rate: self.config.learning_rate,
            loss_stop: self.config.loss_stop,
            replacement: Replacement::ReplaceLast,
        };
        let mut parts = self.parts.clone();
        let losses = layer.train(&task, &schedule, &mut parts, &value)?;
        self.gate.parts = tensors(&parts)?;
        self.parts = parts;
        self.gate.used = true;
        Ok(losses.len().saturating_sub(1))
    }

    /// Numbers that are trained.
    pub fn trained(&self) -> usize {
        self.parts.iter().map(Flat::len).sum()
    }
}

/// Memory: `W [n, in]`, `b [1, n]`, `V [n, out]`. Defer: `M [out, in]`, `c [1, out]`, `w [1, in]`, `d [1, 1]`.
fn start(kind: GateKind, site: &Site, values: usize, seed: u64, host: &Transformer) -> Vec<Flat> {
    let (inputs, outputs) = (site.inputs, site.outputs);
    let shapes = match kind {
        GateKind::Memory => vec![[values, inputs], [1, values], [values, outputs]],
        GateKind::Defer => vec![[outputs, inputs], [1, outputs], [1, inputs], [1, 1]],
    };
    // As linear layers begin: uniform within 1/√inputs.
    let bound = 1.0 / (inputs as f32).sqrt();
    let part = |(number, shape): (usize, [usize; 2])| {
        let mut stream = Stream::new(seed, &format!("edit/gate/{number}"));
        let numbers = stream.uniform(shape[0] * shape[1], -bound, bound);
        Flat::from_vec(numbers, &shape, &host.device())
    };
    shapes.into_iter().enumerate().map(part).collect()
}

fn tensors(parts: &[Flat]) -> Result<Vec<Tensor<2>>> {
    parts.iter().map(|part| part.tensor::<2>()).collect()
}

/// `softmax(q Wᵀ + b) V` of queries `[rows, in]`.
fn mixture(parts: &[Tensor<2>], query: Tensor<2>) -> Tensor<2> {
    let scores = query.matmul(parts[0].clone().transpose()) + parts[1].clone();
    softmax(scores, 1).matmul(parts[2].clone())
}

/// `q Mᵀ + c`.
fn mapped(parts: &[Tensor<2>], query: Tensor<2>) -> Tensor<2> {
    query.matmul(parts[0].clone().transpose()) + parts[1].clone()
}

/// `σ(q wᵀ + d)`, `[rows, 1]`.
fn gate(parts: &[Tensor<2>], query: Tensor<2>) -> Tensor<2> {
    sigmoid(query.matmul(parts[2].clone().transpose()) + parts[3].clone())
}

impl Gate {
    /// The values of queries `[rows, in]`; `None` for a row whose output stays.
    fn values(&self, queries: Tensor<2>) -> Vec<Option<Tensor<2>>> {
        let parts = &self.parts;
        let [rows, _] = queries.dims();
        let (values, open) = match self.kind {
            GateKind::Memory => (mixture(parts, queries), vec![1.0; rows]),
            GateKind::Defer => {
                let open = to_vec(gate(parts, queries.clone()));
                (mapped(parts, queries), open)
            }
        };
        let row =
            |(row, open): (usize, f32)| (open > 0.5).then(|| values.clone().narrow(0, row, 1));
        open.into_iter().enumerate().map(row).collect()
    }
}

impl Hooks for Gate {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        if call.site.path != self.site.path {
            return call.run(x);
        }
        let [rows, time, _] = x.dims();
        let last = self.ends.take([rows, time]);
        // Tokens that are written later see the value through the cache.
        if !self.used || call.pass.offset > 0 {
            return call.run(x);
        }
        let queries = PromptEnds::states(&x, &last);
        let mut y = call.run(x);
        let width = y.dims()[2];
        for (row, value) in self.values(queries).into_iter().enumerate() {
            if let Some(value) = value {
                let place = [row..row + 1, last[row]..last[row] + 1, 0..width];
                y = y.slice_assign(place, value.unsqueeze_dim(0));
            }
        }
        y
    }

    fn acts_at(&self, site: &Site) -> bool {
        site.path == self.site.path
    }

    fn given(&self, lengths: &[usize]) {
        self.ends.given(lengths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::is_right;
    use crate::edit::measure::Scored;
    use burn::tensor::Device;
    use modelsmith_core::hooks::Pass;
    use modelsmith_data::house::{HouseConfig, edits};
    use modelsmith_hosts::TokenInput;
    use std::path::Path;

    fn logits(host: &Transformer, ids: &[u32], hooks: &[&dyn Hooks]) -> Vec<f32> {
        let input = TokenInput::from_ids(&[ids.to_vec()], 0, false, &Device::flex());
        to_vec(host.forward(&input, &Pass::default(), hooks).unwrap())
    }

    #[test]
    fn a_gate_gives_the_last_fact_and_an_unused_one_changes_nothing() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
        let host = modelsmith_hosts::load(&house, &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(&house).unwrap();
        let requests = edits(&HouseConfig::default(), 2, 5).unwrap();
        let other = tokenizer.encode(&requests[1].filled(), true).unwrap();
        for kind in [GateKind::Memory, GateKind::Defer] {
            let config = GateConfig::default();
            let mut editor = GateEditor::new(&host, &tokenizer, kind, config, 0).unwrap();
            assert!(logits(&host, &other, &[&editor.gate]) == logits(&host, &other, &[]));
            let steps = editor.write(&Statement::from(&requests[0])).unwrap();
            assert!(steps > 0 && editor.trained() > 1000, "{kind:?}: {steps}");
            let model = Scored {
                host: &host,
                tokenizer: &tokenizer,
                hooks: &[&editor.gate],
            };
            assert!(is_right(&model, &requests[0]).unwrap(), "{kind:?}");
            // Another prompt is not kept apart: a mixture always stands in for the output.
            let moved = logits(&host, &other, &[&editor.gate]) != logits(&host, &other, &[]);
            assert!(moved || kind == GateKind::Defer);
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
        let host = modelsmith_hosts::load(&house, &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(&house).unwrap();
        let refused = |config: GateConfig| {
            let made = GateEditor::new(&host, &tokenizer, GateKind::Memory, config, 0);
            made.err().unwrap().to_string()
        };
        let none = GateConfig {
            values: 0,
            ..GateConfig::default()
        };
        assert_eq!(refused(none), "method.values: is 0; must be at least 1");
        let elsewhere = GateConfig {
            module: "model.layers.9.mlp".into(),
            ..GateConfig::default()
        };
        assert!(refused(elsewhere).contains("is no dense layer"));
    }
}
