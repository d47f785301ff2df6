//! MEND (Mitchell et al., ICLR 2022, arXiv 2110.11309): an editor that is itself trained. Networks turn the gradient of a
//! fact's loss by a few weights into the change that writes it.
//!
//! ```text
//! ∇ L = Σ over tokens of δ uᵀ                        (u', δ') = network(u, δ)
//! W <- W - α Σ δ' u'ᵀ
//! training:  c · (-log p'(answer | prompt or paraphrase))  +  KL(p(·| other text) ‖ p'(·| other text))
//! ```

mod config;
mod network;
mod task;

pub use config::MendConfig;

use self::network::{Network, PARTS};
use self::task::{Task, factors};
use super::facts::{Fact, Statement};
use super::mlps::mlps;
use crate::pool::within;
use crate::train::{clip_factor, global_norm};
use burn::tensor::{Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::parameters::{Flat, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Optimize, Optimizer, Update};
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::Lookup;
use modelsmith_methods::optimize::AdamW;
use std::collections::BTreeMap;

/// Rows `[u; δ]` of tokens, flat, by the layer's path.
type Rows = BTreeMap<String, Vec<f32>>;

/// A model with an editor that writes facts into it, one after the other.
pub struct MendEditor<'a> {
    tokenizer: &'a Tokenizer,
    config: MendConfig,
    seed: u64,
    networks: Vec<Network>,
    /// The tensors of all networks, and behind them `α`, `[1, layers]`.
    parts: Vec<Flat>,
    /// The model as it has been edited.
    pub host: Transformer,
}

impl<'a> MendEditor<'a> {
    /// An editor that has not been trained, for the MLPs of the last blocks.
    ///
    /// # Errors
    /// Options out of range, a model that does not predict next tokens, one with fewer blocks.
    pub fn new(
        host: &Transformer,
        tokenizer: &'a Tokenizer,
        config: MendConfig,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        let networks = networks(host, config.blocks)?;
        let device = host.device();
        let mut parts = Vec::new();
        for (number, network) in networks.iter().enumerate() {
            parts.extend(network.start(config.rank, number, seed, &device));
        }
        let layers: usize = networks.iter().map(|network| network.layers.len()).sum();
        let rates = vec![config.rate as f32; layers];
        parts.push(Flat::from_vec(rates, &[1, layers], &device));
        Ok(Self {
            host: host.clone(),
            networks,
            parts,
            tokenizer,
            config,
            seed,
        })
    }

    /// Numbers that are trained.
    pub fn trained(&self) -> usize {
        self.parts.iter().map(Flat::len).sum()
    }

    /// Numbers of the model that a fact changes.
    pub fn changed(&self) -> usize {
        let of = |network: &Network| network.sizes[0] * network.sizes[1] * network.layers.len();
        self.networks.iter().map(of).sum()
    }

    /// Trains on facts of which none shall be written later, each with its neighbours as what stays; the loss of every step.
    ///
    /// # Errors
    /// No fact with neighbours, prompts that do not fit the model, a loss that is not finite; what `go_on` says before
    /// a step.
    pub fn train(
        &mut self,
        requests: &[EditRequest],
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let usable = |request: &&EditRequest| !request.neighbours.is_empty();
        let requests: Vec<&EditRequest> = requests.iter().filter(usable).collect();
        if requests.is_empty() {
            return Err(Error::Usage(
                "an editor is trained on facts with neighbours; none has any".into(),
            ));
        }
        let mut optimizer = AdamW::default().optimizer()?;
        let mut order: Vec<usize> = Vec::new();
        let mut losses = Vec::with_capacity(self.config.steps);
        for step in 0..self.config.steps {
            go_on()?;
            if order.is_empty() {
                order = (0..requests.len()).collect();
                let name = format!("edit/mend/order/{step}");
                Stream::new(self.seed, &name).shuffle(&mut order);
            }
            let number = order.pop().unwrap_or_default();
            let mut draw = Stream::new(self.seed, &format!("edit/mend/step/{step}"));
            let kept = self.config.neighbours;
            let task = Task::new(
                &self.host,
                self.tokenizer,
                requests[number],
                kept,
                &mut draw,
            )?;
            losses.push(within(|| self.step(&task, &mut *optimizer))?);
        }
        Ok(losses)
    }

    fn step(&mut self, task: &Task, optimizer: &mut dyn Optimizer) -> Result<f64> {
        let rows = self.factors(&task.fact)?;
        self.networks
            .iter_mut()
            .for_each(|network| network.learn(&rows));
        let leaf = |part: &Flat| Ok(trained(part.tensor::<2>()?).val());
        let leaves: Vec<Tensor<2>> = self.parts.iter().map(leaf).collect::<Result<_>>()?;
        let edit = self.edit(&leaves, &rows);
        let loss = task.loss(&self.host, &edit, self.config.edit_weight)?;
        let value = f64::from(to_vec(loss.clone().without_autodiff())[0]);
        if !value.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of the editor is {value}; lower method.learning_rate"
            )));
        }
        let mut gradients = loss.backward();
        let found = leaves.iter().enumerate().filter_map(|(number, leaf)| {
            let gradient = leaf.grad_remove(&mut gradients)?;
            Some((number.to_string(), Flat::new(gradient)))
        });
        self.update(&found.collect(), optimizer)?;
        Ok(value)
    }

    /// Moves the tensors against their gradients, which go by their numbers.
    fn update(
        &mut self,
        gradients: &BTreeMap<String, Flat>,
        optimizer: &mut dyn Optimizer,
    ) -> Result<()> {
        let scale = clip_factor(global_norm(gradients), self.config.clip_norm);
        let last = self.parts.len() - 1;
        for (number, part) in self.parts.iter_mut().enumerate() {
            let name = number.to_string();
            let Some(gradient) = gradients.get(&name) else {
                continue;
            };
            optimizer.update(Update {
                gradient: gradient.values.clone(),
                name: &name,
                value: part,
                scale,
                learning_rate: match number == last {
                    true => self.config.rate_learning_rate,
                    false => self.config.learning_rate,
                },
                weight_decay: 0.0,
            })?;
        }
        Ok(())
    }

    /// Writes a fact.
    ///
    /// # Errors
    /// A prompt that does not fit the model, a weight that would not be finite; the model is as it was then.
    pub fn write(&mut self, statement: &Statement) -> Result<()> {
        let fact = Fact::read(self.tokenizer, statement, &[], Lookup::PromptLast)?;
        let parts: Vec<Tensor<2>> = self.parts.iter().map(Flat::tensor).collect::<Result<_>>()?;
        let edit = within(|| Ok::<_, Error>(self.edit(&parts, &self.factors(&fact)?)))?;
        let mut host = self.host.clone();
        for (path, (u, delta)) in &edit.factors {
            let missing = || Error::Failed(format!("the model has no dense layer {path}"));
            let site = host.sites().iter().find(|site| site.path == *path);
            let site = site.ok_or_else(missing)?;
            let name = host.site_weights(site).0.ok_or_else(missing)?;
            let change = match site.fan_in_fan_out {
                true => u.clone().transpose().matmul(delta.clone()),
                false => delta.clone().transpose().matmul(u.clone()),
            };
            let weight: Tensor<2> = host.weight(&name).ok_or_else(missing)?.tensor()?;
            let weight = Flat::new(weight - change);
            if weight.to_vec().iter().any(|x| !x.is_finite()) {
                return Err(Error::Numeric(format!(
                    "the edit would make {name} infinite or not a number; nothing was written"
                )));
            }
            host.set_weight(&name, &weight)?;
        }
        self.host = host;
        Ok(())
    }

    fn factors(&self, fact: &Fact) -> Result<Rows> {
        let layers = self.networks.iter().flat_map(|network| &network.layers);
        let layers: Vec<String> = layers.cloned().collect();
        factors(&self.host, &layers, fact)
    }

    /// The edit that networks of these tensors make of rows.
    fn edit(&self, parts: &[Tensor<2>], rows: &Rows) -> Edit {
        let rates = &parts[parts.len() - 1];
        let mut factors = BTreeMap::new();
        for (network, parts) in self.networks.iter().zip(parts.chunks_exact(PARTS)) {
            for (place, path) in network.layers.iter().enumerate() {
                let z = network.standardised(&rows[path]);
                let width = network.width();
                let z = TensorData::new(z, [rows[path].len() / width, width]);
                let z = Tensor::from_data(z, &self.host.device());
                let (u, delta) = network.forward(parts, place, z);
                let rate = rates.clone().narrow(1, factors.len(), 1);
                factors.insert(path.clone(), (u, delta * rate));
            }
        }
        Edit { factors }
    }
}

/// The MLPs' dense layers of the last blocks, those of one shape together.
fn networks(host: &Transformer, blocks: usize) -> Result<Vec<Network>> {
    let mlps = mlps(host)?;
    let Some(first) = mlps.len().checked_sub(blocks) else {
        let problem = format!("is {blocks}; the model has {} blocks", mlps.len());
        return Err(Error::config("method.blocks", problem));
    };
    let parts = &host.info().block;
    let parts: Vec<&str> = [&parts.mlp_gate, &parts.mlp_up, &parts.mlp_out]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    let paths = part_paths(host, &parts);
    let mut found: Vec<Network> = Vec::new();
    for site in host
        .sites()
        .iter()
        .filter(|site| paths.contains(&site.path))
    {
        let inside = |mlp: &super::mlps::Mlp| site.path.starts_with(&format!("{}.", mlp.block));
        if !mlps[first..].iter().any(inside) {
            continue;
        }
        let sizes = [site.inputs, site.outputs];
        let place = found.iter().position(|network| network.sizes == sizes);
        let place = place.unwrap_or_else(|| {
            found.push(Network::new(sizes));
            found.len() - 1
        });
        found[place].layers.push(site.path.clone());
    }
    Ok(found)
}

/// An edit under way: what is taken from dense layers' weights, as factors `[tokens, inputs]` and `[tokens, outputs]`.
pub(super) struct Edit {
    factors: BTreeMap<String, (Tensor<2>, Tensor<2>)>,
}

impl Hooks for Edit {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let Some((u, delta)) = self.factors.get(&call.site.path) else {
            return call.run(x);
        };
        let [rows, time, inputs] = x.dims();
        let flat = x.clone().reshape([rows * time, inputs]);
        let by = flat.matmul(u.clone().transpose()).matmul(delta.clone());
        let y = call.run(x);
        let shape = y.dims();
        y - by.reshape(shape)
    }

    fn acts_at(&self, site: &modelsmith_core::sites::Site) -> bool {
        self.factors.contains_key(&site.path)
    }
}

#[cfg(test)]
mod tests;
