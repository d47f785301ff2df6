//! MQuAKE: edits together with the questions over several hops that follow from them.

use super::{Read, counterfact::rewrite};
use crate::edits::fields::Fields;
use crate::edits::request::{EditRequest, Hop, Instance};

pub(super) fn read(record: &Fields<'_>, number: usize) -> Read {
    let id = record.name("case_id").unwrap_or_else(|| number.to_string());
    let rewrites = record.objects("requested_rewrite");
    if rewrites.is_empty() {
        record.fault("no edit in `requested_rewrite`; expected a list of one to four".into());
    }
    let requests: Vec<EditRequest> = rewrites
        .iter()
        .enumerate()
        .filter_map(|(at, edit)| {
            let mut request = rewrite(edit, format!("{id}.{at}"))?;
            request.paraphrases = edit.optional_text("question").into_iter().collect();
            Some(request)
        })
        .collect();
    let questions = record.texts("questions");
    if questions.is_empty() {
        record.fault("no `questions`; expected the wordings of the question over all hops".into());
    }
    let instance = Instance {
        edits: requests.iter().map(|request| request.id.clone()).collect(),
        id,
        questions,
        answers: answers(record, "answer"),
        new_answers: answers(record, "new_answer"),
        hops: hops(record, "single_hops", "triples"),
        new_hops: hops(record, "new_single_hops", "new_triples"),
    };
    Read {
        requests,
        instance: Some(instance),
    }
}

/// An answer, its aliases, and its extensions in the file of edits over time.
fn answers(record: &Fields<'_>, key: &str) -> Vec<String> {
    let mut answers: Vec<String> = record.text(key).into_iter().collect();
    answers.extend(record.texts(&format!("{key}_alias")));
    answers.extend(record.texts(&format!("{key}_extended")));
    answers
}

/// The hops, whose relations stand in the list of triples `[subject, relation, object]` of the same order.
fn hops(record: &Fields<'_>, key: &str, triples: &str) -> Vec<Hop> {
    let triples = record.value("orig").and_then(|orig| orig.get(triples));
    let relation = |at: usize| Some(triples?.get(at)?.get(1)?.as_str()?.to_owned());
    let hops = record.objects(key).into_iter().enumerate();
    let hops = hops.map(|(at, hop)| {
        let (question, cloze) = (hop.text("question"), hop.text("cloze"));
        Some(Hop {
            answers: answers(&hop, "answer"),
            question: question?,
            cloze: cloze?,
            relation: relation(at),
        })
    });
    hops.flatten().collect()
}
