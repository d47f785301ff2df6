//! `modelsmith edit --requests FILE`: facts written batch by batch.

use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::{Args, ValueEnum};
use modelsmith_engine::edit::{self, Action, EditOptions, Guard, Statement};
use modelsmith_engine::{Error, Recipe, Result, Stop};
use std::path::PathBuf;

/// Flags of the edits.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Folder of the model
    #[arg(long, value_name = "MODEL", required = true)]
    host: Option<PathBuf>,
    /// File with the facts: JSON lines, or the format of CounterFact, zsRE or MQuAKE
    #[arg(long, value_name = "FILE", required = true)]
    requests: Option<PathBuf>,
    /// Folder of edits to write, or to go on with
    #[arg(long, value_name = "FOLDER", required = true)]
    output: Option<PathBuf>,
    /// The editor; `modelsmith methods` lists those of the family edit
    #[arg(long, value_name = "NAME", default_value = "encore")]
    method: String,
    /// An option of the editor, for instance method.norm_weight=0.1; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Of requests that contradict each other the last one wins; by default they are refused
    #[arg(long)]
    last_wins: bool,
    /// Facts written at once; 1 for editors that write one at a time, else 100
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Facts at most, from the first on
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ordinary text that the edits should not disturb: JSON lines with `text`, or lines
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Rows of the corpus at most
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    corpus_limit: usize,
    /// What happens to a change that may destroy the model
    #[arg(long, value_enum, default_value_t = Act::Refuse)]
    guard: Act,
    /// Texts whose perplexity must not double
    #[arg(long, value_name = "FILE")]
    guard_texts: Option<PathBuf>,
    /// Seed of the texts that are put in front of prompts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Actions by the words of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Act {
    Refuse,
    Switch,
    Warn,
    Off,
}

impl Apply {
    /// Writes the facts and prints what came of it.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let (requests, last_wins) = (self.requests.clone(), self.last_wins);
        let limit = self.limit.unwrap_or(0);
        let options = self.options(common)?;
        let requests = requests.ok_or_else(missing)?;
        let file = edit::requests(&requests, &options.host, limit, last_wins)?;
        if file.overridden > 0 {
            let count = file.overridden;
            output.warn(&format!(
                "{count} requests are left out: later ones contradict them"
            ));
        }
        let statements: Vec<Statement> = file.requests.iter().map(Statement::from).collect();
        let stop = Stop::listen()?;
        let report = edit::run(&options, &statements, &stop, &mut |made| {
            output.note(&render::batch(made));
        })?;
        output.result("edit", &report, || render::edits(&report))
    }

    fn options(self, common: &Common) -> Result<EditOptions> {
        let mut words = vec![format!("method.name={:?}", self.method)];
        words.extend(self.set);
        let method = Recipe::from_value(serde_json::json!({}), &words)?.method;
        let single = edit::writes_one(&method)?;
        Ok(EditOptions {
            host: self.host.ok_or_else(missing)?,
            batch: self.batch.unwrap_or(if single { 1 } else { 100 }),
            method,
            output: self.output.ok_or_else(missing)?,
            corpus: self.corpus,
            corpus_limit: self.corpus_limit,
            guard: Guard {
                action: match self.guard {
                    Act::Refuse => Action::Refuse,
                    Act::Switch => Action::Switch,
                    Act::Warn => Action::Warn,
                    Act::Off => Action::Off,
                },
                ..Guard::default()
            },
            guard_texts: self.guard_texts,
            seed: self.seed,
            device: super::super::device(common).to_owned(),
        })
    }
}

fn missing() -> Error {
    Error::Usage("--host, --requests and --output are needed".into())
}
