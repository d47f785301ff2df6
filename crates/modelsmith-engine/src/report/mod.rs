//! Reports: what a run changed, gained, kept and cost, as one HTML file that needs nothing else.
//!
//! `data` reads run folders, `series`, `heat` and `sample_table` give what they hold shape, `draw`
//! makes curves, and `page` and `comparison` fill the templates. The page reads without its
//! script; the script adds hover values, zoom and the switching of curves.

mod comparison;
mod curves;
mod data;
mod draw;
mod heat;
mod page;
mod sample_table;
mod series;
mod trace;

pub use curves::curves_page;
pub(crate) use curves::table as curves_table;
pub use trace::trace_page;

use crate::run_info::is_held;
use data::RunData;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use std::path::{Path, PathBuf};

/// Name of the report in a run folder.
pub const FILE: &str = "report.html";

/// Writes the report of a run, finished or not, and returns its path.
///
/// # Errors
/// The folder holds no run, or the file cannot be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    write_as(run, is_held(run))
}

/// As [`write`], for the process that holds the folder and has just ended the run.
pub(crate) fn write_ended(run: &Path) -> Result<PathBuf> {
    write_as(run, false)
}

fn write_as(run: &Path, held: bool) -> Result<PathBuf> {
    let path = run.join(FILE);
    let page = page::report(&RunData::read(run, held)?)?;
    atomic_bytes(&path, page.as_bytes())?;
    Ok(path)
}

/// Writes the comparison of several runs to a file.
///
/// # Errors
/// Fewer than two runs, a folder without a run, or a file that cannot be written.
pub fn compare(runs: &[PathBuf], output: &Path) -> Result<()> {
    if runs.len() < 2 {
        return Err(Error::Usage("a comparison takes two runs or more".into()));
    }
    let runs: Vec<RunData> = runs
        .iter()
        .map(|run| RunData::read(run, is_held(run)))
        .collect::<Result<_>>()?;
    atomic_bytes(output, comparison::comparison(&runs)?.as_bytes())
}

/// Where a comparison of these runs goes when nothing else is said: beside the first of them.
pub fn comparison_path(runs: &[PathBuf]) -> PathBuf {
    let name = |run: &PathBuf| {
        run.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let names: Vec<String> = runs.iter().map(name).collect();
    let dir = runs
        .first()
        .and_then(|run| run.parent())
        .unwrap_or(Path::new(""));
    dir.join(format!("compare-{}.html", names.join("-")))
}

#[cfg(test)]
mod tests;
