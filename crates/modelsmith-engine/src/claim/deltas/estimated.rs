//! Arms that tell what edits of the difference do to the loss, without trying them: an item is an edit.
//!
//! ```text
//! agreement of an edit   1 - ½ (z - z')²      z, z' standardised over the edits: told, measured
//! ```
//!
//! The mean of the agreements is the correlation of what is told with what is measured.

use super::super::arms::Bench;
use super::super::file::{Arm, Metric};
use super::super::items::Scores;
use super::super::measured::{ByTest, Seen, Subject, at_least_one, options};
use super::super::toxicity::unknown;
use super::edited::{Nothing, make};
use super::world::{After, World};
use crate::memory;
use crate::recipe::Named;
use crate::registry;
use crate::signals::Stop;
use crate::vision::{Gradient, fisher_diagonal, mean_gradient, measure};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::Parameters;
use modelsmith_hosts::ConvNet;
use modelsmith_methods::delta::riemann::{Rule, riemann};
use modelsmith_methods::delta::{Bias, Dare, Operator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What arms are judged by.
pub(super) const TESTS: [(&str, Metric); 2] =
    [("agreement", Metric::Exact), ("error", Metric::Amount)];

/// How an arm tells the change of the loss.
pub(super) enum Estimator {
    /// By measuring it.
    Exact,
    /// By a sum along the way.
    Riemann(Sum),
    /// By the second-order law, for each edit the variance of its factor.
    Law(Vec<f64>),
}

/// Options of `riemann`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sum {
    points: usize,
    rule: Rule,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            points: 5,
            rule: Rule::Left,
        }
    }
}

/// Edits whose effect is told.
pub(super) struct Estimated {
    world: World,
    operators: Vec<Box<dyn Operator>>,
    /// What the edits do to the loss under a seed.
    exact: Mutex<BTreeMap<u64, Arc<Vec<f64>>>>,
}

impl Estimator {
    /// Reads an arm's method strictly.
    ///
    /// # Errors
    /// No such arm, unknown options, a law for edits that it is not about.
    pub(super) fn read(method: &Named, edits: &[Named]) -> Result<Self> {
        match method.name.as_str() {
            "exact" => options::<Nothing>(method).map(|_| Self::Exact),
            "riemann" => {
                let sum: Sum = options(method)?;
                at_least_one("method", &[("points", sum.points)])?;
                Ok(Self::Riemann(sum))
            }
            "law" => {
                options::<Nothing>(method)?;
                let variances = edits.iter().map(variance);
                Ok(Self::Law(variances.collect::<Result<_>>()?))
            }
            other => Err(unknown(other, &["exact", "riemann", "law"])),
        }
    }
}

/// The variance of the factor of an edit.
fn variance(edit: &Named) -> Result<f64> {
    let refuse = || {
        let problem = format!(
            "holds `{}`; the law is about dare with random masks",
            edit.name
        );
        Error::config("deltas.edits", problem)
    };
    if edit.name != "dare" {
        return Err(refuse());
    }
    let dare: Dare = options(edit)?;
    match dare.mask == Bias::Random && dare.p < 1.0 {
        true => Ok(dare.variance()),
        false => Err(refuse()),
    }
}

impl Estimated {
    pub(super) fn new(world: World) -> Result<Self> {
        let edits = world.deltas.edits.iter();
        Ok(Self {
            operators: edits.map(registry::delta_operator).collect::<Result<_>>()?,
            world,
            exact: Mutex::default(),
        })
    }

    /// The edited networks, one after the other.
    fn networks<'a>(
        &'a self,
        after: &'a After,
        seed: u64,
    ) -> impl Iterator<Item = Result<ConvNet>> + 'a {
        self.operators.iter().map(move |operator| {
            let chain = [&**operator];
            make(&self.world, after, &chain, seed).map(|made| made.net)
        })
    }

    /// What the edits do to the loss, measured once.
    fn exact(&self, seed: u64, stop: &Stop) -> Result<Arc<Vec<f64>>> {
        let mut held = self.exact.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exact) = held.get(&seed) {
            return Ok(exact.clone());
        }
        let World { test, by, .. } = &self.world;
        let after = self.world.after(seed, stop)?;
        let whole = measure(&after.net, test, by)?.mean_loss();
        let changes = self.networks(&after, seed).map(|net| {
            let loss = measure(&net?, test, by)?.mean_loss();
            Ok(loss - whole)
        });
        let exact = Arc::new(changes.collect::<Result<Vec<f64>>>()?);
        held.insert(seed, exact.clone());
        Ok(exact)
    }

    /// What an arm tells.
    fn told(&self, estimator: &Estimator, seed: u64, stop: &Stop) -> Result<Vec<f64>> {
        let after = self.world.after(seed, stop)?;
        match estimator {
            Estimator::Exact => Ok(self.exact(seed, stop)?.to_vec()),
            Estimator::Riemann(sum) => {
                let World { test, by, .. } = &self.world;
                // All ways begin at the same point.
                let begin = mean_gradient(&mut after.net.clone(), test, by)?;
                let networks = self.networks(&after, seed);
                networks
                    .map(|net| self.along((&after.net, &begin), &net?, sum))
                    .collect()
            }
            Estimator::Law(variances) => {
                let World { test, by, .. } = &self.world;
                let fisher = fisher_diagonal(&mut after.net.clone(), test, by, seed)?;
                let half = 0.5 * curvature(&fisher, &after.delta);
                Ok(variances.iter().map(|variance| variance * half).collect())
            }
        }
    }

    /// The sum along the way from one network, with its gradient, to another.
    fn along(&self, (from, begin): (&ConvNet, &Gradient), to: &ConvNet, sum: &Sum) -> Result<f64> {
        let World { test, by, .. } = &self.world;
        let pairs = from.parameters().into_iter().zip(to.parameters());
        let (names, ways): (Vec<String>, Vec<[Vec<f32>; 2]>) = pairs
            .map(|(from, to)| {
                let begin = from.value.to_vec();
                let ends = to.value.to_vec();
                let way = ends.iter().zip(&begin).map(|(a, b)| a - b).collect();
                (from.name, [begin, way])
            })
            .unzip();
        let perturbation: Vec<&[f32]> = ways.iter().map(|[_, way]| way.as_slice()).collect();
        let found = riemann(&perturbation, sum.points, sum.rule, |t| {
            let mut gradient = match t == 0.0 {
                true => begin.clone(),
                false => mean_gradient(&mut self.at(from, &names, &ways, t), test, by)?,
            };
            let ordered = names.iter().filter_map(|name| gradient.remove(name));
            Ok(ordered.collect())
        })?;
        Ok(found.total)
    }

    /// The network at a part `t` of the way; of every weight its beginning and the whole way.
    fn at(&self, from: &ConvNet, names: &[String], ways: &[[Vec<f32>; 2]], t: f64) -> ConvNet {
        let moved = ways.iter().map(|[begin, way]| {
            let pairs = begin.iter().zip(way);
            pairs.map(|(w, d)| w + t as f32 * d).collect()
        });
        let weights: Gradient = names.iter().cloned().zip(moved).collect();
        self.world.with(from, &weights)
    }

    fn scores(&self, told: &[f64], exact: &[f64]) -> ByTest {
        let edits = json!(self.world.deltas.edits).to_string();
        let data_hash = blake3::hash(edits.as_bytes()).to_hex().to_string();
        let distance = told.iter().zip(exact).map(|(a, b)| (a - b).abs());
        let agreement = Scores {
            exact: agreements(told, exact),
            data_hash: data_hash.clone(),
            ..Scores::default()
        };
        let error = Scores {
            amount: distance.collect(),
            data_hash,
            ..Scores::default()
        };
        let tests = TESTS.iter().map(|(test, _)| (*test).to_owned());
        tests.zip([agreement, error]).collect()
    }
}

/// `Σ F ΔW²`.
fn curvature(fisher: &Gradient, delta: &Gradient) -> f64 {
    let terms = delta.iter().flat_map(|(name, delta)| {
        let pairs = delta.iter().zip(&fisher[name]);
        pairs.map(|(d, f)| f64::from(*d).powi(2) * f64::from(*f))
    });
    terms.sum()
}

/// Numbers whose mean is the correlation of two lists; 0 where one of them is constant.
fn agreements(told: &[f64], exact: &[f64]) -> Vec<f64> {
    let (Some(told), Some(exact)) = (standardised(told), standardised(exact)) else {
        return vec![0.0; told.len()];
    };
    let pairs = told.iter().zip(&exact);
    pairs.map(|(a, b)| 1.0 - 0.5 * (a - b).powi(2)).collect()
}

/// With mean 0 and variance 1.
fn standardised(values: &[f64]) -> Option<Vec<f64>> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    let standard = values.iter().map(|x| (x - mean) / deviation).collect();
    (deviation > 0.0).then_some(standard)
}

impl Subject for Estimated {
    fn host(&self) -> &str {
        &self.world.hash
    }

    fn key(&self) -> Value {
        json!([self.world.key(), self.world.deltas.edits])
    }

    fn count(&self) -> usize {
        self.operators.len()
    }

    fn alone(&self, seed: u64) -> Result<ByTest> {
        // Told without any means: that no edit does anything.
        let exact = self.exact(seed, &Stop::default())?;
        Ok(self.scores(&vec![0.0; exact.len()], &exact))
    }

    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, _: &Path) -> Result<Seen> {
        bench.stopped()?;
        let estimator = Estimator::read(&arm.method, &self.world.deltas.edits)?;
        let exact = self.exact(seed, bench.stop)?;
        let begun = Instant::now();
        let told = self.told(&estimator, seed, bench.stop)?;
        Ok(Seen {
            seconds: begun.elapsed().as_secs_f64(),
            peak_memory: memory::peak_resident(),
            changed: 0,
            scores: self.scores(&told, &exact),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_agreements_is_the_correlation() {
        let (x, y) = ([1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 4.0, 9.0]);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let [of_x, of_y] = [mean(&x), mean(&y)];
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            let pairs = x.iter().zip(&y);
            pairs.map(|(a, b)| f(a - of_x, b - of_y)).sum()
        };
        let expected = sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
        assert!((mean(&agreements(&x, &y)) - expected).abs() < 1e-12);
        assert_eq!(agreements(&x, &[2.0; 4]), [0.0; 4]);
        let same = agreements(&x, &x);
        assert!(same.iter().all(|one| (one - 1.0).abs() < 1e-12));
    }

    #[test]
    fn the_law_is_about_random_masks() {
        let edit = |text: &str| serde_json::from_str::<Named>(text).unwrap();
        let found = variance(&edit(r#"{"name": "dare", "p": 0.5, "k": -1.0}"#));
        assert!((found.unwrap() - 4.0).abs() < 1e-12);
        for refused in [
            r#"{"name": "dare", "mask": "sign"}"#,
            r#"{"name": "dare", "p": 1.0}"#,
            r#"{"name": "bitdelta"}"#,
        ] {
            let error = variance(&edit(refused)).unwrap_err().to_string();
            assert!(error.contains("random masks"), "{error}");
        }
    }
}
