//! `modelsmith bench`: how fast this machine computes.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use modelsmith_engine::Error;
use modelsmith_engine::bench::{self, RooflineOptions, Shape};

const EXAMPLES: &str = "\
Example:
  modelsmith bench roofline";

/// Measure how fast this machine computes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    Roofline(Roofline),
}

const ROOFLINE_EXAMPLES: &str = "\
Examples:
  modelsmith bench roofline
  modelsmith bench roofline --shape 124m --only matmul --json
  RAYON_NUM_THREADS=1 modelsmith bench roofline --only softmax";

/// Compare the operations of a training step with what the processor can do
///
/// Peak arithmetic and bandwidth are measured first. The share of an operation is the time that its
/// matrix products or its memory traffic need at the least, whichever is longer, over the time taken.
#[derive(Debug, Args)]
#[command(after_help = ROOFLINE_EXAMPLES)]
struct Roofline {
    /// Sizes of the step: a Llama of 15 M parameters, or GPT-2 small, at 8 x 128 tokens
    #[arg(long, value_name = "NAME", default_value = "15m")]
    #[arg(value_parser = PossibleValuesParser::new(Shape::NAMES))]
    shape: String,
    /// Only operations with this text in their name
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    only: String,
    /// Seconds for each operation at least
    #[arg(long, value_name = "S", default_value_t = 0.3)]
    seconds: f64,
}

impl Bench {
    /// Runs the command.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        let Name::Roofline(flags) = self.command;
        let unknown = || Error::Usage(format!("no shape is called {}", flags.shape));
        let options = RooflineOptions {
            shape: Shape::of(&flags.shape).ok_or_else(unknown)?,
            only: flags.only.clone(),
            seconds: flags.seconds,
        };
        let found = bench::roofline(&options)?;
        output.result("bench.roofline", &found, || render::roofline(&found))
    }
}
