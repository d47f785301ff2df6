//! Runs: the list, one of them, several side by side.

use super::{Align, Table, bytes, count, decimal, seconds};
use modelsmith_engine::RunInfo;
use modelsmith_engine::numbers::date;
use modelsmith_engine::runs::RunDetail;
use std::path::Path;

/// The list, or where nothing was found.
pub(crate) fn runs(runs: &[RunInfo], folder: &Path) -> String {
    if runs.is_empty() {
        return format!("no such run in {}", folder.display());
    }
    table(runs).render()
}

fn table(runs: &[RunInfo]) -> Table {
    let mut table = Table::new(&[
        ("run", Align::Left),
        ("state", Align::Left),
        ("method", Align::Left),
        ("steps", Align::Right),
        ("held-out loss", Align::Left),
        ("time", Align::Right),
        ("memory", Align::Right),
        ("started", Align::Left),
    ]);
    for run in runs {
        table.row([
            run.name.clone(),
            run.state.as_str().to_owned(),
            run.method.clone(),
            count(run.steps),
            loss(run),
            run.seconds.map_or_else(String::new, seconds),
            run.peak_memory.map_or_else(String::new, bytes),
            run.started.map_or_else(String::new, date),
        ]);
    }
    table
}

fn loss(run: &RunInfo) -> String {
    match (run.loss_before, run.loss_after) {
        (Some(before), Some(after)) => format!("{} -> {}", decimal(before), decimal(after)),
        (None, Some(loss)) | (Some(loss), None) => decimal(loss),
        (None, None) => String::new(),
    }
}

/// Several runs and the page that compares them.
pub(crate) fn comparison(runs: &[RunInfo], page: &Path) -> String {
    format!("{}\n\nwritten   {}", table(runs).render(), page.display())
}

/// A run with its warnings and its files.
pub(crate) fn run(detail: &RunDetail) -> String {
    let info = &detail.info;
    let mut lines = vec![format!(
        "{}  {}  {}",
        info.name,
        info.state.as_str(),
        info.method
    )];
    let mut line = |name: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{name:<9} {text}"));
        }
    };
    line("about", info.description.clone());
    line("folder", info.path.display().to_string());
    line("host", info.host.clone());
    line("recipe", format!("{}, seed {}", info.recipe, info.seed));
    line("data", info.data_hash.clone().unwrap_or_default());
    line("started", info.started.map_or_else(String::new, date));
    line("ended", info.finished.map_or_else(String::new, date));
    line("steps", count(info.steps));
    line(
        "held out",
        match loss(info) {
            text if text.is_empty() => text,
            text => format!("loss {text}"),
        },
    );
    let memory = info
        .peak_memory
        .map_or_else(String::new, |peak| format!(", peak memory {}", bytes(peak)));
    line(
        "cost",
        info.seconds
            .map_or_else(String::new, |time| seconds(time) + &memory),
    );
    line("error", info.error.clone().unwrap_or_default());
    for warning in &detail.record.warnings {
        line("warning", format!("{} (x {})", warning.text, warning.count));
    }
    let total = detail.record.artifacts.len();
    if total > 0 {
        line(
            "files",
            match detail.changed_files.as_slice() {
                [] => format!("{total}, all with the checksums of the record"),
                changed => format!("{total}; changed since: {}", changed.join(", ")),
            },
        );
    }
    lines.join("\n")
}
