//! Checkpoints merged, and their differences edited, tensor by tensor in bounded memory (card 16).
//!
//! [`merge`] reads a configuration as mergekit writes it, plans every tensor of the result, and streams: tensors are read
//! through maps whose pages are given back, computed on all cores by [`modelsmith_methods::delta`], and written meanwhile.
//! [`extract`] writes what lies between two checkpoints as a small file, [`apply`] adds it to its base again, [`diff`]
//! compares.

pub mod apply;
mod config;
pub mod diff;
pub mod extract;
mod file;
mod layers;
pub mod merge;
mod plan;
mod setting;
mod side_files;
mod source;
mod stream;
mod work_folder;

pub(crate) use extract::norm;
pub use file::{Entry, Record};

use modelsmith_core::error::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A delta file as listings show it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The file.
    pub delta: PathBuf,
    /// How it was made, and what it holds.
    pub record: Record,
    /// Bytes of its tensors.
    pub bytes: u64,
}

/// Reads what a delta file holds.
///
/// # Errors
/// Another kind of file, or a damaged one.
pub fn show(path: &Path) -> Result<Shown> {
    let file = file::DeltaFile::open(path)?;
    Ok(Shown {
        delta: path.to_path_buf(),
        bytes: file.bytes(),
        record: file.record,
    })
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
