//! `modelsmith delta merge`: several checkpoints into one.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::delta::merge::{Durability, MergeOptions, run};
use modelsmith_engine::parse_size;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith delta merge ties.yml --output models/merged
  modelsmith delta merge dare.yml --output models/merged --memory 500MB --seed 3
  modelsmith methods ties

The configuration is mergekit's YAML:
  merge_method: ties
  base_model: models/llama
  models:
    - model: models/chat
      parameters: {weight: 0.6, density: 0.5}
    - model: models/code
      parameters: {weight: [0.2, 0.8], density: 0.5}
  dtype: bfloat16";

/// Merge checkpoints as a mergekit configuration says, in bounded memory
///
/// Killed, the same command goes on at its first unfinished file and gives the same bytes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Merge {
    /// Configuration, as mergekit writes it
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Folder to write the model to; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Most memory to take, for instance 500MB or 4GB; mapped pages count
    #[arg(long, value_name = "SIZE", default_value = "1GB")]
    memory: String,
    /// Seed of random masks
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Largest weight file, for instance 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard: String,
    /// Do not wait until files are on the disk: faster, and lost if the power fails within the next half minute
    #[arg(long)]
    no_sync: bool,
}

impl Merge {
    /// Merges and prints the proof.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let report = run(&MergeOptions {
            config: self.config,
            output: self.output,
            memory: parse_size("--memory", &self.memory)?,
            seed: self.seed,
            max_shard_bytes: parse_size("--max-shard", &self.max_shard)?,
            durability: if self.no_sync {
                Durability::Unsynced
            } else {
                Durability::Synced
            },
        })?;
        for warning in &report.warnings {
            output.warn(warning);
        }
        output.result("delta.merge", &report, || render::delta_merge(&report))
    }
}
