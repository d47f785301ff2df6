//! `modelsmith generate`: text from a model.

use super::model_flags::{DtypeFlag, ModelFlags};
use super::text_flags::TextFlags;
use crate::cli::Common;
use crate::failure::{Failure, Outcome};
use crate::render::Output;
use clap::Args;
use modelsmith_engine::generation::{self, Piece, Prompt};
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
    #[command(flatten)]
    text: TextFlags,
}

impl Generate {
    /// Loads, completes, prints.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let prompts = self.prompts()?;
        let options = self.text.options();
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
}
