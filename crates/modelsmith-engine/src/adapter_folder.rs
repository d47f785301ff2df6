//! Adapter folders in PEFT's layout, out and in.
//!
//! `adapter_model.safetensors` and `adapter_config.json` are what PEFT reads; `modelsmith.json`
//! beside them records the method, its options, the seed and the hash of the base.

use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, atomic_bytes, atomic_json, metadata_pt, read_json};
use modelsmith_core::host::Host;
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_core::weights;
use modelsmith_methods::from_peft;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const RECORD: &str = "modelsmith.json";

/// Where an adapter comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the program that wrote it.
    pub version: String,
    /// Method id.
    pub method: String,
    /// Its options, as resolved.
    pub options: Value,
    /// Seed of the run.
    pub seed: u64,
    /// Blake3 of the base's weight files; empty when unknown.
    pub base_hash: String,
    /// Blake3 of the data; empty when there was none.
    pub data_hash: String,
}

/// Writes an adapter folder; the configuration, without which nothing reads it, comes last.
///
/// # Errors
/// State that the format cannot express, or a file that cannot be written.
pub fn write(folder: &Path, files: &AdapterFiles, provenance: &Provenance) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    weights::save(&folder.join(WEIGHTS), &files.tensors, &metadata_pt())?;
    atomic_json(folder.join(RECORD), provenance)?;
    atomic_bytes(folder.join("README.md"), card(files, provenance).as_bytes())?;
    atomic_json(folder.join(CONFIG), &files.config)
}

/// Reads an adapter folder and attaches it to the host.
///
/// # Errors
/// A missing or malformed file, a pickle, keys or shapes that do not fit the host, and (unless
/// `any_base`) a host other than the one it was trained on.
pub fn read(folder: &Path, host: &dyn Host, any_base: bool) -> Result<Box<dyn Adapter>> {
    let files = read_files(folder, &host.device())?;
    if !any_base {
        check_base(folder, host)?;
    }
    let method =
        from_peft(&files.config).map_err(|error| Error::file(folder.join(CONFIG), error))?;
    method.restore(host, &files).map_err(|error| match error {
        Error::Config { key, problem } => {
            Error::file(folder.join(WEIGHTS), format!("{key}: {problem}"))
        }
        // What does not fit the host is the file's fault, not the program's.
        Error::Failed(problem) => Error::file(folder.join(WEIGHTS), problem),
        other => other,
    })
}

/// The two files of an adapter folder, tensors on a device.
///
/// # Errors
/// As [`read`].
pub fn read_files(folder: &Path, device: &Device) -> Result<AdapterFiles> {
    check_present(folder)?;
    let config: Map<String, Value> = read_json(folder.join(CONFIG))?;
    Ok(AdapterFiles {
        config,
        tensors: weights::load(&folder.join(WEIGHTS), device)?,
    })
}

/// Refuses a folder that is not an adapter's, with the reason.
pub(crate) fn check_present(folder: &Path) -> Result<()> {
    if folder.join(WEIGHTS).is_file() {
        return Ok(());
    }
    let problem = if folder.join("adapter_model.bin").is_file() {
        "holds adapter_model.bin, a pickle, which can run code when read; save it with safetensors (PEFT: save_pretrained(..., safe_serialization=True))"
    } else if folder.is_dir() {
        "holds no adapter_model.safetensors; an adapter folder has that and adapter_config.json"
    } else {
        "there is no such adapter folder"
    };
    Err(Error::file(folder, problem))
}

/// What the program recorded beside the adapter, if it was the one that wrote it.
///
/// # Errors
/// A malformed record.
pub fn provenance(folder: &Path) -> Result<Option<Provenance>> {
    let path = folder.join(RECORD);
    if path.is_file() {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

fn check_base(folder: &Path, host: &dyn Host) -> Result<()> {
    let Some(record) = provenance(folder)? else {
        return Ok(());
    };
    let origin = Path::new(&host.info().origin);
    if record.base_hash.is_empty() || !origin.exists() {
        return Ok(());
    }
    let found = base_hash(origin)?;
    if found == record.base_hash {
        return Ok(());
    }
    let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
    Err(Error::file(
        folder,
        format!(
            "was made for a base whose weights hash to {}; {} hashes to {}; use that base, or --any-base if you mean it",
            short(&record.base_hash),
            origin.display(),
            short(&found)
        ),
    ))
}

/// Blake3 over the weight files of a model folder, in shard order.
///
/// # Errors
/// A checkpoint that cannot be read.
pub fn base_hash(folder: &Path) -> Result<String> {
    let checkpoint = Checkpoint::open(folder)?;
    let mut hasher = blake3::Hasher::new();
    for shard in checkpoint.shards() {
        hasher
            .update_mmap_rayon(shard.path())
            .map_err(|error| Error::io(shard.path(), error))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn card(files: &AdapterFiles, provenance: &Provenance) -> String {
    let base = files.config.get("base_model_name_or_path");
    let base = base.and_then(Value::as_str).unwrap_or("unknown");
    format!(
        "---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- {method}\n- modelsmith\n---\n\n\
         # Adapter\n\nMethod `{method}` on `{base}`, {count} tensors. Made by modelsmith {version}, seed {seed}; \
         `modelsmith.json` holds the options and the hashes of base and data.\n",
        method = provenance.method,
        count = files.tensors.len(),
        version = provenance.version,
        seed = provenance.seed,
    )
}
