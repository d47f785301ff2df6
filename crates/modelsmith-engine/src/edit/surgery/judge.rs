//! A classifier of texts that needs no model: logistic regression on weighted counts of words and characters.
//!
//! ```text
//! p(behaviour | text) = 1 / (1 + exp(-(w x + b)))
//! ```
//!
//! Trained by AdaGrad, text after text, with texts of the rarer class weighted up so that both classes count
//! the same. It is offline and deterministic; how good it is, is measured on texts that it has not seen.

use super::texts::Texts;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use modelsmith_data::{Sparse, Tfidf};

const EPOCHS: u32 = 6;
const RATE: f64 = 0.5;
/// Added to the sums of squares, so that the first step of a weight is no larger than the rate.
const START: f64 = 1e-2;

/// Tells how likely a text shows a behaviour.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    terms: Tfidf,
    weights: Vec<f64>,
    bias: f64,
}

impl Judge {
    /// Trains on texts of which those of `class` show the behaviour.
    ///
    /// # Errors
    /// Texts that all show it, or none of which does.
    pub fn train(texts: &Texts, class: usize, seed: u64) -> Result<Self> {
        let shows: Vec<bool> = texts.classes.iter().map(|found| *found == class).collect();
        let count = shows.iter().filter(|shows| **shows).count();
        if count == 0 || count == texts.len() {
            return Err(Error::Usage(
                "a judge needs texts that show the behaviour and texts that do not".into(),
            ));
        }
        let weight = [
            texts.len() as f64 / (2 * (texts.len() - count)) as f64,
            texts.len() as f64 / (2 * count) as f64,
        ];
        let terms = Tfidf::of_words_and_characters(texts.texts.iter().map(String::as_str));
        let vectors: Vec<Sparse> = texts.texts.iter().map(|text| terms.vector(text)).collect();
        let mut judge = Self {
            weights: vec![0.0; terms.width()],
            bias: 0.0,
            terms,
        };
        let mut squares = vec![START; judge.weights.len() + 1];
        let mut order: Vec<usize> = (0..texts.len()).collect();
        for epoch in 0..EPOCHS {
            Stream::new(seed, &format!("surgery/judge/{epoch}")).shuffle(&mut order);
            for at in &order {
                let wanted = f64::from(u8::from(shows[*at]));
                let error =
                    (judge.probability(&vectors[*at]) - wanted) * weight[usize::from(shows[*at])];
                judge.step(&vectors[*at], error, &mut squares);
            }
        }
        Ok(judge)
    }

    fn step(&mut self, vector: &Sparse, error: f64, squares: &mut [f64]) {
        let last = squares.len() - 1;
        let mut moved = |place: usize, gradient: f64| {
            squares[place] += gradient * gradient;
            RATE * gradient / squares[place].sqrt()
        };
        for (place, x) in vector {
            let place = *place as usize;
            self.weights[place] -= moved(place, error * f64::from(*x));
        }
        self.bias -= moved(last, error);
    }

    fn probability(&self, vector: &Sparse) -> f64 {
        let terms = vector.iter();
        let sum: f64 = terms
            .map(|(at, x)| self.weights[*at as usize] * f64::from(*x))
            .sum();
        1.0 / (1.0 + (-(sum + self.bias)).exp())
    }

    /// How likely the text shows the behaviour, 0 to 1. A text without a known term, an empty one among
    /// them, does not.
    pub fn score(&self, text: &str) -> f64 {
        let vector = self.terms.vector(text);
        match vector.is_empty() {
            true => 0.0,
            false => self.probability(&vector),
        }
    }

    /// Mean over both kinds of the share of texts that are judged rightly.
    pub fn balanced_accuracy(&self, texts: &Texts, class: usize) -> f64 {
        let (mut right, mut count) = ([0.0; 2], [0.0; 2]);
        for (text, found) in texts.texts.iter().zip(&texts.classes) {
            let shows = *found == class;
            count[usize::from(shows)] += 1.0;
            right[usize::from(shows)] += f64::from(u8::from((self.score(text) >= 0.5) == shows));
        }
        (right[0] / count[0] + right[1] / count[1]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        let good = [
            "what a lovely day",
            "lovely people here",
            "a kind and lovely word",
            "kind friends",
        ];
        let bad = ["what an awful day", "awful people here", "an awful word"];
        Texts {
            texts: good
                .iter()
                .chain(&bad)
                .map(|text| (*text).to_owned())
                .collect(),
            classes: vec![0, 0, 0, 0, 1, 1, 1],
            names: vec!["good".into(), "bad".into()],
        }
    }

    #[test]
    fn words_of_the_behaviour_are_recognised_and_nothing_is_none_of_it() {
        let judge = Judge::train(&texts(), 1, 0).unwrap();
        assert!(judge.score("an awful meal") > 0.5);
        assert!(judge.score("a lovely meal") < 0.5);
        assert_eq!(judge.score(""), 0.0);
        assert_eq!(judge.balanced_accuracy(&texts(), 1), 1.0);
        assert_eq!(judge, Judge::train(&texts(), 1, 0).unwrap());
        let none = texts().pick(&[0, 1]);
        assert!(Judge::train(&none, 1, 0).is_err());
    }
}
