//! The project's own lines of JSON.

use crate::edits::fields::Fields;
use crate::edits::request::{EditRequest, Neighbour, Probe};

const KEYS: [&str; 12] = [
    "id",
    "prompt",
    "subject",
    "target_new",
    "target_true",
    "relation",
    "target_id",
    "paraphrases",
    "neighbours",
    "portability",
    "locality",
    "generation",
];

pub(super) fn read(record: &Fields<'_>, number: usize) -> Option<EditRequest> {
    record.only(&KEYS);
    let required = ["subject", "prompt", "target_new"].map(|key| record.text(key));
    let neighbours = record.objects("neighbours").into_iter().map(|neighbour| {
        neighbour.only(&["prompt", "answer"]);
        Some(Neighbour {
            prompt: neighbour.text("prompt")?,
            answer: neighbour.optional_text("answer"),
        })
    });
    let rest = EditRequest {
        id: record.name("id").unwrap_or_else(|| number.to_string()),
        target_true: record.optional_text("target_true"),
        relation: record.optional_text("relation"),
        target_id: record.optional_text("target_id"),
        paraphrases: record.texts("paraphrases"),
        neighbours: neighbours.flatten().collect(),
        portability: probes(record, "portability"),
        locality: probes(record, "locality"),
        generation: record.texts("generation"),
        ..EditRequest::default()
    };
    let [subject, prompt, target_new] = required;
    Some(EditRequest {
        subject: subject?,
        prompt: prompt?,
        target_new: target_new?,
        ..rest
    })
}

fn probes(record: &Fields<'_>, key: &str) -> Vec<Probe> {
    let probes = record.objects(key).into_iter().map(|probe| {
        probe.only(&["kind", "prompt", "answers"]);
        let (kind, prompt) = (probe.text("kind"), probe.text("prompt"));
        Some(Probe {
            answers: probe.texts("answers"),
            kind: kind?,
            prompt: prompt?,
        })
    });
    probes.flatten().collect()
}
