//! `modelsmith eval`: how good a model is on data.

use super::model_flags::{DtypeFlag, ModelFlags};
use crate::cli::Common;
use crate::failure::Outcome;
use crate::render::{self, Output};
use clap::{Args, ValueEnum};
use modelsmith_engine::Recipe;
use modelsmith_engine::eval::{self, EvalOptions, Task};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith eval --host models/llama --data held-out.txt
  modelsmith eval --adapter runs/lora-1 --data questions.jsonl --task choices
  modelsmith eval --host models/bert-sst2 --data reviews.csv --task classes --json
  modelsmith eval --host models/llama --data notes.txt --dump-logits logits.safetensors";

/// Measure perplexity, multiple choice or classification
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Eval {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    dtype: DtypeFlag,
    /// File or folder with the rows
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// What is measured: perplexity of text, choices (rows with prompt, choices, answer), or
    /// classes against labels; by default what the model's head and the rows suggest
    #[arg(long, value_enum)]
    task: Option<TaskName>,
    /// Sequences in a batch (data.batch_size)
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Rows read at most; 0 for all (data.limit)
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Any key of a recipe's data table, for instance data.max_length=256; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write input_ids, attention_mask and logits of the first rows to this file
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
    /// Rows that --dump-logits writes
    #[arg(long, value_name = "N", default_value_t = 16, requires = "dump_logits")]
    dump_rows: usize,
}

/// Tasks by the words of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskName {
    Perplexity,
    Choices,
    Classes,
}

impl Eval {
    /// Loads, measures, prints.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let mut overrides = Vec::new();
        overrides.extend(self.batch_size.map(|n| format!("data.batch_size={n}")));
        overrides.extend(self.limit.map(|n| format!("data.limit={n}")));
        overrides.extend(self.set);
        let mut recipe = Recipe::from_value(serde_json::json!({}), &overrides)?;
        recipe.data.path = self.data;
        let report = eval::run(&EvalOptions {
            model: self.dtype.of(self.model.options(common)?),
            data: recipe.data,
            seed: recipe.seed,
            mask_probability: recipe.train.mask_probability,
            task: self.task.map(|task| match task {
                TaskName::Perplexity => Task::Perplexity,
                TaskName::Choices => Task::Choices,
                TaskName::Classes => Task::Classes,
            }),
            dump_logits: self.dump_logits,
            dump_rows: self.dump_rows,
        })?;
        output.result("eval", &report, || render::evaluation(&report))
    }
}
