//! Requests to edit facts of the house world.

use std::collections::BTreeSet;

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;

use super::world::{Fact, HouseConfig, facts, is_personal};
use crate::edits::{EditRequest, Neighbour, Probe};

/// Neighbours of a request at most, as many as CounterFact has.
const NEIGHBOURS: usize = 10;

/// `count` requests drawn under `seed`: one fact of each person, a second one of each when all have been
/// edited, and so on.
///
/// The first wording of a relation is the prompt, the others are paraphrases. Neighbours ask for the
/// same relation of people who are not edited; those who share the true answer come first, and none has
/// the new one. The other facts of the person are asked as `locality`.
///
/// # Errors
/// More requests than people, and as [`facts`].
pub fn edits(config: &HouseConfig, count: usize, seed: u64) -> Result<Vec<EditRequest>> {
    let facts = facts(config)?;
    let personal: Vec<&Fact> = facts.iter().filter(|fact| is_personal(fact)).collect();
    let mut people: Vec<&[&Fact]> = personal.chunk_by(|a, b| a.subject == b.subject).collect();
    if !(1..=personal.len()).contains(&count) {
        return Err(Error::Usage(format!(
            "{count} edits were asked for; {} people have {} facts: ask for 1 to {}, or make a world of \
             more people",
            people.len(),
            personal.len(),
            personal.len()
        )));
    }
    let mut draw = Stream::new(seed, "house/edits");
    draw.shuffle(&mut people);
    let orders: Vec<Vec<&Fact>> = people
        .iter()
        .map(|facts| shuffled(facts, &mut draw))
        .collect();
    let rounds = 0..orders.iter().map(Vec::len).max().unwrap_or(0);
    let all = rounds.flat_map(|round| orders.iter().filter_map(move |facts| facts.get(round)));
    let chosen: Vec<&Fact> = all.take(count).copied().collect();
    let edited: BTreeSet<usize> = chosen.iter().map(|fact| fact.id).collect();
    let untouched: Vec<&Fact> = personal
        .iter()
        .copied()
        .filter(|fact| !edited.contains(&fact.id))
        .collect();
    let request = |fact: &&Fact| request(fact, &facts, &untouched, seed);
    Ok(chosen.iter().map(request).collect())
}

fn shuffled<'a>(facts: &[&'a Fact], draw: &mut Stream) -> Vec<&'a Fact> {
    let mut facts = facts.to_vec();
    draw.shuffle(&mut facts);
    facts
}

fn request(fact: &Fact, facts: &[Fact], untouched: &[&Fact], seed: u64) -> EditRequest {
    let mut draw = Stream::new(seed, &format!("house/edits/{}", fact.id));
    let same = |other: &&&Fact| other.relation == fact.relation;
    let mut objects: Vec<&str> = facts
        .iter()
        .filter(|other| other.relation == fact.relation)
        .map(|other| other.object.as_str())
        .filter(|object| *object != fact.object && *object != fact.subject)
        .collect();
    objects.sort_unstable();
    objects.dedup();
    // A world in which all share one object still has the target that the world itself drew.
    let target_new = match objects.len() {
        0 => fact.target_new.clone(),
        count => objects[draw.below(count)].to_string(),
    };
    let mut others: Vec<&&Fact> = untouched
        .iter()
        .filter(same)
        .filter(|other| other.object != target_new && other.subject != fact.subject)
        .collect();
    draw.shuffle(&mut others);
    others.sort_by_key(|other| other.object != fact.object);
    let neighbour = |other: &&&Fact| Neighbour {
        prompt: other.prompts[0].clone(),
        answer: Some(other.object.clone()),
    };
    let about_it = |other: &&&Fact| other.subject == fact.subject;
    let probe = |other: &&Fact| Probe {
        kind: "Relation_Specificity".into(),
        prompt: other.prompts[0].clone(),
        answers: vec![other.object.clone()],
    };
    EditRequest {
        id: format!("house-{}", fact.id),
        prompt: fact.templates[0].clone(),
        subject: fact.subject.clone(),
        target_true: Some(fact.object.clone()),
        relation: Some(fact.relation.clone()),
        paraphrases: fact.prompts[1..].to_vec(),
        neighbours: others.iter().take(NEIGHBOURS).map(neighbour).collect(),
        locality: untouched.iter().filter(about_it).map(probe).collect(),
        generation: fact.prompts[..2].to_vec(),
        target_new,
        ..EditRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::{Conflicts, HostChecks, validate};

    #[test]
    fn requests_are_about_different_people_and_leave_their_neighbours_alone() {
        let config = HouseConfig::default();
        let world = facts(&config).unwrap();
        let all = edits(&config, 200, 3).unwrap();
        validate(&all, "house", Conflicts::Refuse, HostChecks::default()).unwrap();
        let subjects: BTreeSet<&str> = all.iter().map(|edit| edit.subject.as_str()).collect();
        assert_eq!((all.len(), subjects.len()), (200, 200));
        for edit in &all {
            let relation = edit.relation.as_deref().unwrap();
            assert_eq!((edit.paraphrases.len(), edit.neighbours.len()), (5, 10));
            assert_eq!(edit.locality.len(), 4);
            for neighbour in &edit.neighbours {
                let stated = world
                    .iter()
                    .find(|fact| fact.relation == relation && fact.prompts[0] == neighbour.prompt)
                    .unwrap();
                let changed = |other: &EditRequest| {
                    other.subject == stated.subject && other.relation.as_deref() == Some(relation)
                };
                assert!(!all.iter().any(changed));
                assert_eq!(edit.answer_of(neighbour), Some(stated.object.as_str()));
                assert_ne!(edit.answer_of(neighbour), Some(edit.target_new.as_str()));
            }
        }
    }

    #[test]
    fn the_seed_decides_and_too_many_are_refused() {
        let config = HouseConfig {
            people: 20,
            ..HouseConfig::default()
        };
        let some = edits(&config, 5, 1).unwrap();
        assert_eq!(some, edits(&config, 5, 1).unwrap());
        assert_ne!(some, edits(&config, 5, 2).unwrap());
        for count in [0, 101] {
            let problem = edits(&config, count, 1).unwrap_err().to_string();
            assert!(problem.contains("1 to 100"), "{problem}");
        }
    }

    #[test]
    fn a_second_fact_of_a_person_comes_when_all_have_one() {
        let config = HouseConfig {
            people: 20,
            ..HouseConfig::default()
        };
        let all = edits(&config, 45, 1).unwrap();
        let names = |all: &[EditRequest]| -> Vec<String> {
            all.iter().map(|edit| edit.id.clone()).collect()
        };
        assert_eq!(names(&all[..20]), names(&edits(&config, 20, 1).unwrap()));
        let subjects = |part: &[EditRequest]| -> BTreeSet<String> {
            part.iter().map(|edit| edit.subject.clone()).collect()
        };
        assert_eq!(subjects(&all[..20]).len(), 20);
        assert_eq!(subjects(&all[20..40]).len(), 20);
        let facts: BTreeSet<&str> = all.iter().map(|edit| edit.id.as_str()).collect();
        assert_eq!(facts.len(), 45);
    }
}
