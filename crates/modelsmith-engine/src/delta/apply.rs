//! A base and a delta file as a checkpoint.

use super::extract::norm;
use super::file::{DeltaFile, Entry};
use crate::adapter_folder::base_hash;
use crate::fresh_folder::FreshFolder;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{
    Checkpoint, DType, TensorSpec, atomic_bytes, metadata_pt, write_sharded,
};
use modelsmith_hosts::SIDE_FILES;
use serde::Serialize;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What is asked of an application.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// The delta file.
    pub delta: PathBuf,
    /// Its base.
    pub base: PathBuf,
    /// Factor of the difference.
    pub scale: f64,
    /// Whether another base is taken.
    pub any_base: bool,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// Largest weight file in bytes.
    pub max_shard_bytes: u64,
}

/// The proof of an application.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// The folder written.
    pub output: PathBuf,
    /// Tensors written.
    pub tensors: usize,
    /// Those that differ from the base.
    pub changed: usize,
    /// Those that were taken whole, since the base has none of that name and shape.
    pub whole: usize,
    /// Norm of the difference added.
    pub change_norm: f64,
    /// Bytes written.
    pub bytes: u64,
}

/// Adds a difference to its base, tensor by tensor.
///
/// # Errors
/// A base of other weights, a damaged delta, an output that is an input or not empty, a difference that rounding loses.
pub fn apply(options: &ApplyOptions) -> Result<Applied> {
    if !options.scale.is_finite() {
        return Err(Error::Usage(format!(
            "--scale {} is no number",
            options.scale
        )));
    }
    let delta = DeltaFile::open(&options.delta)?;
    check_base(options, &delta)?;
    let base = Checkpoint::open(&options.base)?;
    let fresh = FreshFolder::begin(&options.output, &[&options.base])?;
    let specs = specs(&base, &delta)?;
    let mut proof = Applied {
        output: options.output.clone(),
        tensors: specs.len(),
        changed: 0,
        whole: 0,
        change_norm: 0.0,
        bytes: specs
            .iter()
            .filter_map(TensorSpec::byte_len)
            .map(|bytes| bytes as u64)
            .sum(),
    };
    write_sharded(
        fresh.path(),
        "model",
        &specs,
        &metadata_pt(),
        options.max_shard_bytes,
        &mut |spec| {
            let Some(entry) = delta.record.tensors.get(&spec.name) else {
                return base.bytes(&spec.name).map(Cow::Borrowed);
            };
            if entry.form == "new" {
                proof.whole += 1;
                return delta.whole(&spec.name, entry).map(Cow::Borrowed);
            }
            edited(options, &base, &delta, spec, entry, &mut proof).map(Cow::Owned)
        },
    )?;
    if proof.changed + proof.whole == 0 {
        return Err(Error::Verification(
            "the difference is lost in rounding: the result would equal the base".into(),
        ));
    }
    proof.change_norm = proof.change_norm.sqrt();
    copy_side_files(&options.base, fresh.path())?;
    fresh.publish()?;
    Ok(proof)
}

fn edited(
    options: &ApplyOptions,
    base: &Checkpoint,
    delta: &DeltaFile,
    spec: &TensorSpec,
    entry: &Entry,
    proof: &mut Applied,
) -> Result<Vec<u8>> {
    let mut values = base.f32(&spec.name)?;
    let mut change = delta.difference(&spec.name, entry)?;
    if values.len() != change.len() {
        let problem = format!(
            "tensor {} has {} entries; the delta is for {}",
            spec.name,
            values.len(),
            change.len()
        );
        return Err(Error::file(base.path(), problem));
    }
    let scale = options.scale as f32;
    for (value, change) in values.iter_mut().zip(&mut change) {
        *change *= scale;
        *value += *change;
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::Numeric(format!(
            "tensor {} would hold {} at entry {index}",
            spec.name, values[index]
        )));
    }
    let bytes = spec
        .dtype
        .encode(&values)
        .map_err(|problem| Error::Numeric(format!("tensor {}: {problem}", spec.name)))?;
    let shard = base.shard_of(&spec.name)?;
    let before = shard.bytes(&spec.name)?;
    proof.changed += usize::from(before != bytes);
    proof.change_norm += norm(&change).powi(2);
    shard.release(&spec.name, 0..before.len());
    Ok(bytes)
}

/// The tensors of the result: those of the base that are not dropped, with the types that the model had.
fn specs(base: &Checkpoint, delta: &DeltaFile) -> Result<Vec<TensorSpec>> {
    let record = &delta.record;
    let mut specs = Vec::new();
    for name in base
        .names()
        .filter(|name| !record.dropped.iter().any(|one| one == name))
    {
        if !record.tensors.contains_key(name) {
            let info = base.info(name)?;
            specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
        }
    }
    for (name, entry) in &record.tensors {
        let dtype =
            DType::parse(&entry.dtype).map_err(|problem| Error::file(base.path(), problem))?;
        specs.push(TensorSpec::new(name, dtype, entry.shape.clone()));
    }
    Ok(specs)
}

fn check_base(options: &ApplyOptions, delta: &DeltaFile) -> Result<()> {
    if options.any_base {
        return Ok(());
    }
    let found = base_hash(&options.base)?;
    let expected = &delta.record.base_hash;
    if found == *expected {
        return Ok(());
    }
    let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
    Err(Error::file(
        &options.delta,
        format!(
            "was extracted from a base whose weights hash to {} ({}); {} hashes to {}; give that base, or --any-base if you mean it",
            short(expected),
            delta.record.base.display(),
            options.base.display(),
            short(&found)
        ),
    ))
}

fn copy_side_files(base: &Path, output: &Path) -> Result<()> {
    for name in SIDE_FILES.iter().chain(&["config.json"]) {
        let source = base.join(name);
        if source.is_file() {
            let bytes = std::fs::read(&source).map_err(|error| Error::io(&source, error))?;
            atomic_bytes(output.join(name), &bytes)?;
        }
    }
    Ok(())
}
