//! `modelsmith pretrain`: a model from random weights.

use super::recipe_flags::RecipeFlags;
use super::tune::train;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::Output;
use clap::Args;
use modelsmith_engine::Error;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith pretrain recipes/house.toml
  modelsmith pretrain --fresh models/tiny-config --data corpus.txt --epochs 3 --dry-run";

/// Train a model from random weights and write it as a checkpoint
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Pretrain {
    /// Recipe file (TOML)
    recipe_file: Option<PathBuf>,
    /// Folder with the config.json and tokenizer.json of the new model (host.fresh)
    #[arg(long, value_name = "FOLDER")]
    fresh: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Load everything, print the plan, train nothing
    #[arg(long)]
    dry_run: bool,
}

impl Pretrain {
    /// Trains every weight of a fresh model.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let mut recipe = self
            .recipe
            .recipe(self.recipe_file.as_deref(), "full", common)?;
        if self.fresh.is_some() {
            recipe.host.fresh = self.fresh;
        }
        if recipe.host.fresh.is_none() {
            return Err(Error::config(
                "host.fresh",
                "is not set; name a folder with config.json and tokenizer.json by --fresh FOLDER, or use `modelsmith tune` to change a trained model",
            )
            .into());
        }
        train(recipe, self.dry_run, output)
    }
}
