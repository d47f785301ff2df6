//! Questions over several hops (MQuAKE, Zhong et al., arXiv 2305.14795): does an edit reach what follows
//! from it?
//!
//! ```text
//! edit-wise      share of edited facts that are recalled: `EAcc` of the records
//! instance-wise  share of instances of which every hop after the edits is recalled
//! multi-hop      share of instances of which any wording of the question gets the new answer
//! ```

use super::forced::{Scored, forced};
use super::free::{matches_any, stated_answer};
use super::query::Query;
use super::write::{Answering, answers};
use modelsmith_core::error::Result;
use modelsmith_data::edits::{Hop, Instance};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Demonstrations of a relation at most.
const DEMONSTRATIONS: usize = 8;

/// What became of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The instance.
    pub id: String,
    /// Which hops after the edits are recalled: every token of an answer has the highest score.
    pub hops: Vec<bool>,
    /// The answers to the wordings of the question.
    pub answers: Vec<String>,
    /// Which of them are the new answer.
    pub right: Vec<bool>,
}

impl InstanceRecord {
    /// Whether all hops are recalled.
    pub fn is_recalled(&self) -> bool {
        !self.hops.is_empty() && self.hops.iter().all(|hop| *hop)
    }

    /// Whether any wording of the question is answered rightly.
    pub fn is_answered(&self) -> bool {
        self.right.iter().any(|right| *right)
    }
}

/// Facts that no edit touches, as sentences by relation, to be put before a cloze of the relation.
#[derive(Clone, Debug, Default)]
pub struct Demonstrations(BTreeMap<String, Vec<String>>);

impl Demonstrations {
    /// The first few hops of each relation that no instance changes.
    pub fn new(instances: &[Instance]) -> Self {
        let mut changed: BTreeSet<&str> = BTreeSet::new();
        for instance in instances {
            let same = |hop: &Hop| instance.hops.iter().any(|old| old == hop);
            let new = instance.new_hops.iter().filter(|hop| !same(hop));
            changed.extend(new.map(|hop| hop.cloze.as_str()));
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for hop in instances.iter().flat_map(|instance| &instance.hops) {
            let (Some(relation), Some(answer)) = (&hop.relation, hop.answers.first()) else {
                continue;
            };
            let sentence = format!("{} {answer}", hop.cloze);
            let own = found.entry(relation.clone()).or_default();
            let wanted = own.len() < DEMONSTRATIONS && !own.contains(&sentence);
            if wanted && !changed.contains(hop.cloze.as_str()) {
                own.push(sentence);
            }
        }
        Self(found)
    }

    /// A cloze behind the demonstrations of its relation, one a line.
    fn before(&self, hop: &Hop) -> String {
        let relation = hop.relation.as_ref();
        let lines = relation.and_then(|relation| self.0.get(relation));
        let own = lines.into_iter().flatten();
        let others = own.filter(|line| !line.starts_with(&hop.cloze));
        let mut text: Vec<&str> = others.map(String::as_str).collect();
        text.push(&hop.cloze);
        text.join("\n")
    }
}

/// Asks a model about instances. `shots` stands before every question, which follows as `Q: …\nA:`.
///
/// # Errors
/// Questions that are longer than the model's positions.
pub fn score_instances(
    model: &Scored<'_>,
    instances: &[Instance],
    demonstrations: &Demonstrations,
    shots: &str,
    answering: &Answering,
) -> Result<Vec<InstanceRecord>> {
    let mut recalled = recalled(model, instances, demonstrations)?.into_iter();
    let questions = instances.iter().flat_map(|instance| &instance.questions);
    let prompts: Vec<String> = questions
        .map(|question| format!("{shots}Q: {question}\nA:"))
        .collect();
    let mut texts = answers(model, &prompts, answering)?.into_iter();
    let record = |instance: &Instance| {
        let answers: Vec<String> = texts
            .by_ref()
            .take(instance.questions.len())
            .map(|text| stated_answer(&text).to_owned())
            .collect();
        let right =
            |text: &String| matches_any(text, instance.new_answers.iter().map(String::as_str));
        InstanceRecord {
            id: instance.id.clone(),
            hops: recalled.by_ref().take(instance.new_hops.len()).collect(),
            right: answers.iter().map(right).collect(),
            answers,
        }
    };
    Ok(instances.iter().map(record).collect())
}

/// Whether each hop of all instances is recalled, in order.
fn recalled(
    model: &Scored<'_>,
    instances: &[Instance],
    demonstrations: &Demonstrations,
) -> Result<Vec<bool>> {
    let hops: Vec<&Hop> = instances.iter().flat_map(|one| &one.new_hops).collect();
    let mut queries = Vec::new();
    for hop in &hops {
        let prompt = demonstrations.before(hop);
        for answer in &hop.answers {
            queries.push(Query::new(model.tokenizer, &prompt, answer)?);
        }
    }
    let found = forced(model, &queries)?;
    let exact = queries.iter().zip(&found);
    let mut exact = exact.map(|(query, one)| one.best == query.target());
    let any = |hop: &&Hop| {
        let hits: Vec<bool> = exact.by_ref().take(hop.answers.len()).collect();
        hits.into_iter().any(|hit| hit)
    };
    Ok(hops.iter().map(any).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(cloze: &str, answer: &str) -> Hop {
        Hop {
            cloze: cloze.into(),
            answers: vec![answer.into()],
            relation: Some("P6".into()),
            ..Hop::default()
        }
    }

    #[test]
    fn demonstrations_are_facts_that_stay() {
        let stays = hop("The head of Apex is", "Cy");
        let instances = [Instance {
            hops: vec![hop("The head of Acme is", "Al"), stays.clone()],
            new_hops: vec![hop("The head of Acme is", "Bo"), stays.clone()],
            ..Instance::default()
        }];
        let shown = Demonstrations::new(&instances);
        let before = shown.before(&instances[0].new_hops[0]);
        assert_eq!(before, "The head of Apex is Cy\nThe head of Acme is");
        // A fact is no demonstration of itself.
        assert_eq!(shown.before(&stays), "The head of Apex is");
        assert_eq!(
            Demonstrations::default().before(&stays),
            "The head of Apex is"
        );
    }

    #[test]
    fn an_instance_needs_all_hops_and_any_answer() {
        let record = InstanceRecord {
            hops: vec![true, false],
            right: vec![false, true, false],
            ..InstanceRecord::default()
        };
        assert!(!record.is_recalled() && record.is_answered());
        assert!(!InstanceRecord::default().is_recalled());
    }
}
