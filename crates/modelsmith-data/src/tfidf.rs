//! Texts as weighted counts of their words and characters.
//!
//! ```text
//! weight(term, text) = count(term in text) · (ln((1 + n) / (1 + n_term)) + 1)
//! ```
//!
//! `n` texts were fitted to, `n_term` of them hold the term. The weights of each kind of term are scaled to
//! length 1, and so are all together. Words are runs of at least two letters, digits or underscores;
//! runs of characters go across words, with white space as one blank. Texts are lower-cased. These are the
//! rules of scikit-learn's `TfidfVectorizer` with its defaults, for each kind of term.

use std::collections::BTreeMap;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// Words.
    Words,
    /// Runs of as many characters as given, from the least to the most.
    Characters(usize, usize),
}

/// The parts of a vector that are not 0, by their place, in order of place.
pub type Sparse = Vec<(u32, f32)>;

/// Turns texts to vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Tfidf {
    kinds: Vec<Kind>,
    width: usize,
}

/// The terms of one kind: their places and rarities.
#[derive(Clone, Debug, PartialEq)]
struct Kind {
    terms: Terms,
    places: BTreeMap<String, (u32, f64)>,
    /// Rarity of a term that no text held.
    unseen: f64,
}

impl Tfidf {
    /// Fits to texts: words, and runs of 3 and 4 characters.
    pub fn of_words_and_characters<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        Self::fit(&[Terms::Words, Terms::Characters(3, 4)], texts)
    }

    /// Fits to texts: finds all their terms, and how rare each is.
    pub fn fit<'a>(terms: &[Terms], texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut width = 0;
        let kinds = terms.iter().map(|terms| {
            let kind = Kind::fit(*terms, texts.clone(), width);
            width += kind.places.len();
            kind
        });
        let kinds = kinds.collect();
        Self { kinds, width }
    }

    /// Numbers of a vector: the terms that are known.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vector of a text, of length 1; empty where the text holds no known term.
    pub fn vector(&self, text: &str) -> Sparse {
        self.scaled(text, false)
    }

    /// The part of a text's vector that lies on known terms, where terms that no text held count as the rarest.
    /// It is shorter than 1 by what is unknown: a text of which only "the" is known is near nothing.
    pub fn known_part(&self, text: &str) -> Sparse {
        self.scaled(text, true)
    }

    fn scaled(&self, text: &str, unknown: bool) -> Sparse {
        let mut found: Vec<(u32, f64)> = Vec::new();
        let mut kinds = 0.0;
        for kind in &self.kinds {
            let (weights, beside) = kind.weights(text);
            let known: f64 = weights.iter().map(|(_, x)| x * x).sum();
            let length = (known + if unknown { beside } else { 0.0 }).sqrt();
            if length > 0.0 {
                kinds += 1.0;
                found.extend(weights.into_iter().map(|(place, x)| (place, x / length)));
            }
        }
        let all = f64::sqrt(kinds);
        found
            .into_iter()
            .map(|(place, x)| (place, (x / all) as f32))
            .collect()
    }
}

impl Kind {
    fn fit<'a>(terms: Terms, texts: impl Iterator<Item = &'a str>, first: usize) -> Self {
        let mut holders: BTreeMap<String, u64> = BTreeMap::new();
        let mut count = 0_u64;
        for text in texts {
            count += 1;
            for term in terms.count(text).into_keys() {
                *holders.entry(term).or_insert(0) += 1;
            }
        }
        let places = holders
            .into_iter()
            .enumerate()
            .map(|(place, (term, holding))| {
                let rarity = ((1 + count) as f64 / (1 + holding) as f64).ln() + 1.0;
                (term, ((first + place) as u32, rarity))
            });
        Self {
            terms,
            places: places.collect(),
            unseen: ((1 + count) as f64).ln() + 1.0,
        }
    }

    /// Weights of the known terms of a text, and the sum of squares of the others'.
    fn weights(&self, text: &str) -> (Vec<(u32, f64)>, f64) {
        let (mut known, mut unknown) = (Vec::new(), 0.0);
        for (term, count) in self.terms.count(text) {
            match self.places.get(&term) {
                Some((place, rarity)) => known.push((*place, f64::from(count) * rarity)),
                None => unknown += (f64::from(count) * self.unseen).powi(2),
            }
        }
        (known, unknown)
    }
}

impl Terms {
    /// The terms of a text, and how often each occurs.
    fn count(self, text: &str) -> BTreeMap<String, u32> {
        let lower = text.to_lowercase();
        let mut counts = BTreeMap::new();
        match self {
            Self::Words => {
                let parts = lower.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                for word in parts.filter(|word| word.chars().nth(1).is_some()) {
                    *counts.entry(word.to_owned()).or_insert(0) += 1;
                }
            }
            Self::Characters(least, most) => {
                let characters: Vec<char> = blanks(&lower);
                for length in least.max(1)..=most {
                    for run in characters.windows(length) {
                        *counts.entry(run.iter().collect()).or_insert(0) += 1;
                    }
                }
            }
        }
        counts
    }
}

/// The characters, with each run of at least two blanks as one; a blank that stands alone stays as it is.
fn blanks(text: &str) -> Vec<char> {
    let mut found: Vec<char> = Vec::new();
    let mut blank = false;
    for c in text.chars() {
        let white = c.is_whitespace();
        match found.last_mut() {
            Some(last) if white && blank => *last = ' ',
            _ => found.push(c),
        }
        blank = white;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 5] = [
        "I should kill time at work",
        "Should I  kill\ttime?",
        "You should NOT steal from a shop",
        "It's not ok to steal!",
        "Über-große Straße 12_3",
    ];

    const WORDS: [f64; 5] = [
        0.490_081_345,
        0.717_367_829,
        0.522_298_403,
        0.170_168_131,
        0.0,
    ];
    const CHARACTERS: [f64; 5] = [
        0.520_749_039,
        0.537_220_506,
        0.414_456_95,
        0.123_291_799,
        0.011_403_422,
    ];
    const BOTH: [f64; 5] = [
        0.505_415_192,
        0.627_294_167,
        0.468_377_677,
        0.146_729_965,
        0.005_701_711,
    ];

    fn dot(a: &Sparse, b: &Sparse) -> f64 {
        let b: BTreeMap<u32, f32> = b.iter().copied().collect();
        let products = a
            .iter()
            .filter_map(|(place, x)| Some(f64::from(*x) * f64::from(*b.get(place)?)));
        products.sum()
    }

    #[test]
    fn cosines_agree_with_scikit_learn() {
        // sklearn.feature_extraction.text.TfidfVectorizer, version 1.9.1: words; analyzer="char" with
        // ngram_range=(3, 4); and both side by side, scaled to length 1.
        let cases: [(&[Terms], [f64; 5], usize); 3] = [
            (&[Terms::Words], WORDS, 17),
            (&[Terms::Characters(3, 4)], CHARACTERS, 170),
            (&[Terms::Words, Terms::Characters(3, 4)], BOTH, 17 + 170),
        ];
        for (terms, expected, width) in cases {
            let fitted = Tfidf::fit(terms, TEXTS.into_iter());
            assert_eq!(fitted.width(), width);
            let query = fitted.vector("Should I kill time in a shop, or steal?");
            for (text, expected) in TEXTS.iter().zip(expected) {
                let found = dot(&query, &fitted.vector(text));
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{terms:?} {text}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn vectors_have_length_one_and_ascending_places() {
        let fitted = Tfidf::of_words_and_characters(TEXTS.into_iter());
        for text in TEXTS {
            let vector = fitted.vector(text);
            assert!((dot(&vector, &vector) - 1.0).abs() < 1e-6);
            assert!(vector.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        for text in TEXTS {
            assert_eq!(fitted.known_part(text), fitted.vector(text));
        }
        let part = fitted.known_part("should elephants vanish");
        assert!(dot(&part, &part) < 0.3, "{}", dot(&part, &part));
        assert!(fitted.vector("zz").is_empty());
        assert!(fitted.vector("").is_empty());
        assert_eq!(
            Tfidf::of_words_and_characters(std::iter::empty()).width(),
            0
        );
    }
}
