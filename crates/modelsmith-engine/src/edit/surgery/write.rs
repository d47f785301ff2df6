//! A model with patches on it as a whole folder.

use super::host::edited;
use crate::fresh_folder::FreshFolder;
use crate::merge::widest;
use crate::probe;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::DType;
use modelsmith_core::host::Host;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::Patch;
use serde::Serialize;
use serde_json::Map;
use std::path::{Path, PathBuf};

/// How the folder is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The folder; new or empty.
    pub output: PathBuf,
    /// Type of the weights; `None` keeps the base's (the widest, where they differ).
    pub dtype: Option<DType>,
    /// Largest weight file in bytes.
    pub max_shard_bytes: u64,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// The folder.
    pub output: PathBuf,
    /// Type of the weights.
    pub dtype: &'static str,
    /// Weights that were changed.
    pub changed: usize,
    /// Rows that were changed.
    pub rows: usize,
    /// Effect of the patches on a fixed probe's logits, relative to the largest.
    pub effect: f64,
    /// Difference of the logits of what was read back, relative to the largest: rounding to the type.
    pub written_difference: f64,
}

/// Largest difference in f32, where nothing is rounded.
const TOLERANCE: f64 = 1e-6;

/// Writes the base with patches on it, reads it back, and only then puts the folder in place.
///
/// # Errors
/// No patch, a folder that is not empty or the base's own, patches for another model, and
/// ([`Error::Verification`]) a folder that computes something else.
pub fn write_model(
    base: &Transformer,
    patches: &[Patch],
    options: &WriteOptions,
) -> Result<Written> {
    if patches.iter().all(|patch| patch.places.is_empty()) {
        return Err(Error::Usage(
            "there is no patch to write a model with".into(),
        ));
    }
    let origin = Path::new(&base.info().origin);
    let fresh = FreshFolder::begin(&options.output, &[origin])?;
    let host = edited(base, patches)?;
    let dtype = options.dtype.unwrap_or_else(|| widest(base));
    modelsmith_hosts::save(
        &host,
        fresh.path(),
        dtype,
        options.max_shard_bytes,
        &|_| Ok(None),
        &Map::new(),
    )?;
    let device = base.device();
    let before = probe::logits(base, &[], &device)?;
    let after = probe::logits(&host, &[], &device)?;
    let read = probe::logits(
        &modelsmith_hosts::load(fresh.path(), &device)?,
        &[],
        &device,
    )?;
    let difference = probe::difference(&after, &read);
    if dtype == DType::F32 && difference > TOLERANCE {
        return Err(Error::Verification(format!(
            "the written model gives logits that differ by {difference:.1e}; nothing was written"
        )));
    }
    fresh.publish()?;
    let names = patches.iter().flat_map(|patch| &patch.places);
    let mut changed: Vec<&str> = names.map(|place| place.weight.as_str()).collect();
    changed.sort_unstable();
    changed.dedup();
    Ok(Written {
        output: options.output.clone(),
        dtype: dtype.name(),
        changed: changed.len(),
        rows: patches.iter().map(Patch::count).sum(),
        effect: probe::difference(&after, &before),
        written_difference: difference,
    })
}
