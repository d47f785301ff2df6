//! Rows of many conventions to one kind of example.

use std::collections::BTreeMap;

use modelsmith_core::error::{Error, Result};
use serde_json::{Map, Value};

use crate::chat::Message;
use crate::classify::{class_of, spell};
use crate::config::{DataConfig, Format};
use crate::read::{Location, short};

type Row = Map<String, Value>;

/// A class as the data writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// The number of a class.
    Number(i64),
    /// The name of a class.
    Name(String),
}

/// One example, whatever file it came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Running text.
    Text(String),
    /// A prompt and its completion.
    Instruction {
        /// What is asked, with its further input where given.
        instruction: String,
        /// Further input; `None` in the prompt and completion form.
        input: Option<String>,
        /// The answer.
        output: String,
    },
    /// A conversation.
    Chat {
        /// Its turns.
        messages: Vec<Message>,
        /// Tools that the template may describe.
        tools: Option<Value>,
    },
    /// A text, or two, of a class.
    Classification {
        /// The text.
        text: String,
        /// The second text of a pair.
        pair: Option<String>,
        /// The class.
        label: Label,
    },
    /// Tokens made elsewhere.
    Tokens {
        /// Token ids.
        ids: Vec<u32>,
        /// Token to predict at each place, -100 where none counts.
        labels: Vec<i32>,
    },
}

/// How rows are read: the form and where its columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    format: Format,
    columns: BTreeMap<String, String>,
    tasks: Vec<String>,
}

const COLUMNS: [&str; 16] = [
    "text",
    "text_b",
    "label",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "tools",
    "system",
    "input_ids",
    "attention_mask",
    "labels",
    "task",
];

impl Form {
    /// The form that the configuration names, or that the first row's columns show.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown or doubly named column, [`Error::File`] when no form
    /// fits the row.
    pub fn new(config: &DataConfig, at: &Location, first: &Row) -> Result<Self> {
        if let Some(unknown) = config
            .columns
            .keys()
            .find(|name| !COLUMNS.contains(&name.as_str()))
        {
            let problem = modelsmith_core::error::suggest(unknown, COLUMNS);
            return Err(Error::config(
                format!("data.columns.{unknown}"),
                format!("is no column a form reads; {problem}"),
            ));
        }
        let mut form = Self {
            format: config.format,
            columns: config.columns.clone(),
            tasks: config.tasks.clone(),
        };
        if form.format == Format::Auto {
            form.format = form
                .detect(first)
                .ok_or_else(|| form.unrecognised(at, first))?;
        }
        Ok(form)
    }

    /// The form, never `Auto`.
    pub fn format(&self) -> Format {
        self.format
    }

    fn name<'a>(&'a self, column: &'a str) -> &'a str {
        self.columns.get(column).map_or(column, String::as_str)
    }

    fn get<'a>(&self, row: &'a Row, column: &str) -> Option<&'a Value> {
        row.get(self.name(column)).filter(|value| !value.is_null())
    }

    fn detect(&self, row: &Row) -> Option<Format> {
        let has = |column: &str| row.contains_key(self.name(column));
        let forms = [
            (has("input_ids"), Format::Tokens),
            (has("messages") || has("conversations"), Format::Chat),
            (has("instruction") && has("output"), Format::Instruction),
            (has("prompt") && has("completion"), Format::Instruction),
            (has("text") && has("label"), Format::Classification),
            (has("text"), Format::Text),
        ];
        forms
            .iter()
            .find(|(fits, _)| *fits)
            .map(|(_, format)| *format)
    }

    fn unrecognised(&self, at: &Location, row: &Row) -> Error {
        at.error(format!(
            "columns {} are no form known here; expected text; text and label; instruction and output; prompt and \
             completion; messages; conversations; or input_ids. Name them in data.columns, for instance {{ text = {:?} }}",
            names(row),
            row.keys().next().map_or("column", String::as_str),
        ))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`Error::File`] with the line, the column and what was found there.
    pub fn example(&self, at: &Location, row: &Row) -> Result<Example> {
        let read = Reader {
            form: self,
            at,
            row,
        };
        match self.format {
            Format::Auto | Format::Text => Ok(Example::Text(read.text("text")?)),
            Format::Instruction => read.instruction(),
            Format::Chat => read.chat(),
            Format::Classification => read.classification(),
            Format::Labelled => read.labelled(),
            Format::Tokens => read.tokens(),
        }
    }
}

impl Form {
    /// Number of a row's task; `None` where tasks are not told apart.
    ///
    /// # Errors
    /// [`Error::File`] for a row without one, or with one that is not among them.
    pub fn task(&self, at: &Location, row: &Row) -> Result<Option<u32>> {
        if self.tasks.is_empty() {
            return Ok(None);
        }
        let read = Reader {
            form: self,
            at,
            row,
        };
        let value = read.value("task")?;
        let wrong = || read.wrong("task", value, "the name of a task or its number");
        let label = label(value).ok_or_else(wrong)?;
        let number = class_of(&self.tasks, &label).ok_or_else(|| {
            let known = self.tasks.iter().map(String::as_str);
            let near = modelsmith_core::error::suggest(&spell(&label), known);
            let name = self.name("task");
            at.error(format!(
                "column {name:?} names task {}; {near}",
                spell(&label)
            ))
        })?;
        Ok(Some(number))
    }
}

fn names(row: &Row) -> String {
    row.keys()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads the columns of one row.
struct Reader<'a> {
    form: &'a Form,
    at: &'a Location,
    row: &'a Row,
}

impl Reader<'_> {
    fn wrong(&self, column: &str, value: &Value, expected: &str) -> Error {
        let name = self.form.name(column);
        self.at.error(format!(
            "column {name:?} holds {}; expected {expected}",
            short(&value.to_string())
        ))
    }

    fn value(&self, column: &str) -> Result<&Value> {
        self.form.get(self.row, column).ok_or_else(|| {
            let name = self.form.name(column);
            let has = self.row.contains_key(name);
            let what = if has { "is null" } else { "is missing" };
            self.at.error(format!(
                "column {name:?} {what}; the row has {}",
                names(self.row)
            ))
        })
    }

    fn text(&self, column: &str) -> Result<String> {
        let value = self.value(column)?;
        value
            .as_str()
            .map(String::from)
            .ok_or_else(|| self.wrong(column, value, "a text"))
    }

    fn text_or_none(&self, column: &str) -> Result<Option<String>> {
        self.form
            .get(self.row, column)
            .map(|_| self.text(column))
            .transpose()
    }

    fn instruction(&self) -> Result<Example> {
        let row = self.row;
        if row.contains_key(self.form.name("prompt"))
            || !row.contains_key(self.form.name("instruction"))
        {
            let instruction = self.text("prompt")?;
            return Ok(Example::Instruction {
                instruction,
                input: None,
                output: self.text("completion")?,
            });
        }
        Ok(Example::Instruction {
            instruction: self.text("instruction")?,
            input: Some(self.text_or_none("input")?.unwrap_or_default()),
            output: self.text("output")?,
        })
    }

    fn chat(&self) -> Result<Example> {
        let own = self.row.contains_key(self.form.name("messages"));
        let column = if own { "messages" } else { "conversations" };
        let value = self.value(column)?;
        let list = value
            .as_array()
            .ok_or_else(|| self.wrong(column, value, "a list of messages"))?;
        let mut messages = Vec::new();
        if let Some(system) = self
            .text_or_none("system")?
            .filter(|system| !system.is_empty())
        {
            messages.push(Message::new("system", &system));
        }
        for item in list {
            messages.push(self.message(column, item)?);
        }
        Ok(Example::Chat {
            messages,
            tools: self.form.get(self.row, "tools").cloned(),
        })
    }

    fn message(&self, column: &str, item: &Value) -> Result<Message> {
        let expected = "{\"role\": text, \"content\": text} or {\"from\": text, \"value\": text}";
        let wrong = || self.wrong(column, item, expected);
        let mut fields = item.as_object().ok_or_else(wrong)?.clone();
        let role = fields
            .shift_remove("role")
            .or_else(|| fields.shift_remove("from"))
            .ok_or_else(wrong)?;
        let content = fields
            .shift_remove("content")
            .or_else(|| fields.shift_remove("value"));
        let role = match role.as_str().ok_or_else(wrong)? {
            "human" => "user",
            "gpt" | "bot" | "model" | "chatgpt" => "assistant",
            other => other,
        };
        let content = match content {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => joined(&parts)
                .ok_or_else(|| self.wrong(column, item, "content of text parts only"))?,
            // A call of a tool has no words beside it.
            None | Some(Value::Null) if fields.contains_key("tool_calls") => String::new(),
            _ => return Err(wrong()),
        };
        Ok(Message {
            role: role.into(),
            content,
            rest: fields,
        })
    }

    fn classification(&self) -> Result<Example> {
        let value = self.value("label")?;
        Ok(Example::Classification {
            text: self.text("text")?,
            pair: self.text_or_none("text_b")?,
            label: label(value)
                .ok_or_else(|| self.wrong("label", value, "a class: a text or a whole number"))?,
        })
    }

    fn labelled(&self) -> Result<Example> {
        let line = self.text("text")?;
        match line.split_once([' ', '\t']) {
            Some((class, text)) => Ok(Example::Classification {
                text: text.trim().to_string(),
                pair: None,
                label: parse_label(class),
            }),
            None => Err(self.at.error(format!(
                "{:?} has no text behind its label; expected: LABEL TEXT",
                short(&line)
            ))),
        }
    }

    fn tokens(&self) -> Result<Example> {
        let ids: Vec<u32> = self.integers("input_ids", "a list of token ids, 0 or above")?;
        let mut labels = match self.form.get(self.row, "labels") {
            Some(_) => self.integers("labels", "a list of token ids and -100")?,
            None => ids.iter().map(|id| *id as i32).collect(),
        };
        let mask: Vec<u8> = match self.form.get(self.row, "attention_mask") {
            Some(_) => self.integers("attention_mask", "a list of 0 and 1")?,
            None => vec![1; ids.len()],
        };
        if labels.len() != ids.len() || mask.len() != ids.len() {
            return Err(self.at.error(format!(
                "input_ids has {} entries, labels {}, attention_mask {}; they must be equal",
                ids.len(),
                labels.len(),
                mask.len()
            )));
        }
        if let Some(wrong) = labels.iter().find(|label| **label < 0 && **label != -100) {
            return Err(self
                .at
                .error(format!("labels holds {wrong}; expected token ids and -100")));
        }
        let mut kept = mask.iter().map(|mask| *mask != 0);
        labels.retain(|_| kept.next().unwrap_or(false));
        let ids = ids
            .into_iter()
            .zip(mask)
            .filter(|(_, mask)| *mask != 0)
            .map(|(id, _)| id)
            .collect();
        Ok(Example::Tokens { ids, labels })
    }

    fn integers<T: TryFrom<i64>>(&self, column: &str, expected: &str) -> Result<Vec<T>> {
        let value = self.value(column)?;
        let list = value.as_array().and_then(|list| {
            list.iter()
                .map(|item| T::try_from(item.as_i64()?).ok())
                .collect::<Option<Vec<T>>>()
        });
        list.ok_or_else(|| self.wrong(column, value, expected))
    }
}

/// The text of `[{"type": "text", "text": ...}, ...]`; `None` when a part is no text.
fn joined(parts: &[Value]) -> Option<String> {
    parts
        .iter()
        .map(|part| part.as_str().or_else(|| part.get("text")?.as_str()))
        .collect()
}

fn label(value: &Value) -> Option<Label> {
    match value {
        Value::String(name) => Some(parse_label(name)),
        Value::Bool(value) => Some(Label::Number(i64::from(*value))),
        // Tables write whole numbers as 1.0 when a column once held a gap.
        Value::Number(number) => number
            .as_i64()
            .or_else(|| {
                number
                    .as_f64()
                    .filter(|n| n.fract() == 0.0 && n.abs() < 1e9)
                    .map(|n| n as i64)
            })
            .map(Label::Number),
        _ => None,
    }
}

/// Text files write numbers as text.
fn parse_label(name: &str) -> Label {
    name.trim()
        .parse()
        .map_or_else(|_| Label::Name(name.trim().into()), Label::Number)
}
