//! The revision engine: store, vectors, retrieval, and a model's answers with them.

use super::embed::{Embedder, Vector};
use super::negation::{Conflict, contradict, opposed};
use super::polarity::Lexicon;
use super::prompt::Wording;
use super::speak::Speaker;
use super::store::{Filter, Revision, Store};
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How revisions are looked up and used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Revisions in a prompt at most.
    pub neighbours: usize,
    /// Only revisions of greater cosine are used. It is a property of the embedder; fit it.
    pub threshold: f64,
    /// Revisions of another number of negations than the question, modulo 2, are not used.
    pub mind_negation: bool,
    /// How prompts are worded.
    pub wording: Wording,
    /// The embedder that the threshold was fitted for; empty where none was.
    pub embedder: String,
    /// Revisions that there were when the threshold was fitted.
    pub fitted_at: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            neighbours: 1,
            threshold: 0.9,
            mind_negation: true,
            wording: Wording::default(),
            embedder: String::new(),
            fitted_at: 0,
        }
    }
}

/// A revision near a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Its number.
    pub id: u64,
    /// Cosine with the question.
    pub similarity: f64,
}

/// What became of a new revision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Added {
    /// Its number.
    pub id: u64,
    /// Revisions near it that say the opposite; both count until the user decides.
    pub conflicts: Vec<Conflict>,
}

/// Why an answer is as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The nearest revisions, used or not, and why not.
    pub nearest: Vec<(Hit, Option<&'static str>)>,
    /// What the model reads.
    pub prompt: String,
    /// The threshold was fitted for another embedder, or for half as many revisions or fewer.
    pub stale_threshold: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The revisions that were in the prompt, nearest first; none where the model answered alone.
    pub hits: Vec<Hit>,
    /// What kept revisions from being looked up; the model answered alone then.
    pub problem: Option<String>,
}

/// Looks revisions up and answers with them.
pub struct Engine<'a> {
    store: Store,
    embedder: Box<dyn Embedder + 'a>,
    /// Vectors of the revisions that count, by number.
    vectors: Vec<(u64, Vector)>,
    /// How revisions are looked up and used.
    pub settings: Settings,
    lexicon: Lexicon,
}

impl<'a> Engine<'a> {
    /// An engine over a store.
    ///
    /// # Errors
    /// What the embedder refuses.
    pub fn new(store: Store, embedder: Box<dyn Embedder + 'a>, settings: Settings) -> Result<Self> {
        Self::with_vectors(store, embedder, settings, Vec::new())
    }

    /// An engine over a store of which some vectors are known; those that no revision has are dropped.
    pub(super) fn with_vectors(
        store: Store,
        embedder: Box<dyn Embedder + 'a>,
        settings: Settings,
        vectors: Vec<(u64, Vector)>,
    ) -> Result<Self> {
        let mut engine = Self {
            store,
            embedder,
            vectors,
            settings,
            lexicon: Lexicon::default(),
        };
        engine.refresh()?;
        Ok(engine)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn vectors(&self) -> &[(u64, Vector)] {
        &self.vectors
    }

    /// The embedder's name.
    pub fn embedder_name(&self) -> String {
        self.embedder.name()
    }

    /// Makes the vectors fit the store. Those that are there stay, unless the embedder has changed.
    fn refresh(&mut self) -> Result<()> {
        let counted: Vec<(u64, &str)> = self
            .store
            .list(Filter::default())
            .map(|revision| (revision.id, revision.question.as_str()))
            .collect();
        let texts: Vec<&str> = counted.iter().map(|(_, text)| *text).collect();
        if self.embedder.fit(&texts) {
            self.vectors.clear();
        }
        let is_new = |id: u64| !self.vectors.iter().any(|(known, _)| *known == id);
        let fresh: Vec<(u64, &str)> = counted
            .iter()
            .copied()
            .filter(|(id, _)| is_new(*id))
            .collect();
        let texts: Vec<&str> = fresh.iter().map(|(_, text)| *text).collect();
        let found = self.embedder.embed(&texts)?;
        self.vectors
            .retain(|(id, _)| counted.iter().any(|(counted, _)| counted == id));
        self.vectors
            .extend(fresh.iter().map(|(id, _)| *id).zip(found));
        self.vectors.sort_by_key(|(id, _)| *id);
        Ok(())
    }

    /// Adds a revision; it counts from the next question on.
    ///
    /// # Errors
    /// As [`Store::add`], and what the embedder refuses.
    pub fn add(&mut self, revision: Revision) -> Result<Added> {
        let scope = revision.scope.clone();
        let near = self.near(&revision.question, &scope)?;
        let mut conflicts = Vec::new();
        for hit in near
            .iter()
            .filter(|hit| hit.similarity > self.settings.threshold)
        {
            let Some(other) = self.store.get(hit.id) else {
                continue;
            };
            let own = (revision.question.as_str(), revision.answer.as_str());
            if contradict(own, (&other.question, &other.answer), &self.lexicon) {
                conflicts.push(Conflict {
                    id: hit.id,
                    similarity: hit.similarity,
                    question: other.question.clone(),
                    answer: other.answer.clone(),
                });
            }
        }
        let id = self
            .store
            .add([revision])?
            .first()
            .copied()
            .unwrap_or_default();
        self.refresh()?;
        Ok(Added { id, conflicts })
    }

    /// Adds many at once, without looking for conflicts.
    ///
    /// # Errors
    /// As [`Engine::add`].
    pub fn extend(&mut self, revisions: impl IntoIterator<Item = Revision>) -> Result<Vec<u64>> {
        let numbers = self.store.add(revisions)?;
        self.refresh()?;
        Ok(numbers)
    }

    /// Changes a revision.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn update(&mut self, revision: Revision) -> Result<()> {
        let id = revision.id;
        self.store.update(revision)?;
        self.vectors.retain(|(known, _)| *known != id);
        self.refresh()
    }

    /// Takes a revision out; every answer is then what it was before it.
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn remove(&mut self, id: u64) -> Result<Revision> {
        let removed = self.store.remove(id)?;
        self.refresh()?;
        Ok(removed)
    }

    /// All revisions of a scope by similarity, nearest first; of equals the older first.
    fn near(&self, text: &str, scope: &str) -> Result<Vec<Hit>> {
        let found = self.embedder.embed(&[text])?;
        let Some(vector) = found.first() else {
            return Err(Error::Failed("the embedder gave no vector".into()));
        };
        let filter = Filter {
            scope: Some(scope),
            ..Filter::default()
        };
        let counted: Vec<u64> = self
            .store
            .list(filter)
            .map(|revision| revision.id)
            .collect();
        let mut hits: Vec<Hit> = self
            .vectors
            .iter()
            .filter(|(id, _)| counted.binary_search(id).is_ok())
            .map(|(id, other)| Hit {
                id: *id,
                similarity: vector.cosine(other),
            })
            .collect();
        hits.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.id.cmp(&b.id)));
        Ok(hits)
    }

    /// Why a hit is not used, the `used` ones before it aside.
    fn refused(&self, text: &str, hit: &Hit, used: usize) -> Option<&'static str> {
        let question = self
            .store
            .get(hit.id)
            .map_or("", |revision| revision.question.as_str());
        match () {
            () if hit.similarity <= self.settings.threshold => Some("below the threshold"),
            () if self.settings.mind_negation && opposed(text, question) => {
                Some("one of the two negates")
            }
            () if used >= self.settings.neighbours => Some("nearer ones are enough"),
            () => None,
        }
    }

    /// The revisions that a question of a scope is answered with, nearest first.
    ///
    /// # Errors
    /// What the embedder refuses.
    pub fn query(&self, text: &str, scope: &str) -> Result<Vec<Hit>> {
        let mut used: Vec<Hit> = Vec::new();
        for hit in self.near(text, scope)? {
            if used.len() == self.settings.neighbours || hit.similarity <= self.settings.threshold {
                break;
            }
            if self.refused(text, &hit, used.len()).is_none() {
                used.push(hit);
            }
        }
        Ok(used)
    }

    /// The nearest revisions with what speaks against them, and the prompt.
    ///
    /// # Errors
    /// What the embedder refuses.
    pub fn explain(&self, text: &str, scope: &str, most: usize) -> Result<Explanation> {
        let mut used = 0;
        let nearest = self.near(text, scope)?.into_iter().take(most).map(|hit| {
            let reason = self.refused(text, &hit, used);
            used += usize::from(reason.is_none());
            (hit, reason)
        });
        let nearest = nearest.collect();
        let settings = &self.settings;
        let other = !settings.embedder.is_empty() && settings.embedder != self.embedder.name();
        let doubled = settings.fitted_at > 0 && self.vectors.len() >= 2 * settings.fitted_at;
        Ok(Explanation {
            prompt: self.prompt(text, &self.query(text, scope)?),
            nearest,
            stale_threshold: other || doubled,
        })
    }

    /// What the model reads.
    pub fn prompt(&self, text: &str, hits: &[Hit]) -> String {
        let revisions = hits.iter().filter_map(|hit| self.store.get(hit.id));
        let pairs: Vec<(&str, &str)> = revisions
            .map(|revision| (revision.question.as_str(), revision.answer.as_str()))
            .collect();
        self.settings.wording.prompt(text, &pairs)
    }

    /// Answers questions of a scope. Where revisions cannot be looked up the model answers alone, and the
    /// answer says so.
    ///
    /// # Errors
    /// What the model refuses.
    pub fn answer(
        &self,
        speaker: &dyn Speaker,
        texts: &[&str],
        scope: &str,
    ) -> Result<Vec<Answer>> {
        let found: Vec<(Vec<Hit>, Option<String>)> = texts
            .iter()
            .map(|text| match self.query(text, scope) {
                Ok(hits) => (hits, None),
                Err(problem) => (Vec::new(), Some(problem.to_string())),
            })
            .collect();
        let prompts: Vec<String> = texts
            .iter()
            .zip(&found)
            .map(|(text, (hits, _))| self.prompt(text, hits))
            .collect();
        let spoken = speaker.speak(&prompts)?;
        let answers = found.into_iter().zip(prompts).zip(spoken);
        Ok(answers
            .map(|(((hits, problem), prompt), text)| Answer {
                text: self.trimmed(&prompt, &text),
                hits,
                problem,
            })
            .collect())
    }

    /// The answer without the prompt, if the model repeats it; its first line where lines part examples.
    fn trimmed(&self, prompt: &str, text: &str) -> String {
        let text = text.strip_prefix(prompt).unwrap_or(text);
        let text = match self.settings.wording.examples {
            true => text.trim_start().split('\n').next().unwrap_or_default(),
            false => text,
        };
        text.trim().to_owned()
    }

    /// The answer of the nearest revision that is used, copied: what a model adds is measured against it.
    ///
    /// # Errors
    /// What the embedder refuses.
    pub fn copied(&self, text: &str, scope: &str) -> Result<Option<String>> {
        let hits = self.query(text, scope)?;
        let nearest = hits.first().and_then(|hit| self.store.get(hit.id));
        Ok(nearest.map(|revision| revision.answer.clone()))
    }

    /// `(similarity of the nearest other revision, whether its answer is the same)` of each revision: what a
    /// threshold is fitted to.
    pub fn left_out(&self) -> Vec<(f64, bool)> {
        let answer = |id: u64| self.store.get(id).map(|revision| revision.answer.as_str());
        let nearest = |id: u64, vector: &Vector| {
            let others = self.vectors.iter().filter(|(other, _)| *other != id);
            let scored = others.map(|(other, found)| (vector.cosine(found), *other));
            scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
        };
        let all = self.vectors.iter();
        all.filter_map(|(id, vector)| {
            let (similarity, other) = nearest(*id, vector)?;
            Some((similarity, answer(*id) == answer(other)))
        })
        .collect()
    }

    /// Fits the threshold to the store itself, each revision asked of the others, and keeps what it is for.
    ///
    /// # Errors
    /// As [`super::fit`].
    pub fn fit_threshold(&mut self, precision: f64) -> Result<super::Fit> {
        let found = super::fit(&self.left_out(), precision)?;
        self.settings.threshold = found.threshold;
        self.settings.embedder = self.embedder.name();
        self.settings.fitted_at = self.vectors.len();
        Ok(found)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
