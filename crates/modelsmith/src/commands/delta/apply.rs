//! `modelsmith delta apply`: a base and a delta file as a checkpoint.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::delta::apply::{ApplyOptions, apply};
use modelsmith_engine::parse_size;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith delta apply chat.delta.safetensors --base models/llama --output models/chat
  modelsmith delta apply chat.delta.safetensors --base models/llama --scale 0.5 --output models/half";

/// Add a delta file to its base
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Apply {
    /// Delta file
    #[arg(value_name = "FILE")]
    delta: PathBuf,
    /// Model that the delta was extracted from
    #[arg(long, value_name = "MODEL")]
    base: PathBuf,
    /// Factor of the difference
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    scale: f64,
    /// Take a base whose weights are others than those it was extracted from
    #[arg(long)]
    any_base: bool,
    /// Folder to write the model to; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Largest weight file, for instance 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard: String,
}

impl Apply {
    /// Applies and prints the proof.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let report = apply(&ApplyOptions {
            delta: self.delta,
            base: self.base,
            scale: self.scale,
            any_base: self.any_base,
            output: self.output,
            max_shard_bytes: parse_size("--max-shard", &self.max_shard)?,
        })?;
        output.result("delta.apply", &report, || render::delta_apply(&report))
    }
}
