//! A table over all records.

use super::outcome::harmonic_mean;
use super::record::{Protocol, Record};
use crate::claim::bootstrap::interval;
use modelsmith_core::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A score over records, times 100 as tables give it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Mean over records.
    pub mean: f64,
    /// Standard deviation of the records as a whole population, as published tables give it: no
    /// standard error.
    pub deviation: f64,
    /// Lower end of the 95 % bootstrap interval of the mean over records.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Records that have the score.
    pub records: usize,
}

/// Scores over records, by protocol and name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Records measured.
    pub records: usize,
    /// S: harmonic mean of the means of ES, PS and NS; absent where one of them is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmonic: Option<f64>,
    /// Harmonic mean of Efficacy, Paraphrase and Specificity token by token, the form of zsRE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmonic_tokens: Option<f64>,
    /// All scores.
    pub figures: BTreeMap<Protocol, BTreeMap<String, Figure>>,
}

impl Summary {
    /// The table of some records; intervals are drawn under the names of the scores.
    ///
    /// # Errors
    /// Scores that are not finite.
    pub fn of(records: &[Record]) -> Result<Self> {
        let mut values: BTreeMap<(Protocol, &str), Vec<f64>> = BTreeMap::new();
        for record in records {
            for (protocol, scores) in &record.scores {
                for (name, value) in scores {
                    values.entry((*protocol, name)).or_default().push(*value);
                }
            }
        }
        let mut summary = Self {
            records: records.len(),
            ..Self::default()
        };
        for ((protocol, name), values) in values {
            let of = summary.figures.entry(protocol).or_default();
            of.insert(name.to_owned(), figure(values, name)?);
        }
        summary.harmonic = summary.harmonic_of(Protocol::PairProb, ["ES", "PS", "NS"]);
        let tokens = ["Efficacy", "Paraphrase", "Specificity"];
        summary.harmonic_tokens = summary.harmonic_of(Protocol::ForcedToken, tokens);
        Ok(summary)
    }

    /// The figure of this name.
    pub fn figure(&self, protocol: Protocol, name: &str) -> Option<&Figure> {
        self.figures.get(&protocol)?.get(name)
    }

    fn harmonic_of(&self, protocol: Protocol, names: [&str; 3]) -> Option<f64> {
        let mean = |name| Some(self.figure(protocol, name)?.mean);
        let means: Option<Vec<f64>> = names.into_iter().map(mean).collect();
        Some(harmonic_mean(&means?))
    }
}

fn figure(values: Vec<f64>, name: &str) -> Result<Figure> {
    let records = values.len();
    let found = interval(std::slice::from_ref(&values), &format!("edit/{name}"))?;
    let mean = found.difference;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Ok(Figure {
        mean: 100.0 * mean,
        deviation: 100.0 * (squares / records as f64).sqrt(),
        low: 100.0 * found.low,
        high: 100.0 * found.high,
        records,
    })
}
