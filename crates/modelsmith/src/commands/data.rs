//! `modelsmith data`: data that the project makes.

use super::device;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::Output;
use clap::{Args, Subcommand};
use modelsmith_engine::Error;
use modelsmith_engine::house::{self, HouseConfig};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith data house assets/house
  modelsmith data recall assets/house
  modelsmith data edits --count 100 --seed 1 > edits.jsonl";

const EDITS: &str = "\
Examples:
  modelsmith data edits --count 100 --seed 1 > edits.jsonl
  modelsmith data edits assets/house --count 20 > edits.jsonl";

/// Generate the house world, check what a model knows of it, make edits
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Data {
    #[command(subcommand)]
    command: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    House(House),
    Recall(Recall),
    Edits(Edits),
}

/// Write the house corpus, facts, questions, tokenizer and model configuration
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  modelsmith data house assets/house --people 200")]
struct House {
    /// Folder to write into
    folder: PathBuf,
    /// Number of people; by default as `house.json` in the folder says, or 200
    #[arg(long, value_name = "N")]
    people: Option<usize>,
    /// Seed of the world; by default as `house.json` in the folder says, or 1
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Measure how many facts of its world a house model completes, over all wordings
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  modelsmith data recall assets/house")]
struct Recall {
    /// Folder of the house model
    model: PathBuf,
}

/// Print requests to edit facts of a house world, one a line
#[derive(Debug, Args)]
#[command(after_help = EDITS)]
struct Edits {
    /// Folder of the house model, whose `house.json` says which world; the default world without it
    folder: Option<PathBuf>,
    /// Number of edits: one of each person, a second one when all have been edited, and so on
    #[arg(long, value_name = "N")]
    count: usize,
    /// Seed of which facts are edited, and to what
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Data {
    /// Runs the command.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        match self.command {
            Name::House(flags) => flags.execute(output),
            Name::Edits(flags) => flags.execute(output),
            Name::Recall(flags) => {
                let found = house::recall_of(&flags.model, device(common))?;
                output.result("data.recall", &found, || {
                    let share = 100.0 * found.share();
                    format!(
                        "{} of {} prompts completed rightly ({share:.2} %)",
                        found.right, found.asked
                    )
                })
            }
        }
    }
}

impl House {
    fn execute(self, output: &Output) -> Outcome {
        let mut config = if self.folder.join("house.json").is_file() {
            house::config_of(&self.folder)?
        } else {
            HouseConfig::default()
        };
        config.people = self.people.unwrap_or(config.people);
        config.seed = self.seed.unwrap_or(config.seed);
        house::make(&config, &self.folder)?;
        output.result("data.house", &config, || {
            format!(
                "{}: corpus, facts and questions about {} people (seed {}), tokenizer of {} ids",
                self.folder.display(),
                config.people,
                config.seed,
                config.vocabulary
            )
        })
    }
}

impl Edits {
    fn execute(self, output: &Output) -> Outcome {
        let config = match &self.folder {
            Some(folder) => house::config_of(folder)?,
            None => HouseConfig::default(),
        };
        let edits = house::edits(&config, self.count, self.seed)?;
        if output.json {
            return output.result("data.edits", &edits, String::new);
        }
        for edit in &edits {
            let line = serde_json::to_string(edit)
                .map_err(|error| Error::Failed(format!("edits: {error}")))?;
            output.line(line)?;
        }
        Ok(())
    }
}
