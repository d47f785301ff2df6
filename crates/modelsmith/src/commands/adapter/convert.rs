//! `modelsmith adapter convert`: adapters in, one PEFT folder out.

use crate::cli::Common;
use crate::commands::model_flags::ModelFlags;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::{Args, ValueEnum};
use modelsmith_engine::convert::{self, Combine, ConvertOptions};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith adapter convert --adapter runs/pissa-1 --output plain
  modelsmith adapter convert --adapter runs/a --adapter runs/b@0.5 --combine svd --rank 8 --output both
  modelsmith adapter convert --adapter downloaded@0.5 --host models/llama --output half";

/// Rewrite an adapter as plain LoRA, scale it, or combine several
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    #[command(flatten)]
    model: ModelFlags,
    /// Adapter folder to write; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// How several adapters become one: cat lays the factors side by side (exact, the ranks add
    /// up), linear averages them (rough, needs equal ranks), svd finds the best change of --rank
    #[arg(long, value_enum, default_value_t = How::Cat)]
    combine: How,
    /// Rank of the result, for --combine svd
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
}

/// Combinations by the words of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    Cat,
    Linear,
    Svd,
}

impl Convert {
    /// Converts, checks, prints the proof.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let report = convert::run(&ConvertOptions {
            model: self.model.options(common)?,
            output: self.output,
            combine: match self.combine {
                How::Cat => Combine::Cat,
                How::Linear => Combine::Linear,
                How::Svd => Combine::Svd,
            },
            rank: self.rank,
        })?;
        output.result("adapter.convert", &report, || render::convert(&report))
    }
}
