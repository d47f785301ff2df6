//! `modelsmith studio`: the local page.

use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use modelsmith_studio::{Options, Studio as Server};
use serde_json::json;
use std::net::IpAddr;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith studio
  modelsmith studio --port 0 --runs experiments
  modelsmith studio --bind 0.0.0.0";

const NOTES: &str = "\
Runs that the page starts are processes of their own and go on when the studio ends. The page stops \
only runs that this studio started. Bound to an address that other machines reach, it asks for a token; \
whoever has it can start runs that read any file this user can read, and the connection is not encrypted.";

/// Serve a local page: watch, start, stop and compare runs
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{NOTES}"))]
pub(crate) struct Studio {
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 7878)]
    port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Folder that holds the run folders
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    runs: PathBuf,
    /// Token that visitors must know; made and printed where one is needed and none is given
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl Studio {
    /// Serves until the process ends.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let options = Options {
            bind: self.bind,
            port: self.port,
            token: self.token,
            ..Options::new(self.runs.clone())?
        };
        let studio = Server::bind(options)?;
        let told = json!({
            "url": studio.url(),
            "address": studio.address(),
            "runs": self.runs,
        });
        output.result("studio", &told, || {
            format!(
                "studio of {} at {}\nCtrl-C ends it; runs go on",
                self.runs.display(),
                studio.url()
            )
        })?;
        Ok(studio.serve()?)
    }
}
