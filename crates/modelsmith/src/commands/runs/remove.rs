//! `modelsmith runs rm`: remove runs for good.

use super::Folder;
use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use modelsmith_engine::{Error, runs};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Example:
  modelsmith runs rm lora-1 --yes";

/// Remove runs with all their files; a running one is refused
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Remove {
    #[command(flatten)]
    folder: Folder,
    /// Names or folders of the runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// Remove without being asked again
    #[arg(long)]
    yes: bool,
}

impl Remove {
    /// Removes them.
    pub(super) fn execute(self, output: &Output) -> Outcome {
        let find = |run: &String| self.folder.find(run);
        let paths: Vec<PathBuf> = self.runs.iter().map(find).collect::<Outcome<_>>()?;
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        if !self.yes {
            let problem = format!(
                "this removes {} with all files; say so with --yes",
                names.join(", ")
            );
            return Err(Error::Usage(problem).into());
        }
        for path in &paths {
            runs::remove(path)?;
        }
        let value = json!({"removed": names});
        output.result("runs.rm", &value, || {
            format!("removed   {}", names.join(", "))
        })
    }
}
