//! Deltas: the proof lines of merging, extracting and applying, what a file holds, how far models are apart.

use super::adapters::files;
use super::{Align, Table, bytes, count, decimal, seconds, shape, share};
use modelsmith_engine::delta::apply::Applied;
use modelsmith_engine::delta::diff::Diff;
use modelsmith_engine::delta::extract::Extracted;
use modelsmith_engine::delta::{Shown, merge};

/// The proof lines of a merge.
pub(crate) fn delta_merge(report: &merge::Report) -> String {
    let kept = match report.kept_files {
        0 => String::new(),
        kept => format!(", {kept} of them finished earlier"),
    };
    format!(
        "merged    {} of {} tensors changed, {} of {} numbers ({}), norm of the change {} (of {}), against {}\n\
         read      {} of {} models in {} ({} a second), peak memory {}\n\
         written   {} ({} in {}{kept})",
        report.changed_tensors,
        report.tensors,
        count(report.changed_numbers),
        count(report.numbers),
        share(report.changed_numbers, report.numbers),
        decimal(report.change_norm),
        decimal(report.reference_norm),
        report.reference.display(),
        bytes(report.bytes_read),
        report.models.len(),
        seconds(report.seconds),
        bytes((report.bytes_read as f64 / report.seconds.max(1e-9)) as u64),
        bytes(report.peak_resident),
        report.output.display(),
        bytes(report.bytes),
        files(report.files),
    )
}

/// The proof lines of an extraction.
pub(crate) fn delta_extract(report: &Extracted) -> String {
    format!(
        "extracted {} of {} tensors differ, norm of the difference {}\n\
         edited    {} tensors; the difference is off by {} of its norm\n\
         written   {} ({}, the model takes {})",
        report.changed,
        report.tensors,
        decimal(report.norm),
        report.edited,
        decimal(report.relative_change),
        report.output.display(),
        bytes(report.bytes),
        bytes(report.model_bytes),
    )
}

/// The proof lines of an application.
pub(crate) fn delta_apply(report: &Applied) -> String {
    format!(
        "applied   {} of {} tensors changed, {} taken whole, norm of the change {}\n\
         written   {} ({})",
        report.changed,
        report.tensors,
        report.whole,
        decimal(report.change_norm),
        report.output.display(),
        bytes(report.bytes),
    )
}

/// What a delta file holds.
pub(crate) fn delta_show(shown: &Shown) -> String {
    let record = &shown.record;
    let operators: Vec<String> = record
        .operators
        .iter()
        .map(|one| {
            format!(
                "{} {}",
                one["name"].as_str().unwrap_or_default(),
                one["options"]
            )
        })
        .collect();
    let how = match operators.is_empty() {
        true => "as it is".to_owned(),
        false => operators.join(", then "),
    };
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Right),
        ("form", Align::Left),
        ("bits an entry", Align::Right),
        ("norm", Align::Right),
        ("off by", Align::Right),
    ]);
    for (name, entry) in &record.tensors {
        table.row([
            name.clone(),
            shape(&entry.shape),
            entry.form.clone(),
            decimal(entry.bits),
            decimal(entry.norm),
            decimal(entry.relative_change),
        ]);
    }
    format!(
        "{}  from {} (weights {}) to {}, {how}; {} tensors, {}, seed {}\n\n{}",
        shown.delta.display(),
        record.base.display(),
        record.base_hash.get(..12).unwrap_or(&record.base_hash),
        record.model.display(),
        record.tensors.len(),
        bytes(shown.bytes),
        record.seed,
        table.render(),
    )
}

/// How far two checkpoints are apart.
pub(crate) fn delta_diff(found: &Diff, most: usize) -> String {
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Right),
        ("norm", Align::Right),
        ("of the base's", Align::Right),
        ("largest", Align::Right),
        ("mean", Align::Right),
    ]);
    for one in found.tensors.iter().take(most) {
        table.row([
            one.name.clone(),
            shape(&one.shape),
            decimal(one.norm),
            decimal(one.relative()),
            decimal(one.largest),
            decimal(one.mean),
        ]);
    }
    let changed = found.tensors.iter().filter(|one| one.changed > 0).count();
    let mut text = format!(
        "differ    {changed} of {} tensors, norm {} (of {}), largest {}, mean {}\n",
        found.tensors.len(),
        decimal(found.norm),
        decimal(found.base_norm),
        decimal(found.largest),
        decimal(found.mean),
    );
    for (whose, names) in [("base", &found.only_base), ("model", &found.only_model)] {
        if let Some(first) = names.first() {
            text += &format!("only {whose:<5} {} tensors: {first}, ...\n", names.len());
        }
    }
    format!("{text}\n{}", table.render())
}
