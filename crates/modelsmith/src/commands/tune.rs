//! `modelsmith tune`: attach a method to a model and train it.

use super::recipe_flags::RecipeFlags;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output, Progress};
use clap::Args;
use modelsmith_engine::{Error, Recipe, Stop, plan, tune};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith tune --host models/llama --data notes.txt --set method.rank=16
  modelsmith tune --host models/llama --data chat.jsonl --method dora --epochs 3 --dry-run
  modelsmith tune --resume runs/lora-1";

/// Fine-tune a model: train an adapter on text
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Tune {
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Continue an interrupted run from its newest checkpoint
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Load everything, print the plan, train nothing
    #[arg(long)]
    dry_run: bool,
}

impl Tune {
    /// Trains, resumes, or prints the plan.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        if let Some(run) = &self.resume {
            if !self.recipe.is_empty() || self.dry_run {
                let problem = "--resume continues a run as it was; it takes no other option";
                return Err(Error::Usage(problem.into()).into());
            }
            let stop = Stop::listen()?;
            let summary = tune::resume(run, &stop, &mut Progress::new(output))?;
            return output.result("tune", &summary, || render::summary(&summary));
        }
        train(
            self.recipe.recipe(None, "lora", common)?,
            self.dry_run,
            output,
        )
    }
}

/// Trains by a recipe, or prints its plan.
pub(super) fn train(recipe: Recipe, dry_run: bool, output: &Output) -> Outcome {
    if dry_run {
        let plan = plan::plan(&recipe)?;
        return output.result("plan", &plan, || render::plan(&plan));
    }
    let stop = Stop::listen()?;
    let summary = tune::run(recipe, &stop, &mut Progress::new(output))?;
    output.result("tune", &summary, || render::summary(&summary))
}
