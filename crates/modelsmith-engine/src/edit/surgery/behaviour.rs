//! How much of a behaviour a host shows.

use super::judge::Judge;
use super::perplexity::log_probabilities;
use crate::generate::{GenerateOptions, generate};
use crate::sampler::Sampler;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use serde::Serialize;

/// Rows in one pass.
const BATCH: usize = 32;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// How much of the behaviour; its unit is the measure's.
    pub behaviour: f64,
    /// The figure of each prompt.
    #[serde(skip)]
    pub items: Vec<f64>,
    /// Share of empty continuations, where there are any: a broken model shows no behaviour either.
    pub empty: Option<f64>,
    /// Mean number of tokens of a continuation.
    pub tokens: Option<f64>,
}

/// Measures a behaviour of a host with what is attached to it.
pub trait Behaviour {
    /// How much of it there is.
    ///
    /// # Errors
    /// A host that does not predict next tokens, prompts that it cannot read.
    fn measure(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<Figures>;
}

/// The share of greedy continuations that a judge finds to show the behaviour.
pub struct Continuations<'a> {
    /// What is continued, as tokens.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens of a continuation at most.
    pub max_tokens: usize,
    /// Continuations end at the first newline.
    pub stop_at_newline: bool,
    /// How tokens are chosen.
    pub sampler: Sampler,
    /// Reads the continuation alone.
    pub judge: &'a Judge,
    /// Scores from here on count.
    pub threshold: f64,
    /// The host's.
    pub tokenizer: &'a Tokenizer,
}

impl Continuations<'_> {
    /// The continuations, a text each.
    ///
    /// # Errors
    /// As [`Behaviour::measure`].
    pub fn texts(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<Vec<(String, usize)>> {
        let options = GenerateOptions {
            max_new_tokens: self.max_tokens,
            eos: self.tokenizer.special().eos.into_iter().collect(),
            sampler: self.sampler,
            ..GenerateOptions::default()
        };
        let mut found = Vec::with_capacity(self.prompts.len());
        for batch in self.prompts.chunks(BATCH) {
            for ids in generate(host, batch, &options, hooks, &mut |_, _| true)? {
                let text = self.tokenizer.decode(&ids, true)?;
                let line = text.split('\n').next().unwrap_or_default();
                let text = match self.stop_at_newline {
                    true => line.to_owned(),
                    false => text,
                };
                found.push((text, ids.len()));
            }
        }
        Ok(found)
    }
}

impl Behaviour for Continuations<'_> {
    fn measure(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<Figures> {
        let texts = self.texts(host, hooks)?;
        let shows = |text: &str| f64::from(u8::from(self.judge.score(text) >= self.threshold));
        let items: Vec<f64> = texts.iter().map(|(text, _)| shows(text)).collect();
        let share = |of: &mut dyn Iterator<Item = f64>| of.sum::<f64>() / texts.len().max(1) as f64;
        Ok(Figures {
            behaviour: share(&mut items.iter().copied()),
            empty: Some(share(
                &mut texts
                    .iter()
                    .map(|(text, _)| f64::from(u8::from(text.trim().is_empty()))),
            )),
            tokens: Some(share(&mut texts.iter().map(|(_, count)| *count as f64))),
            items,
        })
    }
}

/// How much likelier some words are than others behind a prompt, in nats: the mean over prompts of
/// `ln Σ P(word) - ln Σ P(other word)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    prompts: usize,
    words: Vec<Row>,
    others: Vec<Row>,
}

/// A word behind a prompt.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    prompt: usize,
    /// Where the word begins among the tokens.
    start: usize,
    ids: Vec<u32>,
}

impl Preference {
    /// Words of a behaviour and of its opposite, each a word further than each prompt.
    ///
    /// # Errors
    /// No prompts or words; a word that melts into the prompt's last token.
    pub fn new(
        tokenizer: &Tokenizer,
        prompts: &[String],
        words: &[&str],
        others: &[&str],
    ) -> Result<Self> {
        if prompts.is_empty() || words.is_empty() || others.is_empty() {
            return Err(Error::Usage(
                "give prompts, words of the behaviour and words of its opposite".into(),
            ));
        }
        Ok(Self {
            prompts: prompts.len(),
            words: rows(tokenizer, prompts, words)?,
            others: rows(tokenizer, prompts, others)?,
        })
    }

    /// `ln Σ P(word | prompt)` for each prompt.
    fn mass(&self, host: &Transformer, hooks: &[&dyn Hooks], rows: &[Row]) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; self.prompts];
        for batch in rows.chunks(2 * BATCH) {
            let ids: Vec<Vec<u32>> = batch.iter().map(|row| row.ids.clone()).collect();
            for (row, found) in batch.iter().zip(log_probabilities(host, hooks, &ids)?) {
                sums[row.prompt] += found[row.start - 1..].iter().sum::<f64>().exp();
            }
        }
        Ok(sums.into_iter().map(f64::ln).collect())
    }
}

fn rows(tokenizer: &Tokenizer, prompts: &[String], words: &[&str]) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(prompts.len() * words.len());
    for (prompt, text) in prompts.iter().enumerate() {
        let before = tokenizer.encode(text, true)?;
        for word in words {
            let ids = tokenizer.encode(&format!("{text} {word}"), true)?;
            if before.is_empty() || ids.len() <= before.len() || !ids.starts_with(&before) {
                return Err(Error::Usage(format!(
                    "`{word}` is no further token behind `{text}`; end prompts with a whole word"
                )));
            }
            rows.push(Row {
                prompt,
                start: before.len(),
                ids,
            });
        }
    }
    Ok(rows)
}

impl Behaviour for Preference {
    fn measure(&self, host: &Transformer, hooks: &[&dyn Hooks]) -> Result<Figures> {
        let words = self.mass(host, hooks, &self.words)?;
        let others = self.mass(host, hooks, &self.others)?;
        let items: Vec<f64> = words.iter().zip(others).map(|(a, b)| a - b).collect();
        Ok(Figures {
            behaviour: items.iter().sum::<f64>() / items.len() as f64,
            items,
            empty: None,
            tokens: None,
        })
    }
}
