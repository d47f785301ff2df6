//! `modelsmith runs`: what can be done with the runs of a folder.

mod compare;
mod list;
mod remove;
mod report;
mod resume;
mod show;

use crate::failure::Outcome;
use crate::render::Output;
use clap::{Args, Subcommand};
use modelsmith_engine::runs;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith runs list --state interrupted
  modelsmith runs compare lora-1 lora-2
  modelsmith runs resume lora-1";

/// List, show, compare, report, resume or remove runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Runs {
    #[command(subcommand)]
    command: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    List(list::List),
    Show(show::Show),
    Compare(compare::Compare),
    Report(report::Report),
    Resume(resume::Resume),
    Rm(remove::Remove),
}

/// Where runs are.
#[derive(Debug, Args)]
struct Folder {
    /// Folder that holds the run folders
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,
}

impl Folder {
    /// The folder of a run that is named, or given by its path.
    fn find(&self, run: &str) -> Outcome<PathBuf> {
        Ok(runs::find(&self.folder, run)?)
    }
}

impl Runs {
    /// Runs the command.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        match self.command {
            Name::List(flags) => flags.execute(output),
            Name::Show(flags) => flags.execute(output),
            Name::Compare(flags) => flags.execute(output),
            Name::Report(flags) => flags.execute(output),
            Name::Resume(flags) => flags.execute(output),
            Name::Rm(flags) => flags.execute(output),
        }
    }
}
