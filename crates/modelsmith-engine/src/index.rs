//! The index of a folder of runs: `index.sqlite`, a cache of what the run folders say.
//!
//! The folders are the truth. Every listing compares them with the rows and reads again what
//! differs, so an index that is gone, damaged, older or of another version gives the same list.

mod store;

use crate::run_info::{RunInfo, State, is_held};
use modelsmith_core::error::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Name of the index in a folder of runs.
pub const FILE: &str = "index.sqlite";

/// Which runs a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only runs in this state.
    pub state: Option<State>,
    /// Only runs of this method.
    pub method: Option<String>,
    /// Only runs with this text in their name, description, method, host or error; case is ignored.
    pub search: Option<String>,
}

impl Filter {
    fn admits(&self, run: &RunInfo) -> bool {
        let holds = |wanted: &str| {
            let wanted = wanted.to_lowercase();
            let error = run.error.as_deref().unwrap_or_default();
            [
                run.name.as_str(),
                &run.description,
                &run.method,
                &run.host,
                error,
            ]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
        };
        self.state.is_none_or(|state| state == run.state)
            && self
                .method
                .as_ref()
                .is_none_or(|method| *method == run.method)
            && self.search.as_deref().is_none_or(holds)
    }
}

/// The runs of a folder, newest first.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The runs.
    pub runs: Vec<RunInfo>,
    /// Why the index was not used, if it was not; the list is whole all the same.
    pub warning: Option<String>,
}

/// Lists the runs of a folder.
///
/// # Errors
/// The folder cannot be read. An index that cannot be used is a warning of the listing.
pub fn list(dir: &Path, filter: &Filter) -> Result<Listing> {
    let stamps = stamps(dir)?;
    if stamps.is_empty() && !dir.join(FILE).exists() {
        return Ok(Listing {
            runs: Vec::new(),
            warning: None,
        });
    }
    let (mut runs, warning) = match store::with(dir, |db| db.refreshed(dir, &stamps)) {
        Ok(runs) => (runs, None),
        Err(error) => {
            let read = stamps
                .keys()
                .filter_map(|name| RunInfo::read(&dir.join(name)).ok());
            (
                read.collect(),
                Some(format!("read without the index: {error}")),
            )
        }
    };
    runs.retain(|run| filter.admits(run));
    runs.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.name.cmp(&b.name)));
    Ok(Listing { runs, warning })
}

/// Puts what a run folder says now into the index beside it.
///
/// # Errors
/// The folder holds no run, or the index cannot be written.
pub fn update(run: &Path) -> Result<()> {
    let (dir, name) = place(run);
    let stamp = stamp(run);
    let info = RunInfo::read(run)?;
    store::with(&dir, |db| db.put(&name, &stamp, &info))
}

/// Takes a run out of the index.
///
/// # Errors
/// The index cannot be written.
pub fn forget(run: &Path) -> Result<()> {
    let (dir, name) = place(run);
    store::with(&dir, |db| db.remove(&name))
}

/// The folder of runs that a run lies in, and its name there.
fn place(run: &Path) -> (PathBuf, String) {
    let dir = run.parent().filter(|dir| !dir.as_os_str().is_empty());
    let name = run
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    (dir.unwrap_or(Path::new(".")).to_path_buf(), name)
}

/// The run folders of a folder with a mark of their contents; an absent folder has none.
fn stamps(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if !dir.exists() {
        return Ok(found);
    }
    let io = |error| modelsmith_core::error::Error::io(dir, error);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().join("recipe.toml").is_file() {
            found.insert(name, stamp(&entry.path()));
        }
    }
    Ok(found)
}

/// Changes whenever a file that a row is made of, or the hold on the folder, does.
fn stamp(run: &Path) -> String {
    let mut mark = String::from(if is_held(run) { "held" } else { "free" });
    let files = [
        "recipe.toml",
        "record.json",
        "summary.json",
        "data.json",
        "environment.json",
        "metrics.jsonl",
    ];
    for name in files {
        let file = std::fs::metadata(run.join(name));
        let time = file.as_ref().ok().and_then(|file| file.modified().ok());
        let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let nanoseconds = time.map_or(0, |time| time.as_nanos());
        let _ = write!(mark, " {}/{nanoseconds}", file.map_or(0, |file| file.len()));
    }
    mark
}

#[cfg(test)]
mod tests;
