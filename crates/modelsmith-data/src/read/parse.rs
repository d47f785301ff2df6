//! A row's bytes to its columns.

use serde_json::{Map, Value};

use super::Location;
use super::split::{Cut, trim_end};
use crate::config::Kind;
use modelsmith_core::error::Result;

/// What is needed to read a row on its own.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    pub(crate) cut: Cut,
    /// Column names of comma- or tab-separated values.
    pub(crate) header: Vec<String>,
}

impl Layout {
    /// Columns of the row in `bytes`, which may reach into the blank lines behind it.
    pub(crate) fn parse(&self, at: &Location, bytes: &[u8]) -> Result<Map<String, Value>> {
        let text = check_text(at, bytes)?;
        match self.kind {
            Kind::Jsonl => parse_json(at, text.trim_end()),
            Kind::Csv | Kind::Tsv => self.parse_record(at, text),
            _ => Ok(Map::from_iter([(
                "text".to_string(),
                Value::String(self.document(text)),
            )])),
        }
    }

    fn document(&self, text: &str) -> String {
        let text = match &self.cut {
            Cut::Separated(separator) => {
                let mut end = 0;
                let kept = text
                    .split_inclusive('\n')
                    .take_while(|line| trim_end(line.as_bytes()) != separator.as_bytes());
                kept.for_each(|line| end += line.len());
                &text[..end]
            }
            _ => text,
        };
        let text = text.replace("\r\n", "\n");
        // Line ends around a document belong to the file's layout; indentation is content.
        text.trim_start_matches('\n').trim_end().to_string()
    }

    fn parse_record(&self, at: &Location, text: &str) -> Result<Map<String, Value>> {
        let fields = record(self.kind, text).map_err(|problem| at.error(problem))?;
        if fields.len() != self.header.len() {
            return Err(at.error(format!(
                "has {} fields, the header has {} ({}); quote fields that hold the delimiter",
                fields.len(),
                self.header.len(),
                self.header.join(", "),
            )));
        }
        let names = self.header.iter().cloned();
        Ok(names.zip(fields.into_iter().map(Value::String)).collect())
    }
}

/// Fields of one record.
pub(crate) fn record(kind: Kind, text: &str) -> Result<Vec<String>, String> {
    let text = text.trim_end_matches(['\n', '\r']);
    if kind == Kind::Tsv {
        // Tab-separated files of text hold quotes as plain characters.
        return Ok(text.split('\t').map(String::from).collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    reader
        .read_record(&mut record)
        .map_err(|error| format!("is not a record: {error}"))?;
    Ok(record.iter().map(String::from).collect())
}

/// Refuses bytes that are not UTF-8 text, naming line and column.
fn check_text<'a>(at: &Location, bytes: &'a [u8]) -> Result<&'a str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let place = |index: usize| {
        let before = &bytes[..index];
        let lines = before.iter().filter(|byte| **byte == b'\n').count() as u64;
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        (lines, Some(index - line_start + 1))
    };
    if let Some(index) = bytes.iter().position(|byte| *byte == 0) {
        let (lines, column) = place(index);
        let problem = "a NUL byte; the file is binary or UTF-16, convert it to UTF-8 text";
        return Err(at.error_below(lines, column, problem));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let (lines, column) = place(error.valid_up_to());
        at.error_below(lines, column, "not valid UTF-8; convert the file to UTF-8")
    })
}

fn parse_json(at: &Location, text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Array(_)) => Err(at.error("a JSON array; expected one object a line ({\"text\": ...}); rewrite with: jq -c '.[]' FILE")),
        Ok(other) => Err(at.error(format!("{} is no JSON object; expected {{\"text\": ...}}", short(&other.to_string())))),
        Err(error) => Err(json_error(at, text, &error)),
    }
}

fn json_error(
    at: &Location,
    text: &str,
    error: &serde_json::Error,
) -> modelsmith_core::error::Error {
    let message = error.to_string();
    let column = Some(error.column());
    if message.starts_with("recursion limit exceeded") {
        return at.error_below(0, column, "JSON nested more than 128 deep; flatten the row");
    }
    if at.row == 0 && matches!(text.trim(), "[" | "{") {
        return at.error_below(0, column, "JSON over several lines; expected one object a line; rewrite with: jq -c '.[]' FILE (or jq -c . FILE)");
    }
    let reason = message.split(" at line ").next().unwrap_or_default();
    at.error_below(0, column, format!("not JSON: {reason}"))
}

/// The first characters of a text, for messages.
pub(crate) fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(40).collect();
    if text.chars().nth(40).is_some() {
        shown.push('…');
    }
    shown
}
