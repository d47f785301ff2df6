//! Finding, showing and removing runs.

use crate::index;
use crate::record::Record;
use crate::run_folder::RunFolder;
use crate::run_info::RunInfo;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::read_json;
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Beginning of the name of a run folder that is being removed.
const REMOVED: &str = ".removed-";

/// All that is known of a run without reading its weights.
#[derive(Clone, Debug, Serialize)]
pub struct RunDetail {
    /// Its line in lists.
    #[serde(flatten)]
    pub info: RunInfo,
    /// The recipe as resolved, in TOML.
    pub recipe_text: String,
    /// Program, system, device.
    pub environment: Value,
    /// Hash, format and counts of the data.
    pub data: Value,
    /// The summary of a finished run; null before.
    pub summary: Value,
    /// Attempts, warnings, checksums.
    pub record: Record,
    /// Files whose bytes are no longer those of the record.
    pub changed_files: Vec<String>,
}

/// The folder of a run that is named, or given by its path.
///
/// # Errors
/// There is no such run, with near matches.
pub fn find(dir: &Path, run: &str) -> Result<PathBuf> {
    let holds = |path: &PathBuf| path.join("recipe.toml").is_file();
    let plain = !run.is_empty() && !run.contains(['/', '\\']) && run != "." && run != "..";
    if let Some(path) = plain.then(|| dir.join(run)).filter(holds) {
        return Ok(path);
    }
    if let Some(path) = Some(PathBuf::from(run)).filter(|path| !run.is_empty() && holds(path)) {
        return Ok(path);
    }
    let known = index::list(dir, &index::Filter::default())?.runs;
    let hint = suggest(run, known.iter().map(|run| run.name.as_str()));
    Err(Error::Usage(format!(
        "no run `{run}` in {}; {hint}",
        dir.display()
    )))
}

/// Everything on record about a run.
///
/// # Errors
/// The folder holds no run, or its recipe cannot be read.
pub fn show(run: &Path) -> Result<RunDetail> {
    let recipe = run.join("recipe.toml");
    let record = Record::read(run);
    let json = |name: &str| read_json(run.join(name)).unwrap_or_default();
    Ok(RunDetail {
        info: RunInfo::read(run)?,
        recipe_text: fs::read_to_string(&recipe).map_err(|error| Error::io(&recipe, error))?,
        environment: json("environment.json"),
        data: json("data.json"),
        summary: json("summary.json"),
        changed_files: record.changed_files(run),
        record,
    })
}

/// Removes a run: out of sight in one step, then file by file, so that a process that is cut off
/// leaves no half of a run behind. What earlier removals left is removed as well.
///
/// # Errors
/// A running one, a link, or files that cannot be removed.
pub fn remove(run: &Path) -> Result<()> {
    let io = |error| Error::io(run, error);
    if fs::symlink_metadata(run).map_err(io)?.is_symlink() {
        let problem = "this is a symbolic link; remove the link, or name the folder itself";
        return Err(Error::file(run, problem));
    }
    let run = &fs::canonicalize(run).map_err(io)?;
    // Held while it is renamed, so that no one resumes what is on its way out.
    let held = RunFolder::hold(run)?;
    let (Some(dir), Some(name)) = (run.parent(), run.file_name()) else {
        return Err(Error::file(run, "this is no folder of a run"));
    };
    let name = name.to_string_lossy();
    let aside = dir.join(format!("{REMOVED}{name}-{}", std::process::id()));
    fs::rename(run, &aside).map_err(io)?;
    drop(held);
    let forgotten = index::forget(run);
    sweep(dir)?;
    forgotten
}

fn sweep(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|error| Error::io(dir, error))?;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(REMOVED) {
            continue;
        }
        match fs::remove_dir_all(entry.path()) {
            // Another process that removes a run may have swept it already.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(entry.path(), error));
            }
            _ => {}
        }
    }
    Ok(())
}
