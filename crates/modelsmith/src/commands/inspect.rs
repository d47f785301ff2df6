//! `modelsmith inspect`: what is in a model.

use super::device;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::model;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith inspect models/llama
  modelsmith inspect models/llama --sites q_proj,v_proj
  modelsmith inspect models/llama --sites 'model\\.layers\\.[0-3]\\..*'";

/// List a model's sites, shapes, types, parameters and memory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Inspect {
    /// Folder of the model
    model: PathBuf,
    /// Only these sites, in the forms of target_modules: suffixes parted by commas, a regular
    /// expression for the whole path, or all-linear
    #[arg(long, value_name = "PATTERN")]
    sites: Option<String>,
}

impl Inspect {
    /// Loads and lists.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let found = model::inspect(&self.model, self.sites.as_deref(), device(common))?;
        output.result("inspect", &found, || render::inspection(&found))
    }
}
