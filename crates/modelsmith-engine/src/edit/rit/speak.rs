//! What answers prompts: any frozen model.

use crate::generate::{GenerateOptions, generate};
use crate::model::Model;
use modelsmith_core::error::Result;
use modelsmith_data::Tokenizer;

/// Prompts in one pass.
const BATCH: usize = 32;

/// Continues or answers prompts, always the same way.
pub trait Speaker {
    /// An answer for each prompt, without the prompt.
    ///
    /// # Errors
    /// What the model refuses.
    fn speak(&self, prompts: &[String]) -> Result<Vec<String>>;
}

/// A model with its adapters, greedy.
pub struct HostSpeaker<'a> {
    model: &'a Model,
    tokenizer: Tokenizer,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Tokens of an answer at least.
    pub min_tokens: usize,
    /// Whether prompts get the tokens that the tokenizer adds. The reference adds none; a model that has
    /// always seen a first token needs it.
    pub special: bool,
}

impl<'a> HostSpeaker<'a> {
    /// The reference's settings: 4 to 8 tokens, no special ones.
    ///
    /// # Errors
    /// A model without tokenizer.
    pub fn new(model: &'a Model) -> Result<Self> {
        Ok(Self {
            model,
            tokenizer: model.tokenizer()?,
            max_tokens: 8,
            min_tokens: 4,
            special: false,
        })
    }

    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(prompt, self.special)?;
        let eos = self.tokenizer.special().eos;
        let continues = self.model.host.decoder_start().is_none();
        // A text that goes on is not over yet.
        if continues && ids.len() > 1 && eos.is_some() && ids.last().copied() == eos {
            ids.pop();
        }
        Ok(ids)
    }
}

impl Speaker for HostSpeaker<'_> {
    fn speak(&self, prompts: &[String]) -> Result<Vec<String>> {
        let options = GenerateOptions {
            max_new_tokens: self.max_tokens,
            min_new_tokens: self.min_tokens,
            eos: self.tokenizer.special().eos.into_iter().collect(),
            ..GenerateOptions::default()
        };
        let ids = prompts.iter().map(|prompt| self.encode(prompt));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let mut answers = Vec::with_capacity(prompts.len());
        for batch in ids.chunks(BATCH) {
            let found = generate(
                &self.model.host,
                batch,
                &options,
                &self.model.hooks(),
                &mut |_, _| true,
            )?;
            for ids in found {
                answers.push(self.tokenizer.decode(&ids, true)?);
            }
        }
        Ok(answers)
    }
}
