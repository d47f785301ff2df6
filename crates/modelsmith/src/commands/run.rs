//! `modelsmith run`: what a recipe file says.

use super::recipe_flags::RecipeFlags;
use super::tune::train;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith run recipes/lora.toml
  modelsmith run recipes/lora.toml --set train.learning_rate=0.0003 --name slower";

/// Train as a recipe file says; flags override its keys
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// Recipe file (TOML)
    recipe_file: PathBuf,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Load everything, print the plan, train nothing
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    /// Trains by the recipe.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let recipe = self
            .recipe
            .recipe(Some(&self.recipe_file), "lora", common)?;
        train(recipe, self.dry_run, output)
    }
}
