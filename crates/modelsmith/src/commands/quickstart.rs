//! `modelsmith quickstart`: the main job on what the repository carries.

use super::device;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output, Progress};
use clap::Args;
use modelsmith_engine::{Stop, quickstart};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith quickstart
  modelsmith quickstart --epochs 2 --name first";

/// Fine-tune the house model and see what it gained, kept and cost
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Quickstart {
    /// Folder of the house model
    #[arg(long, value_name = "MODEL", default_value = "assets/house")]
    host: PathBuf,
    /// Folder that holds the run folders
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    output: PathBuf,
    /// Name of the run folder; by default one is made
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 2)]
    epochs: u64,
}

impl Quickstart {
    /// Runs it and prints what it found.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let stop = Stop::listen()?;
        let options = quickstart::Quickstart {
            model: self.host,
            output: self.output,
            name: self.name,
            device: device(common).to_owned(),
            epochs: self.epochs,
        };
        let report = quickstart::run(&options, &stop, &mut Progress::new(output))?;
        output.result("quickstart", &report, || render::quickstart(&report))
    }
}
