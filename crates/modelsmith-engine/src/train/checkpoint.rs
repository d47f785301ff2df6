//! Checkpoints of a run: everything a step depends on, the manifest written last.
//!
//! ```text
//! checkpoints/step-000040/  adapter.safetensors  optimizer.safetensors  trainer.json
//! ```
//!
//! A checkpoint counts only when `trainer.json` is there and the hashes in it are those of the
//! files; one that was interrupted is passed over and removed. Random draws are keyed by step, so
//! they need no state.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::parameters::Flat;
use modelsmith_core::weights;
use modelsmith_data::Position;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The step-level state of a training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Optimizer steps finished.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Whether the current epoch has given any step yet.
    pub mid_epoch: bool,
    /// Place of the next batch.
    pub position: Position,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// The evaluation before the first step.
    pub before: Option<Best>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Step of the last evaluation.
    pub evaluated_at: Option<u64>,
    /// Evaluations since the best.
    pub since_best: u64,
    /// Whether early stopping has ended the run.
    pub stopped_early: bool,
    /// Length of `metrics.jsonl` at this point.
    pub metrics_offset: u64,
    /// Loss of every step so far, for the curve.
    pub losses: Vec<f32>,
}

/// An evaluation that is remembered: the one before training, or the one with the lowest loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Mean loss a token (or example); text in the file, which keeps every bit.
    #[serde(with = "exact")]
    pub loss: f64,
    /// The step it was measured after.
    pub step: u64,
}

/// Floats as their shortest exact decimal text; JSON numbers may come back one unit off.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    recipe: String,
    state: TrainerState,
    files: BTreeMap<String, String>,
}

/// What a checkpoint holds.
pub struct Checkpoint {
    /// The trainer's state.
    pub state: TrainerState,
    /// The adapter's parameters by module path.
    pub adapter: BTreeMap<String, Flat>,
    /// The optimizer's state.
    pub optimizer: BTreeMap<String, Flat>,
}

const FORMAT: u32 = 1;
const MANIFEST: &str = "trainer.json";
const FILES: [&str; 2] = ["adapter.safetensors", "optimizer.safetensors"];

impl Checkpoint {
    /// Writes the checkpoint of its step under `folder`, for a recipe known by `recipe` hash.
    ///
    /// # Errors
    /// The files cannot be written; an earlier checkpoint is not touched.
    pub fn save(&self, folder: &Path, recipe: &str) -> Result<PathBuf> {
        let path = folder.join(format!("step-{:06}", self.state.step));
        if path.join(MANIFEST).is_file() && read_manifest(&path).is_ok() {
            return Ok(path);
        }
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, error))?;
        let none = BTreeMap::new();
        weights::save(&path.join(FILES[0]), &self.adapter, &none)?;
        weights::save(&path.join(FILES[1]), &self.optimizer, &none)?;
        let files = FILES
            .iter()
            .map(|name| Ok(((*name).to_owned(), hash_file(&path.join(name))?)))
            .collect::<Result<_>>()?;
        let manifest = Manifest {
            format: FORMAT,
            recipe: recipe.to_owned(),
            state: self.state.clone(),
            files,
        };
        atomic_json(path.join(MANIFEST), &manifest)?;
        Ok(path)
    }

    /// The newest whole checkpoint under `folder`, if any; unfinished ones are removed.
    ///
    /// # Errors
    /// A checkpoint of another recipe.
    pub fn newest(
        folder: &Path,
        recipe: &str,
        device: &burn::tensor::Device,
    ) -> Result<Option<Self>> {
        for path in listed(folder)?.into_iter().rev() {
            match read_manifest(&path) {
                Ok(manifest) => return Self::read(&path, manifest, recipe, device).map(Some),
                Err(_) => remove(&path)?,
            }
        }
        Ok(None)
    }

    /// The checkpoint of one step.
    ///
    /// # Errors
    /// It is absent, damaged, or of another recipe.
    pub fn of_step(
        folder: &Path,
        step: u64,
        recipe: &str,
        device: &burn::tensor::Device,
    ) -> Result<Self> {
        let path = folder.join(format!("step-{step:06}"));
        let manifest = read_manifest(&path)?;
        Self::read(&path, manifest, recipe, device)
    }

    fn read(
        path: &Path,
        manifest: Manifest,
        recipe: &str,
        device: &burn::tensor::Device,
    ) -> Result<Self> {
        if manifest.recipe != recipe {
            return Err(Error::file(
                path.join(MANIFEST),
                "was written under another recipe: recipe.toml has changed since; restore it, or start a new run",
            ));
        }
        Ok(Self {
            state: manifest.state,
            adapter: weights::load(&path.join(FILES[0]), device)?,
            optimizer: weights::load(&path.join(FILES[1]), device)?,
        })
    }
}

/// Removes all but the newest `keep` checkpoints and the one of `best`.
///
/// # Errors
/// A folder cannot be listed or removed.
pub(crate) fn prune(folder: &Path, keep: u64, best: Option<u64>) -> Result<()> {
    let mut paths = listed(folder)?;
    let newest = paths.split_off(paths.len().saturating_sub(keep.max(1) as usize));
    drop(newest);
    for path in paths {
        if best.is_none_or(|step| !path.ends_with(format!("step-{step:06}"))) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Checkpoint folders in the order of their steps.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, error)),
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?;
            Some((step.parse().ok()?, path))
        })
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The manifest, once the files it names have the hashes it names.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let file = path.join(MANIFEST);
    let manifest: Manifest = read_json(&file)?;
    if manifest.format != FORMAT {
        let found = manifest.format;
        return Err(Error::file(
            &file,
            format!("has format {found}; this program reads {FORMAT}"),
        ));
    }
    for name in FILES {
        let found = hash_file(&path.join(name))?;
        if manifest.files.get(name) != Some(&found) {
            return Err(Error::file(
                path.join(name),
                "does not have the hash that its checkpoint recorded; it is damaged",
            ));
        }
    }
    Ok(manifest)
}

pub(crate) fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
    std::io::copy(&mut file, &mut hasher).map_err(|error| Error::io(path, error))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn remove(path: &Path) -> Result<()> {
    // The manifest goes first, so that a removal cut short leaves no checkpoint that looks whole.
    match std::fs::remove_file(path.join(MANIFEST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(path, error));
        }
        _ => {}
    }
    std::fs::remove_dir_all(path).map_err(|error| Error::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use modelsmith_core::files::fault;

    fn checkpoint(step: u64) -> Checkpoint {
        let device = Device::flex();
        let flat = Flat::from_vec(vec![step as f32, 1.0], &[2], &device);
        Checkpoint {
            state: TrainerState {
                step,
                ..TrainerState::default()
            },
            adapter: BTreeMap::from([("pairs.0.lora_A".to_owned(), flat.clone())]),
            optimizer: BTreeMap::from([("w/first".to_owned(), flat)]),
        }
    }

    fn newest(folder: &Path) -> Option<u64> {
        let found = Checkpoint::newest(folder, "r", &Device::flex()).unwrap();
        found.map(|found| {
            assert_eq!(
                found.adapter["pairs.0.lora_A"].to_vec()[0],
                found.state.step as f32
            );
            found.state.step
        })
    }

    #[test]
    fn the_newest_whole_checkpoint_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest(dir.path()), None);
        for step in [1, 2, 3] {
            checkpoint(step).save(dir.path(), "r").unwrap();
        }
        std::fs::write(dir.path().join("step-000003/adapter.safetensors"), b"cut").unwrap();
        assert_eq!(newest(dir.path()), Some(2));
        assert!(!dir.path().join("step-000003").exists());
        assert!(Checkpoint::newest(dir.path(), "other", &Device::flex()).is_err());
    }

    #[test]
    fn every_failed_write_leaves_the_earlier_checkpoint() {
        for n in 1.. {
            let dir = tempfile::tempdir().unwrap();
            checkpoint(1).save(dir.path(), "r").unwrap();
            let armed = fault::fail_write_at(n);
            let saved = checkpoint(2).save(dir.path(), "r");
            drop(armed);
            let found = newest(dir.path());
            // A failure after the manifest's rename reports an error, and the new one counts.
            let fits = found == Some(2) || (saved.is_err() && found == Some(1));
            assert!(fits, "failure at write {n}: newest is {found:?}");
            if saved.is_ok() {
                assert!(n > 3, "no write was made to fail");
                break;
            }
        }
    }

    #[test]
    fn remembered_losses_keep_every_bit() {
        let mut loss = 0.1_f64;
        for _ in 0..1000 {
            loss = f64::from_bits(loss.to_bits().wrapping_mul(3).wrapping_add(7) >> 2);
            let best = Best { loss, step: 1 };
            let text = serde_json::to_string(&best).unwrap();
            let again: Best = serde_json::from_str(&text).unwrap();
            assert_eq!(again.loss.to_bits(), loss.to_bits(), "{text}");
        }
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=5 {
            checkpoint(step).save(dir.path(), "r").unwrap();
        }
        prune(dir.path(), 2, Some(2)).unwrap();
        let steps: Vec<_> = listed(dir.path()).unwrap();
        let names: Vec<_> = steps
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["step-000002", "step-000004", "step-000005"]);
    }
}
