//! `modelsmith runs show`: all that is on record about a run.

use super::Folder;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::runs;

const EXAMPLES: &str = "\
Examples:
  modelsmith runs show lora-1
  modelsmith runs show elsewhere/lora-1 --json";

/// Show a run's state, figures, warnings, and whether its files hold their checksums
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    #[command(flatten)]
    folder: Folder,
    /// Name or folder of the run
    run: String,
}

impl Show {
    /// Reads and shows it.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let detail = runs::show(&self.folder.find(&self.run)?)?;
        output.result("runs.show", &detail, || render::run(&detail))
    }
}
