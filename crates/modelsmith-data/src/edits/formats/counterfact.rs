//! CounterFact as it was published: the rewrite nested, ten neighbours, ten prompts to write on from.

use crate::edits::fields::Fields;
use crate::edits::request::{EditRequest, Neighbour};

pub(super) fn read(record: &Fields<'_>, number: usize) -> Option<EditRequest> {
    let id = record.name("case_id").unwrap_or_else(|| number.to_string());
    let mut request = rewrite(&record.object("requested_rewrite")?, id)?;
    request.paraphrases = record.texts("paraphrase_prompts");
    let neighbours = record.texts("neighborhood_prompts").into_iter();
    request.neighbours = neighbours
        .map(|prompt| Neighbour {
            prompt,
            answer: None,
        })
        .collect();
    request.generation = record.texts("generation_prompts");
    Some(request)
}

/// One rewrite, as MQuAKE has them too.
pub(super) fn rewrite(rewrite: &Fields<'_>, id: String) -> Option<EditRequest> {
    let target = |key: &str| {
        let target = rewrite.object(key)?;
        Some((target.text("str")?, target.optional_text("id")))
    };
    let (prompt, subject) = (rewrite.text("prompt"), rewrite.text("subject"));
    let (new, before) = (target("target_new"), target("target_true"));
    let (target_new, target_id) = new?;
    Some(EditRequest {
        id,
        prompt: prompt?,
        subject: subject?,
        target_new,
        target_id,
        target_true: Some(before?.0),
        relation: rewrite.optional_text("relation_id"),
        ..EditRequest::default()
    })
}
