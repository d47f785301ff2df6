//! `modelsmith adapter`: what can be done with a trained adapter.

mod convert;
mod merge;
mod show;

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::Output;
use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  modelsmith adapter show runs/lora-1
  modelsmith adapter merge --adapter runs/lora-1 --output models/merged
  modelsmith adapter convert --adapter runs/a --adapter runs/b@0.5 --combine cat --output both";

/// Merge, convert or show adapters
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Adapter {
    #[command(subcommand)]
    command: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    Merge(merge::Merge),
    Convert(convert::Convert),
    Show(show::Show),
}

impl Adapter {
    /// Runs the command.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        match self.command {
            Name::Merge(flags) => flags.execute(common, output),
            Name::Convert(flags) => flags.execute(common, output),
            Name::Show(flags) => flags.execute(common, output),
        }
    }
}
