//! A transformer from a folder, or from a configuration alone.

use super::Transformer;
use super::config::{Config, Head, Task};
use super::dialects::{self, Names};
use super::load::{self, Stored, Weights};
use super::network::Network;
use super::plan::{HeadPlan, Plan};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, read_json};
use modelsmith_core::host::{BlockParts, HostInfo};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

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
    if config.encoder.is_some() {
        config.tied = load::head_is_shared(&checkpoint, &config)?;
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
    let total = sizes
        .into_iter()
        .try_fold(0_u64, |total, size| total.checked_add(size?));
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

fn block_parts(names: &Names, gated: bool) -> BlockParts {
    let mut parts = BlockParts::default();
    for stack in names.stacks() {
        for attention in [Some(&stack.attention), stack.cross.as_ref()] {
            let Some(attention) = attention else {
                continue;
            };
            parts.keys_values.extend(match attention.fused {
                "" => vec![attention.key, attention.value],
                fused => vec![fused],
            });
            parts.attention_out.push(attention.out);
        }
        parts
            .mlp_gate
            .push(if gated { stack.gate } else { stack.up });
        if gated {
            parts.mlp_up.push(stack.up);
        }
        parts.mlp_out.push(stack.down);
    }
    parts
}

fn info(config: Value, class: String, origin: String) -> HostInfo {
    HostInfo {
        model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        architecture: class,
        origin,
        task_type: None,
        default_targets: &[],
        head_modules: &[],
        pools_first: false,
        block: BlockParts::default(),
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
        info.block = block_parts(config.names, config.gated);
        info.task_type = match config.head {
            Head::Base => Some("FEATURE_EXTRACTION"),
            Head::CausalLm => Some("CAUSAL_LM"),
            Head::MaskedLm => None,
            Head::Seq2SeqLm(_) => Some("SEQ_2_SEQ_LM"),
            Head::SequenceClasses(_) => Some("SEQ_CLS"),
            Head::TokenClasses(_) => Some("TOKEN_CLS"),
        };
        if matches!(
            config.head,
            Head::SequenceClasses(_) | Head::TokenClasses(_)
        ) {
            info.head_modules = &["classifier", "score"];
        }
        info.pools_first = matches!(
            plan.head,
            Some(HeadPlan::Pooled { .. } | HeadPlan::First { .. })
        );
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
}
