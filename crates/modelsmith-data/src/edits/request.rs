//! What an edit is to do, and what is asked about it afterwards.

use serde::{Deserialize, Serialize};

/// One fact that a model shall hold from now on.
///
/// A file of requests has one such object a line; only `prompt`, `subject` and `target_new` must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EditRequest {
    /// Its name in results; by default its number in the file, from 1.
    pub id: String,
    /// The prompt that the target shall follow, with `{}` once for the subject.
    pub prompt: String,
    /// What the fact is about.
    pub subject: String,
    /// The answer that the model shall give.
    pub target_new: String,
    /// The answer that was right before; without it nothing is compared, only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_true: Option<String>,
    /// Name of the relation between subject and target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// What a knowledge base calls the new target, by which reference texts about it are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_id: Option<String>,
    /// Other wordings of the prompt, the subject filled in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paraphrases: Vec<String>,
    /// Prompts about other subjects, whose answers must not change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// Questions that follow from the edit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub portability: Vec<Probe>,
    /// Questions near the edit whose answers must stay what they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locality: Vec<Probe>,
    /// Prompts to write on from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generation: Vec<String>,
}

/// A prompt about another subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The prompt, its own subject filled in.
    pub prompt: String,
    /// What is true of that subject; `target_true` of the request by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A question of some kind with the answers that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// For instance `Subject_Aliasing`, `Reasoning`, `Relation_Specificity`.
    pub kind: String,
    /// The question.
    pub prompt: String,
    /// Answers of which each is right.
    pub answers: Vec<String>,
}

/// A question over several hops whose answer follows from some edits (MQuAKE).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// Ids of the requests that change its answer.
    pub edits: Vec<String>,
    /// Wordings of the question.
    pub questions: Vec<String>,
    /// Answers before the edits, the first one with its aliases.
    pub answers: Vec<String>,
    /// Answers after the edits, the first one with its aliases.
    pub new_answers: Vec<String>,
    /// The hops before the edits.
    pub hops: Vec<Hop>,
    /// The hops after the edits.
    pub new_hops: Vec<Hop>,
}

/// One hop of an [`Instance`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// As a question.
    pub question: String,
    /// As a sentence up to the answer.
    pub cloze: String,
    /// The answer with its aliases.
    pub answers: Vec<String>,
    /// Name of the relation, where the file gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
}

impl EditRequest {
    /// The prompt with the subject in it.
    pub fn filled(&self) -> String {
        filled(&self.prompt, &self.subject)
    }

    /// The new target with one space in front, as it follows a prompt.
    pub fn new_text(&self) -> String {
        target_text(&self.target_new)
    }

    /// The true target with one space in front.
    pub fn true_text(&self) -> Option<String> {
        self.target_true.as_deref().map(target_text)
    }

    /// What is true of a neighbour.
    pub fn answer_of<'a>(&'a self, neighbour: &'a Neighbour) -> Option<&'a str> {
        neighbour.answer.as_deref().or(self.target_true.as_deref())
    }
}

/// A template with the subject in place of `{}`.
pub fn filled(template: &str, subject: &str) -> String {
    template.replacen("{}", subject, 1)
}

/// A target with exactly one space in front and none behind.
pub fn target_text(target: &str) -> String {
    format!(" {}", target.trim())
}
