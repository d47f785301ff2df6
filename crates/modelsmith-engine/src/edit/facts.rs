//! Facts in tokens: a fact's prompts under all contexts, and where each is looked up.

use super::measure::target_ids;
use modelsmith_core::error::{Error, Result};
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::target_text;
use modelsmith_methods::edit::Lookup;
use serde::{Deserialize, Serialize};

/// A fact as it is written: a prompt with `{}` for the subject, and the answer it shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Its name in lists.
    pub id: String,
    /// The prompt, with `{}` once.
    pub prompt: String,
    /// What stands for `{}`.
    pub subject: String,
    /// The answer, with or without a space in front.
    pub target: String,
}

/// A prompt in tokens.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// Place of the token at which the fact is looked up.
    pub(crate) lookup: usize,
}

/// A fact in tokens.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// The bare prompt.
    pub(crate) bare: Prompt,
    /// The prompt behind each context.
    pub(crate) prefixed: Vec<Prompt>,
    /// `{subject} is a`, whose continuation should stay.
    pub(crate) essence: Prompt,
    /// The answer.
    pub(crate) target: Vec<u32>,
}

impl Fact {
    /// Reads a statement; each of `contexts` has `{}` for the prompt.
    ///
    /// # Errors
    /// A prompt without `{}`, an answer without a token.
    pub(crate) fn read(
        tokenizer: &Tokenizer,
        statement: &Statement,
        contexts: &[String],
        lookup: Lookup,
    ) -> Result<Self> {
        let Statement {
            prompt, subject, ..
        } = statement;
        let wrapped = |context: &String| {
            let whole = context.replacen("{}", prompt, 1);
            read_prompt(tokenizer, &whole, subject, lookup)
        };
        let target = target_ids(tokenizer, &target_text(&statement.target))?;
        if target.is_empty() {
            return Err(Error::Usage(format!(
                "the target {:?} of {subject:?} has no token; give an answer in words",
                statement.target
            )));
        }
        Ok(Self {
            bare: read_prompt(tokenizer, prompt, subject, lookup)?,
            prefixed: contexts.iter().map(wrapped).collect::<Result<_>>()?,
            essence: read_prompt(tokenizer, "{} is a", subject, lookup)?,
            target,
        })
    }
}

/// Tokens of `template` with the subject in place of `{}`.
fn read_prompt(
    tokenizer: &Tokenizer,
    template: &str,
    subject: &str,
    lookup: Lookup,
) -> Result<Prompt> {
    let Some(begin) = template.find("{}") else {
        return Err(Error::Usage(format!(
            "the prompt {template:?} has no {{}}; put it where the subject stands"
        )));
    };
    let end = begin + subject.len();
    let text = template.replacen("{}", subject, 1);
    let encoded = tokenizer.encode_with_offsets(&text, true, true)?;
    let places = encoded.offsets.iter().enumerate();
    let real = places.filter(|(_, (from, to))| from < to);
    // What the tokenizer adds behind a text does not belong to a prompt that goes on.
    let Some(last) = real.clone().map(|(place, _)| place).next_back() else {
        return Err(Error::Usage(format!("the prompt {text:?} has no token")));
    };
    let in_subject = |(_, (from, _)): &(usize, &(usize, usize))| *from < end;
    let subject_last = real.filter(in_subject).map(|(place, _)| place).next_back();
    Ok(Prompt {
        lookup: match lookup {
            Lookup::SubjectLast => subject_last.unwrap_or(last),
            Lookup::PromptLast => last,
        },
        ids: encoded.ids[..=last].to_vec(),
    })
}
