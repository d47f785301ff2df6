//! Texts that the model writes itself: sampled ones, whose variety is measured, and answers.

use super::forced::Scored;
use super::free::matches_any;
use super::query::prompt_ids;
use super::record::{Freely, Set};
use crate::generate::{GenerateOptions, generate};
use crate::generation::{Encoder, Prompt, TextOptions, complete_batch};
use crate::sampler::Sampler;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use modelsmith_data::decomposed;
use modelsmith_data::edits::EditRequest;
use serde::{Deserialize, Serialize};

/// How texts are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Prompts of each request at most.
    pub texts: usize,
    /// Tokens of a text, its prompt included.
    pub length: usize,
    /// How many of the likeliest tokens are drawn from.
    pub top_k: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            texts: 10,
            length: 100,
            top_k: 5,
            seed: 0,
        }
    }
}

/// One text for each of the first prompts to write on from, prompt included. Draws are keyed by the
/// request's id and the number of the prompt. What ends a text in training does not end it here.
///
/// # Errors
/// As [`generate`].
pub fn sampled(
    model: &Scored<'_>,
    request: &EditRequest,
    options: &Sampling,
) -> Result<Vec<String>> {
    let prompts = request.generation.iter().take(options.texts);
    let rows = prompts.map(|prompt| prompt_ids(model.tokenizer, prompt));
    let mut rows: Vec<Vec<u32>> = rows.collect::<Result<_>>()?;
    let name = format!("edit/measure/{}", request.id);
    let settings = GenerateOptions {
        max_new_tokens: options.length,
        sampler: Sampler {
            temperature: 1.0,
            top_k: options.top_k,
            seed: (Stream::new(options.seed, &name).unit() * 2f64.powi(53)) as u64,
            ..Sampler::default()
        },
        ..GenerateOptions::default()
    };
    let mut lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let mut on_token = |row: usize, _: u32| {
        lengths[row] += 1;
        lengths[row] < options.length
    };
    let written = generate(model.host, &rows, &settings, model.hooks, &mut on_token)?;
    // A prompt that is full already is its own text.
    let growing = |(row, _): &(&mut Vec<u32>, Vec<u32>)| row.len() < options.length;
    let all = rows.iter_mut().zip(written).filter(growing);
    all.for_each(|(row, new)| row.extend(new));
    rows.iter()
        .map(|row| Ok(cleaned(&model.tokenizer.decode(row, true)?)))
        .collect()
}

/// A text as its words are counted: composed characters as parts, no blank lines.
fn cleaned(text: &str) -> String {
    decomposed(text).replace("\n\n", " ").trim().to_owned()
}

/// How answers are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answering {
    /// Tokens at most.
    pub max_tokens: usize,
    /// Texts that end an answer; they are no part of it.
    pub stop: Vec<String>,
    /// Put prompts into the model's chat template as the user's turn.
    pub chat: bool,
    /// Answers written at once.
    pub batch_size: usize,
}

impl Default for Answering {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            stop: vec![".".into(), "\n".into()],
            chat: false,
            batch_size: 32,
        }
    }
}

/// The likeliest continuation of each prompt up to a text that ends answers or the model's own end.
///
/// # Errors
/// As [`generate`]; a chat that the tokenizer has no template for.
pub fn answers(model: &Scored<'_>, prompts: &[String], options: &Answering) -> Result<Vec<String>> {
    let texts = TextOptions {
        chat: options.chat,
        chat_template: "model".into(),
        system: None,
        max_tokens: options.max_tokens,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        stop: options.stop.clone(),
        seed: 0,
        batch_size: options.batch_size,
    };
    let asked: Vec<Prompt> = prompts.iter().cloned().map(Prompt::Text).collect();
    let encoder = Encoder::new(model.tokenizer, &asked, &texts, false)?;
    let rows: Vec<(String, Vec<u32>)> = asked
        .iter()
        .map(|prompt| encoder.encode(prompt))
        .collect::<Result<_>>()?;
    // Rows of like length share a batch.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|number| rows[*number].1.len());
    let mut found = vec![String::new(); rows.len()];
    for numbers in order.chunks(options.batch_size.max(1)) {
        let batch: Vec<_> = numbers.iter().map(|number| rows[*number].clone()).collect();
        let (host, hooks) = (model.host, model.hooks);
        let done = complete_batch(host, hooks, model.tokenizer, &batch, &texts, &mut |_, _| {
            true
        })?;
        if done.len() != numbers.len() {
            return Err(Error::Failed("answers are missing".into()));
        }
        for (number, one) in numbers.iter().zip(done) {
            found[*number] = one.text.trim().to_owned();
        }
    }
    Ok(found)
}

/// Answers to the prompt of each request and to its paraphrases, against the new target.
///
/// # Errors
/// As [`answers`].
pub fn freely(
    model: &Scored<'_>,
    requests: &[EditRequest],
    options: &Answering,
) -> Result<Vec<Vec<Freely>>> {
    let prompts_of = |request: &EditRequest| {
        let mut all = vec![(Set::Rewrite, request.filled())];
        let others = request.paraphrases.iter().cloned();
        all.extend(others.map(|prompt| (Set::Paraphrase, prompt)));
        all
    };
    let asked: Vec<Vec<(Set, String)>> = requests.iter().map(prompts_of).collect();
    let prompts: Vec<String> = asked
        .iter()
        .flatten()
        .map(|(_, prompt)| prompt.clone())
        .collect();
    let mut texts = answers(model, &prompts, options)?.into_iter();
    let of = |(request, asked): (&EditRequest, Vec<(Set, String)>)| {
        let own = asked.into_iter().zip(texts.by_ref());
        own.map(|((set, prompt), text)| Freely {
            right: matches_any(&text, [request.target_new.as_str()]),
            set,
            prompt,
            text,
        })
        .collect()
    };
    Ok(requests.iter().zip(asked).map(of).collect())
}
