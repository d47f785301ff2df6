//! `modelsmith delta show`: what a delta file holds.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::delta::show;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith delta show chat.delta.safetensors
  modelsmith delta show chat.delta.safetensors --json";

/// Tell what a delta file holds: base, operators, forms, sizes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Show {
    /// Delta file
    #[arg(value_name = "FILE")]
    delta: PathBuf,
}

impl Show {
    /// Reads the file and prints what it holds.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let shown = show(&self.delta)?;
        output.result("delta.show", &shown, || render::delta_show(&shown))
    }
}
