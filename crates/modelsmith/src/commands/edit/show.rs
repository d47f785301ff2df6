//! `modelsmith edit show`: what a folder of edits holds.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::edit::{EditFolder, listing};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit show edits
  modelsmith edit show edits --json";

/// List the batches of a folder of edits
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Show {
    /// Folder of edits
    #[arg(value_name = "FOLDER")]
    edits: PathBuf,
}

impl Show {
    /// Prints the batches.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let found = listing(&EditFolder::open(&self.edits)?)?;
        output.result("edit.show", &found, || render::edit_listing(&found))
    }
}
