//! Whole models that arms are, or begin from: tuned by a recipe, folded into a folder of their own.

use super::arms::Bench;
use crate::merge::{self, MergeOptions};
use crate::model::{AdapterRef, ModelOptions};
use crate::recipe::{Named, Recipe};
use crate::train::Silent;
use crate::tune;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// How an arm is tuned, where that is a baseline of another way to change a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tuning {
    /// The method, `full` for all weights.
    by: Named,
    steps: u64,
    learning_rate: f64,
    batch_size: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            by: Named::new("full"),
            steps: 50,
            learning_rate: 1e-3,
            batch_size: 16,
        }
    }
}

impl Tuning {
    /// Refuses a method that there is not, and counts of 0.
    ///
    /// # Errors
    /// The key.
    pub(super) fn check(&self) -> Result<()> {
        crate::registry::adapter_method(&self.by)?;
        let sound = self.steps > 0 && self.batch_size > 0 && self.learning_rate > 0.0;
        match sound {
            true => Ok(()),
            false => Err(Error::config(
                "method",
                "has steps, batch_size or learning_rate of 0; must be above",
            )),
        }
    }

    /// Tunes the model of `host` on rows of a file, as a folder in `folder`; and the numbers trained.
    ///
    /// # Errors
    /// What training and merging refuse, a signal.
    pub(super) fn run(
        &self,
        bench: &Bench,
        (host, rows): (&Path, &Path),
        seed: u64,
        folder: &Path,
    ) -> Result<(PathBuf, u64)> {
        let runs = folder.join("runs");
        remove(&runs)?;
        let recipe = json!({
            "host": {"path": host},
            "data": {"path": rows, "batch_size": self.batch_size, "group_by_length": true},
            "method": self.by,
            "train": {"max_steps": self.steps, "learning_rate": self.learning_rate},
            "output": {"dir": runs, "name": "tuned", "samples": 0},
            "seed": seed,
            "device": bench.device,
        });
        let recipe = Recipe::from_value(recipe, &[])?;
        let done = tune::run(recipe, bench.stop, &mut Silent)?;
        let output = folder.join("model");
        fold(bench, host, &done.artifact, &output)?;
        Ok((output, done.trained_parameters as u64))
    }
}

/// The model that the run made first of this name gave, as a folder among the experiment's data.
///
/// # Errors
/// No such run, or what making it or merging refuses.
pub(super) fn first(bench: &mut Bench, id: &str) -> Result<PathBuf> {
    let host = base(bench, id)?;
    bench.first()?;
    let run = bench.places.first[id].clone();
    let output = bench.places.data.join(id);
    fold(bench, &host, &run.join("adapter"), &output)?;
    Ok(output)
}

/// The folder of the model that a run made first begins from.
///
/// # Errors
/// No such run, or one that names no host.
pub(super) fn base(bench: &Bench, id: &str) -> Result<PathBuf> {
    let first = bench.experiment.first.iter().find(|first| first.id == id);
    let path = first.and_then(|first| first.recipe.get("host")?["path"].as_str());
    match path {
        Some(path) => bench.path(Path::new(path)),
        None => {
            let problem =
                format!("names the run `{id}`; there is no [[first]] of that id with a host");
            Err(Error::config("host", problem))
        }
    }
}

fn fold(bench: &Bench, host: &Path, adapter: &Path, output: &Path) -> Result<()> {
    remove(output)?;
    let options = MergeOptions {
        model: ModelOptions {
            host: Some(host.to_path_buf()),
            device: bench.device.clone(),
            adapters: vec![AdapterRef::new(adapter)],
            ..ModelOptions::default()
        },
        output: output.to_path_buf(),
        dtype: None,
        max_shard_bytes: u64::MAX,
    };
    merge::run(&options).map(|_| ())
}

/// Removes a folder that this program made, if it is there.
fn remove(folder: &Path) -> Result<()> {
    match folder.is_dir() {
        true => std::fs::remove_dir_all(folder).map_err(|error| Error::io(folder, error)),
        false => Ok(()),
    }
}
