//! Run folders as the page shows them.

use crate::answer::{Answer, Refusal};
use crate::jobs::Process;
use crate::server::Shared;
use axum::http::StatusCode;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{read_json, safe_name};
use modelsmith_engine::{Recipe, RunInfo, State, index};
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsStr;
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
    /// What process and folder tell together; `None` where there is neither. A folder that is
    /// there knows best how its run ended, whoever started it.
    fn of(process: Option<Process>, folder: Option<State>) -> Option<Self> {
        Some(match (process, folder) {
            (Some(Process::Stopping), _) => Self::Stopping,
            (Some(Process::Alive), None) => Self::Starting,
            (Some(Process::Alive), Some(_)) | (_, Some(State::Running)) => Self::Running,
            (_, Some(State::Finished)) => Self::Finished,
            (_, Some(State::Interrupted)) => Self::Interrupted,
            (_, Some(State::Failed)) | (Some(Process::Ended), None) => Self::Failed,
            (None, None) => return None,
        })
    }

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
    /// What it failed with, or why its recipe cannot be read.
    error: Option<String>,
}

impl Row {
    /// A run that has a folder.
    fn begun(process: Option<Process>, info: RunInfo) -> Option<Self> {
        Some(Self {
            status: Status::of(process, Some(info.state))?,
            name: info.name,
            method: info.method,
            host: info.host,
            description: info.description,
            steps: Some(info.steps),
            loss_before: info.loss_before,
            loss_after: info.loss_after,
            started_unix: info.started,
            seconds: info.seconds,
            error: info.error,
        })
    }

    /// A run that has none yet; its recipe is as the form wrote it.
    fn young(process: Option<Process>, name: &str, recipe: Recipe) -> Option<Self> {
        let host = recipe.host.fresh.unwrap_or(recipe.host.path);
        Some(Self {
            status: Status::of(process, None)?,
            name: name.to_owned(),
            method: recipe.method.name,
            host: host.display().to_string(),
            description: recipe.description,
            steps: None,
            loss_before: None,
            loss_after: None,
            started_unix: None,
            seconds: None,
            error: None,
        })
    }

    fn holds(&self, words: &[String]) -> bool {
        let Self {
            name,
            method,
            host,
            description,
            ..
        } = self;
        let text = format!("{name} {method} {host} {description}").to_lowercase();
        words.iter().all(|word| text.contains(word))
    }
}

/// The list, and how many runs it leaves out.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    runs: Vec<Row>,
    /// Runs that match, shown or not.
    total: usize,
    /// Why the index of the runs was not used, if it was not.
    warning: Option<String>,
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

/// Runs that hold every word of a search, newest first; those without a folder come before.
///
/// # Errors
/// The folder of runs cannot be read.
pub(crate) fn list(shared: &Shared, search: &str) -> Result<List> {
    let listing = index::list(&shared.runs, &index::Filter::default())?;
    let mut runs = Vec::new();
    for name in shared.jobs.names() {
        if listing.runs.iter().all(|run| run.name != name) {
            runs.extend(row(shared, &name)?);
        }
    }
    // What has no page, as a link to a folder elsewhere, is left out.
    let begun = listing.runs.into_iter();
    let begun = begun.filter(|run| folder(&shared.runs, &run.name).is_ok());
    runs.extend(begun.filter_map(|run| Row::begun(shared.jobs.state(&run.name), run)));
    let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    runs.retain(|row| row.holds(&words));
    let total = runs.len();
    runs.truncate(MOST);
    Ok(List {
        runs,
        total,
        warning: listing.warning,
    })
}

/// How a run stands; `None` where there is none of the name.
///
/// # Errors
/// A name that could lead elsewhere.
pub(crate) fn status(shared: &Shared, name: &str) -> Result<Option<Status>> {
    let path = folder(&shared.runs, name)?;
    Ok(Status::of(shared.jobs.state(name), State::of(&path)))
}

fn row(shared: &Shared, name: &str) -> Result<Option<Row>> {
    let path = folder(&shared.runs, name)?;
    let process = shared.jobs.state(name);
    if State::of(&path).is_some() {
        return Ok(Row::begun(process, RunInfo::read(&path)?));
    }
    let recipe = recipe(shared, name).unwrap_or_default();
    Ok(Row::young(process, name, recipe))
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
