//! Does what the model writes about a subject read like texts about things of which the new fact is true?
//!
//! The reference score is the cosine between TF-IDF vectors of what was written and of reference texts
//! (Meng et al., arXiv 2202.05262, appendix C). The weights are fitted on all reference texts, and terms
//! that none of them has are left out.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::read_json;
use modelsmith_data::edits::EditRequest;
use modelsmith_data::{Terms, Tfidf};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Cosine of two texts; 0 where one has no known term.
pub fn cosine(weights: &Tfidf, one: &str, other: &str) -> f64 {
    let other: BTreeMap<u32, f32> = weights.vector(other).into_iter().collect();
    let one = weights.vector(one).into_iter();
    let shared = one.filter_map(|(term, a)| Some(f64::from(a) * f64::from(*other.get(&term)?)));
    shared.sum()
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
#[derive(Clone, Debug)]
pub struct Snippets {
    by_target: BTreeMap<(String, String), Vec<Snippet>>,
    weights: Tfidf,
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
            weights: Tfidf::fit(&[Terms::Words], all),
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
        comparable.then(|| cosine(&self.weights, &written.join(" "), &texts.join(" ")))
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
        assert!((score - 1.0).abs() < 1e-6, "{score}");
        assert_eq!(
            snippets.essence(&request).as_deref(),
            Some("Ada lives in Oslo")
        );
        request.target_id = Some("Q585".into());
        assert_eq!(snippets.score(&request, &written), None);
        assert_eq!(snippets.essence(&request), None);
    }
}
