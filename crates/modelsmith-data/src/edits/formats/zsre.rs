//! zsRE in the form of MEND's files, read as the published evaluations of editors read it.

use super::template;
use crate::edits::fields::Fields;
use crate::edits::request::{EditRequest, Neighbour};

/// What stands before each question of the unrelated facts.
const PREFIX: &str = "nq question: ";

pub(super) fn read(record: &Fields<'_>, number: usize) -> Option<EditRequest> {
    let required = ["subject", "src"].map(|key| record.text(key));
    let answer = record.texts("answers").into_iter().next();
    if answer.is_none() {
        record.fault("no text in `answers`; expected the new target as its first".into());
    }
    let (paraphrase, asked) = (
        record.optional_text("rephrase"),
        record.optional_text("loc"),
    );
    let neighbour = asked.map(|asked| Neighbour {
        prompt: question(&asked),
        answer: record.text("loc_ans"),
    });
    let [subject, prompt] = required;
    let (subject, target_new) = (subject?, answer?);
    Some(EditRequest {
        id: record.name("case_id").unwrap_or_else(|| number.to_string()),
        prompt: template(record, "src", &prompt?, &subject)?,
        subject,
        target_new,
        paraphrases: paraphrase.into_iter().collect(),
        neighbours: neighbour.into_iter().collect(),
        ..EditRequest::default()
    })
}

/// The question without its prefix and with a question mark.
fn question(text: &str) -> String {
    let text = text.strip_prefix(PREFIX).unwrap_or(text);
    format!("{}?", text.trim_end_matches('?'))
}
