//! `modelsmith adapter show`: what an adapter folder holds.

use crate::cli::Common;
use crate::commands::device;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::show;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith adapter show runs/lora-1
  modelsmith adapter show downloaded --host models/llama --json";

/// Show an adapter's method, tensors, norms, and whether it fits a base
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Show {
    /// Adapter or run folder
    adapter: PathBuf,
    /// Folder of the base model to check it against; by default the one it names, if it is there
    #[arg(long, value_name = "MODEL")]
    host: Option<PathBuf>,
}

impl Show {
    /// Reads and lists.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let shown = show::show(&self.adapter, self.host.as_deref(), device(common))?;
        output.result("adapter.show", &shown, || render::adapter(&shown))
    }
}
