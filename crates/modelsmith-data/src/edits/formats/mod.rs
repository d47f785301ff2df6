//! The layouts of files of edits, a file each.

mod counterfact;
mod flat;
mod mquake;
mod own;
mod zsre;

use std::str::FromStr;

use modelsmith_core::error::{Error, suggest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::Fields;
use super::request::{EditRequest, Instance};

/// How the records of a file are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EditFormat {
    /// Recognised by the keys of the first record.
    #[default]
    Auto,
    /// The project's own: the keys of [`EditRequest`].
    Requests,
    /// CounterFact and MultiCounterFact: `requested_rewrite` is an object.
    Counterfact,
    /// EasyEdit and KnowEdit: `prompt` has its subject filled in, `ground_truth`, `rephrase_prompt`.
    Flat,
    /// Facts with a question each: `question`, `answer`, `qna_question`.
    Questions,
    /// MEND's zsRE: `src`, `rephrase`, `answers`, `loc`. The new target is the first answer.
    Zsre,
    /// MQuAKE: `requested_rewrite` is a list, `questions` are over several hops.
    Mquake,
}

const NAMES: [(&str, EditFormat); 7] = [
    ("auto", EditFormat::Auto),
    ("requests", EditFormat::Requests),
    ("counterfact", EditFormat::Counterfact),
    ("flat", EditFormat::Flat),
    ("questions", EditFormat::Questions),
    ("zsre", EditFormat::Zsre),
    ("mquake", EditFormat::Mquake),
];

impl FromStr for EditFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| *format).ok_or_else(|| {
            let near = suggest(text, NAMES.iter().map(|(name, _)| *name));
            Error::Usage(format!("unknown format of edit requests `{text}`; {near}"))
        })
    }
}

/// What a record gives.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) requests: Vec<EditRequest>,
    pub(super) instance: Option<Instance>,
}

impl EditFormat {
    /// The layout that a record's keys tell of.
    pub(super) fn of(record: &Map<String, Value>) -> Self {
        let has = |key: &str| record.contains_key(key);
        match record.get("requested_rewrite") {
            Some(Value::Array(_)) => return Self::Mquake,
            Some(_) => return Self::Counterfact,
            None => {}
        }
        let by_kind = |key: &str| matches!(record.get(key), Some(Value::Object(_)));
        if has("src") && (has("loc") || has("answers")) {
            Self::Zsre
        } else if has("qna_question") {
            Self::Questions
        } else if has("ground_truth")
            || has("rephrase_prompt")
            || by_kind("portability")
            || by_kind("locality")
        {
            Self::Flat
        } else {
            Self::Requests
        }
    }

    /// Reads a record; `number` counts records from 1 and names those without an id.
    pub(super) fn read(self, record: &Fields<'_>, number: usize) -> Read {
        let one = |request| Read {
            requests: Option::into_iter(request).collect(),
            instance: None,
        };
        match self {
            Self::Auto | Self::Requests => one(own::read(record, number)),
            Self::Counterfact => one(counterfact::read(record, number)),
            Self::Flat => one(flat::read(record, number)),
            Self::Questions => one(flat::read_question(record, number)),
            Self::Zsre => one(zsre::read(record, number)),
            Self::Mquake => mquake::read(record, number),
        }
    }
}

/// The prompt with `{}` where it has its subject, which must be once.
fn template(record: &Fields<'_>, key: &str, prompt: &str, subject: &str) -> Option<String> {
    if subject.is_empty() {
        record.fault("`subject` is empty; expected what the fact is about".into());
        return None;
    }
    match prompt.matches(subject).count() {
        1 => Some(prompt.replacen(subject, "{}", 1)),
        0 => {
            record.fault(format!(
                "`{key}` {prompt:?} does not contain the subject {subject:?}; expected it once, \
                 letter for letter"
            ));
            None
        }
        count => {
            record.fault(format!(
                "`{key}` {prompt:?} contains the subject {subject:?} {count} times; expected it once"
            ));
            None
        }
    }
}

/// Texts of a value that is a text or a list of such values, of whatever depth.
fn all_texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(all_texts).collect(),
        _ => Vec::new(),
    }
}
