//! One transformer, many dialects.
//!
//! [`config`] is what a block can be; [`dialects`] read a family's `config.json` into it and name
//! its tensors; [`plan`] turns it into sites and weights; [`walk`] computes, opening the hooks at
//! every site. Paths are the module paths of the class that `architectures` names. The output
//! site, which spans the whole head, is called after the head's last layer with `:output`
//! (`lm_head:output`), so that paths are unique and no pattern for modules sees it.

mod activation;
mod attention;
mod cache;
mod config;
mod dialects;
mod head;
mod input;
mod load;
mod network;
mod plan;
mod prepare;
mod reader;
mod rope;
mod stages;
mod walk;

pub use cache::KvCache;
pub use config::{Head, Task};
pub use input::TokenInput;
pub use stages::Stages;

use burn::tensor::{Device, Tensor};
use config::Config;
use load::{Stored, Weights};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::{Checkpoint, DType, read_json};
use modelsmith_core::hooks::{Around, Hooks, Pass};
use modelsmith_core::host::{Host, HostInfo};
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::{Site, SiteKind};
use network::Network;
use plan::Plan;
use prepare::Prepared;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use walk::{Visit, Walk};

/// A pretrained transformer: frozen f32 weights on a plain device, and its sites.
#[derive(Clone, Debug)]
pub struct Transformer {
    config: Arc<Config>,
    plan: Arc<Plan>,
    index: Arc<BTreeMap<String, usize>>,
    network: Network,
    weights: Weights,
    info: HostInfo,
    device: Device,
}

/// How a checkpoint is loaded, where it should not be as `architectures` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Which model of the family to build; by default the class in `architectures`.
    pub task: Option<Task>,
    /// Start a fresh classifier with this many labels, of sequences unless `task` says tokens.
    pub new_head: Option<usize>,
    /// Seed of the fresh classifier.
    pub seed: u64,
}

/// Loads a model folder in Hugging Face layout; the weights become f32.
///
/// # Errors
/// A configuration that is not implemented exactly, by key; missing, surplus or misshapen
/// tensors, by name; files that are malformed or refused.
pub fn load(path: &Path, device: &Device) -> Result<Transformer> {
    load_with(path, LoadOptions::default(), device)
}

/// Loads a model folder as another class of its family, or with a fresh classifier.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, options: LoadOptions, device: &Device) -> Result<Transformer> {
    let file = path.join("config.json");
    let json: Value = read_json(&file)?;
    if options.new_head == Some(0) {
        return Err(Error::config("labels", "0 labels; at least 1 is expected"));
    }
    let (mut config, class) = dialects::read(&json, options.task, options.new_head)
        .map_err(|problem| Error::file(&file, problem))?;
    let checkpoint = Checkpoint::open(path)?;
    if config.pooler {
        config.pooler = checkpoint.names().any(|name| name.contains("pooler.dense"));
    }
    let plan = Plan::new(&config);
    let stored = Stored::match_names(&checkpoint, &config, &plan, options.new_head.is_some())?;
    let weights = stored.read(options.seed, device)?;
    let json = described(json, &class, options.new_head);
    let origin = path.display().to_string();
    Transformer::assemble(config, plan, weights, info(json, class, origin), device)
}

/// A model with fresh weights, started as `transformers` starts them: matrices normal with the
/// configuration's deviation, biases zero, norms one. Each weight is drawn under its name.
///
/// # Errors
/// A configuration that is not implemented exactly, by key.
pub fn random(config: &Value, origin: &str, seed: u64, device: &Device) -> Result<Transformer> {
    let (read, class) = dialects::read(config, None, None)?;
    let plan = Plan::new(&read);
    let sizes = plan.weights.iter().map(|spec| {
        let product = |total: u64, size: &usize| total.checked_mul(*size as u64);
        spec.shape.iter().try_fold(1, product)
    });
    let total = sizes.fold(Some(0_u64), |total, size| total?.checked_add(size?));
    if total.is_none_or(|total| total > 1 << 38) {
        return Err(Error::Resource(
            "the configuration describes more than 2^38 weights; make the model smaller".into(),
        ));
    }
    let weights = load::fresh(&plan, seed, device);
    let info = info(config.clone(), class, origin.to_owned());
    Transformer::assemble(read, plan, weights, info, device)
}

/// The configuration of the model as it is now: another class, other labels.
fn described(mut json: Value, class: &str, labels: Option<usize>) -> Value {
    let Some(map) = json.as_object_mut() else {
        return json;
    };
    map.insert("architectures".into(), json!([class]));
    if let Some(labels) = labels {
        let name = |label: usize| format!("LABEL_{label}");
        let to_label: Map<String, Value> = (0..labels)
            .map(|label| (label.to_string(), name(label).into()))
            .collect();
        let to_id: Map<String, Value> = (0..labels)
            .map(|label| (name(label), label.into()))
            .collect();
        map.remove("num_labels");
        map.insert("id2label".into(), to_label.into());
        map.insert("label2id".into(), to_id.into());
    }
    json
}

fn info(config: Value, class: String, origin: String) -> HostInfo {
    HostInfo {
        model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        architecture: class,
        origin,
        task_type: None,
        default_targets: &[],
        head_modules: &[],
        config,
    }
}

impl Transformer {
    fn assemble(
        config: Config,
        plan: Plan,
        weights: Weights,
        mut info: HostInfo,
        device: &Device,
    ) -> Result<Self> {
        info.default_targets = config.names.targets;
        info.task_type = match config.head {
            Head::Base => Some("FEATURE_EXTRACTION"),
            Head::CausalLm => Some("CAUSAL_LM"),
            Head::MaskedLm => None,
            Head::SequenceClasses(_) => Some("SEQ_CLS"),
            Head::TokenClasses(_) => Some("TOKEN_CLS"),
        };
        if matches!(
            config.head,
            Head::SequenceClasses(_) | Head::TokenClasses(_)
        ) {
            info.head_modules = &["classifier", "score"];
        }
        let names = plan.weights.iter().enumerate();
        let index = names
            .map(|(number, spec)| (spec.name.clone(), number))
            .collect();
        let network = Network::new(&config, &plan, &weights.values)?;
        Ok(Self {
            config: Arc::new(config),
            plan: Arc::new(plan),
            index: Arc::new(index),
            network,
            weights,
            info,
            device: device.clone().without_autodiff(),
        })
    }

    /// The last hidden state after the final norm, `[batch, time, width]`. With a cache, `input`
    /// holds the new tokens only and the cache grows by them; a cache serves inference, gradients
    /// do not flow through what it holds.
    ///
    /// # Errors
    /// Ids outside the vocabulary, sequences longer than the model's positions, inputs whose
    /// shapes differ, a cache with an encoder.
    pub fn hidden(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor<3>> {
        self.pass(input, pass, hooks, cache, &mut |_| ())
    }

    /// The embedding and the output of every block, the last after the final norm, as
    /// `output_hidden_states` of `transformers` gives them.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn hidden_states(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Result<Vec<Tensor<3>>> {
        let mut states = Vec::with_capacity(self.num_layers() + 1);
        let last = self.pass(input, pass, hooks, None, &mut |x| states.push(x.clone()))?;
        states.pop();
        states.push(last);
        Ok(states)
    }

    fn pass(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
        mut cache: Option<&mut KvCache>,
        seen: &mut dyn FnMut(&Tensor<3>),
    ) -> Result<Tensor<3>> {
        let [batch, time] = input.dims();
        if let Some(cache) = cache.as_deref_mut() {
            if !self.config.attention.causal {
                return Err(Error::Failed(format!(
                    "{} reads in both directions and has no use for a key-value cache",
                    self.info.architecture
                )));
            }
            cache.admit(self.num_layers(), batch)?;
        }
        let prepared = Prepared::new(&self.config, input, cache.as_deref(), &self.device)?;
        let offset = cache.as_deref().map_or(0, KvCache::len);
        let pass = Pass {
            offset,
            ..pass.clone()
        };
        let around = Around { hooks, pass: &pass };
        let layers = cache
            .as_deref_mut()
            .map(|cache| RefCell::new(cache.layers.as_mut_slice()));
        let walk = Walk {
            visit: Visit {
                model: self,
                around,
            },
            prepared: &prepared,
            cache: layers,
        };
        let mut x = walk.embed(input.ids.clone());
        seen(&x);
        for layer in 0..self.num_layers() {
            x = walk.block(layer, x);
            seen(&x);
        }
        let x = walk.top(x);
        drop(walk);
        if let Some(cache) = cache {
            cache.advance(time, prepared.mask.as_deref());
        }
        Ok(x)
    }

    /// The head's logits: `[batch, time, vocabulary]` for language models, `[batch, time,
    /// classes]` for token classifiers, `[batch, 1, classes]` for sequence classifiers. `input` is
    /// what `hidden` was computed from. Without a head it is the hidden state.
    pub fn logits(
        &self,
        hidden: Tensor<3>,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Tensor<3> {
        let around = Around { hooks, pass };
        Visit {
            model: self,
            around,
        }
        .head(hidden, input)
    }

    /// Logits from tokens.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn forward(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<3>> {
        let hidden = self.hidden(input, pass, hooks, None)?;
        Ok(self.logits(hidden, input, pass, hooks))
    }

    /// Sentence embeddings `[batch, width]`: the mean of the last hidden state over real tokens,
    /// with unit length on request.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn embed(
        &self,
        input: &TokenInput,
        normalise: bool,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<2>> {
        let hidden = self.hidden(input, &Pass::default(), hooks, None)?;
        let mean: Tensor<2> = match &input.mask {
            Some(mask) => {
                let weight = mask.clone().float().unsqueeze_dim::<3>(2);
                let count = weight.clone().sum_dim(1).clamp_min(1e-9);
                ((hidden * weight).sum_dim(1) / count).squeeze_dim(1)
            }
            None => hidden.mean_dim(1).squeeze_dim(1),
        };
        if !normalise {
            return Ok(mean);
        }
        let length = mean.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        Ok(mean / length)
    }

    /// The bare encoder's pooler on a hidden state, `[batch, width]`; `None` where there is none.
    pub fn pooled(
        &self,
        hidden: Tensor<3>,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Option<Tensor<2>> {
        let around = Around { hooks, pass };
        let visit = Visit {
            model: self,
            around,
        };
        let pooled = visit.pool(self.plan.pooler?, hidden);
        Some(pooled.squeeze_dim(1))
    }

    /// What stands on the last hidden state.
    pub fn head(&self) -> Head {
        self.config.head
    }

    /// Rows of the token embedding.
    pub fn vocab_size(&self) -> usize {
        self.config.vocabulary
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.config.width
    }

    /// Longest sequence the configuration speaks of; see [`Transformer::position_limit`].
    pub fn max_positions(&self) -> usize {
        self.config.limit.unwrap_or(self.config.max_positions)
    }

    /// Longest sequence that is accepted; `None` where positions adapt to any length (dynamic
    /// RoPE).
    pub fn position_limit(&self) -> Option<usize> {
        self.config.limit
    }

    /// Number of blocks.
    pub fn num_layers(&self) -> usize {
        self.config.layers
    }

    /// Numbers in all weights, each tied one once.
    pub fn parameter_count(&self) -> usize {
        self.weights.values.iter().map(Flat::len).sum()
    }

    /// Whether attention looks back only, as generation needs.
    pub fn is_causal(&self) -> bool {
        self.config.attention.causal
    }

    /// Id of the padding token, where the configuration names one.
    pub fn pad_token(&self) -> Option<u32> {
        self.config.pad.map(|pad| pad as u32)
    }

    /// Bytes of keys and values that each cached token takes.
    pub fn cache_bytes_per_token(&self) -> usize {
        let attention = &self.config.attention;
        2 * self.num_layers() * attention.kv_heads * attention.head_dim * size_of::<f32>()
    }

    /// Stored tensors that were not used: buffers, tied copies, other heads.
    pub fn skipped(&self) -> &[String] {
        &self.weights.skipped
    }

    /// Weights that the checkpoint lacked and that were drawn afresh.
    pub fn fresh_weights(&self) -> Vec<&str> {
        let pairs = self.plan.weights.iter().zip(&self.weights.dtypes);
        let fresh = pairs.filter(|(_, dtype)| dtype.is_none());
        fresh.map(|(spec, _)| spec.name.as_str()).collect()
    }

    /// Names of a site's weight and bias, where it has them.
    pub fn site_weights(&self, site: &Site) -> (Option<String>, Option<String>) {
        let name = |number: usize| self.plan.weights[number].name.clone();
        let before = &self.plan.sites[..site.id.0];
        let nth = before
            .iter()
            .filter(|other| other.kind == site.kind)
            .count();
        match site.kind {
            SiteKind::Embedding => (Some(name(self.plan.embeddings[nth])), None),
            SiteKind::Linear => {
                let spec = &self.plan.linears[nth];
                (Some(name(spec.weight)), spec.bias.map(name))
            }
            SiteKind::Norm => {
                let spec = &self.plan.norms[nth];
                (Some(name(spec.weight)), spec.bias.map(name))
            }
            _ => (None, None),
        }
    }

    /// Type that a weight had in the checkpoint.
    pub fn stored_dtype(&self, name: &str) -> Option<DType> {
        self.weights.dtypes[*self.index.get(name)?]
    }
}

impl Host for Transformer {
    fn info(&self) -> &HostInfo {
        &self.info
    }

    fn sites(&self) -> &[Site] {
        &self.plan.sites
    }

    fn weight_names(&self) -> Vec<String> {
        self.plan
            .weights
            .iter()
            .map(|spec| spec.name.clone())
            .collect()
    }

    fn weight(&self, name: &str) -> Option<Flat> {
        Some(self.weights.values[*self.index.get(name)?].clone())
    }

    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()> {
        let Some(number) = self.index.get(name).copied() else {
            let near = suggest(name, self.index.keys().map(String::as_str));
            return Err(Error::Failed(format!("no weight is called {name}; {near}")));
        };
        let expected = &self.plan.weights[number].shape;
        if value.shape != *expected {
            return Err(Error::Failed(format!(
                "the weight {name} has shape {expected:?}; a value of shape {:?} was given",
                value.shape
            )));
        }
        let value = Flat {
            shape: value.shape.clone(),
            values: value.values.clone().without_autodiff(),
        };
        self.network.set(&self.plan, number, &value)?;
        self.weights.values[number] = value;
        Ok(())
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}
