//! Adapters: what they hold, and the proof lines of merging and converting them.

use super::{Align, Table, bytes, count, decimal};
use modelsmith_engine::show::{Base, Shown};
use modelsmith_engine::{convert, merge};

/// The proof lines of a merge.
pub(crate) fn merge(report: &merge::Report) -> String {
    let untied = if report.untied {
        "\nuntied    input and output embedding are stored apart, since only one of them changed"
    } else {
        ""
    };
    format!(
        "merged    {} of {} tensors changed, norm of the change {} (of {})\n\
         probe     adapters move the logits by {}; merged weights are within {}, as written ({}) within {}{untied}\n\
         written   {} ({} in {})",
        report.changed,
        report.tensors,
        decimal(report.change_norm),
        decimal(report.base_norm),
        decimal(report.effect),
        decimal(report.merged_difference),
        report.dtype,
        decimal(report.written_difference),
        report.output.display(),
        bytes(report.bytes),
        files(report.files),
    )
}

/// A number of files in words.
pub(super) fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    }
}

/// The proof lines of a conversion.
pub(crate) fn convert(report: &convert::Report) -> String {
    let adapters: Vec<String> = report
        .adapters
        .iter()
        .map(|(path, weight)| match weight {
            1.0 => path.display().to_string(),
            weight => format!("{} at {weight}", path.display()),
        })
        .collect();
    format!(
        "converted {} ({})\n\
         probe     together they move the logits by {}; what was written is within {}\n\
         written   {} ({} tensors, {} numbers)",
        adapters.join(" and "),
        report.how,
        decimal(report.effect),
        decimal(report.difference),
        report.output.display(),
        report.tensors,
        count(report.numbers),
    )
}

/// An adapter folder.
pub(crate) fn adapter(shown: &Shown) -> String {
    let mut lines = vec![format!(
        "{}  {}, {} numbers in {} low-rank pairs and {} other tensors",
        shown.adapter.display(),
        shown.kind,
        count(shown.numbers),
        shown.modules.len(),
        shown.others.len()
    )];
    if let Some(record) = &shown.provenance {
        lines.push(format!(
            "made by   modelsmith {}, method {}, seed {}",
            record.version, record.method, record.seed
        ));
    }
    lines.push(format!("base      {}", base(&shown.base)));
    lines.push(format!("options   {}", options(shown)));
    lines.extend(modules(shown));
    lines.extend(others(shown));
    lines.join("\n")
}

fn base(base: &Base) -> String {
    match base {
        Base::Matches { path } => format!("{} (fits, and has the recorded hash)", path.display()),
        Base::Fits { path } => format!("{} (fits; no hash was recorded)", path.display()),
        Base::Refused { path, problem } => format!("{}: REFUSED: {problem}", path.display()),
        Base::Absent { name } => format!("{name} (not here; --host MODEL checks against one)"),
    }
}

/// What the configuration says beyond nothing.
fn options(shown: &Shown) -> String {
    let hidden = [
        "peft_type",
        "base_model_name_or_path",
        "peft_version",
        "inference_mode",
    ];
    let said = |value: &serde_json::Value| match value {
        serde_json::Value::Null => false,
        serde_json::Value::Bool(on) => *on,
        serde_json::Value::Array(items) => !items.is_empty(),
        serde_json::Value::Object(items) => !items.is_empty(),
        serde_json::Value::String(text) => !text.is_empty(),
        serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
    };
    let parts = shown
        .config
        .iter()
        .filter(|(key, value)| !hidden.contains(&key.as_str()) && said(value));
    parts
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn modules(shown: &Shown) -> Option<String> {
    if shown.modules.is_empty() {
        return None;
    }
    let mut table = Table::new(&[
        ("module", Align::Left),
        ("shape", Align::Right),
        ("rank", Align::Right),
        ("norm of the change", Align::Right),
    ]);
    for module in &shown.modules {
        let [inputs, outputs] = module.shape;
        table.row([
            module.path.clone(),
            format!("{outputs} x {inputs}"),
            module.rank.to_string(),
            decimal(module.norm),
        ]);
    }
    Some(format!("\n{}", table.render()))
}

fn others(shown: &Shown) -> Option<String> {
    if shown.others.is_empty() {
        return None;
    }
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Right),
        ("norm", Align::Right),
    ]);
    for other in &shown.others {
        table.row([
            other.name.clone(),
            super::shape(&other.shape),
            decimal(other.norm),
        ]);
    }
    Some(format!("\n{}", table.render()))
}
