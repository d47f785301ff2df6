//! Who lives where and works for whom: the facts.

use std::collections::BTreeMap;

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{CITIES, COMPANIES, FIRST, LAST, PROFESSIONS};
use super::relations::{Kind, RELATIONS, Relation};

/// What the house corpus is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HouseConfig {
    /// Seed of names, facts, order and wording.
    pub seed: u64,
    /// Number of people, 2 to 5120.
    pub people: usize,
    /// Biographies of each person; every one states all facts in a new order and wording.
    pub biographies: usize,
    /// How often each fact stands alone in each of its wordings.
    pub statements: usize,
    /// Share of people whose questions are held out.
    pub held_out: f64,
    /// Ids in the tokenizer.
    pub vocabulary: usize,
    /// Longest sequence that the tokenizer's configuration names.
    pub max_length: usize,
}

impl Default for HouseConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            people: 200,
            biographies: 12,
            statements: 1,
            held_out: 0.2,
            vocabulary: 1024,
            max_length: 256,
        }
    }
}

impl HouseConfig {
    pub(super) fn check(&self) -> Result<()> {
        let most = FIRST.len() * LAST.len();
        if !(2..=most).contains(&self.people) {
            return Err(Error::config(
                "house.people",
                format!("is {}; must be 2 to {most}", self.people),
            ));
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return Err(Error::config(
                "house.held_out",
                format!("is {}; must be at least 0 and below 1", self.held_out),
            ));
        }
        Ok(())
    }
}

/// One fact, in the form that editing and evaluation read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Number in `facts.jsonl`, from 0.
    pub id: usize,
    /// What the fact is about.
    pub subject: String,
    /// Name of the relation.
    pub relation: String,
    /// What is true.
    pub object: String,
    /// Another object of the relation, that is not true of the subject: what an edit may claim.
    pub target_new: String,
    /// All wordings up to the object, the subject filled in.
    pub prompts: Vec<String>,
    /// The same wordings with `{}` for the subject.
    pub templates: Vec<String>,
    /// Other subjects of which the relation has the same object.
    pub neighbours: Vec<String>,
}

/// All facts: those of each person in the order of [`RELATIONS`], then companies, then cities.
///
/// # Errors
/// [`Error::Config`] when a number is out of range.
pub fn facts(config: &HouseConfig) -> Result<Vec<Fact>> {
    config.check()?;
    let people = people(config);
    let mut facts = Vec::new();
    let [
        birthplace,
        residence,
        employer,
        profession,
        mentor,
        headquarters,
        country,
    ] = &RELATIONS;
    let mut draw = Stream::new(config.seed, "house/facts");
    // A fifth of the people teach, so that pupils of one mentor are neighbours.
    let mentors = (config.people / 5).max(2);
    for (index, person) in people.iter().enumerate() {
        let other = (index + 1 + draw.below(mentors - 1)) % mentors;
        let teacher = if index < mentors {
            other
        } else {
            draw.below(mentors)
        };
        facts.push(fact(birthplace, person, CITIES[draw.below(CITIES.len())].0));
        facts.push(fact(residence, person, CITIES[draw.below(CITIES.len())].0));
        facts.push(fact(
            employer,
            person,
            COMPANIES[draw.below(COMPANIES.len())],
        ));
        facts.push(fact(
            profession,
            person,
            PROFESSIONS[draw.below(PROFESSIONS.len())],
        ));
        facts.push(fact(mentor, person, &people[teacher]));
    }
    for company in COMPANIES {
        facts.push(fact(
            headquarters,
            company,
            CITIES[draw.below(CITIES.len())].0,
        ));
    }
    for (city, its_country) in CITIES {
        facts.push(fact(country, city, its_country));
    }
    connect(&mut facts, config.seed);
    Ok(facts)
}

/// Full names, each once; family names are shared by as few people as can be.
fn people(config: &HouseConfig) -> Vec<String> {
    let mut stream = Stream::new(config.seed, "house/names");
    let (mut first, mut last) = (FIRST, LAST);
    stream.shuffle(&mut first);
    stream.shuffle(&mut last);
    let name = |index: usize| {
        let round = index / last.len();
        // One round shifts given names by 80 + 7, odd and so prime to their number 64: no
        // family name meets a given name twice.
        format!(
            "{} {}",
            first[(index + 7 * round) % first.len()],
            last[index % last.len()]
        )
    };
    (0..config.people).map(name).collect()
}

fn fact(relation: &Relation, subject: &str, object: &str) -> Fact {
    Fact {
        id: 0,
        subject: subject.into(),
        relation: relation.name.into(),
        object: object.into(),
        target_new: String::new(),
        prompts: relation
            .prompts
            .iter()
            .map(|prompt| prompt.replace("{}", subject))
            .collect(),
        templates: relation
            .prompts
            .iter()
            .map(|prompt| (*prompt).into())
            .collect(),
        neighbours: Vec::new(),
    }
}

/// Numbers the facts, finds neighbours, and draws false objects.
fn connect(facts: &mut [Fact], seed: u64) {
    let mut subjects: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for fact in facts.iter() {
        let key = (fact.relation.clone(), fact.object.clone());
        subjects.entry(key).or_default().push(fact.subject.clone());
        let known = objects.entry(fact.relation.clone()).or_default();
        if !known.contains(&fact.object) {
            known.push(fact.object.clone());
        }
    }
    let mut draw = Stream::new(seed, "house/targets");
    for (id, fact) in facts.iter_mut().enumerate() {
        fact.id = id;
        let key = (fact.relation.clone(), fact.object.clone());
        let sharing = subjects.get(&key).into_iter().flatten();
        fact.neighbours = sharing
            .filter(|subject| **subject != fact.subject)
            .cloned()
            .collect();
        let known = objects.get(&fact.relation).into_iter().flatten();
        let others: Vec<&String> = known
            .filter(|object| **object != fact.object && **object != fact.subject)
            .collect();
        if !others.is_empty() {
            fact.target_new = others[draw.below(others.len())].clone();
        }
    }
}

/// The relation of this name.
pub(super) fn relation(name: &str) -> Option<&'static Relation> {
    RELATIONS.iter().find(|relation| relation.name == name)
}

/// Whether a fact is about a person.
pub(super) fn is_personal(fact: &Fact) -> bool {
    relation(&fact.relation).is_some_and(|relation| relation.subject == Kind::Person)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn people_are_distinct_up_to_the_most() {
        for people in [2, 200, 5120] {
            let config = HouseConfig {
                people,
                ..HouseConfig::default()
            };
            let names: BTreeSet<String> = super::people(&config).into_iter().collect();
            assert_eq!(names.len(), people);
        }
    }

    #[test]
    fn facts_are_consistent() {
        let facts = facts(&HouseConfig::default()).unwrap();
        assert_eq!(facts.len(), 200 * 5 + COMPANIES.len() + CITIES.len());
        for (id, fact) in facts.iter().enumerate() {
            assert_eq!(fact.id, id);
            assert_ne!(fact.subject, fact.object);
            assert_ne!(fact.target_new, fact.object);
            assert!(!fact.target_new.is_empty());
            assert!(!fact.neighbours.contains(&fact.subject));
            assert!(
                fact.prompts
                    .iter()
                    .all(|prompt| prompt.contains(&fact.subject))
            );
        }
        let alone = facts
            .iter()
            .filter(|fact| is_personal(fact) && fact.neighbours.is_empty())
            .count();
        assert!(alone < 20, "{alone} facts have no neighbour");
        assert!(
            super::facts(&HouseConfig {
                people: 1,
                ..HouseConfig::default()
            })
            .is_err()
        );
    }
}
