//! How do several saved LoRA adapters become one? The weighted combinations of PEFT's
//! `add_weighted_adapter`, on files alone.
//!
//! ```text
//! linear   A = Σ sign(wᵢ sᵢ) √|wᵢ sᵢ| Aᵢ     B = Σ √|wᵢ sᵢ| Bᵢ      cheap, rough: mixes Aᵢ with Bⱼ
//! cat      A = [wᵢ sᵢ Aᵢ]                     B = [Bᵢ]              exact, the ranks add up
//! svd      B A ≈ Σ wᵢ sᵢ Bᵢ Aᵢ                                      the best of its rank
//! ```
//!
//! The result has scale 1 at every site (alpha = rank).

use super::factor::truncated_svd;
use super::lora_config::read_config;
use crate::adapter::lora::{Init, LoraConfig};
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::AdapterFiles;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How adapters are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// The factors are averaged each on their own; all adapters need one rank.
    Linear,
    /// The factors are laid side by side.
    Cat,
    /// The summed change is cut to a rank.
    Svd {
        /// Rank of the result, at most the smaller side of each weight.
        rank: usize,
    },
}

/// One adapter's pair at a site, as matrices with `weight · scale`.
struct Part {
    a: Tensor<2>,
    b: Tensor<2>,
    factor: f64,
}

/// Combines saved LoRA adapters of one base model with their weights.
///
/// # Errors
/// No adapters; an adapter that is not plain LoRA on the unchanged base (DoRA, adapter biases, raw
/// PiSSA or OLoRA); trained modules or biases in more than one; different ranks under
/// [`Combination::Linear`].
pub fn combine(adapters: &[(&AdapterFiles, f64)], how: Combination) -> Result<AdapterFiles> {
    let Some((first, _)) = adapters.first() else {
        return Err(Error::Usage("no adapters were given to combine".into()));
    };
    let configs = adapters
        .iter()
        .map(|(files, _)| plain_config(&files.config))
        .collect::<Result<Vec<LoraConfig>>>()?;
    let mut tensors = others(adapters)?;
    let mut ranks = BTreeMap::new();
    for (path, [key_a, key_b]) in pair_keys(adapters) {
        let mut parts = Vec::new();
        for ((files, weight), config) in adapters.iter().zip(&configs) {
            if let (Some(a), Some(b)) = (files.tensors.get(&key_a), files.tensors.get(&key_b)) {
                let factor = weight * config.scale(&path, a.shape[0])?;
                parts.push((
                    Part {
                        a: matrix(a),
                        b: matrix(b),
                        factor,
                    },
                    a,
                    b,
                ));
            }
        }
        let (like_a, like_b) = match parts.first() {
            Some((_, a, b)) => ((*a).clone(), (*b).clone()),
            None => continue,
        };
        let parts: Vec<Part> = parts.into_iter().map(|(part, _, _)| part).collect();
        let (a, b) = mix(&path, &parts, how)?;
        ranks.insert(path, a.dims()[0]);
        tensors.insert(key_a, shaped_a(a, &like_a));
        tensors.insert(key_b, shaped_b(b, &like_b));
    }
    let config = combined_config(&first.config, adapters, &ranks);
    Ok(AdapterFiles { config, tensors })
}

fn mix(path: &str, parts: &[Part], how: Combination) -> Result<(Tensor<2>, Tensor<2>)> {
    match how {
        Combination::Linear => linear(path, parts),
        Combination::Cat => {
            let a = parts
                .iter()
                .map(|part| part.a.clone() * part.factor)
                .collect();
            let b = parts.iter().map(|part| part.b.clone()).collect();
            Ok((Tensor::cat(a, 0), Tensor::cat(b, 1)))
        }
        Combination::Svd { rank } => {
            let products = parts
                .iter()
                .map(|part| part.b.clone().matmul(part.a.clone()) * part.factor);
            let delta = products.reduce(|sum, product| sum + product);
            let delta = delta.ok_or_else(|| Error::Failed(format!("no pair at {path}")))?;
            let most = delta.dims()[0].min(delta.dims()[1]);
            if !(1..=most).contains(&rank) {
                return Err(Error::Usage(format!(
                    "rank {rank} for the svd combination at {path}: must be 1 to {most}"
                )));
            }
            let factors = truncated_svd(&delta, rank, 1.0)?;
            Ok((factors.right, factors.left))
        }
    }
}

fn linear(path: &str, parts: &[Part]) -> Result<(Tensor<2>, Tensor<2>)> {
    let mut sum: Option<(Tensor<2>, Tensor<2>)> = None;
    for part in parts {
        let root = part.factor.abs().sqrt();
        let a = part.a.clone() * (root * part.factor.signum());
        let b = part.b.clone() * root;
        sum = Some(match sum {
            None => (a, b),
            Some((sum_a, _)) if sum_a.dims() != a.dims() => {
                return Err(Error::Usage(format!(
                    "the adapters have ranks {} and {} at {path}; the linear combination needs \
                     equal ranks, use cat or svd",
                    sum_a.dims()[0],
                    a.dims()[0]
                )));
            }
            Some((sum_a, sum_b)) => (sum_a + a, sum_b + b),
        });
    }
    sum.ok_or_else(|| Error::Failed(format!("no pair at {path}")))
}

/// An adapter's options, when its effect is a plain sum of scaled products.
fn plain_config(config: &Map<String, Value>) -> Result<LoraConfig> {
    let kind = config.get("peft_type").and_then(Value::as_str);
    if kind != Some("LORA") {
        return Err(Error::Usage(format!(
            "only LoRA adapters can be combined, found {}",
            kind.unwrap_or("no peft_type")
        )));
    }
    let config = read_config(config)?;
    let reason = if config.dora {
        "use_dora"
    } else if config.lora_bias {
        "lora_bias"
    } else if matches!(config.init, Init::Pissa | Init::Olora) {
        "init_lora_weights pissa or olora; convert it to plain LoRA by saving it here first"
    } else {
        return Ok(config);
    };
    Err(Error::Usage(format!(
        "an adapter with {reason} cannot be combined"
    )))
}

/// Sites of all adapters with the keys of their factors.
fn pair_keys(adapters: &[(&AdapterFiles, f64)]) -> BTreeMap<String, [String; 2]> {
    let mut found = BTreeMap::new();
    for key in adapters.iter().flat_map(|(files, _)| files.tensors.keys()) {
        for (end_a, end_b) in FACTORS {
            if let Some(module) = key.strip_suffix(end_a) {
                let path = module.strip_prefix("base_model.model.").unwrap_or(module);
                found.insert(path.to_owned(), [key.clone(), format!("{module}{end_b}")]);
            }
        }
    }
    found
}

const FACTORS: [(&str, &str); 2] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
];

/// Tensors beside the pairs; copies of the base weight may be in several adapters.
fn others(adapters: &[(&AdapterFiles, f64)]) -> Result<BTreeMap<String, Flat>> {
    let beside = |key: &String| {
        !FACTORS
            .iter()
            .any(|(a, b)| key.ends_with(a) || key.ends_with(b))
    };
    let mut found: BTreeMap<String, Flat> = BTreeMap::new();
    for (files, _) in adapters {
        for (key, tensor) in files.tensors.iter().filter(|(key, _)| beside(key)) {
            let repeated = found.insert(key.clone(), tensor.clone()).is_some();
            if repeated && !key.ends_with(".base_layer.weight") {
                return Err(Error::Usage(format!(
                    "{key} is trained in more than one of the adapters; such tensors cannot be \
                     combined, merge the adapters into the model one after the other instead"
                )));
            }
        }
    }
    Ok(found)
}

fn combined_config(
    first: &Map<String, Value>,
    adapters: &[(&AdapterFiles, f64)],
    ranks: &BTreeMap<String, usize>,
) -> Map<String, Value> {
    let rank = ranks.values().copied().max().unwrap_or(1);
    let other = |value: &usize| *value != rank;
    let pattern: Map<String, Value> = ranks
        .iter()
        .filter(|(_, value)| other(value))
        .map(|(path, value)| (path.clone(), json!(value)))
        .collect();
    let mut saved: Vec<Value> = Vec::new();
    for (files, _) in adapters {
        let names = files
            .config
            .get("modules_to_save")
            .and_then(Value::as_array);
        for name in names.into_iter().flatten() {
            if !saved.contains(name) {
                saved.push(name.clone());
            }
        }
    }
    let mut config = first.clone();
    config.insert("r".into(), json!(rank));
    config.insert("lora_alpha".into(), json!(rank));
    config.insert("rank_pattern".into(), Value::Object(pattern.clone()));
    config.insert("alpha_pattern".into(), Value::Object(pattern));
    config.insert("use_rslora".into(), json!(false));
    config.insert("init_lora_weights".into(), json!(true));
    config.insert(
        "target_modules".into(),
        json!(ranks.keys().collect::<Vec<_>>()),
    );
    for key in ["exclude_modules", "layers_to_transform", "layers_pattern"] {
        config.insert(key.into(), Value::Null);
    }
    config.insert(
        "modules_to_save".into(),
        if saved.is_empty() {
            Value::Null
        } else {
            json!(saved)
        },
    );
    config
}

fn matrix(flat: &Flat) -> Tensor<2> {
    let rows = flat.shape[0];
    flat.values.clone().reshape([rows, flat.len() / rows])
}

fn shaped_a(a: Tensor<2>, like: &Flat) -> Flat {
    let shape = [&[a.dims()[0]], &like.shape[1..]].concat();
    Flat {
        shape,
        values: Flat::new(a).values,
    }
}

fn shaped_b(b: Tensor<2>, like: &Flat) -> Flat {
    let shape = [&b.dims()[..], &like.shape[2..]].concat();
    Flat {
        shape,
        values: Flat::new(b).values,
    }
}
