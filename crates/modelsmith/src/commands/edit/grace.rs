//! `modelsmith edit grace`: facts into a codebook beside the model.

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::edit::{StreamOptions, read_texts, requests, stream};
use modelsmith_engine::{Recipe, Result, Stop, grace_options};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit grace --host models/llama --requests facts.jsonl --output codebook
  modelsmith edit grace --host models/llama --requests facts.jsonl --output codebook \\
    --set method.radius=3 --every 100
  modelsmith generate --host models/llama --adapter codebook --prompt \"The capital of Norway is\"";

/// Write facts into a codebook at one layer; the weights stay as they are
///
/// Prompts near a stored one get a stored activation; all others pass untouched. The folder is an adapter,
/// which `generate`, `eval` and `serve` take. Facts that the model answers already are passed over.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Grace {
    /// Folder of the model
    #[arg(long, value_name = "MODEL")]
    host: PathBuf,
    /// File with the facts: JSON lines, or the format of CounterFact, zsRE or MQuAKE
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Folder of the codebook to write; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// An option of GRACE, for instance method.radius=3; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Facts at most, from the first on; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Facts between two measurements; 0 measures the end alone
    #[arg(long, value_name = "N", default_value_t = 0)]
    every: usize,
    /// Facts measured each time at most, drawn from those so far; 0 for all
    #[arg(long, value_name = "N", default_value_t = 200)]
    most: usize,
    /// Texts whose perplexity is measured: JSON lines with `text`, or lines
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Texts at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    texts_limit: usize,
    /// Seed of new values, and of which facts are measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Grace {
    /// Writes the facts and prints what came of it.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let file = requests(&self.requests, &self.host, self.limit, true)?;
        let options = self.options(common)?;
        let stop = Stop::listen()?;
        let found = stream(&options, &file.requests, &stop, &mut |done, all| {
            if done % 100 == 0 {
                output.note(&format!("{done}/{all} facts"));
            }
        })?;
        output.result("edit.grace", &found, || render::streamed(&found))
    }

    fn options(self, common: &Common) -> Result<StreamOptions> {
        let words: Vec<String> = std::iter::once("method.name=\"grace\"".to_owned())
            .chain(self.set)
            .collect();
        let method = Recipe::from_value(json!({}), &words)?.method;
        Ok(StreamOptions {
            host: self.host,
            config: grace_options(&method.options)?,
            output: self.output,
            every: self.every,
            most: self.most,
            texts: match &self.texts {
                Some(path) => read_texts(path, self.texts_limit)?,
                None => Vec::new(),
            },
            seed: self.seed,
            device: super::super::device(common).to_owned(),
        })
    }
}
