//! Flat records, in which the prompt has its subject filled in.

use serde_json::Value;

use super::{all_texts, template};
use crate::edits::fields::Fields;
use crate::edits::request::{EditRequest, Neighbour, Probe};

pub(super) fn read(record: &Fields<'_>, number: usize) -> Option<EditRequest> {
    let required = ["subject", "prompt", "target_new"].map(|key| record.text(key));
    let truth = record.value("ground_truth").map(all_texts);
    let neighbour = record.optional_text("locality_prompt");
    let rest = EditRequest {
        id: record.name("case_id").unwrap_or_else(|| number.to_string()),
        target_true: truth.and_then(|texts| texts.into_iter().next()),
        relation: record.optional_text("relation_id"),
        paraphrases: ["rephrase_prompt", "rephrase"]
            .iter()
            .filter_map(|key| record.optional_text(key))
            .collect(),
        neighbours: neighbour
            .map(|prompt| Neighbour {
                prompt,
                answer: record.optional_text("locality_ground_truth"),
            })
            .into_iter()
            .collect(),
        portability: probes(record, "portability"),
        locality: probes(record, "locality"),
        ..EditRequest::default()
    };
    let [subject, prompt, target_new] = required;
    let (subject, target_new) = (subject?, target_new?);
    Some(EditRequest {
        prompt: template(record, "prompt", &prompt?, &subject)?,
        subject,
        target_new,
        ..rest
    })
}

/// A fact with its question: `question` is the prompt, `qna_question` asks for the same.
pub(super) fn read_question(record: &Fields<'_>, number: usize) -> Option<EditRequest> {
    let required = ["subject", "question", "answer"].map(|key| record.text(key));
    let asked = record.optional_text("qna_question");
    let [subject, prompt, target_new] = required;
    let (subject, target_new) = (subject?, target_new?);
    Some(EditRequest {
        id: record
            .name("case_index")
            .unwrap_or_else(|| number.to_string()),
        prompt: template(record, "question", &prompt?, &subject)?,
        subject,
        target_new,
        paraphrases: asked.into_iter().collect(),
        ..EditRequest::default()
    })
}

/// `{kind: {prompt, ground_truth}}`, where each kind may have a list of them, and both keys lists.
fn probes(record: &Fields<'_>, key: &str) -> Vec<Probe> {
    if !record.has(key) {
        return Vec::new();
    }
    let Some(kinds) = record.object(key) else {
        return Vec::new();
    };
    let mut probes = Vec::new();
    for (kind, value) in kinds.entries() {
        let items = match value {
            Value::Array(_) => kinds.objects(kind),
            other => kinds.nested(kind, other).into_iter().collect(),
        };
        for item in items {
            probes.extend(asked(kind, &item));
        }
    }
    probes
}

fn asked(kind: &str, item: &Fields<'_>) -> Vec<Probe> {
    let probe = |prompt: &str, answers: Vec<String>| Probe {
        kind: kind.into(),
        prompt: prompt.into(),
        answers,
    };
    let truth = item.value("ground_truth");
    match (item.value("prompt"), truth) {
        (Some(Value::Array(prompts)), Some(Value::Array(truths)))
            if prompts.len() == truths.len() =>
        {
            let pairs = prompts.iter().zip(truths);
            let pairs = pairs.filter_map(|(prompt, truth)| Some((prompt.as_str()?, truth)));
            pairs
                .map(|(prompt, truth)| probe(prompt, all_texts(truth)))
                .collect()
        }
        (_, truth) => {
            let answers = truth.map(all_texts).unwrap_or_default();
            let prompt = item.text("prompt");
            prompt
                .map(|prompt| probe(&prompt, answers))
                .into_iter()
                .collect()
        }
    }
}
