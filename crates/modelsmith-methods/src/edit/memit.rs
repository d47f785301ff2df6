//! MEMIT (Meng et al., arXiv 2210.07229, equation 14), ENCORE, which adds two regularisers (Gupta et al.,
//! arXiv 2502.01636), and PMET's target (Li et al., arXiv 2308.08742): many facts at once, spread over
//! several layers.
//!
//! ```text
//! Δ = R Kᵀ (A + K Kᵀ)⁻¹      A = λ C + λₙ I + M
//! ```
//!
//! `M` is the sum of `k kᵀ` over earlier batches: what was written before stays where it is, which makes
//! batches in sequence equal to one joint solution.

use super::linear::{Moment, add_diagonal, scaled, solve_symmetric};
use super::search::{Contexts, Lookup, Reference, Search};
use super::{ClosedForm, Edit, Layers, Memory, Plan, Problem, Spread, Update, Way};
use faer::{Mat, MatRef};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What weights of regularisers are multiples of. A model's keys may be of any length, and a published
/// weight fits only the model that it was found for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// λ of `f / tr C` and λₙ, L₂ and μ of `tr C`, the mean squared length of a key; τ of `tr C / f`.
    #[default]
    Model,
    /// 1, as published weights are.
    Absolute,
}

impl Units {
    /// λ in absolute units.
    pub(super) fn moment(self, weight: f64, moment: Option<&Moment>) -> f64 {
        match (self, moment) {
            (Self::Model, Some(moment)) => weight * moment.matrix().nrows() as f64 / moment.trace(),
            _ => weight,
        }
    }

    /// λₙ in absolute units.
    pub(super) fn norm(self, weight: f64, moment: Option<&Moment>) -> f64 {
        match (self, moment) {
            (Self::Model, Some(moment)) => weight * moment.trace(),
            _ => weight,
        }
    }
}

/// `A = λ C + λₙ I + M` of a problem; `lambda` is ignored where there is no moment.
pub(super) fn preserved(problem: &Problem<'_>, lambda: f64, ridge: f64, units: Units) -> Mat<f64> {
    let width = problem.keys.bare.nrows();
    let lambda = units.moment(lambda, problem.moment);
    let ridge = units.norm(ridge, problem.moment);
    let mut sum = match problem.moment {
        Some(moment) => scaled(moment.matrix(), lambda),
        None => Mat::zeros(width, width),
    };
    if let Some(memory) = problem.memory {
        sum += memory;
    }
    add_diagonal(&mut sum, ridge);
    sum
}

/// The update `R Kᵀ S⁻¹` for a symmetric `S`, in the form with the smaller factors.
pub(super) fn update(
    residual: MatRef<'_, f64>,
    keys: Mat<f64>,
    system: Mat<f64>,
) -> Result<Update> {
    let (outputs, facts) = (residual.nrows(), residual.ncols());
    if facts <= outputs {
        let right = solve_symmetric(system, keys.as_ref())?;
        return Ok(Update {
            left: residual.to_owned(),
            right: right.transpose().to_owned(),
            keys,
            consistency: None,
        });
    }
    let wanted: Mat<f64> = &keys * residual.transpose();
    let right = solve_symmetric(system, wanted.as_ref())?;
    Ok(Update {
        left: Mat::identity(outputs, outputs),
        right: right.transpose().to_owned(),
        keys,
        consistency: None,
    })
}

/// Refuses a weight that is negative or not finite.
pub(super) fn check_weight(key: &str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => {
            let problem = format!("is {value}; must be 0 or a number above it");
            Err(Error::config(format!("method.{key}"), problem))
        }
    }
}

macro_rules! memit {
    ($(#[$doc:meta])* $name:ident, $defaults:expr, $reference:expr, $spread:expr, $card:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// The blocks whose MLPs are edited; empty for some of the first third of the model.
            pub layers: Layers,
            /// The token at which facts are looked up.
            pub lookup: Lookup,
            /// The search for target activations.
            pub search: Search,
            /// λ: weight of what ordinary text needs.
            pub moment_weight: f64,
            /// λₙ: weight of the norm of the change.
            pub norm_weight: f64,
            /// What both are multiples of: `model`, or `absolute` for published values.
            pub units: Units,
            /// Whether keys of earlier batches keep their outputs.
            pub memory: bool,
        }

        impl Default for $name {
            fn default() -> Self {
                let (search, moment_weight, norm_weight, memory) = $defaults;
                Self {
                    layers: Layers::default(),
                    lookup: Lookup::default(),
                    search,
                    moment_weight,
                    norm_weight,
                    units: Units::default(),
                    memory,
                }
            }
        }

        impl Method for $name {
            const CARD: Card = $card;
        }

        impl Edit for $name {
            fn way(&self) -> Way<'_> {
                Way::ClosedForm(self)
            }

            fn check(&self) -> Result<()> {
                check_weight("moment_weight", self.moment_weight)?;
                check_weight("norm_weight", self.norm_weight)?;
                self.search.check()
            }

            fn options(&self) -> Value {
                serde_json::to_value(self).unwrap_or(Value::Null)
            }
        }

        impl ClosedForm for $name {
            fn plan(&self) -> Plan<'_> {
                Plan {
                    layers: &self.layers,
                    contexts: Contexts::MEMIT,
                    lookup: self.lookup,
                    search: &self.search,
                    reference: $reference,
                    spread: $spread,
                    single: false,
                    moment: self.moment_weight > 0.0,
                    memory: if self.memory { Memory::Solved } else { Memory::None },
                }
            }

            fn solve(&self, problem: &Problem<'_>) -> Result<Update> {
                let keys = problem.keys.halves();
                let mut system = preserved(problem, self.moment_weight, self.norm_weight, self.units);
                system += &keys * keys.transpose();
                update(problem.residual, keys, system)
            }
        }
    };
}

memit!(
    /// Options of MEMIT.
    Memit,
    (Search::default(), 0.5, 0.0, true),
    Reference::Block,
    Spread::Even,
    Card {
        id: "memit",
        number: None,
        title: "MEMIT",
        family: Family::Edit,
        paper: "Meng et al. 2023, arXiv 2210.07229",
        summary: "Writes thousands of facts at once into several MLPs by least squares.",
    }
);

memit!(
    /// Options of ENCORE.
    Encore,
    (
        Search { patience: 2, ..Search::default() },
        0.5,
        0.08,
        true,
    ),
    Reference::Block,
    Spread::Even,
    Card {
        id: "encore",
        number: Some(14),
        title: "ENCORE",
        family: Family::Edit,
        paper: "Gupta et al. 2025, arXiv 2502.01636",
        summary: "MEMIT that stops as soon as a fact is the most probable answer and keeps its changes small, \
                  for thousands of edits in sequence.",
    }
);

memit!(
    /// Options of PMET.
    Pmet,
    (
        Search {
            steps: 30,
            learning_rate: 0.2,
            kl_factor: 1.0,
            ..Search::default()
        },
        0.5,
        0.0,
        false,
    ),
    Reference::AttentionAndMlp,
    Spread::Root,
    Card {
        id: "pmet",
        number: None,
        title: "PMET",
        family: Family::Edit,
        paper: "Li et al. 2024, arXiv 2308.08742",
        summary: "MEMIT whose target is searched for attention and MLP together, while only the MLP is written.",
    }
);

#[cfg(test)]
pub(super) mod tests {
    use super::super::problem::Keys;
    use super::*;
    use faer::mat;

    /// The worked case: a moment diag(2, 1, 0.5), two facts, residuals [[1, 0], [-2, 2]].
    pub(in super::super) struct Case {
        pub(in super::super) keys: Keys,
        pub(in super::super) residual: Mat<f64>,
        pub(in super::super) weight: Mat<f64>,
        pub(in super::super) moment: Moment,
    }

    impl Case {
        pub(in super::super) fn new() -> Self {
            Self {
                keys: single(mat![[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
                residual: mat![[1.0, 0.0], [-2.0, 2.0]],
                weight: mat![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
                moment: Moment::new(mat![[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], 1),
            }
        }

        pub(in super::super) fn problem(&self) -> Problem<'_> {
            Problem {
                keys: &self.keys,
                residual: self.residual.as_ref(),
                weight: self.weight.as_ref(),
                moment: Some(&self.moment),
                memory: None,
            }
        }
    }

    /// Keys of bare prompts alone.
    pub(in super::super) fn single(bare: Mat<f64>) -> Keys {
        Keys {
            prefixed: Mat::zeros(bare.nrows(), bare.ncols()),
            bare,
            contexts: 0,
        }
    }

    pub(in super::super) fn close(found: MatRef<'_, f64>, expected: &[&[f64]], bound: f64) {
        assert_eq!(
            [found.nrows(), found.ncols()],
            [expected.len(), expected[0].len()]
        );
        for (row, values) in expected.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let found = found[(row, column)];
                assert!(
                    (found - value).abs() < bound,
                    "{row} {column}: {found}, not {value}"
                );
            }
        }
    }

    fn encore(norm_weight: f64) -> Encore {
        Encore {
            moment_weight: 4.0,
            norm_weight,
            units: Units::Absolute,
            ..Encore::default()
        }
    }

    #[test]
    fn memit_and_encore_by_hand() {
        let case = Case::new();
        let update = encore(0.0).solve(&case.problem()).unwrap();
        let expected: [&[f64]; 2] = [
            &[0.093_333, 0.16, -0.053_333],
            &[-0.213_333, -0.08, 0.693_333],
        ];
        close(update.dense().as_ref(), &expected, 1e-6);
        assert!((update.norm() - 0.754_836).abs() < 1e-6);
        let update = encore(1.0).solve(&case.problem()).unwrap();
        let expected: [&[f64]; 2] = [
            &[0.086_466, 0.135_338, -0.033_835],
            &[-0.195_489, -0.045_113, 0.511_278],
        ];
        close(update.dense().as_ref(), &expected, 1e-6);
        assert!((update.norm() - 0.573_231).abs() < 1e-6);
        let update = encore(10.0).solve(&case.problem()).unwrap();
        assert!((update.norm() - 0.202_066).abs() < 1e-6);
    }

    /// The joint solution and that of one fact after the other, with memory or without.
    fn sequence(memory: bool) -> (Mat<f64>, Vec<Mat<f64>>) {
        let case = Case::new();
        let joint = encore(1.0).solve(&case.problem()).unwrap().dense();
        let target = &case.weight * &case.keys.bare + &case.residual;
        let (mut weight, mut seen) = (case.weight.clone(), Mat::<f64>::zeros(3, 3));
        let mut changes = Vec::new();
        for fact in 0..2 {
            let keys = single(case.keys.bare.subcols(fact, 1).to_owned());
            let residual = target.subcols(fact, 1) - &weight * &keys.bare;
            let problem = Problem {
                keys: &keys,
                residual: residual.as_ref(),
                weight: weight.as_ref(),
                moment: Some(&case.moment),
                memory: memory.then_some(seen.as_ref()),
            };
            let change = encore(1.0).solve(&problem).unwrap().dense();
            weight += &change;
            seen += &keys.bare * keys.bare.transpose();
            changes.push(change);
        }
        (joint, changes)
    }

    #[test]
    fn with_memory_a_sequence_is_one_batch() {
        let (joint, changes) = sequence(true);
        let first: [&[f64]; 2] = [&[0.084_746, 0.152_542, 0.0], &[-0.169_492, -0.305_085, 0.0]];
        close(changes[0].as_ref(), &first, 1e-6);
        let second: [&[f64]; 2] = [
            &[0.001_72, -0.017_204, -0.033_835],
            &[-0.025_997, 0.259_972, 0.511_278],
        ];
        close(changes[1].as_ref(), &second, 1e-6);
        assert!((&changes[0] + &changes[1] - &joint).norm_l2() < 1e-14);
        let (joint, changes) = sequence(false);
        let gap = (&changes[0] + &changes[1] - &joint).norm_max();
        assert!((gap - 0.040_69).abs() < 1e-5, "{gap}");
    }

    #[test]
    fn more_facts_than_outputs_take_the_other_form() {
        let keys = mat![[1.0, 0.0, 0.5], [1.0, 1.0, -0.5], [0.0, 1.0, 2.0]];
        let residual = mat![[1.0, 0.0, 3.0], [-2.0, 2.0, 0.5]];
        let system = mat![[9.0, 1.0, 0.0], [1.0, 6.0, 1.0], [0.0, 1.0, 3.0]];
        let found = update(residual.as_ref(), keys.clone(), system.clone()).unwrap();
        let inverse = solve_symmetric(system, Mat::<f64>::identity(3, 3).as_ref()).unwrap();
        let expected = residual * keys.transpose() * inverse;
        assert!((found.dense() - expected).norm_l2() < 1e-14);
        assert_eq!(found.left.ncols(), 2);
    }

    #[test]
    fn a_singular_system_is_ridged_and_a_broken_one_refused() {
        let keys = mat![[1.0], [0.0]];
        let residual = mat![[1.0]];
        let singular = mat![[1.0, 0.0], [0.0, 0.0]];
        assert!(update(residual.as_ref(), keys.clone(), singular).is_ok());
        let broken = mat![[f64::NAN, 0.0], [0.0, 1.0]];
        assert!(update(residual.as_ref(), keys, broken).is_err());
    }

    #[test]
    fn units_of_the_model_are_those_of_its_keys() {
        let case = Case::new();
        // tr C = 3.5, f = 3.
        let absolute = preserved(&case.problem(), 6.0, 7.0, Units::Absolute);
        let model = preserved(&case.problem(), 7.0, 2.0, Units::Model);
        assert!((absolute - model).norm_max() < 1e-12);
    }

    #[test]
    fn shares_of_a_residual() {
        let left: Vec<f64> = (0..5)
            .scan(1.0, |left, layer| {
                *left -= *left / Spread::Even.divisor(5 - layer);
                Some(*left)
            })
            .collect();
        let expected = [0.8, 0.6, 0.4, 0.2, 0.0];
        assert!(
            left.iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{left:?}"
        );
        assert_eq!(Spread::Root.divisor(4), 2.0);
    }
}
