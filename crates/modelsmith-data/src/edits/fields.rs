//! Keys of a record, read with a fault for each that is not what it should be.

use std::cell::RefCell;

use modelsmith_core::error::suggest;
use serde_json::{Map, Value};

use crate::read::short;

/// An object of a record, and the list of what is wrong with the record.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object in the record, with a dot behind.
    prefix: String,
    problems: &'a RefCell<Vec<String>>,
}

impl<'a> Fields<'a> {
    /// The record itself.
    pub(super) fn new(map: &'a Map<String, Value>, problems: &'a RefCell<Vec<String>>) -> Self {
        Self {
            map,
            prefix: String::new(),
            problems,
        }
    }

    /// Notes something wrong.
    pub(super) fn fault(&self, problem: String) {
        self.problems.borrow_mut().push(problem);
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) {
        let kind = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let shown = short(&found.to_string());
        self.fault(format!(
            "`{}{key}` is {kind} ({shown}); expected {expected}",
            self.prefix
        ));
    }

    fn present(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn needed(&self, key: &str, expected: &str) -> Option<&'a Value> {
        let found = self.present(key);
        if found.is_none() {
            self.fault(format!("no `{}{key}`; add it, {expected}", self.prefix));
        }
        found
    }

    /// Whether the key is there and not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.present(key).is_some()
    }

    /// The value as it is.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.present(key)
    }

    /// A text that must be there.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.as_text(key, self.needed(key, "a text")?)
    }

    /// A text that may be absent or null.
    pub(super) fn optional_text(&self, key: &str) -> Option<String> {
        self.as_text(key, self.present(key)?)
    }

    fn as_text(&self, key: &str, value: &Value) -> Option<String> {
        let text = value.as_str().map(String::from);
        if text.is_none() {
            self.wrong(key, value, "a text");
        }
        text
    }

    /// A text or a whole number that may be absent.
    pub(super) fn name(&self, key: &str) -> Option<String> {
        match self.present(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            other => {
                self.wrong(key, other, "a text or a whole number");
                None
            }
        }
    }

    /// A list of texts; empty where absent.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let items = self.list(key, "a list of texts");
        let texts = items
            .iter()
            .enumerate()
            .map(|(at, item)| self.as_text(&format!("{key}[{at}]"), item));
        texts.flatten().collect()
    }

    /// A list of objects; empty where absent.
    pub(super) fn objects(&self, key: &str) -> Vec<Fields<'a>> {
        let items = self.list(key, "a list of objects");
        let objects = items
            .iter()
            .enumerate()
            .map(|(at, item)| self.nested(&format!("{key}[{at}]"), item));
        objects.flatten().collect()
    }

    /// An object that must be there.
    pub(super) fn object(&self, key: &str) -> Option<Fields<'a>> {
        self.nested(key, self.needed(key, "an object")?)
    }

    fn list(&self, key: &str, expected: &str) -> &'a [Value] {
        match self.present(key) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong(key, other, expected);
                &[]
            }
        }
    }

    pub(super) fn nested(&self, key: &str, value: &'a Value) -> Option<Fields<'a>> {
        let Value::Object(map) = value else {
            self.wrong(key, value, "an object");
            return None;
        };
        Some(Fields {
            map,
            prefix: format!("{}{key}.", self.prefix),
            problems: self.problems,
        })
    }

    /// Names and values of all keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// Refuses keys that are not in `known`.
    pub(super) fn only(&self, known: &[&str]) {
        for key in self.map.keys().filter(|key| !known.contains(&key.as_str())) {
            let near = suggest(key, known.iter().copied());
            self.fault(format!(
                "unknown key `{}{}`; {near}",
                self.prefix,
                short(key)
            ));
        }
    }
}
