//! Conversations to text by the model's own template, with the answers marked.
//!
//! What counts in the loss is found in one of two ways: the template says so with
//! `{% generation %}` blocks, or each answer is the difference of two renderings, the
//! conversation before it with the generation prompt and the conversation up to it:
//!
//! ```text
//! render(messages[..i], generation prompt)  =  prefix
//! render(messages[..=i])                    =  prefix + answer i
//! ```

use std::ops::Range;
use std::sync::Arc;

use minijinja::Environment;
use minijinja::value::Serde;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::TrainOn;
use crate::encode::Marked;
use crate::template_env::{self, Date};
use crate::tokenizer::Tokenizer;

/// A plain template for models without one: `<|im_start|>role`, the content, `<|im_end|>`.
pub const CHATML: &str = "{%- for message in messages -%}\
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

const KEY: &str = "data.chat_template";
/// Characters without meaning in Unicode (private use) that mark generation blocks in a rendering.
const OPEN: char = '\u{F8F0}';
const CLOSE: char = '\u{F8F1}';

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: String,
    /// Further fields that templates read, such as `tool_calls`.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Message {
    /// A turn without further fields.
    pub fn new(role: &str, content: &str) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            rest: Map::new(),
        }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: String,
    eos: String,
    special: Vec<String>,
    has_generation: bool,
}

impl ChatTemplate {
    /// Compiles the template that `name` asks for: `model`, `model:NAME`, `chatml` or a text.
    ///
    /// # Errors
    /// [`Error::Config`] when the model has no template, or the text is no template.
    pub fn new(name: &str, tokenizer: &Tokenizer, date: &str) -> Result<Self> {
        let source = find_source(name, tokenizer)?;
        let has_generation = tag(&source, "generation").is_some();
        let source = if has_generation {
            mark_generation(&source)
        } else {
            source
        };
        let environment =
            template_env::environment(&source, parse_date(date)?).map_err(|error| {
                Error::config(
                    KEY,
                    format!("is no template that can be read: {}", explain(&error)),
                )
            })?;
        let special = tokenizer.special();
        let spell = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let tokens = tokenizer.special_tokens().iter();
        Ok(Self {
            environment: Arc::new(environment),
            bos: spell(special.bos),
            eos: spell(special.eos),
            special: tokens.map(|token| token.content.clone()).collect(),
            has_generation,
        })
    }

    /// The conversation as a prompt: rendered up to where the model answers.
    ///
    /// # Errors
    /// As [`ChatTemplate::conversation`].
    pub fn prompt(&self, messages: &[Message], tools: Option<&Value>) -> Result<Marked> {
        let (messages, tools, guard) = self.guard(messages, tools);
        let text = self.render(&messages, tools.as_ref(), true)?;
        let (text, _) = take_marks(&text);
        Ok(Marked {
            text,
            trained: Vec::new(),
            guard,
        })
    }

    /// The whole conversation, with what counts in the loss marked.
    ///
    /// # Errors
    /// [`Error::Config`] when the template fails, runs too long, or renders earlier turns
    /// differently once the conversation goes on, so that answers cannot be told apart.
    pub fn conversation(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        train_on: TrainOn,
    ) -> Result<Marked> {
        let holds_mark = |message: &Message| message.content.contains([OPEN, CLOSE]);
        if self.has_generation && messages.iter().any(holds_mark) {
            return Err(Error::config(
                KEY,
                "a message holds U+F8F0 or U+F8F1, which mark generation blocks here; remove it",
            ));
        }
        let (messages, tools, guard) = self.guard(messages, tools);
        let text = self.render(&messages, tools.as_ref(), false)?;
        let (text, blocks) = take_marks(&text);
        let trained = match (train_on, self.has_generation) {
            (TrainOn::All, _) => std::iter::once(0..text.len()).collect(),
            (TrainOn::Responses, true) => blocks,
            (TrainOn::Responses, false) => self.answers(&messages, tools.as_ref(), &text)?,
        };
        Ok(Marked {
            text,
            trained,
            guard,
        })
    }

    fn answers(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        text: &str,
    ) -> Result<Vec<Range<usize>>> {
        let mut spans = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            let before = self.render(&messages[..index], tools, true)?;
            let after = self.render(&messages[..=index], tools, false)?;
            if !after.starts_with(&before) || !text.starts_with(&after) {
                return Err(not_a_prefix(index));
            }
            spans.push(before.len()..before.len() + self.answer_length(&after[before.len()..]));
        }
        Ok(spans)
    }

    /// White space behind the token that ends a turn is the template's, not the model's.
    fn answer_length(&self, answer: &str) -> usize {
        let trimmed = answer.trim_end();
        let closed = self
            .special
            .iter()
            .any(|token| trimmed.ends_with(token.as_str()));
        if closed { trimmed.len() } else { answer.len() }
    }

    fn render(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let context = minijinja::context! {
            messages => minijinja::Value::from(Serde(messages)),
            tools => minijinja::Value::from(Serde(tools)),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        let bytes = messages
            .iter()
            .map(|message| message.content.len() + 64)
            .sum();
        let rendered = template_env::render(&self.environment, context, bytes);
        rendered.map_err(|error| Error::config(KEY, explain(&error)))
    }

    /// Splits special tokens spelled in the messages by a character that occurs nowhere in them.
    fn guard(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
    ) -> (Vec<Message>, Option<Value>, Option<char>) {
        let mut messages = messages.to_vec();
        let mut tools = tools.cloned();
        let all = format!(
            "{}{}",
            serde_json::json!(messages),
            serde_json::json!(tools)
        );
        let spelled = |text: &str| {
            self.special
                .iter()
                .any(|token| text.contains(token.as_str()))
        };
        // JSON escapes are undone by looking at the values themselves below.
        if !spelled(&all) && !all.contains('\\') {
            return (messages, tools, None);
        }
        let Some(guard) = ('\u{E000}'..OPEN).find(|c| !all.contains(*c)) else {
            return (messages, tools, None);
        };
        let mut found = false;
        let mut protect = |text: &mut String| {
            for token in &self.special {
                if text.contains(token.as_str()) {
                    found = true;
                    let first = token.chars().next().map_or(0, char::len_utf8);
                    let split = format!("{}{guard}{}", &token[..first], &token[first..]);
                    *text = text.replace(token.as_str(), &split);
                }
            }
        };
        for message in &mut messages {
            protect(&mut message.content);
            message
                .rest
                .values_mut()
                .for_each(|value| each_text(value, &mut protect));
        }
        tools
            .iter_mut()
            .for_each(|value| each_text(value, &mut protect));
        (messages, tools, found.then_some(guard))
    }
}

fn each_text(value: &mut Value, visit: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, visit)),
        Value::Object(map) => map.values_mut().for_each(|item| each_text(item, visit)),
        _ => {}
    }
}

fn find_source(name: &str, tokenizer: &Tokenizer) -> Result<String> {
    if name == "chatml" {
        return Ok(CHATML.into());
    }
    if name.contains("{{") || name.contains("{%") {
        return Ok(name.into());
    }
    let variant = match name.split_once(':') {
        None if name == "model" => None,
        Some(("model", variant)) => Some(variant),
        _ => {
            let problem = format!(
                "is {name:?}; expected model, model:NAME, chatml, or the text of a Jinja template"
            );
            return Err(Error::config(KEY, problem));
        }
    };
    tokenizer
        .chat_template(variant)
        .map(String::from)
        .ok_or_else(|| {
            let names: Vec<&str> = tokenizer.chat_template_names().collect();
            let found = match names.as_slice() {
                [] => "the model has no chat template".to_string(),
                names => format!("the model's chat templates are {}", names.join(", ")),
            };
            Error::config(
                KEY,
                format!(
                    "is {name:?}, but {found}; set chat_template = \"chatml\" to use a plain one"
                ),
            )
        })
}

/// Where the tag `{% word %}` stands.
fn tag(source: &str, word: &str) -> Option<Range<usize>> {
    let mut from = 0;
    while let Some(start) = source[from..].find("{%").map(|at| from + at) {
        let end = start + source[start..].find("%}")? + 2;
        let inner = source[start + 2..end - 2].trim_matches(['-', '+']);
        if inner.trim() == word {
            return Some(start..end);
        }
        from = end;
    }
    None
}

/// Turns `{% generation %}` blocks, which Jinja does not know, into marks in the output.
fn mark_generation(source: &str) -> String {
    let mut source = source.to_string();
    for (word, mark) in [("generation", OPEN), ("endgeneration", CLOSE)] {
        while let Some(span) = tag(&source, word) {
            let old = &source[span.clone()];
            let left = if old.starts_with("{%-") { "-" } else { "" };
            let right = if old.ends_with("-%}") { "-" } else { "" };
            source.replace_range(
                span,
                &format!("{{%{left} if true %}}{mark}{{% endif {right}%}}"),
            );
        }
    }
    source
}

/// Removes the marks; returns the text and the ranges between them.
fn take_marks(text: &str) -> (String, Vec<Range<usize>>) {
    let mut out = String::with_capacity(text.len());
    let mut spans = Vec::new();
    let mut open = None;
    for character in text.chars() {
        match character {
            OPEN => open = Some(out.len()),
            CLOSE => spans.extend(open.take().map(|start| start..out.len())),
            other => out.push(other),
        }
    }
    (out, spans)
}

fn not_a_prefix(index: usize) -> Error {
    Error::config(
        KEY,
        format!(
            "rendering the conversation up to message {} is no prefix of rendering it on, so its answers \
             cannot be told from its prompts; set train_on = \"all\", or mark the answers in the template \
             with {{% generation %}} ... {{% endgeneration %}}",
            index + 1
        ),
    )
}

fn explain(error: &minijinja::Error) -> String {
    let place = error
        .line()
        .map(|line| format!(" (line {line} of the template)"))
        .unwrap_or_default();
    match error.kind() {
        minijinja::ErrorKind::OutOfFuel => {
            format!("runs too long and was stopped{place}; it loops without end")
        }
        _ => format!(
            "{}{place}",
            error
                .detail()
                .map_or_else(|| error.to_string(), String::from)
        ),
    }
}

/// Reads `YYYY-MM-DD`.
pub(crate) fn parse_date(text: &str) -> Result<Date> {
    let parts: Vec<Option<i64>> = text.split('-').map(|part| part.parse().ok()).collect();
    match parts.as_slice() {
        [
            Some(year @ 1..=9999),
            Some(month @ 1..=12),
            Some(day @ 1..=31),
        ] => Ok(Date {
            year: *year,
            month: *month as usize,
            day: *day,
        }),
        _ => Err(Error::config(
            "data.date",
            format!("is {text:?}; expected a day as 2024-07-26"),
        )),
    }
}
