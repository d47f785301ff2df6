//! How a target fared behind a prompt, and what two targets say together.
//!
//! ```text
//! ℓ(y|x)  = −(1/T) Σ_j log p(y_j | x, y_<j)                    nats, mean over the T tokens of y
//! ES, PS  = mean over prompts of 1[ℓ(true) > ℓ(new)]           strict: a tie is a failure
//! NS      = mean over prompts of 1[ℓ(true) < ℓ(new)]           strict
//! EM, PM  = mean over prompts of exp(−ℓ(new)) − exp(−ℓ(true))
//! NM      = mean over prompts of exp(−ℓ(true)) − exp(−ℓ(new))
//! ```
//!
//! Source: Meng et al., arXiv 2202.05262, section 3.4 and appendix C.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A target behind a prompt, teacher-forced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// ℓ; infinite where the model gives no number, which JSON shows as `null`.
    #[serde(
        serialize_with = "finite_or_null",
        deserialize_with = "null_is_infinite"
    )]
    pub loss: f64,
    /// Which tokens of the target had the highest score.
    pub hits: Vec<bool>,
}

fn finite_or_null<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(out)
}

fn null_is_infinite<'de, D: Deserializer<'de>>(source: D) -> Result<f64, D::Error> {
    let value = Option::<f64>::deserialize(source)?;
    Ok(value.unwrap_or(f64::INFINITY))
}

impl Outcome {
    /// From the log-probability of each token of the target, and the likeliest token at its place.
    pub fn new(log_probs: &[f32], best: &[u32], target: &[u32]) -> Self {
        let sum: f64 = log_probs.iter().copied().map(f64::from).sum();
        let loss = -sum / log_probs.len().max(1) as f64;
        Self {
            loss: if loss.is_finite() {
                loss
            } else {
                f64::INFINITY
            },
            hits: best.iter().zip(target).map(|(a, b)| a == b).collect(),
        }
    }

    /// exp(−ℓ), the geometric mean of the tokens' probabilities.
    pub fn probability(&self) -> f64 {
        (-self.loss).exp()
    }

    /// Whether greedy decoding gives the target: every token has the highest score.
    pub fn is_exact(&self) -> bool {
        self.hits.iter().all(|hit| *hit)
    }

    /// Share of the tokens that have the highest score.
    pub fn token_accuracy(&self) -> f64 {
        let hits = self.hits.iter().filter(|hit| **hit).count();
        hits as f64 / self.hits.len().max(1) as f64
    }
}

/// The new and the true target behind one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The new target.
    pub new: &'a Outcome,
    /// The target that is or was true.
    pub truth: &'a Outcome,
}

/// Which target a prompt should favour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Favoured {
    /// The new one: prompts of the edit and its paraphrases.
    New,
    /// The true one: neighbours.
    Truth,
}

impl Pair<'_> {
    fn ordered(&self, favoured: Favoured) -> (&Outcome, &Outcome) {
        match favoured {
            Favoured::New => (self.new, self.truth),
            Favoured::Truth => (self.truth, self.new),
        }
    }
}

/// Share of the prompts that hold the favoured target for the likelier one; `None` of no prompt.
pub fn success(pairs: &[Pair<'_>], favoured: Favoured) -> Option<f64> {
    mean(pairs.iter().map(|pair| {
        let (wanted, other) = pair.ordered(favoured);
        f64::from(u8::from(wanted.loss < other.loss))
    }))
}

/// Mean difference of the probabilities, favoured less other; `None` of no prompt.
pub fn magnitude(pairs: &[Pair<'_>], favoured: Favoured) -> Option<f64> {
    mean(pairs.iter().map(|pair| {
        let (wanted, other) = pair.ordered(favoured);
        wanted.probability() - other.probability()
    }))
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// Harmonic mean; 0 where one of them is not above 0.
pub fn harmonic_mean(values: &[f64]) -> f64 {
    if values.is_empty() || values.iter().any(|value| *value <= 0.0) {
        return 0.0;
    }
    values.len() as f64 / values.iter().map(|value| 1.0 / value).sum::<f64>()
}

/// Share of places at which two models have the same likeliest token; `None` of no place.
pub fn agreement(before: &[u32], after: &[u32]) -> Option<f64> {
    let same = before
        .iter()
        .zip(after)
        .map(|(a, b)| f64::from(u8::from(a == b)));
    mean(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(loss: f64) -> Outcome {
        Outcome {
            loss,
            hits: vec![true],
        }
    }

    #[test]
    fn a_likelier_new_target_is_a_success_by_its_margin() {
        let (new, truth) = (of(1.2), of(2.0));
        let pair = Pair {
            new: &new,
            truth: &truth,
        };
        assert_eq!(success(&[pair], Favoured::New), Some(1.0));
        assert_eq!(success(&[pair], Favoured::Truth), Some(0.0));
        let margin = magnitude(&[pair], Favoured::New).unwrap();
        assert!((margin - 0.165_859).abs() < 1e-6, "{margin}");
        assert_eq!(magnitude(&[pair], Favoured::Truth), Some(-margin));
        assert_eq!(success(&[], Favoured::New), None);
    }

    #[test]
    fn ties_fail_both_ways_and_so_does_what_is_no_number() {
        for loss in [1.5, f64::INFINITY] {
            let (new, truth) = (of(loss), of(loss));
            let pair = Pair {
                new: &new,
                truth: &truth,
            };
            assert_eq!(success(&[pair], Favoured::New), Some(0.0));
            assert_eq!(success(&[pair], Favoured::Truth), Some(0.0));
            assert_eq!(magnitude(&[pair], Favoured::New), Some(0.0));
        }
    }

    #[test]
    fn harmonic_means_of_published_rows() {
        for (row, expected) in [
            ([92.57, 82.64, 60.43], 76.043),
            ([88.77, 78.19, 60.07], 73.707),
            ([49.68, 49.29, 51.31], 50.078),
            ([100.0, 100.0, 0.0], 0.0),
        ] {
            let found = harmonic_mean(&row);
            assert!((found - expected).abs() < 5e-4, "{row:?}: {found}");
        }
    }

    #[test]
    fn an_outcome_counts_its_tokens() {
        let found = Outcome::new(&[-1.0, -2.0, -0.5], &[4, 5, 6], &[4, 9, 6]);
        assert!((found.loss - 3.5 / 3.0).abs() < 1e-12);
        assert!((found.token_accuracy() - 2.0 / 3.0).abs() < 1e-12);
        assert!(!found.is_exact());
        let lost = Outcome::new(&[f32::NAN], &[1], &[1]);
        assert_eq!((lost.loss, lost.probability()), (f64::INFINITY, 0.0));
        let text = serde_json::to_string(&lost).unwrap();
        assert_eq!(text, r#"{"loss":null,"hits":[true]}"#);
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), lost);
        assert_eq!(agreement(&[1, 2, 3, 4], &[1, 0, 3, 4]), Some(0.75));
    }
}
