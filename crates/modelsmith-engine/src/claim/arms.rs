//! The runs of an experiment: each made once, found again by what it depends on.

use super::file::{Arm, Experiment, Tier};
use super::fragment::{self, Places};
use super::items::{Scores, score};
use super::report::Tried;
use crate::model::{AdapterRef, Model, ModelOptions};
use crate::recipe::{Recipe, data_path};
use crate::signals::Stop;
use crate::train::Silent;
use crate::{adapter_folder, memory, tune};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_data::{Dataset, content_hash};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The seed of the runs that choose a learning rate.
const SEARCH_SEED: u64 = 0;

/// What the runs of one experiment have in common.
pub(super) struct Bench<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) tier: Tier,
    /// Folder of the run folders.
    pub(super) runs: PathBuf,
    /// Folders that paths of the claim name.
    pub(super) places: Places,
    pub(super) device: String,
    pub(super) stop: &'a Stop,
    pub(super) say: &'a mut dyn FnMut(&str),
}

/// A finished run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) folder: PathBuf,
    pub(super) recipe: Recipe,
    pub(super) summary: Value,
}

impl Bench<'_> {
    /// The recipe of a run, paths filled in.
    pub(super) fn recipe(&self, arm: &Arm, learning_rate: f64, seed: u64) -> Result<Recipe> {
        let mut value = fragment::recipe(self.experiment, self.tier, arm, learning_rate, seed);
        fragment::place(&mut value, &self.places);
        value["device"] = self.device.as_str().into();
        Recipe::from_value(value, &[])
    }

    /// The learning rate with the lowest loss on the development part, and all that were tried.
    pub(super) fn choose(&mut self, arm: &Arm) -> Result<(f64, Vec<Tried>)> {
        if let [only] = arm.learning_rates[..] {
            return Ok((only, Vec::new()));
        }
        let mut tried = Vec::new();
        for learning_rate in arm.learning_rates.iter().copied() {
            let loss = match self.run(arm, learning_rate, SEARCH_SEED) {
                Ok(run) => Some(development_loss(&run)?),
                // A rate at which training diverges is not chosen.
                Err(Error::Numeric(_)) => None,
                Err(other) => return Err(other),
            };
            tried.push(Tried {
                learning_rate,
                loss,
            });
        }
        let found = tried
            .iter()
            .filter_map(|one| Some((one.loss?, one.learning_rate)));
        let best = found.min_by(|a, b| a.0.total_cmp(&b.0)).ok_or_else(|| {
            Error::Numeric(format!(
                "{}: training diverged at every learning rate of the grid",
                arm.id
            ))
        })?;
        Ok((best.1, tried))
    }

    /// A run: read where it is finished, gone on with where it was interrupted, made otherwise.
    pub(super) fn run(&mut self, arm: &Arm, learning_rate: f64, seed: u64) -> Result<Run> {
        let recipe = self.recipe(arm, learning_rate, seed)?;
        let label = format!(
            "{}: {} at {learning_rate}, seed {seed}",
            self.experiment.id, arm.id
        );
        self.made(recipe, &arm.id, &label)
    }

    /// The runs that the arms build upon.
    pub(super) fn first(&mut self) -> Result<()> {
        for first in &self.experiment.first {
            let mut value = Value::Object(first.recipe.clone());
            if self.tier == Tier::Smoke {
                fragment::overlay(&mut value, &Value::Object(first.smoke.clone()));
            }
            fragment::place(&mut value, &self.places);
            value["device"] = self.device.as_str().into();
            let recipe = Recipe::from_value(value, &[])?;
            let label = format!("{}: {} first", self.experiment.id, first.id);
            let run = self.made(recipe, &first.id, &label)?;
            self.places.first.insert(first.id.clone(), run.folder);
        }
        Ok(())
    }

    /// A path of the claim, with folders in place of what stands for them.
    pub(super) fn path(&self, path: &Path) -> Result<PathBuf> {
        let mut value = Value::String(path.display().to_string());
        fragment::place(&mut value, &self.places);
        data_path(Path::new(value.as_str().unwrap_or_default()))
    }

    /// Refuses to go on after a signal; what is not measured yet is made anew when the claim is.
    pub(super) fn stopped(&self) -> Result<()> {
        match self.stop.requested() {
            Some((_, name)) => Err(Error::Failed(format!(
                "stopped by {name}; this arm is made anew when the claim is"
            ))),
            None => Ok(()),
        }
    }

    fn made(&mut self, mut recipe: Recipe, id: &str, label: &str) -> Result<Run> {
        let key = key(&recipe)?;
        recipe.output.dir = self.runs.clone();
        // Every item is scored; a few texts would add time and nothing to judge by.
        recipe.output.samples = 0;
        recipe.output.name = format!("{}-{id}-{}", self.experiment.id, &key[..12]);
        let folder = self.runs.join(&recipe.output.name);
        if folder.join("summary.json").is_file() {
            (self.say)(&format!("{label}: finished before"));
        } else {
            memory::reset_peak();
            let summary = if folder.join("recipe.toml").is_file() {
                (self.say)(&format!("{label}: was interrupted, going on"));
                tune::resume(&folder, self.stop, &mut Silent)?
            } else {
                tune::run(recipe.clone(), self.stop, &mut Silent)?
            };
            let loss = summary.loss_after.map_or(String::new(), |loss| {
                format!(", development loss {loss:.4}")
            });
            (self.say)(&format!(
                "{label}: {} steps in {:.0} s{loss}",
                summary.steps, summary.seconds
            ));
        }
        let summary = read_json(folder.join("summary.json"))?;
        Ok(Run {
            folder,
            recipe,
            summary,
        })
    }

    /// Scores of a finished run on a test; kept beside the run.
    pub(super) fn scores(&self, run: &Run, data: &Value) -> Result<Scores> {
        let path = run.folder.join(format!("scores-{}.json", hash_of(data)));
        if path.is_file() {
            return read_json(path);
        }
        let adapter = AdapterRef::new(run.folder.join("adapter"));
        let record: Value = read_json(run.folder.join("data.json"))?;
        let scores = self.score(&run.recipe, vec![adapter], data, &record["classes"])?;
        atomic_json(path, &scores)?;
        Ok(scores)
    }

    /// Scores of the host alone; kept beside the runs.
    pub(super) fn untrained(&self, recipe: &Recipe, data: &Value) -> Result<Scores> {
        let host = adapter_folder::base_hash(&recipe.host.path)?;
        let name = format!("untrained-{}-{}.json", &host[..12], hash_of(data));
        let path = self.runs.join(name);
        if path.is_file() {
            return read_json(path);
        }
        let scores = self.score(recipe, Vec::new(), data, &Value::Null)?;
        atomic_json(path, &scores)?;
        Ok(scores)
    }

    fn score(
        &self,
        recipe: &Recipe,
        adapters: Vec<AdapterRef>,
        data: &Value,
        classes: &Value,
    ) -> Result<Scores> {
        let options = ModelOptions {
            host: Some(recipe.host.path.clone()),
            adapters,
            device: self.device.clone(),
            ..ModelOptions::default()
        };
        let model = Model::load(&options)?;
        let tokenizer = model.tokenizer()?;
        let mut data = data_of(data)?.data;
        data.apart = model.host.decoder_start().is_some();
        if data.max_length == 0 {
            data.max_length = model.max_length(&tokenizer);
        }
        // Classes are numbered as in training, whatever order they have here.
        data.classes = serde_json::from_value(classes.clone()).unwrap_or_default();
        let data = Dataset::open(&data, &tokenizer, recipe.seed)?;
        score(&model, &data)
    }
}

/// The data of a test, its paths filled in.
fn data_of(data: &Value) -> Result<Recipe> {
    Recipe::from_value(serde_json::json!({"data": data}), &[])
}

fn development_loss(run: &Run) -> Result<f64> {
    run.summary["loss_after"].as_f64().ok_or_else(|| {
        Error::config(
            "recipe.data",
            "holds nothing out; learning rates are chosen on held_out or held_out_path",
        )
    })
}

/// What a run's result depends on: recipe, data, host, program.
fn key(recipe: &Recipe) -> Result<String> {
    let mut files = files_of(&recipe.data.path)?;
    if let Some(held) = &recipe.data.held_out_path {
        files.extend(files_of(held)?);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(recipe.fingerprint().as_bytes());
    hasher.update(content_hash(files.iter().map(PathBuf::as_path))?.as_bytes());
    hasher.update(adapter_folder::base_hash(&recipe.host.path)?.as_bytes());
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

/// A file, or the files of a folder in order.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let io = |error| Error::io(path, error);
    let entries = std::fs::read_dir(path).map_err(io)?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(io))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn hash_of(data: &Value) -> String {
    blake3::hash(data.to_string().as_bytes()).to_hex()[..12].to_owned()
}
