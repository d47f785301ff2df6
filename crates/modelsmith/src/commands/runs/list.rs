//! `modelsmith runs list`: the runs of a folder.

use super::Folder;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::State;
use modelsmith_engine::index::{self, Filter};

const EXAMPLES: &str = "\
Examples:
  modelsmith runs list
  modelsmith runs list --state interrupted --method lora --json";

/// List runs, newest first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    #[command(flatten)]
    folder: Folder,
    /// Only runs in this state: running, finished, interrupted or failed
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only runs of this method
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Only runs with this text in their name, description, method, host or error
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

impl List {
    /// Lists them.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let state = self.state.as_deref().map(str::parse::<State>).transpose()?;
        let filter = Filter {
            state,
            method: self.method,
            search: self.search,
        };
        let listing = index::list(&self.folder.folder, &filter)?;
        if let Some(warning) = &listing.warning {
            output.warn(warning);
        }
        output.result("runs.list", &listing.runs, || {
            render::runs(&listing.runs, &self.folder.folder)
        })
    }
}
