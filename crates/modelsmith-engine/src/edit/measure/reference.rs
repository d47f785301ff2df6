//! Does what the model writes about a subject read like texts about things of which the new fact is true?
//!
//! The reference score is the cosine between TF-IDF vectors of what was written and of reference texts
//! (Meng et al., arXiv 2202.05262, appendix C). The weights are scikit-learn's defaults:
//!
//! ```text
//! terms   runs of two or more letters, digits or underscores, in lower case
//! idf     ln((1 + N) / (1 + df)) + 1        over the N texts that it was fitted on
//! vector  count × idf, of unit length; terms that were not seen are left out
//! ```

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::read_json;
use modelsmith_data::edits::EditRequest;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Weights of terms, fitted on texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TermWeights {
    idf: BTreeMap<String, f64>,
}

impl TermWeights {
    /// The weights by how many of `texts` have each term.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut frequencies: BTreeMap<String, u64> = BTreeMap::new();
        let mut count = 0_u64;
        for text in texts {
            count += 1;
            for term in terms(text).into_iter().collect::<BTreeSet<String>>() {
                *frequencies.entry(term).or_default() += 1;
            }
        }
        let weight = |frequency: u64| ((1 + count) as f64 / (1 + frequency) as f64).ln() + 1.0;
        let weighted = frequencies.into_iter();
        Self {
            idf: weighted
                .map(|(term, frequency)| (term, weight(frequency)))
                .collect(),
        }
    }

    /// The terms of a text with their weights, of unit length; empty where none is known.
    pub fn vector(&self, text: &str) -> BTreeMap<&str, f64> {
        let mut vector: BTreeMap<&str, f64> = BTreeMap::new();
        for term in terms(text) {
            if let Some((term, idf)) = self.idf.get_key_value(&term) {
                *vector.entry(term).or_default() += idf;
            }
        }
        let length = vector
            .values()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        vector.values_mut().for_each(|value| *value /= length);
        vector
    }

    /// Cosine of two texts; 0 where one has no known term.
    pub fn cosine(&self, one: &str, other: &str) -> f64 {
        let other = self.vector(other);
        let one = self.vector(one);
        let shared = one
            .iter()
            .filter_map(|(term, a)| Some(a * other.get(term)?));
        shared.sum()
    }
}

fn terms(text: &str) -> Vec<String> {
    let part = |character: char| character == '_' || character.is_alphanumeric();
    let lower = text.to_lowercase();
    let runs = lower.split(|character| !part(character));
    runs.filter(|run| run.chars().nth(1).is_some())
        .map(str::to_owned)
        .collect()
}

/// A text about an entity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Snippet {
    /// The entity.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Texts about entities by relation and target: the layout of CounterFact's file of attribute snippets.
#[derive(Clone, Debug, Default)]
pub struct Snippets {
    by_target: BTreeMap<(String, String), Vec<Snippet>>,
    weights: TermWeights,
}

#[derive(Deserialize)]
struct Group {
    relation_id: String,
    target_id: String,
    samples: Vec<Snippet>,
}

impl Snippets {
    /// Reads a list of `{relation_id, target_id, samples: [{name, text}]}`.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub fn read(path: &Path) -> Result<Self> {
        let groups: Vec<Group> = read_json(path)?;
        if groups.is_empty() {
            return Err(Error::file(
                path,
                "holds no texts; there is nothing to compare with",
            ));
        }
        let keyed = groups.into_iter().map(|group| {
            let key = (group.relation_id, group.target_id);
            (key, group.samples)
        });
        Ok(Self::new(keyed))
    }

    /// Texts by relation and target, the target as the requests identify it.
    pub fn new(groups: impl IntoIterator<Item = ((String, String), Vec<Snippet>)>) -> Self {
        let mut by_target: BTreeMap<(String, String), Vec<Snippet>> = BTreeMap::new();
        for (key, samples) in groups {
            by_target.entry(key).or_default().extend(samples);
        }
        let all = by_target.values().flatten().map(|one| one.text.as_str());
        Self {
            weights: TermWeights::fit(all),
            by_target,
        }
    }

    /// Texts about entities that have the new target by the relation of the request.
    fn of(&self, request: &EditRequest) -> &[Snippet] {
        let target = request.target_id.as_ref().unwrap_or(&request.target_new);
        let relation = request.relation.clone().unwrap_or_default();
        let found = self.by_target.get(&(relation, target.clone()));
        found.map_or(&[], Vec::as_slice)
    }

    /// Reference score of what was written; `None` where there are no texts to compare with.
    pub fn score(&self, request: &EditRequest, written: &[String]) -> Option<f64> {
        let texts: Vec<&str> = self
            .of(request)
            .iter()
            .map(|one| one.text.as_str())
            .collect();
        let comparable = !texts.is_empty() && !written.is_empty();
        comparable.then(|| self.weights.cosine(&written.join(" "), &texts.join(" ")))
    }

    /// Texts about the subject itself, joined; `None` where there are none.
    pub fn essence(&self, request: &EditRequest) -> Option<String> {
        let own = self
            .of(request)
            .iter()
            .filter(|one| one.name == request.subject);
        let texts: Vec<&str> = own.map(|one| one.text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_as_by_hand() {
        let weights = TermWeights::fit(["The cat", "the dog", "a dog_1 barks"]);
        // ln(4/3) + 1 for what two of three texts have, ln(2) + 1 for what one has.
        let expected = [("cat", 2f64.ln() + 1.0), ("the", (4f64 / 3.0).ln() + 1.0)];
        for (term, weight) in expected {
            assert!((weights.idf[term] - weight).abs() < 1e-12);
        }
        assert!(!weights.idf.contains_key("a") && weights.idf.contains_key("dog_1"));
        assert!((weights.cosine("the cat", "cat, the!") - 1.0).abs() < 1e-12);
        assert_eq!(weights.cosine("nothing known", "the cat"), 0.0);
    }

    #[test]
    fn snippets_are_found_by_relation_and_target() {
        let snippet = |name: &str, text: &str| Snippet {
            name: name.into(),
            text: text.into(),
        };
        let texts = vec![
            snippet("Ada", "Ada lives in Oslo"),
            snippet("Bo", "Bo is in Oslo"),
        ];
        let snippets = Snippets::new([(("P1".into(), "Oslo".into()), texts)]);
        let mut request = EditRequest {
            subject: "Ada".into(),
            target_new: "Oslo".into(),
            relation: Some("P1".into()),
            ..EditRequest::default()
        };
        let written = ["Bo is in Oslo".to_owned(), "Ada lives in Oslo".to_owned()];
        let score = snippets.score(&request, &written).unwrap();
        assert!((score - 1.0).abs() < 1e-12, "{score}");
        assert_eq!(
            snippets.essence(&request).as_deref(),
            Some("Ada lives in Oslo")
        );
        request.target_id = Some("Q585".into());
        assert_eq!(snippets.score(&request, &written), None);
        assert_eq!(snippets.essence(&request), None);
    }
}
