//! Arms that edit the difference, and the network that comes of it, image by image.

use super::super::arms::Bench;
use super::super::file::{Arm, Metric};
use super::super::items::Scores;
use super::super::measured::{ByTest, Seen, Subject, options};
use super::world::{After, World};
use crate::delta::norm;
use crate::memory;
use crate::recipe::Named;
use crate::registry;
use crate::vision::{Gradient, measure};
use modelsmith_core::error::Result;
use modelsmith_core::parameters::Parameters;
use modelsmith_hosts::ConvNet;
use modelsmith_methods::delta::{Operator, Place, Scale, chain, choose_alpha};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// What arms are judged by.
pub(super) const TESTS: [(&str, Metric); 4] = [
    ("accuracy", Metric::Exact),
    ("loss", Metric::Loss),
    ("change", Metric::Amount),
    ("bits", Metric::Amount),
];

/// Bits of a number as it is.
const WHOLE: usize = 32;

/// Step between the factors of extrapolation that are tried.
const STEP: f64 = 0.1;

/// What an arm does with the difference.
pub(super) enum Edit {
    /// Operators, one after the other.
    Chain(Vec<Box<dyn Operator>>),
    /// Extrapolation by a factor that development images choose.
    Chosen,
}

/// Options of `chain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Chain {
    operators: Vec<Named>,
}

/// Options of arms that have none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Nothing {}

/// Edits of a difference.
pub(super) struct Edited {
    pub(super) world: World,
}

/// An edited network.
pub(super) struct Made {
    pub(super) net: ConvNet,
    /// Of what editing changed, over the norm of the difference.
    change: f64,
    /// A number of the difference.
    bits: f64,
    /// Numbers whose difference was edited.
    changed: u64,
}

impl Edit {
    /// Reads an arm's method strictly.
    ///
    /// # Errors
    /// No such operator, unknown options.
    pub(super) fn read(method: &Named) -> Result<Self> {
        match method.name.as_str() {
            "none" => options::<Nothing>(method).map(|_| Self::Chain(Vec::new())),
            "chosen" => options::<Nothing>(method).map(|_| Self::Chosen),
            "chain" => {
                let Chain { operators } = options(method)?;
                let operators = operators.iter().map(registry::delta_operator);
                Ok(Self::Chain(operators.collect::<Result<_>>()?))
            }
            _ => Ok(Self::Chain(vec![registry::delta_operator(method)?])),
        }
    }

    /// The operators, once what is chosen is known.
    fn operators(self, world: &World, after: &After) -> Result<Vec<Box<dyn Operator>>> {
        match self {
            Self::Chain(operators) => Ok(operators),
            Self::Chosen => {
                let slope = slope(&after.delta, &after.gradient);
                let choice = choose_alpha(slope, STEP, |alpha| {
                    let scale: [&dyn Operator; 1] = [&Scale { alpha }];
                    let made = make(world, after, &scale, 0)?;
                    Ok(measure(&made.net, &world.development, &world.by)?.mean_loss())
                })?;
                let alpha = choice.alpha;
                Ok(vec![Box::new(Scale { alpha })])
            }
        }
    }
}

/// `⟨ΔW, ∇L⟩`.
fn slope(delta: &Gradient, gradient: &Gradient) -> f64 {
    let products = delta.iter().flat_map(|(name, delta)| {
        let pairs = delta.iter().zip(&gradient[name]);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b))
    });
    products.sum()
}

/// The network whose difference was edited.
///
/// # Errors
/// What the operators refuse.
pub(super) fn make(
    world: &World,
    after: &After,
    operators: &[&dyn Operator],
    seed: u64,
) -> Result<Made> {
    let (mut bits, mut changed, mut count) = (0, 0, 0);
    let (mut all, mut lost) = (Vec::new(), Vec::new());
    let mut weights = Gradient::new();
    for base in world.before.parameters() {
        let delta = &after.delta[&base.name];
        let place = Place {
            gradient: Some(&after.gradient[&base.name]),
            ..Place::new(&base.name, &base.value.shape, seed)
        };
        count += delta.len();
        all.push(norm(delta));
        let Some(encoded) = chain(operators, &place, delta)? else {
            bits += WHOLE * delta.len();
            continue;
        };
        bits += encoded.bits(WHOLE);
        changed += delta.len() as u64;
        let edited = encoded.decode();
        let difference = edited.iter().zip(delta).map(|(a, b)| a - b);
        lost.push(norm(&difference.collect::<Vec<_>>()));
        let values = base.value.to_vec().into_iter().zip(edited);
        weights.insert(base.name, values.map(|(w, d)| w + d).collect());
    }
    // A sum of nothing would be -0.
    let total = |norms: &[f64]| norms.iter().fold(0.0, |sum, norm| sum + norm * norm).sqrt();
    Ok(Made {
        net: world.with(&after.net, &weights),
        change: total(&lost) / total(&all),
        bits: bits as f64 / count.max(1) as f64,
        changed,
    })
}

impl Edited {
    fn scores(&self, net: &ConvNet, change: f64, bits: f64) -> Result<ByTest> {
        let measured = measure(net, &self.world.test, &self.world.by)?;
        let data_hash = self.world.test.hash();
        let of = |exact: Vec<f64>, loss: Vec<f64>, amount: Vec<f64>| Scores {
            exact,
            loss,
            amount,
            data_hash: data_hash.clone(),
        };
        let none = Vec::new;
        let scores = [
            of(measured.exact, none(), none()),
            of(none(), measured.loss, none()),
            of(none(), none(), vec![change]),
            of(none(), none(), vec![bits]),
        ];
        let tests = TESTS.iter().map(|(test, _)| (*test).to_owned());
        Ok(tests.zip(scores).collect())
    }
}

impl Subject for Edited {
    fn host(&self) -> &str {
        &self.world.hash
    }

    fn key(&self) -> Value {
        self.world.key()
    }

    fn count(&self) -> usize {
        self.world.test.len()
    }

    fn alone(&self, _: u64) -> Result<ByTest> {
        // Without the difference all of it is lost, and nothing is stored.
        self.scores(&self.world.before, 1.0, 0.0)
    }

    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, _: &Path) -> Result<Seen> {
        bench.stopped()?;
        let after = self.world.after(seed, bench.stop)?;
        let begun = Instant::now();
        let operators = Edit::read(&arm.method)?.operators(&self.world, &after)?;
        let operators: Vec<&dyn Operator> = operators.iter().map(|one| &**one).collect();
        let made = make(&self.world, &after, &operators, seed)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Seen {
            seconds,
            peak_memory: memory::peak_resident(),
            changed: made.changed,
            scores: self.scores(&made.net, made.change, made.bits)?,
        })
    }
}
