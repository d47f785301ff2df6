//! `modelsmith adapter merge`: a checkpoint with the adapters folded in.

use crate::cli::Common;
use crate::commands::model_flags::ModelFlags;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::{Args, ValueEnum};
use modelsmith_engine::merge::{self, MergeOptions};
use modelsmith_engine::parse_size;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith adapter merge --host models/llama --adapter runs/lora-1 --output models/merged
  modelsmith adapter merge --adapter runs/a --adapter runs/b@0.5 --output models/both --dtype bf16";

/// Fold adapters into a checkpoint, and check that it computes the same
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Merge {
    #[command(flatten)]
    model: ModelFlags,
    /// Folder to write the checkpoint to; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Type of the written weights; keep takes the base's
    #[arg(long, value_enum, default_value_t = Dtype::Keep)]
    dtype: Dtype,
    /// Largest weight file, for instance 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard: String,
}

/// Types by the words of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Dtype {
    Keep,
    F32,
    F16,
    Bf16,
}

impl Merge {
    /// Merges, checks, prints the proof.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let report = merge::run(&MergeOptions {
            model: self.model.options(common)?,
            output: self.output,
            dtype: match self.dtype {
                Dtype::Keep => None,
                Dtype::F32 => Some(merge::DType::F32),
                Dtype::F16 => Some(merge::DType::F16),
                Dtype::Bf16 => Some(merge::DType::BF16),
            },
            max_shard_bytes: parse_size("--max-shard", &self.max_shard)?,
        })?;
        output.result("adapter.merge", &report, || render::merge(&report))
    }
}
