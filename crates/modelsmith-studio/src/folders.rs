//! Run folders as the page shows them.

use crate::answer::{Answer, Refusal};
use crate::jobs::State;
use crate::metrics;
use crate::server::Shared;
use axum::http::StatusCode;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{read_json, safe_name};
use modelsmith_engine::Recipe;
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Most rows that a list answers with.
const MOST: usize = 500;
/// Largest report that is passed on.
const REPORT_BYTES: u64 = 64 << 20;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Its process has begun and has no folder yet.
    Starting,
    /// A process writes it.
    Running,
    /// Its process was asked to stop.
    Stopping,
    /// It came to its end.
    Finished,
    /// It can be resumed.
    Interrupted,
    /// Its process ended with an error.
    Failed,
}

impl Status {
    /// Whether more may come.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// A run in the list.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) status: Status,
    method: String,
    host: String,
    description: String,
    steps: Option<u64>,
    loss_before: Option<f64>,
    loss_after: Option<f64>,
    started_unix: Option<u64>,
    seconds: Option<f64>,
}

/// The list, and how many runs it leaves out.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    runs: Vec<Row>,
    /// Runs that match, shown or not.
    total: usize,
}

/// A run on its own page.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    #[serde(flatten)]
    row: Row,
    /// Whether the studio may stop it.
    own: bool,
    /// Whether there is a `report.html`.
    report: bool,
    /// Whether text can be generated with it.
    usable: bool,
    recipe_toml: String,
    recipe: Value,
    summary: Value,
    environment: Value,
}

/// The folder that a name stands for; it need not exist.
///
/// # Errors
/// A name that could lead elsewhere, a link that does.
pub(crate) fn folder(runs: &Path, name: &str) -> Result<PathBuf> {
    let path = runs.join(safe_name("run", name)?);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_dir() => Err(Error::Usage(format!(
            "{name}: expected a folder of a run, found a file or a link"
        ))),
        _ => Ok(path),
    }
}

/// Runs that hold every word of a search, newest first.
///
/// # Errors
/// The folder of runs cannot be read.
pub(crate) fn list(shared: &Shared, search: &str) -> Result<List> {
    let io = |error| Error::io(&shared.runs, error);
    let mut names = shared.jobs.names();
    for entry in std::fs::read_dir(&shared.runs).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("recipe.toml").is_file() && !names.contains(&name) {
            names.push(name);
        }
    }
    let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    let mut runs: Vec<Row> = names
        .iter()
        // A folder that is no run of ours, or vanished meanwhile, is left out.
        .filter_map(|name| row(shared, name).ok().flatten())
        .filter(|row| {
            let Row {
                name,
                method,
                host,
                description,
                ..
            } = row;
            let text = format!("{name} {method} {host} {description}").to_lowercase();
            words.iter().all(|word| text.contains(word))
        })
        .collect();
    runs.sort_by(|a, b| {
        b.started_unix
            .cmp(&a.started_unix)
            .then(a.name.cmp(&b.name))
    });
    let total = runs.len();
    runs.truncate(MOST);
    Ok(List { runs, total })
}

/// How a run stands; `None` where there is none of the name.
///
/// # Errors
/// A name that could lead elsewhere.
pub(crate) fn status(shared: &Shared, name: &str) -> Result<Option<Status>> {
    let path = folder(&shared.runs, name)?;
    let begun = path.join("recipe.toml").is_file();
    let own = shared.jobs.state(name);
    Ok(match own {
        Some(State::Alive) if begun => Some(Status::Running),
        Some(State::Alive) => Some(Status::Starting),
        Some(State::Stopping) => Some(Status::Stopping),
        _ if begun && is_held(&path) => Some(Status::Running),
        _ if path.join("summary.json").is_file() => Some(Status::Finished),
        // Exit codes of a stop by signal, after a checkpoint.
        Some(State::Ended(Some(75 | 130 | 143))) if begun => Some(Status::Interrupted),
        Some(State::Ended(_)) => Some(Status::Failed),
        None => begun.then_some(Status::Interrupted),
    })
}

/// Whether a process holds the run's lock.
///
/// The lock itself is tried only when the process that it names lives: a run that begins just now
/// must not find the studio in its way.
fn is_held(path: &Path) -> bool {
    let file = path.join("lock");
    let Ok(text) = std::fs::read_to_string(&file) else {
        return false;
    };
    let pid = text.trim().strip_prefix("pid ").unwrap_or_default();
    let proc = Path::new("/proc");
    if proc.join("self").exists() && (pid.is_empty() || !proc.join(pid).exists()) {
        return false;
    }
    File::open(&file)
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn row(shared: &Shared, name: &str) -> Result<Option<Row>> {
    let Some(status) = status(shared, name)? else {
        return Ok(None);
    };
    let path = folder(&shared.runs, name)?;
    let recipe = recipe(shared, name).unwrap_or_default();
    let summary = json_of(&path, "summary.json");
    let environment = json_of(&path, "environment.json");
    let host = recipe.host.fresh.unwrap_or(recipe.host.path);
    Ok(Some(Row {
        name: name.to_owned(),
        status,
        method: recipe.method.name,
        host: host.display().to_string(),
        description: recipe.description,
        steps: summary["steps"].as_u64(),
        loss_before: summary["loss_before"]
            .as_f64()
            .or_else(|| metrics::first_loss(path.join("metrics.jsonl"))),
        loss_after: summary["loss_after"].as_f64(),
        started_unix: environment["started_unix"].as_u64(),
        seconds: summary["seconds"].as_f64(),
    }))
}

/// The recipe of a run: as it was resolved, or as the form wrote it where there is no folder yet.
///
/// # Errors
/// No or a malformed recipe.
pub(crate) fn recipe(shared: &Shared, name: &str) -> Result<Recipe> {
    Recipe::read(&recipe_file(shared, name)?, &[])
}

fn recipe_file(shared: &Shared, name: &str) -> Result<PathBuf> {
    let resolved = folder(&shared.runs, name)?.join("recipe.toml");
    Ok(if resolved.is_file() {
        resolved
    } else {
        shared.jobs.recipe(name)
    })
}

/// A JSON file of a run; null where there is none that can be read.
fn json_of(path: &Path, file: &str) -> Value {
    read_json(path.join(file)).unwrap_or(Value::Null)
}

/// A run on its own page.
///
/// # Errors
/// No run of the name.
pub(crate) fn view(shared: &Shared, name: &str) -> Answer<View> {
    let row = row(shared, name)?.ok_or_else(|| absent(name))?;
    let path = folder(&shared.runs, name)?;
    let file = recipe_file(shared, name)?;
    let recipe = Recipe::read(&file, &[]).ok();
    Ok(View {
        own: shared.jobs.state(name).is_some(),
        report: path.join("report.html").is_file(),
        usable: path.join("adapter/adapter_config.json").is_file()
            || path.join("model/config.json").is_file(),
        recipe_toml: std::fs::read_to_string(&file).unwrap_or_default(),
        recipe: recipe.map_or(Value::Null, |r| serde_json::to_value(r).unwrap_or_default()),
        summary: json_of(&path, "summary.json"),
        environment: json_of(&path, "environment.json"),
        row,
    })
}

/// No run of a name.
pub(crate) fn absent(name: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no run {name}"))
}

/// The report of a run.
///
/// # Errors
/// None there, or one too large.
pub(crate) fn report(shared: &Shared, name: &str) -> Answer<Vec<u8>> {
    let path = folder(&shared.runs, name)?.join("report.html");
    let found = std::fs::symlink_metadata(&path).map_err(|error| Error::io(&path, error))?;
    if !found.is_file() || found.len() > REPORT_BYTES {
        let reason = format!(
            "{} is no file of at most {REPORT_BYTES} bytes",
            path.display()
        );
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    Ok(std::fs::read(&path).map_err(|error| Error::io(&path, error))?)
}

/// Asks a run of the studio to stop.
///
/// # Errors
/// No run of the name, one that somebody else started, one that has ended.
pub(crate) fn stop(shared: &Shared, name: &str) -> Answer<()> {
    status(shared, name)?.ok_or_else(|| absent(name))?;
    Ok(shared.jobs.stop(name)?)
}

/// Goes on with an interrupted run in a new process.
///
/// # Errors
/// No run of the name, or one that is at work or finished.
pub(crate) fn resume(shared: &Shared, name: &str) -> Answer<()> {
    let path = folder(&shared.runs, name)?;
    let refused = |what: &str| {
        Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("{name} {what}; there is nothing to resume"),
        ))
    };
    match status(shared, name)?.ok_or_else(|| absent(name))? {
        Status::Finished => refused("is finished"),
        status if status.is_live() => refused("is at work"),
        _ if !path.join("recipe.toml").is_file() => refused("never began"),
        _ => {
            let words = [OsStr::new("tune"), OsStr::new("--resume"), path.as_os_str()];
            Ok(shared.jobs.start(name, &words, || Ok(()))?)
        }
    }
}
