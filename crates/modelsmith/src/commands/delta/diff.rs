//! `modelsmith delta diff`: how far two checkpoints are from each other.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::delta::diff::diff;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith delta diff models/llama models/chat
  modelsmith delta diff models/llama models/chat --most 10";

/// Compare two checkpoints tensor by tensor
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Diff {
    /// Model that is compared with
    #[arg(value_name = "BASE")]
    base: PathBuf,
    /// Model that is compared
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Tensors to list, those that moved most first
    #[arg(long, value_name = "N", default_value_t = 20)]
    most: usize,
}

impl Diff {
    /// Compares and prints the table.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let found = diff(&self.base, &self.model)?;
        output.result("delta.diff", &found, || {
            render::delta_diff(&found, self.most)
        })
    }
}
