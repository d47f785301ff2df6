//! `modelsmith generate`: text from a model.

use super::model_flags::{DtypeFlag, ModelFlags};
use crate::cli::Common;
use crate::failure::{Failure, Outcome};
use crate::render::Output;
use clap::Args;
use modelsmith_engine::generation::{self, Piece, Prompt, TextOptions};
use modelsmith_engine::{Error, model::Model};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  modelsmith generate --host models/llama --prompt \"Once upon a time\" --max-tokens 100
  modelsmith generate --adapter runs/lora-1 --chat --prompt \"Who wrote it?\" --temperature 0.7
  modelsmith generate --adapter runs/lora-1 --prompts questions.jsonl --json";

/// Complete prompts, streaming to the terminal
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    dtype: DtypeFlag,
    /// Text to continue; may be repeated. Without any, the standard input is the prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// JSONL file of prompts: rows with `prompt`, `text` or `messages`
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Put each prompt into the model's chat template as the user's turn
    #[arg(long)]
    chat: bool,
    /// Template of --chat and of rows with messages: model for the model's own, chatml, or a text
    #[arg(long, value_name = "TEMPLATE", default_value = "model")]
    chat_template: String,
    /// What the system says before a chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Randomness; 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw among this many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Draw among the likeliest tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Divide the scores of tokens already there; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// End where this text appears, without it; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Prompts computed at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
}

impl Generate {
    /// Loads, completes, prints.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let prompts = self.prompts()?;
        let options = self.text_options();
        let model = Model::load(&self.dtype.of(self.model.options(common)?))?;
        let several = prompts.len() > 1;
        // A single prompt streams; several finish in any order and are printed when all are done.
        let stream = !output.json && !several;
        let mut closed = None;
        let texts = generation::complete(&model, &prompts, &options, &mut |piece: Piece<'_>| {
            if stream && let Err(failure) = output.put(piece.text) {
                closed = Some(failure);
            }
            closed.is_none()
        })?;
        if let Some(failure) = closed {
            return Err(failure);
        }
        if stream {
            return output.line("");
        }
        let result = serde_json::json!({ "completions": texts });
        output.result("generate", &result, || generation::listing(&texts))
    }

    fn prompts(&self) -> Result<Vec<Prompt>, Failure> {
        if let Some(file) = &self.prompts {
            return Ok(generation::read_prompts(file)?);
        }
        let texts = if self.prompt.is_empty() {
            let text = std::io::read_to_string(std::io::stdin())
                .map_err(|error| Error::io("standard input", error))?;
            let text = text.trim_end_matches('\n').to_owned();
            if text.is_empty() {
                let problem =
                    "no prompt; give --prompt TEXT, --prompts FILE, or text on the standard input";
                return Err(Error::Usage(problem.into()).into());
            }
            vec![text]
        } else {
            self.prompt.clone()
        };
        Ok(texts.into_iter().map(Prompt::Text).collect())
    }

    fn text_options(&self) -> TextOptions {
        TextOptions {
            chat: self.chat,
            chat_template: self.chat_template.clone(),
            system: self.system.clone(),
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            stop: self.stop.clone(),
            seed: self.seed,
            batch_size: self.batch_size,
        }
    }
}
