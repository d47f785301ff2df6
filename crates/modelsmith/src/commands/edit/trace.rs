//! `modelsmith edit trace`: where a model recalls facts.

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::edit::{TraceOptions, requests, trace_file};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith edit trace --host models/llama --requests facts.jsonl
  modelsmith edit trace --host models/llama --requests facts.jsonl --report trace.html --limit 100";

/// Find the tokens and layers at which a model recalls facts
///
/// Noise on the subject makes the model forget; states that bring the answer back when they are put back
/// hold it. Requests need `target_true`; facts that the model does not know are left out.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Trace {
    /// Folder of the model
    #[arg(long, value_name = "MODEL")]
    host: PathBuf,
    /// File with the facts: JSON lines, or the format of CounterFact, zsRE or MQuAKE
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Facts at most, from the first on
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Draws of noise for each fact
    #[arg(long, value_name = "N", default_value_t = 10)]
    samples: usize,
    /// Deviation of the noise, in deviations of the subjects' embeddings
    #[arg(long, value_name = "X", default_value_t = 3.0)]
    noise: f64,
    /// Layers whose MLPs or attentions are put back together; 0 for a fifth of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    window: usize,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Page with the heat maps to write
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Trace {
    /// Traces and prints the grids.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let file = requests(&self.requests, &self.host, self.limit, true)?;
        let options = TraceOptions {
            samples: self.samples,
            noise: self.noise,
            window: self.window,
            seed: self.seed,
        };
        let device = super::super::device(common);
        let report = self.report.as_deref();
        let found = trace_file(&self.host, &file.requests, &options, device, report)?;
        output.result("edit.trace", &found, || render::trace(&found))
    }
}
