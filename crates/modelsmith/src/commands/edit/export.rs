//! `modelsmith edit export`: the edited model as a checkpoint.

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::edit::{ExportOptions, export};
use modelsmith_engine::parse_size;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit export edits --output models/edited
  modelsmith edit export edits --batches 3,1 --output models/two-edits
  modelsmith edit export edits --host copies/llama --output models/edited";

/// Write the edited model as a folder of its own
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Export {
    /// Folder of edits
    #[arg(value_name = "FOLDER")]
    edits: PathBuf,
    /// Another copy of the model that was edited
    #[arg(long, value_name = "MODEL")]
    host: Option<PathBuf>,
    /// Numbers of the batches to make, in this order; by default all
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    batches: Option<Vec<u64>>,
    /// Folder to write the model to; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Largest weight file, for instance 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard: String,
}

impl Export {
    /// Writes the model and says what changed.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let found = export(&ExportOptions {
            edits: self.edits,
            host: self.host,
            only: self.batches,
            output: self.output,
            dtype: None,
            max_shard_bytes: parse_size("--max-shard", &self.max_shard)?,
            device: super::super::device(common).to_owned(),
        })?;
        output.result("edit.export", &found, || render::edit_export(&found))
    }
}
