//! `modelsmith delta extract`: what lies between two checkpoints, as a small file.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::delta::extract::{ExtractOptions, extract};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith delta extract --base models/llama --model models/chat --output chat.delta.safetensors
  modelsmith delta extract --base models/llama --model models/chat --operator bitdelta:blocks=16 --output chat.delta.safetensors
  modelsmith delta extract --base models/llama --model models/chat --operator magnitude:density=0.1 --operator expo:alpha=0.3 --output chat.delta.safetensors
  modelsmith methods bitdelta";

/// Write the difference of two checkpoints as a file, edited and compressed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Extract {
    /// Model that was started from
    #[arg(long, value_name = "MODEL")]
    base: PathBuf,
    /// Model that came of it
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Editor of the difference, NAME or NAME:KEY=VALUE,KEY=VALUE; several are applied in order
    #[arg(long = "operator", value_name = "OPERATOR")]
    operators: Vec<String>,
    /// Only tensors whose name matches are edited; others keep their difference whole
    #[arg(long, value_name = "REGEX")]
    only: Option<String>,
    /// Seed of random masks
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// File to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

impl Extract {
    /// Extracts and prints the proof.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let report = extract(&ExtractOptions {
            base: self.base,
            model: self.model,
            operators: self.operators,
            only: self.only,
            seed: self.seed,
            output: self.output,
        })?;
        output.result("delta.extract", &report, || render::delta_extract(&report))
    }
}
