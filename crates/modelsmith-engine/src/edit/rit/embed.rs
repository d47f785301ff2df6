//! Texts to vectors of length 1, whose products are cosines.

use crate::edit::surgery::States;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_data::{Sparse, Tfidf, Tokenizer};
use modelsmith_hosts::Transformer;

/// A vector of length 1, or less where a part of a text is unknown.
#[derive(Clone, Debug, PartialEq)]
pub enum Vector {
    /// All numbers.
    Dense(Vec<f32>),
    /// Those that are not 0, by place, ascending.
    Sparse(Sparse),
}

impl Vector {
    /// A dense vector, scaled to length 1.
    pub fn dense(mut values: Vec<f32>) -> Self {
        let length = values
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        if length > 0.0 {
            values
                .iter_mut()
                .for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        Self::Dense(values)
    }

    /// Cosine of two vectors; 0 where one of them is nothing, or where they are of different kinds.
    pub fn cosine(&self, other: &Self) -> f64 {
        match (self, other) {
            (Self::Dense(a), Self::Dense(b)) if a.len() == b.len() => a
                .iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum(),
            (Self::Sparse(a), Self::Sparse(b)) => sparse(a, b),
            _ => 0.0,
        }
    }
}

fn sparse(a: &Sparse, b: &Sparse) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while let (Some((p, x)), Some((q, y))) = (a.get(i), b.get(j)) {
        if p == q {
            sum += f64::from(*x) * f64::from(*y);
        }
        i += usize::from(p <= q);
        j += usize::from(q <= p);
    }
    sum
}

/// Turns texts to vectors, the same text always to the same one.
pub trait Embedder {
    /// Tells vectors of different makers apart; it is kept with the store.
    fn name(&self) -> String;

    /// Learns what is common among the texts of the store. True where vectors are others from then on.
    fn fit(&mut self, texts: &[&str]) -> bool {
        let _ = texts;
        false
    }

    /// A vector for each text.
    ///
    /// # Errors
    /// What the maker of the vectors refuses.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>>;
}

/// Weighted words and runs of characters: no weights, no model. Terms count by their rarity in the store; those
/// that it does not hold count against a text, so that vectors of questions may be shorter than 1.
#[derive(Clone, Debug)]
pub struct TermEmbedder {
    terms: Tfidf,
    fixed: bool,
}

impl TermEmbedder {
    /// Rarities follow the store.
    pub fn new() -> Self {
        Self {
            terms: Tfidf::of_words_and_characters(std::iter::empty()),
            fixed: false,
        }
    }

    /// Rarities of other texts, whatever the store holds.
    pub fn fitted<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        Self {
            terms: Tfidf::of_words_and_characters(texts),
            fixed: true,
        }
    }
}

impl Default for TermEmbedder {
    fn default() -> Self {
        Self::new()
    }
}

impl Embedder for TermEmbedder {
    fn name(&self) -> String {
        match self.fixed {
            true => format!(
                "tfidf words characters 3-4, fixed, {} terms",
                self.terms.width()
            ),
            false => "tfidf words characters 3-4".into(),
        }
    }

    fn fit(&mut self, texts: &[&str]) -> bool {
        if !self.fixed {
            self.terms = Tfidf::of_words_and_characters(texts.iter().copied());
        }
        !self.fixed
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>> {
        let vectors = texts
            .iter()
            .map(|text| Vector::Sparse(self.terms.known_part(text)));
        Ok(vectors.collect())
    }
}

/// Mean last hidden states of a model: a sentence encoder, or the language model that answers, whose common
/// part is taken off first (without that all its cosines are near 1).
pub struct StateEmbedder<'a> {
    host: &'a Transformer,
    tokenizer: &'a Tokenizer,
    /// What all texts have in common; nothing for a sentence encoder.
    centre: Option<Vec<f32>>,
}

impl<'a> StateEmbedder<'a> {
    /// States as they are: for sentence encoders.
    pub fn new(host: &'a Transformer, tokenizer: &'a Tokenizer) -> Self {
        Self {
            host,
            tokenizer,
            centre: None,
        }
    }

    /// States minus their mean over generic sentences: for language models.
    ///
    /// # Errors
    /// No sentence that the model can read.
    pub fn centred(
        host: &'a Transformer,
        tokenizer: &'a Tokenizer,
        sentences: &[String],
    ) -> Result<Self> {
        let states = States::of(host, tokenizer, sentences, usize::MAX)?.states;
        if states.is_empty() {
            return Err(Error::Usage(
                "a language model's states need generic sentences to be centred on".into(),
            ));
        }
        let count = states.len() as f64;
        let mean = |at: usize| states.iter().map(|state| f64::from(state[at])).sum::<f64>() / count;
        let centre = (0..states[0].len()).map(|at| mean(at) as f32).collect();
        Ok(Self {
            host,
            tokenizer,
            centre: Some(centre),
        })
    }
}

impl Embedder for StateEmbedder<'_> {
    fn name(&self) -> String {
        let centred = if self.centre.is_some() {
            ", centred"
        } else {
            ""
        };
        let info = self.host.info();
        format!(
            "mean states of {}{centred}, {}",
            info.architecture,
            self.host.hidden_size()
        )
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>> {
        let owned: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let found = States::of(self.host, self.tokenizer, &owned, usize::MAX)?;
        // A text that is too long, or has no token, is near nothing.
        let mut vectors = vec![Vector::Dense(Vec::new()); texts.len()];
        for (number, mut state) in found.kept.into_iter().zip(found.states) {
            if let Some(centre) = &self.centre {
                state
                    .iter_mut()
                    .zip(centre)
                    .for_each(|(x, common)| *x -= common);
            }
            vectors[number] = Vector::dense(state);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_of_both_kinds() {
        let x = Vector::dense(vec![0.96, 0.28]);
        assert!((x.cosine(&Vector::dense(vec![3.0, 0.0])) - 0.96).abs() < 1e-6);
        assert!((x.cosine(&Vector::dense(vec![0.8, 0.6])) - 0.936).abs() < 1e-6);
        let a = Vector::Sparse(vec![(1, 0.6), (4, 0.8)]);
        let b = Vector::Sparse(vec![(0, 0.6), (4, 0.8)]);
        assert!((a.cosine(&b) - 0.64).abs() < 1e-6);
        assert_eq!(a.cosine(&x), 0.0);
        assert_eq!(Vector::dense(vec![0.0; 2]).cosine(&x), 0.0);
    }

    #[test]
    fn terms_follow_the_store_unless_they_are_fixed() {
        let mut follows = TermEmbedder::new();
        assert_eq!(
            follows.embed(&["smile"]).unwrap(),
            [Vector::Sparse(Vec::new())]
        );
        assert!(follows.fit(&["I should smile"]));
        assert_ne!(
            follows.embed(&["smile"]).unwrap(),
            [Vector::Sparse(Vec::new())]
        );
        let mut fixed = TermEmbedder::fitted(["I should smile"].into_iter());
        let before = fixed.embed(&["smile"]).unwrap();
        assert!(!fixed.fit(&["other words"]));
        assert_eq!(fixed.embed(&["smile"]).unwrap(), before);
    }
}
