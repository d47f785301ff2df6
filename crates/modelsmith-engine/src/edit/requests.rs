//! The facts of a file.

use super::facts::Statement;
use super::session::EditOptions;
use crate::recipe::Named;
use crate::registry::edit_method;
use modelsmith_core::error::Result;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_methods::edit::Way;
use std::path::Path;

/// Whether an editor writes one fact at a time.
///
/// # Errors
/// An unknown editor or option.
pub fn writes_one(method: &Named) -> Result<bool> {
    Ok(match edit_method(method)?.way() {
        Way::ClosedForm(form) => form.plan().single,
        Way::FineTune(_) => false,
    })
}

/// The facts of a file of requests.
///
/// # Errors
/// Rows that are no requests, with their lines.
pub fn statements(path: &Path, _options: &EditOptions) -> Result<Vec<Statement>> {
    let source = Source::open(path, &ReadOptions::default())?;
    let mut found = Vec::new();
    for row in source.rows() {
        let (at, row) = row?;
        let text = |key: &str| match row.get(key).and_then(serde_json::Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => Err(at.error(format!("has no text under `{key}`"))),
        };
        found.push(Statement {
            id: text("id").unwrap_or_else(|_| found.len().to_string()),
            prompt: text("prompt")?,
            subject: text("subject")?,
            target: text("target_new")?,
        });
    }
    Ok(found)
}
