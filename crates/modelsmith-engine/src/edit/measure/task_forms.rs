//! The six tasks in words: how a row becomes a question, and which words answer it.

use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_data::read::{Location, ReadOptions, Source};
use modelsmith_data::{Document, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::str::FromStr;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskForm {
    /// Sentiment of a sentence: 0 is negative, 1 positive.
    Sst2,
    /// Whether two sentences say the same: 0 is no, 1 yes.
    Mrpc,
    /// Whether a sentence is acceptable: 0 is no, 1 yes.
    Cola,
    /// Whether a text entails a statement: 0 is entailment, 1 is not.
    Rte,
    /// The same in another wording; contradiction and neutral are not.
    Nli,
    /// A question with four answers.
    Mmlu,
}

/// Names of the tasks.
const NAMES: [(&str, TaskForm); 6] = [
    ("sst2", TaskForm::Sst2),
    ("mrpc", TaskForm::Mrpc),
    ("cola", TaskForm::Cola),
    ("rte", TaskForm::Rte),
    ("nli", TaskForm::Nli),
    ("mmlu", TaskForm::Mmlu),
];

impl FromStr for TaskForm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, form)| *form).ok_or_else(|| {
            let near = suggest(text, NAMES.iter().map(|(name, _)| *name));
            Error::Usage(format!("unknown task `{text}`; {near}"))
        })
    }
}

/// A row of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its sentences; the question and its answers of [`TaskForm::Mmlu`].
    pub texts: Vec<String>,
    /// Its class.
    pub label: usize,
}

impl TaskForm {
    /// The answers by class.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &["negative", "positive"],
            Self::Mrpc | Self::Cola => &["No", "Yes"],
            Self::Rte | Self::Nli => &["True", "False"],
            Self::Mmlu => &["A", "B", "C", "D"],
        }
    }

    /// The question.
    pub fn prompt(self, item: &Item) -> String {
        let text = |at: usize| item.texts.get(at).map_or("", |text| text.trim());
        let (one, two) = (text(0), text(1));
        match self {
            Self::Sst2 => format!("Review : {one}\nSentiment :"),
            Self::Mrpc => format!(
                "Are the sentences paraphrases of each other.\nSentence 1: {one}\nSentence 2: {two}\nAnswer:"
            ),
            Self::Cola => {
                format!("Is this sentence linguistically acceptable?\nSentence: {one}\nAnswer:")
            }
            Self::Rte => format!("{one}\nquestion: {two} True or False?\nanswer:"),
            Self::Nli => format!("{one} entails the {two} True or False? Answer:"),
            Self::Mmlu => format!(
                "Question: {one}\n(A) {two}\n(B) {}\n(C) {}\n(D) {}\nAnswer:",
                text(2),
                text(3),
                text(4)
            ),
        }
    }

    /// The class whose answer comes first in a text. Letters count as written, words in any case.
    pub fn label_in(self, text: &str) -> Option<usize> {
        let lower = text.to_lowercase();
        let place = |label: &str| match self {
            Self::Mmlu => text.find(label),
            _ => lower.find(&label.to_lowercase()),
        };
        let places = self.labels().iter().enumerate();
        let found = places.filter_map(|(class, label)| Some((place(label)?, class)));
        found.min().map(|(_, class)| class)
    }

    /// Names of the columns with the texts, in the spellings of public files.
    fn columns(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Sst2 | Self::Cola => &[&["sentence", "text"]],
            Self::Mrpc => &[
                &["sentence1", "sentence_1", "text"],
                &["sentence2", "sentence_2", "text_b"],
            ],
            Self::Rte | Self::Nli => &[
                &["premise", "sentence1", "sentence_1"],
                &["hypothesis", "sentence2", "sentence_2"],
            ],
            Self::Mmlu => &[&["question"]],
        }
    }

    fn class(self, label: &Value) -> Option<usize> {
        let text = match label {
            Value::Bool(holds) => u8::from(*holds).to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.trim().to_lowercase(),
            _ => return None,
        };
        let named = match self {
            Self::Rte | Self::Nli => match text.as_str() {
                "entailment" => Some(0),
                "not_entailment" | "contradiction" | "neutral" => Some(1),
                _ => None,
            },
            _ => None,
        };
        let mut labels = self.labels().iter();
        let worded = labels.position(|label| label.to_lowercase() == text);
        let numbered = text
            .parse()
            .ok()
            .filter(|class| *class < self.labels().len());
        named.or(worded).or(numbered)
    }

    fn item(self, at: &Location, row: &Map<String, Value>) -> Result<Item> {
        let mut texts = Vec::new();
        for names in self.columns() {
            let found = names.iter().find_map(|name| row.get(*name)?.as_str());
            let problem = || at.error(format!("no text under {}", names.join(" or ")));
            texts.push(found.ok_or_else(problem)?.to_owned());
        }
        if self == Self::Mmlu {
            let choices = row.get("choices").and_then(Value::as_array);
            let choices = choices.filter(|choices| choices.len() == 4);
            let choices =
                choices.ok_or_else(|| at.error("choices must be a list of four texts"))?;
            texts.extend(choices.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        let label = ["label", "answer"].iter().find_map(|name| row.get(*name));
        let class = label.and_then(|label| self.class(label));
        let label = class.ok_or_else(|| {
            at.error(format!(
                "no class under label; expected {} or their numbers from 0",
                self.labels().join(", ")
            ))
        })?;
        Ok(Item { texts, label })
    }
}

/// All rows of a file.
pub(super) fn items(form: TaskForm, path: &Path) -> Result<Vec<Item>> {
    let known = ["jsonl", "json", "ndjson", "csv", "tsv", "parquet"];
    let ending = path.extension().and_then(|ending| ending.to_str());
    let lines = !ending.is_some_and(|ending| known.contains(&ending));
    let options = ReadOptions {
        kind: if lines { Kind::Text } else { Kind::Auto },
        document: Document::Line,
        ..ReadOptions::default()
    };
    let source = Source::open(path, &options)?;
    source
        .rows()
        .map(|row| {
            let (at, mut row) = row?;
            if lines {
                labelled(&mut row);
            }
            form.item(&at, &row)
        })
        .collect()
}

/// Takes the label off the beginning of a line.
fn labelled(row: &mut Map<String, Value>) {
    let text = row.get("text").and_then(Value::as_str).unwrap_or_default();
    let (label, rest) = text.split_once(' ').unwrap_or(("", text));
    let (label, rest) = (label.to_owned(), rest.to_owned());
    row.insert("label".into(), label.into());
    row.insert("text".into(), rest.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: TaskForm, name: &str, text: &str) -> Result<Vec<Item>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        items(form, &path)
    }

    #[test]
    fn rows_of_public_files_become_questions() {
        let lines = read(TaskForm::Sst2, "a.test", "1 a fine film .\n0 no .\n").unwrap();
        assert_eq!(lines[0].label, 1);
        assert_eq!(
            TaskForm::Sst2.prompt(&lines[0]),
            "Review : a fine film .\nSentiment :"
        );
        let rte = r#"{"premise": "It rains.", "hypothesis": "It is wet.", "label": "not_entailment"}
            {"sentence1": "a", "sentence2": "b", "label": 0}"#;
        let rte = read(TaskForm::Rte, "a.jsonl", rte).unwrap();
        assert_eq!((rte[0].label, rte[1].label), (1, 0));
        let prompt = TaskForm::Rte.prompt(&rte[0]);
        assert_eq!(
            prompt,
            "It rains.\nquestion: It is wet. True or False?\nanswer:"
        );
        let mmlu = r#"{"question": "1+1?", "choices": ["1", "2", "3", "4"], "answer": "B"}"#;
        let mmlu = read(TaskForm::Mmlu, "a.jsonl", mmlu).unwrap();
        assert_eq!(mmlu[0].label, 1);
        let prompt = TaskForm::Mmlu.prompt(&mmlu[0]);
        assert_eq!(
            prompt,
            "Question: 1+1?\n(A) 1\n(B) 2\n(C) 3\n(D) 4\nAnswer:"
        );
        for (text, cause) in [
            (r#"{"sentence": "a", "label": 2}"#, "line 1: no class"),
            (r#"{"label": 1}"#, "no text under sentence or text"),
        ] {
            let problem = read(TaskForm::Cola, "a.jsonl", text)
                .unwrap_err()
                .to_string();
            assert!(problem.contains(cause), "{problem}");
        }
    }

    #[test]
    fn the_first_label_in_a_text_counts() {
        assert_eq!(TaskForm::Sst2.label_in(" Positive, not negative"), Some(1));
        assert_eq!(TaskForm::Mmlu.label_in(" a B"), Some(1));
        assert_eq!(TaskForm::Mrpc.label_in("perhaps"), None);
        assert!(
            "sst3"
                .parse::<TaskForm>()
                .unwrap_err()
                .to_string()
                .contains("sst2")
        );
        assert_eq!("rte".parse::<TaskForm>().unwrap(), TaskForm::Rte);
    }
}
