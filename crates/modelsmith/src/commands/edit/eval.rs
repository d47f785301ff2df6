//! `modelsmith edit eval`: what a sequence of edits did to a model.

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::Result;
use modelsmith_engine::edit::{CurveOptions, EditFolder, curves, read_texts, requests};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit eval edits --requests facts.jsonl
  modelsmith edit eval rome memit encore --requests facts.jsonl --every 100 --texts held-out.jsonl \\
    --report curves.html";

/// Measure folders of edits: did the facts hold, what else moved
///
/// The batches are made again on a copy of the base, and measured every so many facts: efficacy,
/// paraphrases and neighbours of the facts so far, perplexity of other texts, growth of the weights.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Eval {
    /// Folders of edits
    #[arg(value_name = "FOLDER", required = true)]
    edits: Vec<PathBuf>,
    /// File with the facts that were written, and with their paraphrases and neighbours
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Facts between two measurements; 0 measures the end alone
    #[arg(long, value_name = "N", default_value_t = 0)]
    every: usize,
    /// Facts measured each time at most, drawn from those written so far; 0 for all
    #[arg(long, value_name = "N", default_value_t = 200)]
    most: usize,
    /// Texts whose perplexity is measured: JSON lines with `text`, or lines
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Texts at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    texts_limit: usize,
    /// Seed of which facts are measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Page with table and curves to write
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Eval {
    /// Measures and prints where the sequences ended.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let found = curves(&self.options(common)?)?;
        output.result("edit.eval", &found, || render::curves(&found))
    }

    fn options(self, common: &Common) -> Result<CurveOptions> {
        let base = match self.edits.first() {
            Some(first) => EditFolder::open(first)?.header.base,
            None => PathBuf::new(),
        };
        Ok(CurveOptions {
            requests: requests(&self.requests, &base, 0, true)?.requests,
            edits: self.edits,
            every: self.every,
            most: self.most,
            texts: match &self.texts {
                Some(path) => read_texts(path, self.texts_limit)?,
                None => Vec::new(),
            },
            seed: self.seed,
            device: super::super::device(common).to_owned(),
            report: self.report,
        })
    }
}
