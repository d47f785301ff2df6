//! An edited model as a checkpoint of its own.

use super::folder::EditFolder;
use super::session::edited;
use crate::fresh_folder::FreshFolder;
use crate::merge::widest;
use modelsmith_core::error::Result;
use modelsmith_core::files::DType;
use modelsmith_core::host::Host;
use serde::Serialize;
use serde_json::Map;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is asked of an export.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Folder of the edits.
    pub edits: PathBuf,
    /// Another copy of the base; `None` for the one that the edits name.
    pub host: Option<PathBuf>,
    /// Batches to make, in this order; `None` for all.
    pub only: Option<Vec<u64>>,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// Type of the written weights; `None` keeps the base's (the widest, where they differ).
    pub dtype: Option<DType>,
    /// Largest weight file in bytes.
    pub max_shard_bytes: u64,
    /// Where to compute.
    pub device: String,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The base.
    pub host: PathBuf,
    /// The folder written.
    pub output: PathBuf,
    /// Batches made.
    pub batches: usize,
    /// Weights that differ from the base.
    pub changed: Vec<String>,
    /// Type of the written weights.
    pub dtype: &'static str,
}

/// Writes the base with its edits as a new folder.
///
/// # Errors
/// A base of other weights, a damaged batch, an output that is an input or not empty.
pub fn export(options: &ExportOptions) -> Result<Exported> {
    let device = crate::device::device(&options.device)?;
    let folder = EditFolder::open(&options.edits)?;
    let base: &Path = options.host.as_deref().unwrap_or(&folder.header.base);
    let fresh = FreshFolder::begin(&options.output, &[base, &options.edits])?;
    let after = edited(&folder, Some(base), options.only.as_deref(), &device)?;
    let host = modelsmith_hosts::load(base, &device)?;
    let mut names = BTreeSet::new();
    let made = folder.steps()?;
    let made = options.only.as_deref().unwrap_or(&made);
    for number in made {
        let changes = folder.read(*number)?.changes;
        names.extend(changes.into_iter().map(|change| change.weight));
    }
    let dtype = options.dtype.unwrap_or_else(|| widest(&host));
    let changed = |name: &str| {
        let is_changed = names.contains(name);
        Ok(is_changed.then(|| after.weight(name)).flatten())
    };
    let shard = options.max_shard_bytes;
    modelsmith_hosts::save(&host, fresh.path(), dtype, shard, &changed, &Map::new())?;
    fresh.publish()?;
    Ok(Exported {
        host: base.to_path_buf(),
        output: options.output.clone(),
        batches: made.len(),
        changed: names.into_iter().collect(),
        dtype: dtype.name(),
    })
}
