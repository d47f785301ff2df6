//! Text in, text out: prompts to tokens, tokens to a stream of text, stop strings, batches.

use crate::generate::{GenerateOptions, generate, room};
use crate::model::Model;
use crate::sampler::Sampler;
use crate::text_stream::TextStream;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_data::read::{Location, ReadOptions, Source};
use modelsmith_data::{ChatTemplate, DataConfig, Message, StreamDecoder, Tokenizer};
use modelsmith_hosts::Transformer;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Running text, or the user's turn where a chat was asked for.
    Text(String),
    /// A conversation, always through the chat template.
    Chat(Vec<Message>),
}

/// How text is generated.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Put texts into the chat template as the user's turn.
    pub chat: bool,
    /// Template of chats: `model` for the model's own, `chatml`, or the text of a template.
    pub chat_template: String,
    /// The system's turn before them.
    pub system: Option<String>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// 0 for the likeliest token each time.
    pub temperature: f64,
    /// 0 for all tokens.
    pub top_k: usize,
    /// 1 for all tokens.
    pub top_p: f64,
    /// 1 changes nothing.
    pub repetition_penalty: f64,
    /// Strings that end a text.
    pub stop: Vec<String>,
    /// Seed of the draws.
    pub seed: u64,
    /// Prompts computed at once.
    pub batch_size: usize,
}

/// A piece of a text as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Number of the prompt.
    pub prompt: usize,
    /// What is new.
    pub text: &'a str,
}

/// A finished text.
#[derive(Clone, Debug, Serialize)]
pub struct Completion {
    /// What it continues, as the model read it.
    pub prompt: String,
    /// What was generated.
    pub text: String,
    /// Tokens generated.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
    /// Seconds that the prompts computed with it took together, loading apart.
    pub seconds: f64,
    /// The text answers the prompt, which an encoder read, and does not go on from it.
    #[serde(skip)]
    pub answers: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    End,
    /// A stop string came.
    Stop,
    /// The limit was reached.
    Length,
}

/// Prompts of a data file: rows with `messages`, `prompt`, `text`, or `instruction`.
///
/// # Errors
/// A file that cannot be read or is empty, a row with none of these.
pub fn read_prompts(file: &Path) -> Result<Vec<Prompt>> {
    let source = Source::open(file, &ReadOptions::default())?;
    if source.is_empty() {
        return Err(Error::file(
            file,
            "holds no rows; there is nothing to complete",
        ));
    }
    source
        .rows()
        .map(|row| {
            let (at, columns) = row?;
            prompt_of(&at, &columns)
        })
        .collect()
}

/// The prompt of a row of a data file.
fn prompt_of(at: &Location, columns: &Map<String, Value>) -> Result<Prompt> {
    if let Some(messages) = columns.get("messages") {
        let messages: Vec<Message> = serde_json::from_value(messages.clone())
            .map_err(|error| at.error(format!("messages: {error}")))?;
        return Ok(Prompt::Chat(messages));
    }
    ["prompt", "text", "instruction"]
        .iter()
        .find_map(|name| columns.get(*name)?.as_str())
        .map(|text| Prompt::Text(text.to_owned()))
        .ok_or_else(|| at.error("no column prompt, text, instruction or messages"))
}

/// Completes prompts, telling `on_piece` of every piece of text; it returns false to stop all.
///
/// # Errors
/// A host that cannot generate, prompts without tokens or too long, options out of range.
pub fn complete(
    model: &Model,
    prompts: &[Prompt],
    options: &TextOptions,
    on_piece: &mut dyn FnMut(Piece<'_>) -> bool,
) -> Result<Vec<Completion>> {
    let tokenizer = model.tokenizer()?;
    let apart = model.host.decoder_start().is_some();
    let encoder = Encoder::new(&tokenizer, prompts, options, apart)?;
    let read: Vec<(String, Vec<u32>)> = prompts
        .iter()
        .map(|prompt| encoder.encode(prompt))
        .collect::<Result<_>>()?;
    let mut done = Vec::with_capacity(prompts.len());
    let mut going = true;
    for (batch, rows) in read.chunks(options.batch_size.max(1)).enumerate() {
        if !going {
            break;
        }
        let first = batch * options.batch_size.max(1);
        // Rows of different batches must not share their draws.
        let options = TextOptions {
            seed: options.seed.wrapping_add((first as u64) << 32),
            ..options.clone()
        };
        done.extend(complete_batch(
            &model.host,
            &model.hooks(),
            &tokenizer,
            rows,
            &options,
            &mut |row, text| {
                going = going
                    && on_piece(Piece {
                        prompt: first + row,
                        text,
                    });
                going
            },
        )?);
    }
    Ok(done)
}

/// A prompt that is growing.
struct Row<'a> {
    stream: TextStream<'a>,
    text: String,
}

/// Completes rows of text and tokens at once.
pub(crate) fn complete_batch(
    host: &Transformer,
    hooks: &[&dyn Hooks],
    tokenizer: &Tokenizer,
    rows: &[(String, Vec<u32>)],
    options: &TextOptions,
    on_text: &mut dyn FnMut(usize, &str) -> bool,
) -> Result<Vec<Completion>> {
    let ids: Vec<Vec<u32>> = rows.iter().map(|(_, ids)| ids.clone()).collect();
    // An answer of a decoder goes on from no text.
    let apart = host.decoder_start().is_some();
    let row = |ids: &Vec<u32>| {
        let before = if apart { &[] } else { ids.as_slice() };
        Row {
            stream: TextStream::new(StreamDecoder::after(tokenizer, before, true), &options.stop),
            text: String::new(),
        }
    };
    let mut growing: Vec<Row<'_>> = ids.iter().map(row).collect();
    let settings = settings(tokenizer, options);
    let mut failed = None;
    let started = Instant::now();
    let tokens = generate(host, &ids, &settings, hooks, &mut |number, id| {
        let row = &mut growing[number];
        match row.stream.push(id) {
            Ok(text) => {
                row.text.push_str(&text);
                (text.is_empty() || on_text(number, &text)) && !row.stream.ended()
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let seconds = started.elapsed().as_secs_f64();
    let limit = room(host, hooks);
    let mut done = Vec::with_capacity(rows.len());
    for (number, (mut row, tokens)) in growing.into_iter().zip(tokens).enumerate() {
        let rest = row.stream.finish()?;
        if !rest.is_empty() {
            // Whether more is wanted no longer matters.
            let _ = on_text(number, &rest);
            row.text.push_str(&rest);
        }
        let full = tokens.len() >= options.max_tokens || ids[number].len() + tokens.len() >= limit;
        done.push(Completion {
            prompt: rows[number].0.clone(),
            text: row.text,
            tokens: tokens.len(),
            finish: match (row.stream.ended(), full) {
                (true, _) => Finish::Stop,
                (false, true) => Finish::Length,
                (false, false) => Finish::End,
            },
            seconds,
            answers: apart,
        });
    }
    Ok(done)
}

fn settings(tokenizer: &Tokenizer, options: &TextOptions) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: options.max_tokens,
        min_new_tokens: 0,
        eos: tokenizer.special().eos.into_iter().collect(),
        sampler: Sampler {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            repetition_penalty: options.repetition_penalty,
            seed: options.seed,
        },
        tasks: Vec::new(),
    }
}

/// Turns prompts into what the model reads.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    options: &'a TextOptions,
    /// An encoder reads the prompts.
    apart: bool,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        prompts: &[Prompt],
        options: &'a TextOptions,
        apart: bool,
    ) -> Result<Self> {
        let wanted = options.chat
            || prompts
                .iter()
                .any(|prompt| matches!(prompt, Prompt::Chat(_)));
        let defaults = DataConfig::default();
        let template = wanted
            .then(|| ChatTemplate::new(&options.chat_template, tokenizer, &defaults.date))
            .transpose()?;
        Ok(Self {
            tokenizer,
            template,
            options,
            apart,
        })
    }

    /// The text and its tokens.
    pub(crate) fn encode(&self, prompt: &Prompt) -> Result<(String, Vec<u32>)> {
        let (text, ids) = match (&self.template, prompt) {
            (Some(template), Prompt::Chat(messages)) => self.chat(template, messages)?,
            (Some(template), Prompt::Text(text)) if self.options.chat => {
                let system = self.options.system.iter();
                let mut messages: Vec<Message> =
                    system.map(|text| Message::new("system", text)).collect();
                messages.push(Message::new("user", text));
                self.chat(template, &messages)?
            }
            (_, Prompt::Text(text)) => (text.clone(), self.plain(text)?),
            (None, Prompt::Chat(_)) => {
                return Err(Error::Failed("a conversation needs a chat template".into()));
            }
        };
        if ids.is_empty() {
            return Err(Error::Usage(
                "a prompt has no tokens; give some text".into(),
            ));
        }
        Ok((text, ids))
    }

    fn chat(&self, template: &ChatTemplate, messages: &[Message]) -> Result<(String, Vec<u32>)> {
        let marked = template.prompt(messages, None)?;
        let (ids, _) = marked.encode(self.tokenizer, false, false)?;
        Ok((marked.text, ids))
    }

    /// Running text is not over yet: an end token that the tokenizer adds is taken off. A text that
    /// an encoder reads ends with one.
    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(text, true)?;
        let special = self.tokenizer.special();
        if self.apart {
            ids.extend(special.eos.filter(|eos| ids.last() != Some(eos)));
            return Ok(ids);
        }
        if ids.len() > 1 && special.eos.is_some() && ids.last().copied() == special.eos {
            ids.pop();
        }
        Ok(ids)
    }
}

/// The completions as text: each prompt with what follows it.
pub fn listing(completions: &[Completion]) -> String {
    let mut text = String::new();
    for (number, one) in completions.iter().enumerate() {
        let gap = if one.answers { "\n" } else { "" };
        let _ = writeln!(text, "[{}] {}{gap}{}", number + 1, one.prompt, one.text);
    }
    text.truncate(text.trim_end().len());
    text
}
