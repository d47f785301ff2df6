//! `modelsmith edit undo`: batches taken out again.

use crate::failure::Outcome;
use crate::render::Output;
use clap::{ArgGroup, Args};
use modelsmith_engine::edit::{EditFolder, undo};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit undo edits --last 1
  modelsmith edit undo edits --batch 4 --batch 7
  modelsmith edit undo edits --all";

/// Take batches out of a folder of edits
///
/// The model with the others is as if these had never been made, to the bit. Files of undone batches are
/// kept in the folder `undone`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("which").required(true))]
pub(crate) struct Undo {
    /// Folder of edits
    #[arg(value_name = "FOLDER")]
    edits: PathBuf,
    /// Undo this many of the last batches
    #[arg(long, value_name = "N", group = "which")]
    last: Option<usize>,
    /// Undo the batch of this number; may be repeated
    #[arg(long, value_name = "NUMBER", group = "which")]
    batch: Vec<u64>,
    /// Undo all batches
    #[arg(long, group = "which")]
    all: bool,
}

impl Undo {
    /// Undoes and says what is left.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let folder = EditFolder::open(&self.edits)?;
        let made = folder.steps()?;
        let wanted = match (self.all, self.last) {
            (true, _) => made,
            (false, Some(last)) => made[made.len().saturating_sub(last)..].to_vec(),
            (false, None) => self.batch,
        };
        undo(&folder, &wanted)?;
        let left = folder.steps()?.len();
        let found = json!({ "edits": self.edits, "undone": wanted, "left": left });
        output.result("edit.undo", &found, || {
            format!("undone: {}, left: {left}", wanted.len())
        })
    }
}
