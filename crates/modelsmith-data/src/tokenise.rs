//! Examples to sequences of tokens with labels, and the count of what was cut or left out.

use modelsmith_core::error::{Error, Result};

use crate::apart::{check_apart, cut_source};
use crate::batch::IGNORED;
use crate::chat::ChatTemplate;
use crate::classify::{class_of, shorten, spell};
use crate::config::{DataConfig, Format, OnLong, Packing, TrainOn};
use crate::counts::Counts;
use crate::encode::Marked;
use crate::format::{Example, Label};
use crate::prompt;
use crate::read::Location;
use crate::tokenizer::Tokenizer;

/// A tokenised example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The token itself where it counts in the loss, -100 elsewhere; not shifted.
    pub labels: Vec<i32>,
    /// Row of the data it came from.
    pub row: u64,
    /// Number of its class.
    pub class: Option<u32>,
    /// Number of its task, where tasks are told apart.
    pub task: Option<u32>,
    /// 0 for the tokens of the first text, 1 for the second, where there are two.
    pub type_ids: Option<Vec<u32>>,
    /// Token ids of the prompt, where an encoder reads it; `ids` are the answer alone then.
    pub source: Option<Vec<u32>>,
}

impl TokenSequence {
    /// Number of tokens, those of the source among them.
    pub fn tokens(&self) -> usize {
        self.ids.len() + self.source.as_ref().map_or(0, Vec::len)
    }

    /// Number of tokens that count in the loss.
    pub fn trained(&self) -> usize {
        self.labels
            .iter()
            .filter(|label| **label != IGNORED)
            .count()
    }
}

/// Turns examples into tokens as a [`DataConfig`] says.
#[derive(Debug)]
pub struct Tokeniser {
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    prompt_template: String,
    classes: Vec<String>,
    max_length: usize,
    on_long: OnLong,
    chunked: bool,
    train_on: TrainOn,
    eos: Option<u32>,
    parse_special: bool,
    apart: bool,
}

impl Tokeniser {
    /// A tokeniser for rows of `format`; `classes` are the names of the classes.
    ///
    /// # Errors
    /// [`Error::Config`] when a length, an end-of-sequence token or a chat template is needed and
    /// absent.
    pub fn new(
        config: &DataConfig,
        format: Format,
        tokenizer: &Tokenizer,
        classes: Vec<String>,
    ) -> Result<Self> {
        let max_length = match (config.max_length, tokenizer.max_length()) {
            (0, Some(limit)) => limit,
            (0, None) => {
                return Err(Error::config(
                    "data.max_length",
                    "is not set, and the tokenizer names no limit; set it",
                ));
            }
            (set, _) => set,
        };
        check_apart(config, format)?;
        let causal = matches!(format, Format::Text | Format::Instruction);
        let templated = format == Format::Chat
            || (format == Format::Instruction && config.prompt_template == "chat");
        let eos = tokenizer.special().eos;
        if causal && !templated && config.append_eos && eos.is_none() {
            let problem = "needs an eos_token, and tokenizer_config.json names none; name one or set append_eos = false";
            return Err(Error::config("data.append_eos", problem));
        }
        let chat = match templated {
            true => Some(ChatTemplate::new(
                &config.chat_template,
                tokenizer,
                &config.date,
            )?),
            false => None,
        };
        Ok(Self {
            tokenizer: tokenizer.clone(),
            chat,
            prompt_template: config.prompt_template.clone(),
            classes,
            max_length,
            on_long: config.on_long,
            chunked: config.packing == Packing::Chunk,
            train_on: config.train_on,
            eos: eos.filter(|_| config.append_eos && causal && !templated),
            parse_special: config.parse_special,
            apart: config.apart,
        })
    }

    /// Longest sequence in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Tokenises an example; `None` when it is left out, for the reason in the counts.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Config`] naming the row.
    pub fn sequence(
        &self,
        row: u64,
        at: &Location,
        example: &Example,
    ) -> Result<(Option<TokenSequence>, Counts)> {
        let mut counts = Counts {
            total: 1,
            ..Counts::default()
        };
        let sequence = self.raw(row, at, example, &mut counts)?;
        if counts.empty > 0 {
            return Ok((None, counts));
        }
        let Some(sequence) = self.fit(at, sequence, &mut counts)? else {
            counts.dropped = 1;
            return Ok((None, counts));
        };
        let trained = sequence.trained();
        counts.all_tokens = sequence.tokens() as u64;
        counts.trained_tokens = trained as u64;
        if trained == 0 && sequence.class.is_none() {
            counts.untrained = 1;
            return Ok((None, counts));
        }
        Ok((Some(sequence), counts))
    }

    fn raw(
        &self,
        row: u64,
        at: &Location,
        example: &Example,
        counts: &mut Counts,
    ) -> Result<TokenSequence> {
        let of = |ids: Vec<u32>, trained: Vec<bool>| with_labels(row, ids, &trained);
        let mut blank = |blank: bool| counts.empty = u64::from(blank);
        match example {
            Example::Text(text) => {
                blank(text.trim().is_empty());
                counts.special_in_text = self.tokenizer.special_in_text(text) as u64;
                let encoded =
                    self.tokenizer
                        .encode_with_offsets(text, true, !self.parse_special)?;
                let trained = vec![true; encoded.ids.len()];
                Ok(self.close(of(encoded.ids, trained)))
            }
            Example::Instruction {
                instruction,
                input,
                output,
            } => {
                blank(output.trim().is_empty());
                let input = input.as_deref();
                counts.special_in_text = [instruction, input.unwrap_or_default(), output]
                    .map(|text| self.tokenizer.special_in_text(text) as u64)
                    .iter()
                    .sum();
                self.instruction(row, at, instruction, input, output)
            }
            Example::Chat { messages, tools } => {
                blank(
                    messages
                        .iter()
                        .all(|m| m.content.trim().is_empty() && m.rest.is_empty()),
                );
                let spelled = messages
                    .iter()
                    .map(|message| self.tokenizer.special_in_text(&message.content) as u64);
                counts.special_in_text = spelled.sum();
                if counts.empty > 0 {
                    return Ok(TokenSequence::default());
                }
                self.conversation(row, at, messages, tools.as_ref())
            }
            Example::Classification { text, pair, label } => {
                blank(text.trim().is_empty());
                counts.special_in_text = self.tokenizer.special_in_text(text) as u64;
                self.classification(row, at, (text, pair.as_deref()), label, counts)
            }
            Example::Tokens { ids, labels } => {
                blank(ids.is_empty());
                self.check_ids(at, ids, labels)?;
                Ok(TokenSequence {
                    ids: ids.clone(),
                    labels: labels.clone(),
                    row,
                    ..TokenSequence::default()
                })
            }
        }
    }

    fn conversation(
        &self,
        row: u64,
        at: &Location,
        messages: &[crate::Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<TokenSequence> {
        let Some(chat) = &self.chat else {
            return Err(Error::config(
                "data.chat_template",
                "is needed for conversations",
            ));
        };
        let marked = chat.conversation(messages, tools, self.train_on);
        let (ids, trained) =
            marked
                .map_err(|error| at.error(error))?
                .encode(&self.tokenizer, false, false)?;
        Ok(with_labels(row, ids, &trained))
    }

    fn instruction(
        &self,
        row: u64,
        at: &Location,
        instruction: &str,
        input: Option<&str>,
        output: &str,
    ) -> Result<TokenSequence> {
        if self.apart {
            return self.two_parts(row, &self.prompt(instruction, input), output);
        }
        if self.chat.is_some() {
            let asked = match input.filter(|input| !input.is_empty()) {
                Some(input) => format!("{instruction}\n\n{input}"),
                None => instruction.to_string(),
            };
            let messages = [
                crate::Message::new("user", &asked),
                crate::Message::new("assistant", output),
            ];
            return self.conversation(row, at, &messages, None);
        }
        let mut text = self.prompt(instruction, input);
        let start = text.len();
        if !text.ends_with(char::is_whitespace)
            && !output.starts_with(char::is_whitespace)
            && !text.is_empty()
        {
            text.push(' ');
        }
        text.push_str(output);
        let spans = match self.train_on {
            TrainOn::All => 0..text.len(),
            TrainOn::Responses => start..text.len(),
        };
        let marked = Marked {
            trained: Vec::from_iter([spans]),
            text,
            guard: None,
        };
        let (ids, trained) = marked.encode(&self.tokenizer, true, !self.parse_special)?;
        Ok(self.close(with_labels(row, ids, &trained)))
    }

    /// The prompt for an encoder and the answer for its decoder, both closed.
    fn two_parts(&self, row: u64, prompt: &str, answer: &str) -> Result<TokenSequence> {
        let part = |text: &str| -> Result<TokenSequence> {
            let literal = !self.parse_special;
            let encoded = self.tokenizer.encode_with_offsets(text, true, literal)?;
            let trained = vec![true; encoded.ids.len()];
            Ok(self.close(with_labels(row, encoded.ids, &trained)))
        };
        Ok(TokenSequence {
            source: Some(part(prompt)?.ids),
            ..part(answer)?
        })
    }

    /// The text before an answer.
    pub fn prompt(&self, instruction: &str, input: Option<&str>) -> String {
        prompt::text(&self.prompt_template, instruction, input)
    }

    fn classification(
        &self,
        row: u64,
        at: &Location,
        (text, pair): (&str, Option<&str>),
        label: &Label,
        counts: &mut Counts,
    ) -> Result<TokenSequence> {
        let literal = !self.parse_special;
        let mut encoded = match pair {
            Some(pair) => self.tokenizer.encode_pair(text, pair, literal)?,
            None => self.tokenizer.encode_with_offsets(text, true, literal)?,
        };
        let class = class_of(&self.classes, label).ok_or_else(|| {
            at.error(format!(
                "class {} is not among {}",
                spell(label),
                self.classes.join(", ")
            ))
        })?;
        if encoded.ids.len() > self.max_length && self.on_long == OnLong::Truncate {
            encoded = shorten(&encoded, self.max_length);
            counts.truncated = 1;
        }
        Ok(TokenSequence {
            labels: vec![IGNORED; encoded.ids.len()],
            ids: encoded.ids,
            row,
            class: Some(class),
            task: None,
            type_ids: pair.map(|_| encoded.type_ids),
            source: None,
        })
    }

    fn check_ids(&self, at: &Location, ids: &[u32], labels: &[i32]) -> Result<()> {
        let size = self.tokenizer.vocabulary();
        let labels = labels
            .iter()
            .filter(|label| **label >= 0)
            .map(|label| *label as u32);
        match ids
            .iter()
            .copied()
            .chain(labels)
            .find(|id| *id as usize >= size)
        {
            Some(id) => Err(at.error(format!(
                "token id {id} is outside the tokenizer's vocabulary of {size}"
            ))),
            None => Ok(()),
        }
    }

    /// Appends the end-of-sequence token where asked and not there yet.
    fn close(&self, mut sequence: TokenSequence) -> TokenSequence {
        if let Some(eos) = self.eos.filter(|eos| sequence.ids.last() != Some(eos)) {
            sequence.ids.push(eos);
            sequence.labels.push(eos as i32);
        } else if let (Some(eos), Some(last)) = (self.eos, sequence.labels.last_mut()) {
            *last = eos as i32;
        }
        sequence
    }

    /// Applies `on_long`; `None` drops the example.
    fn fit(
        &self,
        at: &Location,
        mut sequence: TokenSequence,
        counts: &mut Counts,
    ) -> Result<Option<TokenSequence>> {
        let source = sequence.source.as_ref().map_or(0, Vec::len);
        let length = sequence.ids.len().max(source);
        if length <= self.max_length || self.chunked {
            return Ok(Some(sequence));
        }
        match self.on_long {
            OnLong::Drop => Ok(None),
            OnLong::Error => Err(at.error(format!(
                "{length} tokens, data.max_length is {}; raise it, or set data.on_long to truncate or drop",
                self.max_length
            ))),
            OnLong::Truncate => {
                sequence.ids.truncate(self.max_length);
                sequence.labels.truncate(self.max_length);
                sequence.type_ids.iter_mut().for_each(|ids| ids.truncate(self.max_length));
                if let Some(source) = &mut sequence.source {
                    cut_source(source, self.max_length);
                }
                counts.truncated = 1;
                Ok(Some(sequence))
            }
        }
    }
}

fn with_labels(row: u64, ids: Vec<u32>, trained: &[bool]) -> TokenSequence {
    let label = |(id, trained): (&u32, &bool)| if *trained { *id as i32 } else { IGNORED };
    let labels = ids.iter().zip(trained).map(label).collect();
    TokenSequence {
        ids,
        labels,
        row,
        ..TokenSequence::default()
    }
}
