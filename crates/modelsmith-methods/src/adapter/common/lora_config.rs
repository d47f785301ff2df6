//! How do LoRA's options become PEFT's `adapter_config.json`, and how are they read back?

use super::beside::{Bias, saved_names, written_targets};
use super::pair::Pair;
use super::peft::{acted_on, describe, number, sorted};
use crate::adapter::lora::{Init, LoraConfig};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::method::read_options;
use modelsmith_core::sites::TargetModules;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// LoRA's keys of `adapter_config.json`, with PEFT's names and defaults.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    use_rslora: bool,
    use_dora: bool,
    init_lora_weights: Value,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f64>,
    target_modules: Option<TargetModules>,
    exclude_modules: Option<TargetModules>,
    layers_to_transform: Option<OneOrMany<usize>>,
    layers_pattern: Option<OneOrMany<String>>,
    bias: Bias,
    lora_bias: bool,
    modules_to_save: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn many(self) -> Vec<T> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(items) => items,
        }
    }
}

/// The names of the fields of [`Written`].
const ACTED_ON: &[&str] = &[
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "lora_bias",
    "modules_to_save",
];

/// Keys that peft 0.21.2 writes for features that are off in every adapter of ours.
const OFF: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "velora_config",
];

impl Default for Written {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Value::Bool(true),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            lora_bias: false,
            modules_to_save: Vec::new(),
        }
    }
}

/// The options of a saved LoRA adapter.
///
/// # Errors
/// A key of the wrong type, or one that would change the computation, by its name.
pub(crate) fn read_config(config: &Map<String, Value>) -> Result<LoraConfig> {
    let known = Value::Object(acted_on(config, ACTED_ON)?);
    let written: Written = typed(&known)?;
    let mut patterns = written
        .layers_pattern
        .map(OneOrMany::many)
        .unwrap_or_default();
    if patterns.len() > 1 {
        return Err(Error::config(
            "layers_pattern",
            format!("{} names given, one is supported", patterns.len()),
        ));
    }
    let mut modules_to_save: Vec<String> = Vec::new();
    for name in written.modules_to_save {
        if !modules_to_save.contains(&name) {
            modules_to_save.push(name);
        }
    }
    Ok(LoraConfig {
        rank: written.r,
        alpha: written.lora_alpha,
        dropout: written.lora_dropout,
        rslora: written.use_rslora,
        dora: written.use_dora,
        init: read_init(&written.init_lora_weights)?,
        rank_pattern: written.rank_pattern,
        alpha_pattern: written.alpha_pattern,
        target_modules: written.target_modules,
        exclude_modules: written.exclude_modules,
        layers_to_transform: written.layers_to_transform.map(OneOrMany::many),
        layers_pattern: patterns.pop(),
        bias: written.bias,
        lora_bias: written.lora_bias,
        modules_to_save,
        save_embedding: true,
    })
}

fn typed(value: &Value) -> Result<Written> {
    read_options(value).map_err(|error| match error {
        Error::Config { key, problem } => {
            let key = key
                .strip_prefix("method.")
                .map_or(key.clone(), str::to_owned);
            Error::config(format!("adapter_config.json: {key}"), problem)
        }
        other => other,
    })
}

/// Only inits that change the base weight matter to a saved adapter.
fn read_init(value: &Value) -> Result<Init> {
    match value {
        Value::Bool(false) => Ok(Init::Random),
        Value::Bool(true) => Ok(Init::Kaiming),
        Value::String(name) => match name.as_str() {
            "gaussian" => Ok(Init::Gaussian),
            "pissa" => Ok(Init::Pissa),
            "olora" => Ok(Init::Olora),
            "eva" | "orthogonal" | "mica" => Ok(Init::Kaiming),
            _ => Err(refused_init(value)),
        },
        _ => Err(refused_init(value)),
    }
}

fn refused_init(value: &Value) -> Error {
    Error::config(
        "init_lora_weights",
        format!(
            "the adapter was saved with {value}, which changes the base weights in a way that \
             cannot be repeated; save it again with PEFT's path_initial_model_for_weight_conversion"
        ),
    )
}

/// `adapter_config.json` of an adapter with these pairs.
pub(crate) fn write_config(
    config: &LoraConfig,
    host: &dyn Host,
    pairs: &[&Pair],
) -> Map<String, Value> {
    let split = splits(config, pairs);
    let growth = if split { 2 } else { 1 };
    let alpha_growth = match (split, config.rslora) {
        (false, _) => 1.0,
        (true, false) => 2.0,
        (true, true) => std::f64::consts::SQRT_2,
    };
    let ranks = config.rank_pattern.iter();
    let alphas = config.alpha_pattern.iter();
    let mut map = describe(host.info(), "LORA");
    map.extend(OFF.iter().map(|key| ((*key).to_owned(), Value::Null)));
    let saved = saved_names(host, &config.modules_to_save);
    let written = [
        (
            "alpha_pattern",
            alphas
                .map(|(k, v)| (k.clone(), number(v * alpha_growth)))
                .collect(),
        ),
        ("bias", json!(config.bias)),
        ("ensure_weight_tying", json!(false)),
        ("exclude_modules", json!(config.exclude_modules)),
        (
            "fan_in_fan_out",
            json!(pairs.iter().any(|pair| pair.plan().site.fan_in_fan_out)),
        ),
        ("init_lora_weights", write_init(config.init)),
        ("layers_pattern", json!(config.layers_pattern)),
        ("layers_to_transform", json!(config.layers_to_transform)),
        ("loftq_config", json!({})),
        ("lora_alpha", number(config.alpha * alpha_growth)),
        ("lora_bias", json!(config.lora_bias)),
        ("lora_dropout", json!(config.dropout)),
        ("megatron_core", json!("megatron.core")),
        (
            "modules_to_save",
            if saved.is_empty() {
                Value::Null
            } else {
                json!(saved)
            },
        ),
        ("qalora_group_size", json!(16)),
        ("r", json!(config.rank * growth)),
        (
            "rank_pattern",
            ranks.map(|(k, v)| (k.clone(), json!(v * growth))).collect(),
        ),
        (
            "target_modules",
            written_targets(
                config.target_modules.as_ref(),
                host,
                pairs.iter().map(|pair| pair.plan().site.path.as_str()),
            ),
        ),
        ("use_dora", json!(config.dora)),
        ("use_qalora", json!(false)),
        ("use_rslora", json!(config.rslora)),
    ];
    map.extend(
        written
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value)),
    );
    sorted(map)
}

/// Factors that came out of the weights are saved as plain LoRA.
fn write_init(init: Init) -> Value {
    match init {
        Init::Kaiming | Init::Pissa | Init::Olora => json!(true),
        Init::Random => json!(false),
        Init::Gaussian => json!("gaussian"),
    }
}

fn splits(config: &LoraConfig, pairs: &[&Pair]) -> bool {
    matches!(config.init, Init::Pissa | Init::Olora)
        && pairs.iter().any(|pair| pair.values().start.is_some())
}
