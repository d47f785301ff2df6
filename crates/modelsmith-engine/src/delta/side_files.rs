//! What lies beside the weights of the result: configuration and tokenizer.

use super::config::{MergeConfig, Tokenizer};
use super::work_folder::WorkFolder;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, read_json};
use modelsmith_hosts::SIDE_FILES;
use serde_json::{Map, Value};
use std::path::Path;

/// Lists of `config.json` that have an item a layer.
const PER_LAYER: [&str; 3] = ["layer_types", "mlp_layer_types", "no_rope_layers"];
/// What configurations call the number of layers.
const LAYER_COUNTS: [&str; 3] = ["num_hidden_layers", "n_layer", "num_layers"];

/// Refuses models with other words than the result's, where the configuration asks for one tokenizer for all.
///
/// # Errors
/// The first two models whose vocabularies differ.
pub(crate) fn check_vocabularies(config: &MergeConfig) -> Result<()> {
    if config.tokenizer == Tokenizer::Kept {
        return Ok(());
    }
    let owner = owner(config);
    let expected = vocabulary(owner)?;
    for model in &config.models {
        if vocabulary(model)? != expected {
            let problem = format!(
                "{} and {} have different vocabularies, and moving embedding rows between them is not built; bring the models to one tokenizer first, or leave the key out to keep the reference's",
                owner.display(),
                model.display()
            );
            return Err(Error::config("tokenizer_source", problem));
        }
    }
    Ok(())
}

/// The folder whose tokenizer the result has.
fn owner(config: &MergeConfig) -> &Path {
    match &config.tokenizer {
        Tokenizer::Of(folder) => folder,
        _ => &config.models[config.reference()],
    }
}

/// Words with their numbers, added ones too.
fn vocabulary(folder: &Path) -> Result<Value> {
    let file = folder.join("tokenizer.json");
    let tokenizer: Value = read_json(&file)?;
    let added = tokenizer
        .get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let added =
        added.map(|token| Value::Array(vec![token["id"].clone(), token["content"].clone()]));
    let words = tokenizer
        .pointer("/model/vocab")
        .cloned()
        .unwrap_or_default();
    // Tables are compared whatever the order of their keys.
    Ok(Value::Array(vec![words, added.collect()]))
}

/// Copies the tokenizer and writes `config.json`, with the type of the weights and, after stacking, the number of layers.
///
/// # Errors
/// A file that cannot be read or written; stacking without a configuration that says how many layers there are.
pub(crate) fn write(
    config: &MergeConfig,
    layers: Option<usize>,
    folder: &WorkFolder,
) -> Result<()> {
    for name in SIDE_FILES {
        let of_model = *name == "generation_config.json";
        let source = if of_model {
            &config.models[config.reference()]
        } else {
            owner(config)
        };
        copy(&source.join(name), name, folder)?;
    }
    let source = config.models[config.reference()].join("config.json");
    if source.is_file() {
        let mut value: Value = read_json(&source)?;
        if let Some(map) = value.as_object_mut() {
            patch(map, config, layers, &source)?;
        }
        folder.json("config.json", &value)?;
    }
    folder.bytes("mergekit_config.yml", config.text.as_bytes())
}

fn copy(source: &Path, name: &str, folder: &WorkFolder) -> Result<()> {
    if !source.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(source).map_err(|error| Error::io(source, error))?;
    folder.bytes(name, &bytes)
}

fn patch(
    map: &mut Map<String, Value>,
    config: &MergeConfig,
    layers: Option<usize>,
    source: &Path,
) -> Result<()> {
    if let Some(dtype) = config.dtype {
        let key = if map.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        map.insert(key.into(), torch_name(dtype).into());
    }
    let Some(layers) = layers else {
        return Ok(());
    };
    let count = LAYER_COUNTS
        .iter()
        .find(|name| map.contains_key(**name))
        .ok_or_else(|| {
            Error::file(
                source,
                format!(
                    "has none of {}, which stacking layers changes",
                    LAYER_COUNTS.join(", ")
                ),
            )
        })?;
    map.insert((*count).into(), layers.into());
    for name in PER_LAYER {
        if let Some(Value::Array(items)) = map.get(name) {
            let items = stacked(config, items, source)?;
            map.insert(name.into(), items.into());
        }
    }
    Ok(())
}

/// A list with an item a layer, in the order of the stacked layers; those of the first source of each part count.
fn stacked(config: &MergeConfig, items: &[Value], source: &Path) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for slice in &config.slices {
        let range = slice.sources[0].layers.clone().unwrap_or(0..items.len());
        let part = items.get(range.clone()).ok_or_else(|| {
            Error::file(
                source,
                format!("lists {} layers; layers {range:?} are stacked", items.len()),
            )
        })?;
        all.extend_from_slice(part);
    }
    Ok(all)
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}
