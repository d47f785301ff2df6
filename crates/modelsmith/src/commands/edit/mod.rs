//! `modelsmith edit`: facts written into a model's weights.

mod apply;
mod eval;
mod export;
mod grace;
mod show;
mod trace;
mod undo;

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::Output;
use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  modelsmith edit --host models/llama --requests facts.jsonl --corpus text.jsonl --output edits
  modelsmith edit --host models/llama --requests facts.jsonl --method r_rome --output edits
  modelsmith edit show edits
  modelsmith edit eval edits --requests facts.jsonl
  modelsmith edit undo edits --last 3
  modelsmith edit export edits --output models/edited";

/// Write facts into a model, measure, list and undo them
///
/// Batches are kept in a folder of edits; the model itself is never written to. The same command
/// again goes on where it stopped.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Edit {
    #[command(subcommand)]
    command: Option<Name>,
    #[command(flatten)]
    apply: apply::Apply,
}

#[derive(Debug, Subcommand)]
enum Name {
    Show(show::Show),
    Undo(undo::Undo),
    Export(export::Export),
    Trace(trace::Trace),
    Eval(eval::Eval),
    Grace(grace::Grace),
}

impl Edit {
    /// Runs the command.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        match self.command {
            None => self.apply.execute(common, output),
            Some(Name::Show(flags)) => flags.execute(output),
            Some(Name::Undo(flags)) => flags.execute(output),
            Some(Name::Export(flags)) => flags.execute(common, output),
            Some(Name::Trace(flags)) => flags.execute(common, output),
            Some(Name::Eval(flags)) => flags.execute(common, output),
            Some(Name::Grace(flags)) => flags.execute(common, output),
        }
    }
}
