//! A run as lists show it, read from its folder alone.
//!
//! The state is derived, not believed: a process that was killed had no time to write one.
//!
//! ```text
//! lock held by a process          -> running
//! last attempt recorded a failure -> failed
//! last attempt recorded a stop    -> interrupted
//! summary.json is there           -> finished
//! otherwise                       -> interrupted
//! ```

use crate::metrics_log;
use crate::recipe::Recipe;
use crate::record::Record;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::read_json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A process holds its folder.
    Running,
    /// It came to its end.
    Finished,
    /// It was stopped or killed and can be resumed.
    Interrupted,
    /// It ended with an error.
    Failed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [
        Self::Running,
        Self::Finished,
        Self::Interrupted,
        Self::Failed,
    ];

    /// The state of a run folder; `None` where it holds no run.
    pub fn of(path: &Path) -> Option<Self> {
        let begun = path.join("recipe.toml").is_file();
        begun.then(|| state(path, is_held(path), &Record::read(path)))
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for State {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                Error::Usage(format!("unknown state `{word}`; known: {known}"))
            })
    }
}

/// One line of a list of runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunInfo {
    /// Name of its folder.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// What its recipe says it is for.
    pub description: String,
    /// Method id.
    pub method: String,
    /// Folder of the host, as the recipe names it.
    pub host: String,
    /// Fingerprint of the recipe.
    pub recipe: String,
    /// Seed of every draw.
    pub seed: u64,
    /// Where it stands.
    pub state: State,
    /// Optimizer steps on record.
    pub steps: u64,
    /// Held-out loss before training.
    pub loss_before: Option<f64>,
    /// Held-out loss of what was kept, or the latest on record.
    pub loss_after: Option<f64>,
    /// When it first began, in seconds since 1970.
    pub started: Option<u64>,
    /// When its last attempt ended.
    pub finished: Option<u64>,
    /// Seconds over all attempts whose end is known.
    pub seconds: Option<f64>,
    /// Peak resident memory in bytes.
    pub peak_memory: Option<u64>,
    /// Hash of the data.
    pub data_hash: Option<String>,
    /// What its last attempt failed with, or why the folder cannot be read.
    pub error: Option<String>,
}

impl RunInfo {
    /// Reads a run folder.
    ///
    /// # Errors
    /// The folder holds no run.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_as(path, is_held(path))
    }

    /// As [`RunInfo::read`], for a caller that knows whether a process is at work in the folder.
    pub(crate) fn read_as(path: &Path, held: bool) -> Result<Self> {
        if !path.join("recipe.toml").is_file() {
            return Err(Error::Usage(format!(
                "{} holds no run (no recipe.toml)",
                path.display()
            )));
        }
        let (recipe, broken) = match Recipe::read(&path.join("recipe.toml"), &[]) {
            Ok(recipe) => (Some(recipe), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let record = Record::read(path);
        let mut info = Self {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            path: path.to_path_buf(),
            description: String::new(),
            method: String::new(),
            host: String::new(),
            recipe: String::new(),
            seed: 0,
            state: state(path, held, &record),
            steps: 0,
            loss_before: None,
            loss_after: None,
            started: record.attempts.first().map(|first| first.started),
            finished: record.attempts.last().and_then(|last| last.ended),
            seconds: record.seconds(),
            peak_memory: record
                .attempts
                .iter()
                .filter_map(|one| one.peak_memory)
                .max(),
            data_hash: json(path, "data.json")["hash"].as_str().map(str::to_owned),
            error: record
                .attempts
                .last()
                .and_then(|last| last.error.clone())
                .or(broken),
        };
        if let Some(recipe) = recipe {
            info.recipe = recipe.fingerprint();
            info.seed = recipe.seed;
            info.method = recipe.method.name;
            info.description = recipe.description;
            info.host = recipe
                .host
                .fresh
                .unwrap_or(recipe.host.path)
                .display()
                .to_string();
        }
        info.add_figures();
        Ok(info)
    }

    /// Losses and steps: of the summary where there is one, else of the metrics so far.
    fn add_figures(&mut self) {
        let summary = json(&self.path, "summary.json");
        let environment = json(&self.path, "environment.json");
        self.started = self.started.or(environment["started_unix"].as_u64());
        self.seconds = self.seconds.or(summary["seconds"].as_f64());
        self.peak_memory = self.peak_memory.or(summary["peak_memory"].as_u64());
        self.loss_before = summary["loss_before"].as_f64();
        self.loss_after = summary["loss_after"].as_f64();
        self.steps = summary["steps"].as_u64().unwrap_or(0);
        // A resumed process did not see the first evaluation, so its summary lacks it.
        if self.state == State::Finished && self.loss_before.is_some() {
            return;
        }
        for line in metrics_log::read(&self.path) {
            self.steps = self.steps.max(line.step);
            let Some(loss) = line.value("loss").filter(|_| line.kind == "eval") else {
                continue;
            };
            if line.step == 0 {
                self.loss_before = Some(loss);
            } else if self.state != State::Finished {
                self.loss_after = Some(loss);
            }
        }
    }
}

/// Whether a process holds the folder's lock.
pub(crate) fn is_held(path: &Path) -> bool {
    // A shared lock, so that two who only look do not take each other for a running process.
    let Ok(file) = File::open(path.join("lock")) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn state(path: &Path, held: bool, record: &Record) -> State {
    let recorded = record.attempts.last().and_then(|last| last.outcome);
    match recorded {
        _ if held => State::Running,
        Some(State::Failed) => State::Failed,
        Some(State::Interrupted) => State::Interrupted,
        _ if path.join("summary.json").is_file() => State::Finished,
        _ => State::Interrupted,
    }
}

/// A JSON file of the folder; null where it is absent or damaged, since a list goes on without it.
fn json(path: &Path, name: &str) -> Value {
    read_json(path.join(name)).unwrap_or_default()
}
