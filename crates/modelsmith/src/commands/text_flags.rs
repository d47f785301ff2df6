//! Flags that say how text is generated.

use clap::Args;
use modelsmith_engine::generation::TextOptions;

/// How text is generated.
#[derive(Clone, Debug, Args)]
pub(crate) struct TextFlags {
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

impl TextFlags {
    /// What the engine is asked for.
    pub(crate) fn options(&self) -> TextOptions {
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
