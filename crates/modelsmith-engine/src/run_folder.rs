//! Run folders: what a run leaves behind, locked while it is written.
//!
//! ```text
//! runs/NAME/  recipe.toml  environment.json  metrics.jsonl  tensorboard/  checkpoints/  adapter/
//!             data.json  sites.json  samples.json  summary.json  record.json  report.html
//! ```

use crate::lock;
use crate::recipe::Recipe;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, atomic_json, clean_stale, safe_name};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A run folder held by this process; the lock goes with the value.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run and writes the recipe as resolved and the environment.
    ///
    /// # Errors
    /// An unsafe name, a folder that already holds a run, one that another process holds.
    pub fn create(recipe: &Recipe) -> Result<Self> {
        let name = if recipe.output.name.is_empty() {
            fresh_name(&recipe.output.dir, &recipe.method.name)
        } else {
            safe_name("run", &recipe.output.name)?.to_owned()
        };
        let path = recipe.output.dir.join(&name);
        if path.join("recipe.toml").exists() {
            return Err(Error::config(
                "output.name",
                format!(
                    "{} already holds a run; choose another name, or continue it with --resume {}",
                    path.display(),
                    path.display()
                ),
            ));
        }
        let folder = Self::lock(path)?;
        atomic_bytes(
            folder.path.join("recipe.toml"),
            recipe.to_toml()?.as_bytes(),
        )?;
        atomic_json(folder.path.join("environment.json"), &environment(recipe))?;
        Ok(folder)
    }

    /// Opens the folder of an interrupted run, with its recipe.
    ///
    /// # Errors
    /// No recipe there, or another process holds the folder.
    pub fn open(path: &Path) -> Result<(Self, Recipe)> {
        let recipe = path.join("recipe.toml");
        if !recipe.is_file() {
            return Err(Error::Usage(format!(
                "{} holds no run (no recipe.toml); --resume takes a run folder",
                path.display()
            )));
        }
        let folder = Self::lock(path.to_path_buf())?;
        clean_stale(&folder.path)?;
        let recipe = Recipe::read(&recipe, &[])?;
        Ok((folder, recipe))
    }

    /// Holds the folder of a run whatever its recipe says, for example to remove it.
    ///
    /// # Errors
    /// No recipe there, or another process holds the folder.
    pub(crate) fn hold(path: &Path) -> Result<Self> {
        if !path.join("recipe.toml").is_file() {
            return Err(Error::Usage(format!(
                "{} holds no run (no recipe.toml)",
                path.display()
            )));
        }
        Self::lock(path.to_path_buf())
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let lock = lock::hold(&path, "run")?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of the finished adapter.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }
}

/// `METHOD-1`, `METHOD-2`, ...: the first that is free.
fn fresh_name(dir: &Path, method: &str) -> String {
    (1u64..)
        .map(|number| format!("{method}-{number}"))
        .find(|name| !dir.join(name).exists())
        .unwrap_or_else(|| method.to_owned())
}

fn environment(recipe: &Recipe) -> serde_json::Value {
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    json!({
        "program": "modelsmith",
        "version": env!("CARGO_PKG_VERSION"),
        "system": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "device": recipe.device,
        "seed": recipe.seed,
        "started_unix": started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(dir: &Path, name: &str) -> Recipe {
        let mut recipe = Recipe::default();
        recipe.output.dir = dir.to_path_buf();
        recipe.output.name = name.to_owned();
        recipe.method.name = "lora".to_owned();
        recipe
    }

    #[test]
    fn a_folder_is_held_by_one_and_not_reused() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::create(&recipe(dir.path(), "a")).unwrap();
        let held = RunFolder::open(first.path()).unwrap_err();
        assert_eq!(held.exit_code(), 7);
        assert!(
            held.to_string().contains(&std::process::id().to_string()),
            "{held}"
        );
        let path = first.path().to_path_buf();
        drop(first);
        let again = RunFolder::create(&recipe(dir.path(), "a")).unwrap_err();
        assert!(again.to_string().contains("already holds a run"), "{again}");
        RunFolder::open(&path).unwrap();
    }

    #[test]
    fn unsafe_names_are_refused_before_any_write() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../x", "/abs", "CON", "a\0b", ".."] {
            assert!(
                RunFolder::create(&recipe(dir.path(), name)).is_err(),
                "{name:?}"
            );
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn unnamed_runs_count_up() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::create(&recipe(dir.path(), "")).unwrap();
        let second = RunFolder::create(&recipe(dir.path(), "")).unwrap();
        assert!(first.path().ends_with("lora-1") && second.path().ends_with("lora-2"));
    }
}
