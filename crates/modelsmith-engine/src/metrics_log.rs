//! Reading `metrics.jsonl` back, also while a run writes it.

use serde_json::{Map, Value};
use std::path::Path;

/// One record of the metrics.
#[derive(Clone, Debug)]
pub struct MetricsLine {
    /// `train` or `eval`.
    pub kind: String,
    /// Optimizer step.
    pub step: u64,
    values: Map<String, Value>,
}

impl MetricsLine {
    /// A value by name; `None` where it is absent or was not finite.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }

    /// All finite values, in the order they were written.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
    }
}

/// The metrics of a run folder. A torn last line, which a killed process leaves, is left out.
pub fn read(run: &Path) -> Vec<MetricsLine> {
    let bytes = std::fs::read(run.join("metrics.jsonl")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(parse)
        .collect()
}

fn parse(line: &str) -> Option<MetricsLine> {
    let mut values: Map<String, Value> = serde_json::from_str(line).ok()?;
    let kind = values.shift_remove("kind")?.as_str()?.to_owned();
    let step = values.shift_remove("step")?.as_u64()?;
    Some(MetricsLine { kind, step, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_lines_and_missing_files_are_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_empty());
        let text = "{\"kind\":\"eval\",\"step\":3,\"loss\":1.5,\"x\":null}\n{\"kind\":\"tra";
        std::fs::write(dir.path().join("metrics.jsonl"), text).unwrap();
        let lines = read(dir.path());
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].step, lines[0].value("loss")), (3, Some(1.5)));
        assert_eq!(lines[0].values().count(), 1);
    }
}
