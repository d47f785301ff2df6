//! How does an AdaLoRA adapter become PEFT's files, and how is it read back?
//!
//! ```text
//! <path>.lora_A [r, in]     <path>.lora_E [r, 1]     <path>.lora_B [out, r]
//! rank_pattern: {"<path>.lora_E": [true, false, …]}, r of them true
//! ```
//!
//! The tensors hold only the triplets that count. Without a cut `rank_pattern` is null.

use super::triplets::{Structure, Triplets, Values};
use super::{AdaLora, AdaLoraConfig, Score};
use crate::adapter::common::beside::{Bias, saved_names, written_targets};
use crate::adapter::common::pair::{Pair, Plan, Values as PairValues};
use crate::adapter::common::peft::{Taker, acted_on, describe, key, number, sorted};
use crate::adapter::lora::{LoraConfig, files_of_pairs};
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::method::read_options;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::AdapterFiles;
use modelsmith_core::sites::TargetModules;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// AdaLoRA's keys of `adapter_config.json` with PEFT's names and defaults, and ours.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    init_r: usize,
    target_r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    tinit: Option<u64>,
    tfinal: Option<u64>,
    total_step: Option<u64>,
    #[serde(rename = "deltaT")]
    delta_t: u64,
    beta1: f64,
    beta2: f64,
    orth_reg_weight: f64,
    rank_pattern: BTreeMap<String, Vec<bool>>,
    target_modules: Option<TargetModules>,
    exclude_modules: Option<TargetModules>,
    layers_to_transform: Option<Vec<usize>>,
    layers_pattern: Option<String>,
    bias: Bias,
    modules_to_save: Vec<String>,
    score: Score,
    structure: Structure,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            tinit: None,
            tfinal: None,
            total_step: None,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            rank_pattern: BTreeMap::new(),
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            modules_to_save: Vec::new(),
            score: Score::Importance,
            structure: Structure::Triplets,
        }
    }
}

const ACTED_ON: &[&str] = &[
    "init_r",
    "target_r",
    "lora_alpha",
    "lora_dropout",
    "tinit",
    "tfinal",
    "total_step",
    "deltaT",
    "beta1",
    "beta2",
    "orth_reg_weight",
    "rank_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "modules_to_save",
    "score",
    "structure",
];

/// Keys that PEFT writes and that do not change what the adapter computes.
const IDLE: &[&str] = &["r", "init_lora_weights", "ensure_weight_tying"];

/// What a saved adapter's configuration says.
pub(super) struct Saved {
    /// The options it was made with.
    pub(super) options: AdaLoraConfig,
    /// Which triplets are left, by `<path>.lora_E`; empty before any cut.
    pattern: BTreeMap<String, Vec<bool>>,
    /// Steps of the training it came from.
    pub(super) total_steps: Option<u64>,
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// A key of the wrong type, or one that would change the computation, by its name.
pub(super) fn read_config(config: &Map<String, Value>) -> Result<Saved> {
    let mut config = config.clone();
    config.retain(|key, _| !IDLE.contains(&key.as_str()));
    let known = Value::Object(acted_on(&config, ACTED_ON)?);
    let written: Written = read_options(&known).map_err(|error| match error {
        Error::Config { key, problem } => {
            let key = key.trim_start_matches("method.");
            Error::config(format!("adapter_config.json: {key}"), problem)
        }
        other => other,
    })?;
    let options = AdaLoraConfig {
        init_r: written.init_r,
        // PEFT takes any target; what is above the start is never reached.
        target_r: written.target_r.min(written.init_r),
        alpha: written.lora_alpha.max(0.0),
        dropout: written.lora_dropout,
        tinit: written.tinit,
        tfinal: written.tfinal,
        delta_t: written.delta_t,
        beta1: written.beta1,
        beta2: written.beta2,
        orth_reg_weight: written.orth_reg_weight,
        score: written.score,
        structure: written.structure,
        target_modules: written.target_modules,
        exclude_modules: written.exclude_modules,
        layers_to_transform: written.layers_to_transform,
        layers_pattern: written.layers_pattern,
        bias: written.bias,
        modules_to_save: written.modules_to_save,
    };
    Ok(Saved {
        options,
        pattern: written.rank_pattern,
        total_steps: written.total_step,
    })
}

/// One site out of the file; one that kept nothing may have no tensors.
pub(super) fn take(saved: &Saved, plan: &Plan, file: &mut Taker) -> Result<Triplets> {
    let path = &plan.site.path;
    let whole = || vec![true; plan.rank];
    let pattern = saved.pattern.get(&format!("{path}.lora_E"));
    let pattern = pattern.cloned().unwrap_or_else(whole);
    let rank = pattern.iter().filter(|kept| **kept).count();
    let plan = Plan {
        rank,
        ..plan.clone()
    };
    let names = ["lora_A", "lora_E", "lora_B"].map(|tensor| key(&format!("{path}.{tensor}")));
    let shapes = [
        [rank, plan.site.inputs],
        [rank, 1],
        [plan.site.outputs, rank],
    ];
    let values = if rank == 0 {
        names.iter().for_each(|name| drop(file.take_any(name)));
        None
    } else {
        let mut matrix =
            |at: usize| -> Result<Tensor<2>> { file.take(&names[at], &shapes[at])?.tensor() };
        Some(Values {
            a: matrix(0)?,
            e: matrix(1)?,
            b: matrix(2)?,
        })
    };
    let structure = saved.options.structure;
    Ok(Triplets::new(plan, values, structure, false).left_of(pattern))
}

/// Both files.
pub(super) fn write(adapter: &AdaLora, host: &dyn Host) -> AdapterFiles {
    let mut tensors = BTreeMap::new();
    let mut patterns = Map::new();
    let mut cut = false;
    for site in adapter.attached.states() {
        let path = &site.plan().site.path;
        let pattern = site.whole_pattern();
        cut |= pattern.contains(&false);
        if let Some(values) = site.values(&site.pattern()) {
            tensors.insert(key(&format!("{path}.lora_A")), Flat::new(values.a));
            tensors.insert(key(&format!("{path}.lora_E")), Flat::new(values.e));
            tensors.insert(key(&format!("{path}.lora_B")), Flat::new(values.b));
        }
        patterns.insert(format!("{path}.lora_E"), json!(pattern));
    }
    tensors.extend(adapter.attached.copies().tensors());
    let patterns = if cut {
        Value::Object(patterns)
    } else {
        Value::Null
    };
    let config = write_config(adapter, host, patterns);
    AdapterFiles { config, tensors }
}

fn write_config(adapter: &AdaLora, host: &dyn Host, patterns: Value) -> Map<String, Value> {
    let config = &adapter.config;
    let saved = saved_names(host, &config.modules_to_save);
    let paths = adapter.attached.states();
    let paths = paths.map(|site| site.plan().site.path.as_str());
    let target_modules = written_targets(config.target_modules.as_ref(), host, paths);
    // PEFT reads no file without a length of training, and none whose phases do not fit into it.
    let (tinit, tfinal) = match adapter.total_steps {
        Some(total) => config.phases(total),
        None => (config.tinit.unwrap_or(0), config.tfinal.unwrap_or(0)),
    };
    let total = adapter.total_steps.unwrap_or(tinit + tfinal + 1);
    let mut map = describe(host.info(), "ADALORA");
    let written = json!({
        "init_r": config.init_r,
        "target_r": config.target_r,
        "r": 8,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "tinit": tinit,
        "tfinal": tfinal,
        "deltaT": config.delta_t,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "orth_reg_weight": config.orth_reg_weight,
        "total_step": total,
        "rank_pattern": patterns,
        "target_modules": target_modules,
        "exclude_modules": config.exclude_modules,
        "layers_to_transform": config.layers_to_transform,
        "layers_pattern": config.layers_pattern,
        "bias": config.bias,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "fan_in_fan_out": adapter.attached.states().any(|site| site.plan().site.fan_in_fan_out),
        "init_lora_weights": true,
        "inference_mode": true,
    });
    if let Value::Object(written) = written {
        map.extend(written);
    }
    // PEFT ignores keys that it does not know, with a warning; so only what differs is written.
    if config.score != Score::Importance {
        map.insert("score".to_owned(), json!(config.score));
    }
    if config.structure != Structure::Triplets {
        map.insert("structure".to_owned(), json!(config.structure));
    }
    sorted(map)
}

/// The adapter as plain LoRA with a rank and an equal alpha at each site.
///
/// # Errors
/// No site has a rank left.
pub(super) fn as_lora(adapter: &AdaLora, host: &dyn Host) -> Result<AdapterFiles> {
    let mut pairs = Vec::new();
    for site in adapter.attached.states() {
        if let Some(pair) = lora_pair(site)? {
            pairs.push(pair);
        }
    }
    let ranks = pairs
        .iter()
        .map(|pair| (pair.plan().site.path.clone(), pair.plan().rank));
    let ranks: BTreeMap<String, usize> = ranks.collect();
    if ranks.is_empty() {
        return Err(Error::Failed(
            "no site of the adapter has a rank left, and LoRA has no rank 0".into(),
        ));
    }
    let config = LoraConfig {
        dropout: adapter.config.dropout,
        alpha_pattern: ranks
            .iter()
            .map(|(path, rank)| (path.clone(), *rank as f64))
            .collect(),
        target_modules: Some(TargetModules::Suffixes(ranks.keys().cloned().collect())),
        rank_pattern: ranks,
        bias: adapter.config.bias,
        modules_to_save: adapter.config.modules_to_save.clone(),
        ..LoraConfig::default()
    };
    let pairs: Vec<&Pair> = pairs.iter().collect();
    Ok(files_of_pairs(
        &config,
        host,
        &pairs,
        adapter.attached.copies(),
    ))
}

fn lora_pair(site: &Triplets) -> Result<Option<Pair>> {
    let Some(Values { a, e, b }) = site.values(&site.pattern()) else {
        return Ok(None);
    };
    let plan = Plan {
        rank: a.dims()[0],
        scale: 1.0,
        ..site.plan().clone()
    };
    let values = PairValues {
        a: Flat::new(a),
        b: Flat::new(b * (e.transpose() * site.plan().scale)),
        bias: None,
        magnitude: None,
        start: None,
    };
    Pair::new(plan, values).map(Some)
}
