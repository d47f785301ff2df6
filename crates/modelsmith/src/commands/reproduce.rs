//! `modelsmith reproduce`: does a paper's claim hold here?

use super::device;
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::{Args, ValueEnum};
use modelsmith_engine::Stop;
use modelsmith_engine::claim::file::Tier;
use modelsmith_engine::claim::{ReproduceOptions, Which, reproduce};
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith reproduce 20 --tier smoke
  modelsmith reproduce 20 --tier full --seeds 5
  modelsmith reproduce 6 15 18 26 --tier full
  modelsmith reproduce all --json

The full tier writes docs/CLAIMS.md. Run again after an interruption, finished runs are kept.";

/// Run a paper's claim against its baselines, with intervals and a verdict
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Reproduce {
    /// Numbers of methods' cards, or all
    #[arg(value_name = "CARD", required = true, value_parser = word)]
    cards: Vec<Word>,
    /// Seeds 1 to N; by default as the claim's tier says
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// How much to spend: smoke (under two minutes a claim) or full (some minutes to a quarter of an hour)
    #[arg(long, value_enum, default_value = "smoke")]
    tier: TierName,
    /// Folder for the runs and claim.json
    #[arg(long, value_name = "FOLDER", default_value = "runs/claims")]
    output: PathBuf,
    /// Folder with the claim files
    #[arg(long, value_name = "FOLDER", default_value = "claims")]
    claims: PathBuf,
    /// Folder in which the full tier keeps CLAIMS.md and claims/
    #[arg(long, value_name = "FOLDER", default_value = "docs")]
    docs: PathBuf,
}

/// Tiers by the words of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierName {
    Smoke,
    Full,
}

/// A card, or all of them.
#[derive(Clone, Copy, Debug)]
enum Word {
    All,
    Card(u32),
}

fn word(text: &str) -> Result<Word, String> {
    match text {
        "all" => Ok(Word::All),
        number => number
            .parse()
            .map(Word::Card)
            .map_err(|_| "expected the number of a card, or all".to_owned()),
    }
}

fn which(words: &[Word]) -> Which {
    let numbers = words.iter().map(|word| match word {
        Word::All => None,
        Word::Card(number) => Some(*number),
    });
    numbers
        .collect::<Option<_>>()
        .map_or(Which::All, Which::Cards)
}

impl Reproduce {
    /// Runs the claims and prints what was found.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let stop = Stop::listen()?;
        let options = ReproduceOptions {
            which: which(&self.cards),
            claims: self.claims,
            seeds: self.seeds,
            tier: match self.tier {
                TierName::Smoke => Tier::Smoke,
                TierName::Full => Tier::Full,
            },
            output: self.output,
            docs: self.docs,
            device: device(common).to_owned(),
        };
        let quiet = output.quiet;
        let mut say = |text: &str| {
            if !quiet {
                // Progress that cannot be shown is no reason to stop.
                let _ = writeln!(anstream::stderr(), "{text}");
            }
        };
        let reports = reproduce(&options, &stop, &mut say)?;
        output.result("reproduce", &serde_json::json!({"claims": reports}), || {
            reports
                .iter()
                .map(render::claim)
                .collect::<Vec<_>>()
                .join("\n\n")
        })
    }
}
