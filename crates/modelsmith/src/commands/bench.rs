//! `modelsmith bench`: how fast this machine computes.

use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use modelsmith_engine::Error;
use modelsmith_engine::bench::{self, GraceOptions, RooflineOptions, Shape};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith bench roofline
  modelsmith bench grace";

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
    Grace(Grace),
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

const GRACE_EXAMPLES: &str = "\
Examples:
  modelsmith bench grace
  modelsmith bench grace --keys 100000 --json";

/// Measure what a large codebook of GRACE adds to passes of the house model
///
/// Passes of 1, 8 and 32 prompts with and without the codebook, by turns; the ratio is the median of the pairs.
/// Keys are those of prompts about the model's world. Half of the prompts timed are keys and get a value.
#[derive(Debug, Args)]
#[command(after_help = GRACE_EXAMPLES)]
struct Grace {
    /// Folder of the house model
    #[arg(long, value_name = "MODEL", default_value = "assets/house")]
    host: PathBuf,
    /// The layer that the codebook is at
    #[arg(
        long,
        value_name = "PATH",
        default_value = "model.layers.2.mlp.down_proj"
    )]
    module: String,
    /// Keys of the codebook
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: usize,
    /// Radius of each
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    radius: f64,
    /// Seconds for each number of prompts at least
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
}

impl Bench {
    /// Runs the command.
    pub(crate) fn execute(self, output: &Output) -> Outcome {
        match self.command {
            Name::Roofline(flags) => flags.execute(output),
            Name::Grace(flags) => flags.execute(output),
        }
    }
}

impl Roofline {
    fn execute(self, output: &Output) -> Outcome {
        let unknown = || Error::Usage(format!("no shape is called {}", self.shape));
        let options = RooflineOptions {
            shape: Shape::of(&self.shape).ok_or_else(unknown)?,
            only: self.only.clone(),
            seconds: self.seconds,
        };
        let found = bench::roofline(&options)?;
        output.result("bench.roofline", &found, || render::roofline(&found))
    }
}

impl Grace {
    fn execute(self, output: &Output) -> Outcome {
        let found = bench::grace(&GraceOptions {
            model: self.host,
            module: self.module,
            keys: self.keys,
            radius: self.radius,
            seconds: self.seconds,
        })?;
        output.result("bench.grace", &found, || render::grace(&found))
    }
}
