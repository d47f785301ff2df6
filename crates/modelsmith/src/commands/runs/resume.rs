//! `modelsmith runs resume`: go on with an interrupted run.

use super::Folder;
use crate::failure::Outcome;
use crate::render::{self, Output, Progress};
use clap::Args;
use modelsmith_engine::{Stop, tune};

const EXAMPLES: &str = "\
Example:
  modelsmith runs resume lora-1";

/// Continue an interrupted run from its newest checkpoint
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Resume {
    #[command(flatten)]
    folder: Folder,
    /// Name or folder of the run
    run: String,
}

impl Resume {
    /// Trains to the end.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let run = self.folder.find(&self.run)?;
        let stop = Stop::listen()?;
        let summary = tune::resume(&run, &stop, &mut Progress::new(output))?;
        output.result("tune", &summary, || render::summary(&summary))
    }
}
