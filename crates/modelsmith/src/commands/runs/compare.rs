//! `modelsmith runs compare`: several runs side by side.

use super::Folder;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::{RunInfo, report};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith runs compare lora-1 lora-2
  modelsmith runs compare lora-1 full-1 linear-probe-1 --output comparison.html";

/// Compare runs: figures here, curves and differences of their recipes as a page
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Compare {
    #[command(flatten)]
    folder: Folder,
    /// Names or folders of the runs
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,
    /// The page; by default `compare-A-B.html` beside the first run
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Compare {
    /// Writes the page and prints the figures.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let find = |run: &String| self.folder.find(run);
        let runs: Vec<PathBuf> = self.runs.iter().map(find).collect::<Outcome<_>>()?;
        let page = self
            .output
            .unwrap_or_else(|| report::comparison_path(&runs));
        report::compare(&runs, &page)?;
        let infos: Vec<RunInfo> = runs
            .iter()
            .map(|run| RunInfo::read(run))
            .collect::<Result<_, _>>()?;
        let value = json!({"runs": infos, "report": page});
        output.result("runs.compare", &value, || render::comparison(&infos, &page))
    }
}
