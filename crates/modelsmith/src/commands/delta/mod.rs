//! `modelsmith delta`: checkpoints merged, and what lies between them.

mod apply;
mod diff;
mod extract;
mod merge;
mod show;

use crate::failure::Outcome;
use crate::render::Output;
use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  modelsmith delta merge ties.yml --output models/merged --memory 1GB
  modelsmith delta extract --base models/llama --model models/chat --operator bitdelta --output chat.delta.safetensors
  modelsmith delta show chat.delta.safetensors
  modelsmith delta apply chat.delta.safetensors --base models/llama --output models/chat-1bit
  modelsmith delta diff models/llama models/chat";

/// Merge checkpoints; extract, compress, apply and compare their differences
///
/// Works on weight files alone, tensor by tensor, so models may be larger than memory. Inputs are never written to.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Delta {
    #[command(subcommand)]
    command: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    Merge(merge::Merge),
    Extract(extract::Extract),
    Apply(apply::Apply),
    Show(show::Show),
    Diff(diff::Diff),
}

impl Delta {
    /// Runs the command.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        match self.command {
            Name::Merge(flags) => flags.execute(output),
            Name::Extract(flags) => flags.execute(output),
            Name::Apply(flags) => flags.execute(output),
            Name::Show(flags) => flags.execute(output),
            Name::Diff(flags) => flags.execute(output),
        }
    }
}
