//! The folder in which a merge is written, which survives a kill: the same merge goes on with the files that are whole.

use crate::fresh_folder::check_target;
use crate::lock;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{
    Durability, Reader, TensorSpec, atomic_write_as, clean_stale, read_json,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const PROGRESS: &str = "progress.json";
const LOCK: &str = "lock";

/// What is finished, and of which merge.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// Hash of everything that the result depends on.
    fingerprint: String,
    /// Hash of the tensors of every finished weight file.
    finished: BTreeMap<String, String>,
}

/// A folder beside its final place, kept while something in it is worth going on from.
pub(crate) struct WorkFolder {
    target: PathBuf,
    work: PathBuf,
    progress: Progress,
    durability: Durability,
    published: bool,
    _lock: File,
}

impl WorkFolder {
    /// Begins or goes on with the merge of this fingerprint into `target`, which must be absent or empty and none of the
    /// inputs. What another merge has left there is removed.
    ///
    /// # Errors
    /// A target that holds something, one that another process writes.
    pub(crate) fn begin(
        target: &Path,
        inputs: &[&Path],
        fingerprint: &str,
        durability: Durability,
    ) -> Result<Self> {
        let name = check_target(target, inputs)?;
        let work = target.with_file_name(format!(".{name}.merging"));
        let held = lock::hold(&work, "merge")?;
        clean_stale(&work)?;
        let file = work.join(PROGRESS);
        let found: Option<Progress> = file.is_file().then(|| read_json(&file).ok()).flatten();
        let progress = match found.filter(|found| found.fingerprint == fingerprint) {
            Some(progress) => progress,
            None => {
                empty(&work)?;
                Progress {
                    fingerprint: fingerprint.to_owned(),
                    finished: BTreeMap::new(),
                }
            }
        };
        Ok(Self {
            target: target.to_path_buf(),
            work,
            progress,
            durability,
            published: false,
            _lock: held,
        })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.work
    }

    /// How to write.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    /// Whether a file was finished before, and still has its tensors and their bytes.
    pub(crate) fn is_finished(&self, name: &str, specs: &[TensorSpec]) -> bool {
        let Some(hash) = self.progress.finished.get(name) else {
            return false;
        };
        let Ok(reader) = Reader::open(self.work.join(name)) else {
            return false;
        };
        reader.len() == specs.len() && hash_of(&reader, specs).is_ok_and(|found| found == *hash)
    }

    /// Notes a finished file.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn finish(&mut self, name: &str, hash: String) -> Result<()> {
        self.progress.finished.insert(name.to_owned(), hash);
        self.json(PROGRESS, &self.progress)
    }

    /// Writes a value as JSON into the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text =
            serde_json::to_vec_pretty(value).map_err(|error| Error::Failed(error.to_string()))?;
        text.push(b'\n');
        self.bytes(name, &text)
    }

    /// Writes bytes into the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        atomic_write_as(self.work.join(name), self.durability, |sink| {
            sink.put(bytes)
        })
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// A file or the folder cannot be renamed or removed.
    pub(crate) fn publish(mut self) -> Result<()> {
        for name in [PROGRESS, LOCK] {
            let file = self.work.join(name);
            if file.exists() {
                std::fs::remove_file(&file).map_err(|error| Error::io(&file, error))?;
            }
        }
        std::fs::rename(&self.work, &self.target)
            .map_err(|error| Error::io(&self.target, error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if !self.published && self.progress.finished.is_empty() {
            // The folder is ours alone; what cannot be removed stays hidden beside the target.
            let _ = std::fs::remove_dir_all(&self.work);
        }
    }
}

/// Removes everything but the lock.
fn empty(work: &Path) -> Result<()> {
    let io = |error| Error::io(work, error);
    for entry in std::fs::read_dir(work).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name() != LOCK {
            std::fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// Blake3 over a file's tensors in their order; an error where one is absent or of another kind.
fn hash_of(reader: &Reader, specs: &[TensorSpec]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for spec in specs {
        let view = reader.view(&spec.name)?;
        if view.dtype != spec.dtype || view.shape != spec.shape {
            return Err(Error::file(
                reader.path(),
                format!("{} is of another kind", spec.name),
            ));
        }
        hasher.update_rayon(view.bytes);
        reader.release(&spec.name, 0..view.bytes.len());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
