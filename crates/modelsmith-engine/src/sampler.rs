//! Which token comes next, from the logits of the last one.
//!
//! In the order of `transformers`: repetition penalty (Keskar et al., arXiv 1909.05858), tokens
//! that may not come yet, temperature, the `top_k` best (Fan et al., arXiv 1805.04833), the nucleus
//! of mass `top_p` (Holtzman et al., arXiv 1904.09751), then a draw.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use std::collections::BTreeSet;

/// How a token is chosen; the default takes the best one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 0 takes the best token.
    pub temperature: f64,
    /// Only this many best tokens (and those equal to the last of them); 0 for all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability; 1 for all.
    pub top_p: f64,
    /// Positive logits of tokens that were there already are divided by this, negative ones
    /// multiplied; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampler {
    /// Refuses values that choose nothing.
    ///
    /// # Errors
    /// A negative temperature, a `top_p` outside (0, 1], a penalty that is not positive.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, value: f64, expected: &str| {
            Err(Error::config(
                key,
                format!("found {value}; expected {expected}"),
            ))
        };
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return wrong("temperature", self.temperature, "0 or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", self.top_p, "a number above 0 and up to 1");
        }
        if !self.repetition_penalty.is_finite() || self.repetition_penalty <= 0.0 {
            return wrong(
                "repetition_penalty",
                self.repetition_penalty,
                "a positive number",
            );
        }
        Ok(())
    }

    /// The next token. `before` are the tokens of the row so far, `forbidden` those that may not
    /// come now, `row` and `position` key the draw.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn next(
        &self,
        mut logits: Vec<f32>,
        before: &[u32],
        forbidden: &[u32],
        row: usize,
        position: usize,
    ) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::Numeric(format!(
                "the logits of token {position} of row {row} are not numbers; the weights or the \
                 adapter hold NaN or infinite values"
            )));
        }
        self.penalise(&mut logits, before);
        for token in forbidden {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if self.temperature == 0.0 {
            return Ok(best(&logits));
        }
        logits
            .iter_mut()
            .for_each(|logit| *logit /= self.temperature as f32);
        self.keep_best(&mut logits);
        self.keep_nucleus(&mut logits);
        let name = format!("generate/{row}/{position}");
        let draw = Stream::new(self.seed, &name).unit();
        Ok(pick(&softmax(&logits), draw))
    }

    fn penalise(&self, logits: &mut [f32], before: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        let seen: BTreeSet<u32> = before.iter().copied().collect();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    fn keep_best(&self, logits: &mut [f32]) {
        if self.top_k == 0 || self.top_k >= logits.len() {
            return;
        }
        let mut sorted = logits.to_vec();
        let (_, least, _) = sorted.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
        let least = *least;
        for logit in logits.iter_mut().filter(|logit| **logit < least) {
            *logit = f32::NEG_INFINITY;
        }
    }

    fn keep_nucleus(&self, logits: &mut [f32]) {
        if self.top_p >= 1.0 {
            return;
        }
        let probabilities = softmax(logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Least likely first; the sort is stable, so equal tokens leave in a fixed order.
        order.sort_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let mut mass = 0.0;
        for token in &order[..order.len().saturating_sub(1)] {
            mass += probabilities[*token];
            if mass > 1.0 - self.top_p {
                break;
            }
            logits[*token] = f32::NEG_INFINITY;
        }
    }
}

/// The first of the best tokens.
fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let powers: Vec<f64> = logits
        .iter()
        .map(|logit| (f64::from(*logit) - most).exp())
        .collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}

/// The token at which the summed probability passes `draw`.
fn pick(probabilities: &[f64], draw: f64) -> u32 {
    let mut mass = 0.0;
    let mut last = 0;
    for (token, probability) in probabilities.iter().enumerate() {
        if *probability > 0.0 {
            last = token;
            mass += probability;
            if draw < mass {
                break;
            }
        }
    }
    last as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampler: Sampler, logits: &[f32]) -> BTreeSet<u32> {
        let next = |position| sampler.next(logits.to_vec(), &[], &[], 0, position);
        (0..500).map(|position| next(position).unwrap()).collect()
    }

    fn warm() -> Sampler {
        Sampler {
            temperature: 1.0,
            ..Sampler::default()
        }
    }

    #[test]
    fn cold_sampling_takes_the_first_of_the_best() {
        let next = Sampler::default().next(vec![0.5, 2.0, 2.0], &[], &[], 0, 0);
        assert_eq!(next.unwrap(), 1);
        let held = Sampler::default().next(vec![0.5, 2.0, 1.0], &[], &[1], 0, 0);
        assert_eq!(held.unwrap(), 2);
    }

    #[test]
    fn top_k_keeps_ties_of_the_last_one() {
        let sampler = Sampler { top_k: 2, ..warm() };
        assert_eq!(drawn(sampler, &[1.0, 0.0, 0.0, -1.0]), [0, 1, 2].into());
        assert_eq!(drawn(sampler, &[1.0, 0.5, 0.0, -1.0]), [0, 1].into());
    }

    #[test]
    fn top_p_keeps_the_tokens_that_carry_the_mass() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125]
            .iter()
            .map(|p| p.ln())
            .collect();
        let of = |top_p| drawn(Sampler { top_p, ..warm() }, &logits);
        assert_eq!(of(0.1), [0].into());
        assert_eq!(of(0.6), [0, 1].into());
        assert_eq!(of(0.8), [0, 1, 3].into());
        assert_eq!(of(0.95), [0, 1, 2, 3].into());
    }

    #[test]
    fn repeated_tokens_lose_whatever_their_sign() {
        let sampler = Sampler {
            repetition_penalty: 2.0,
            ..Sampler::default()
        };
        let next = |logits: Vec<f32>| sampler.next(logits, &[0, 0], &[], 0, 0).unwrap();
        assert_eq!(next(vec![3.0, 2.0]), 1);
        assert_eq!(next(vec![-1.0, -1.5]), 1);
        assert_eq!(next(vec![5.0, 2.0]), 0);
    }

    #[test]
    fn draws_follow_the_probabilities_and_their_key() {
        let logits = [0.75_f32.ln(), 0.25_f32.ln()];
        let next = |seed, row, position| {
            let sampler = Sampler { seed, ..warm() };
            sampler
                .next(logits.to_vec(), &[], &[], row, position)
                .unwrap()
        };
        let ones: u32 = (0..4000).map(|position| next(1, 0, position)).sum();
        assert!((900..1100).contains(&ones), "{ones}");
        let row = |seed, row| (0..64).map(|p| next(seed, row, p)).collect::<Vec<_>>();
        assert_eq!(row(1, 0), row(1, 0));
        assert_ne!(row(1, 0), row(1, 1));
        assert_ne!(row(1, 0), row(2, 0));
    }

    #[test]
    fn senseless_settings_and_logits_are_refused() {
        for (sampler, key) in [
            (
                Sampler {
                    temperature: -1.0,
                    ..warm()
                },
                "temperature",
            ),
            (
                Sampler {
                    top_p: 0.0,
                    ..warm()
                },
                "top_p",
            ),
            (
                Sampler {
                    top_p: f64::NAN,
                    ..warm()
                },
                "top_p",
            ),
            (
                Sampler {
                    repetition_penalty: 0.0,
                    ..warm()
                },
                "repetition_penalty",
            ),
        ] {
            assert!(sampler.check().unwrap_err().to_string().contains(key));
        }
        let nan = warm()
            .next(vec![f32::NAN, 1.0], &[], &[], 0, 0)
            .unwrap_err();
        assert_eq!(nan.exit_code(), 4);
    }
}
