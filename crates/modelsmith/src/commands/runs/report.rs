//! `modelsmith runs report`: the page of a run.

use super::Folder;
use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use modelsmith_engine::report;
use serde_json::json;

const EXAMPLES: &str = "\
Example:
  modelsmith runs report lora-1";

/// Write a run's report anew, also of an unfinished run
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Report {
    #[command(flatten)]
    folder: Folder,
    /// Name or folder of the run
    run: String,
}

impl Report {
    /// Writes it and says where.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let path = report::write(&self.folder.find(&self.run)?)?;
        let value = json!({"report": path});
        output.result("runs.report", &value, || {
            format!("written   {}", path.display())
        })
    }
}
