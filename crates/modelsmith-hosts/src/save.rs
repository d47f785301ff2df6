//! A host out to a folder in Hugging Face layout.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{
    DType, TensorSpec, atomic_bytes, atomic_json, make_folder, metadata_pt, write_sharded,
};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::weights::encode;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Files beside the weights that belong to the model and are copied unchanged.
pub const SIDE_FILES: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Writes a host as a checkpoint: weights in shards of at most `max_shard_bytes`, `config.json`
/// with `config_patch` laid over it (a null takes a key out), and the side files of the folder the
/// host was loaded from.
///
/// `changed` may give another value for a weight; the host's own stands otherwise. Weights are
/// named as the class names them, tied ones stored once. Those that did not change, written in the
/// type they were stored in, have their old bytes. Every file is written beside and renamed, the
/// one that decides last. Returns the weight files.
///
/// # Errors
/// A folder that is the host's own, a changed weight of another shape, a type that holds no
/// floats, files that cannot be written.
pub fn save(
    host: &dyn Host,
    dir: &Path,
    dtype: DType,
    max_shard_bytes: u64,
    changed: &dyn Fn(&str) -> Result<Option<Flat>>,
    config_patch: &Map<String, Value>,
) -> Result<Vec<PathBuf>> {
    if !dtype.is_readable_as_f32() {
        return Err(Error::config(
            "dtype",
            format!("{} cannot hold weights; use F32, F16 or BF16", dtype.name()),
        ));
    }
    make_folder(dir)?;
    let origin = Path::new(&host.info().origin);
    refuse_own_folder(origin, dir)?;
    for name in SIDE_FILES {
        let source = origin.join(name);
        if origin.is_dir() && source.is_file() {
            let bytes = std::fs::read(&source).map_err(|problem| Error::io(&source, problem))?;
            atomic_bytes(dir.join(name), &bytes)?;
        }
    }
    atomic_json(dir.join("config.json"), &config(host, dtype, config_patch))?;
    let mut specs = Vec::new();
    for name in host.weight_names() {
        let weight = weight(host, &name)?;
        specs.push(TensorSpec::new(name, dtype, weight.shape));
    }
    write_sharded(
        dir,
        "model",
        &specs,
        &metadata_pt(),
        max_shard_bytes,
        &mut |spec| {
            let value = match changed(&spec.name)? {
                Some(value) if value.shape != spec.shape => {
                    return Err(Error::Failed(format!(
                        "the changed weight {} has shape {:?}; the model's has {:?}",
                        spec.name, value.shape, spec.shape
                    )));
                }
                Some(value) => value,
                None => weight(host, &spec.name)?,
            };
            encode(spec, &value.to_vec())
        },
    )
}

fn weight(host: &dyn Host, name: &str) -> Result<Flat> {
    host.weight(name).ok_or_else(|| {
        Error::Failed(format!(
            "the host lists a weight {name} that it does not have"
        ))
    })
}

/// A base checkpoint is never written to.
fn refuse_own_folder(origin: &Path, dir: &Path) -> Result<()> {
    let same = match (origin.canonicalize(), dir.canonicalize()) {
        (Ok(origin), Ok(dir)) => origin == dir,
        _ => false,
    };
    if same {
        return Err(Error::Usage(format!(
            "{} is the folder the model was loaded from; choose another to write to",
            dir.display()
        )));
    }
    Ok(())
}

/// The configuration as written: type of the weights, and the patch.
fn config(host: &dyn Host, dtype: DType, patch: &Map<String, Value>) -> Value {
    let mut config = host.info().config.clone();
    let Some(map) = config.as_object_mut() else {
        return config;
    };
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let key = if map.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    map.insert(key.into(), name.into());
    for (key, value) in patch {
        match value {
            Value::Null => map.remove(key),
            value => map.insert(key.clone(), value.clone()),
        };
    }
    config
}
