//! What a report tells of a run, read from its folder.

use super::series::{self, Line};
use crate::recipe::Recipe;
use crate::run_info::RunInfo;
use crate::runs::{self, RunDetail};
use crate::samples::{self, Samples};
use crate::site_change::SiteChange;
use modelsmith_core::error::Result;
use modelsmith_core::files::read_json;
use modelsmith_core::roles::SiteMap;
use serde_json::Value;
use std::path::Path;

/// A run with its curves, samples and changes.
#[derive(Clone, Debug)]
pub(super) struct RunData {
    pub(super) detail: RunDetail,
    /// Dotted keys of the recipe with their values.
    pub(super) recipe: Vec<(String, String)>,
    /// Curves, one a metric and kind.
    pub(super) lines: Vec<Line>,
    /// Held-out rows before and after, where the run has them.
    pub(super) samples: Option<Samples>,
    /// Shares of right answers and facts before and after, where they were measured.
    pub(super) recall: Option<[Recall; 2]>,
    /// Where weights changed.
    pub(super) sites: Vec<SiteChange>,
    /// What the method has to show of its sites.
    pub(super) maps: Vec<SiteMap>,
}

/// Right answers of those asked, before and after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recall {
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) asked: u64,
}

impl RunData {
    /// Reads a run folder; `held` says whether a process is at work there.
    ///
    /// # Errors
    /// The folder holds no run.
    pub(super) fn read(run: &Path, held: bool) -> Result<Self> {
        let mut detail = runs::show(run)?;
        detail.info = RunInfo::read_as(run, held)?;
        let recipe = Recipe::read(&run.join("recipe.toml"), &[])
            .ok()
            .and_then(|recipe| serde_json::to_value(recipe).ok());
        let quickstart: Value = read_json(run.join("quickstart.json")).unwrap_or_default();
        Ok(Self {
            recipe: recipe.as_ref().map(flattened).unwrap_or_default(),
            lines: series::lines(&crate::metrics_log::read(run)),
            samples: samples::read(run).unwrap_or_default(),
            recall: recall(&quickstart),
            sites: read_json(run.join("sites.json")).unwrap_or_default(),
            maps: read_json(run.join("maps.json")).unwrap_or_default(),
            detail,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.detail.info.name
    }
}

/// The leaves of a JSON object by dotted key.
pub(super) fn flattened(value: &Value) -> Vec<(String, String)> {
    fn walk(key: &str, value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let key = if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    };
                    walk(&key, value, found);
                }
            }
            Value::Null => {}
            Value::String(text) => found.push((key.to_owned(), text.clone())),
            other => found.push((key.to_owned(), other.to_string())),
        }
    }
    let mut found = Vec::new();
    walk("", value, &mut found);
    found
}

fn recall(quickstart: &Value) -> Option<[Recall; 2]> {
    let of = |what: &str| {
        let share = |when: &str| {
            let one = &quickstart[format!("{what}_{when}")];
            let asked = one["asked"].as_u64().filter(|asked| *asked > 0)?;
            Some((one["right"].as_u64()? as f64 / asked as f64, asked))
        };
        let ((before, _), (after, asked)) = (share("before")?, share("after")?);
        Some(Recall {
            before,
            after,
            asked,
        })
    };
    Some([of("questions")?, of("facts")?])
}
