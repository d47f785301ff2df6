//! Results to the standard output, everything else to the standard error.

use crate::cli::Common;
use crate::failure::{Failure, Outcome};
use modelsmith_engine::Error;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::io::Write;

/// Where a command speaks, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Results are JSON.
    pub(crate) json: bool,
    /// Only errors are spoken of.
    pub(crate) quiet: bool,
    /// How much more is said.
    pub(crate) verbose: u8,
}

impl Output {
    /// As the flags ask.
    pub(crate) fn new(common: &Common) -> Self {
        Self {
            json: common.json,
            quiet: common.quiet,
            verbose: common.verbose,
        }
    }

    /// A result: text for people, or `value` as JSON under the versioned schema of `command`.
    ///
    /// # Errors
    /// The standard output cannot be written.
    pub(crate) fn result(
        &self,
        command: &str,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Outcome {
        if self.json {
            self.line(json(command, value)?)
        } else {
            self.line(text())
        }
    }

    /// A line of the result.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn line(&self, text: impl Display) -> Outcome {
        self.put(&format!("{text}\n"))
    }

    /// Something that a user should know, beside the result.
    pub(crate) fn warn(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr(), "warning: {text}");
        }
    }

    /// What is of use to a person and no part of the result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// A piece of the result, at once.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn put(&self, text: &str) -> Outcome {
        let mut out = anstream::stdout();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Failure::of_output)
    }
}

/// The JSON of a result: the value's own keys after `schema`, on one line.
fn json(command: &str, value: &impl Serialize) -> Outcome<String> {
    let failed = |error: serde_json::Error| Error::Failed(format!("JSON output: {error}"));
    let mut all = Map::new();
    all.insert("schema".into(), format!("modelsmith.{command}/1").into());
    match serde_json::to_value(value).map_err(failed)? {
        Value::Object(own) => all.extend(own),
        other => {
            all.insert("result".into(), other);
        }
    }
    Ok(serde_json::to_string(&all).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_names_its_schema_first() {
        let object = json("tune", &serde_json::json!({"steps": 3})).unwrap();
        assert_eq!(object, r#"{"schema":"modelsmith.tune/1","steps":3}"#);
        let list = json("methods", &["a"]).unwrap();
        assert_eq!(list, r#"{"schema":"modelsmith.methods/1","result":["a"]}"#);
    }
}
