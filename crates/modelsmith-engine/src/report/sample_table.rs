//! Samples as a table: of one run, or of several beside each other.

use super::data::RunData;
use crate::samples::{Sample, Samples, Task};

/// A table of rows that models answered; hidden where it has none.
#[derive(Clone, Debug, Default)]
pub(super) struct SampleTable {
    /// What the rows are and what was asked.
    pub(super) note: &'static str,
    /// Prompt, reference, and an answer each.
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The samples of a run before and after its training.
pub(super) fn of_run(run: &RunData) -> SampleTable {
    let Some(samples) = &run.samples else {
        return SampleTable::default();
    };
    let before = samples.rows.iter().all(|row| row.before.is_some());
    let row = |one: &Sample| {
        let before = one.before.iter().filter(|_| before);
        let answers = before.chain([&one.after]);
        [&one.prompt, &one.reference]
            .into_iter()
            .chain(answers)
            .cloned()
            .collect()
    };
    SampleTable {
        note: note(samples.task, before),
        columns: columns(samples, before, &["after"]),
        rows: samples.rows.iter().map(row).collect(),
    }
}

/// The rows that every run answered, with the answers side by side. What a host says before
/// training is shown where all runs began with the same.
pub(super) fn of_runs(runs: &[RunData]) -> SampleTable {
    let all: Option<Vec<&Samples>> = runs.iter().map(|run| run.samples.as_ref()).collect();
    let Some([first, rest @ ..]) = all.as_deref() else {
        return SampleTable::default();
    };
    if rest.iter().any(|other| other.task != first.task) {
        return SampleTable::default();
    }
    let same = |samples: &&Samples, one: &Sample| {
        let equal =
            |other: &&Sample| other.prompt == one.prompt && other.reference == one.reference;
        samples.rows.iter().find(equal).cloned()
    };
    let shared: Vec<(&Sample, Vec<Sample>)> = first
        .rows
        .iter()
        .filter_map(|one| {
            Some((
                one,
                rest.iter()
                    .map(|other| same(other, one))
                    .collect::<Option<_>>()?,
            ))
        })
        .collect();
    let before = shared.iter().all(|(one, others)| {
        one.before.is_some() && others.iter().all(|other| other.before == one.before)
    });
    let row = |(one, others): &(&Sample, Vec<Sample>)| {
        let before = one.before.iter().filter(|_| before);
        let answers = before
            .chain([&one.after])
            .chain(others.iter().map(|other| &other.after));
        [&one.prompt, &one.reference]
            .into_iter()
            .chain(answers)
            .cloned()
            .collect()
    };
    let names: Vec<&str> = runs.iter().map(RunData::name).collect();
    SampleTable {
        note: note(first.task, before),
        columns: columns(first, before, &names),
        rows: shared.iter().map(row).collect(),
    }
}

fn columns(samples: &Samples, before: bool, after: &[&str]) -> Vec<String> {
    let given = match samples.task {
        Task::Continue => ["prompt", "reference"],
        Task::Classify => ["text", "class"],
    };
    let before = before.then_some("before");
    let words = given.into_iter().chain(before).chain(after.iter().copied());
    words.map(str::to_owned).collect()
}

fn note(task: Task, before: bool) -> &'static str {
    match (task, before) {
        (Task::Continue, true) => {
            "Held-out rows, continued greedily by the host alone and with the adapter."
        }
        (Task::Continue, false) => "Held-out rows, continued greedily with the adapter.",
        (Task::Classify, true) => {
            "Held-out rows, with the class that the host names alone and with the adapter."
        }
        (Task::Classify, false) => {
            "Held-out rows, with the class that was named after training. The classifier itself was new, so there is no before."
        }
    }
}
