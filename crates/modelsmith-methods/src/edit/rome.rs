//! ROME (Meng et al., arXiv 2202.05262, equation 2) and its siblings: one fact, one layer, a change of rank
//! one.
//!
//! ```text
//! Δ = r ûᵀ / (û·k)      û = C⁻¹k̄ / ‖C⁻¹k̄‖      r = v* - W k
//! ```
//!
//! `k̄` is the mean key over all contexts. As published, `k` is the key of the bare prompt, so that the
//! denominator is of two different keys and may be near 0: then the change is huge and the model is lost
//! (Yang et al., arXiv 2406.11263). C-ROME and R-ROME (Gupta et al., arXiv 2403.07175) take `k̄` in all
//! places, P-ROME the bare key.

use super::linear::scaled;
use super::search::{Contexts, Lookup, Reference, Search};
use super::{ClosedForm, Edit, Layers, Memory, Plan, Problem, Spread, Update, Way};
use faer::{Mat, MatRef};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A key that a place of the formula takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Bare,
    Mean,
}

/// The published search: long changes are allowed, as only one layer makes them.
fn search() -> Search {
    Search {
        steps: 20,
        clamp: 4.0,
        ..Search::default()
    }
}

macro_rules! rome {
    ($(#[$doc:meta])* $name:ident, $left:expr, $right:expr, $card:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// The block whose MLP is edited, as a list of one; empty for one about a third of the way up.
            pub layers: Layers,
            /// The token at which the fact is looked up.
            pub lookup: Lookup,
            /// The search for the target activation.
            pub search: Search,
            /// Whether the direction is corrected by the second moment of ordinary keys; without it the key
            /// itself is the direction.
            pub moment: bool,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    layers: Layers::default(),
                    lookup: Lookup::default(),
                    search: search(),
                    moment: true,
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
                if self.layers.0.len() > 1 {
                    let problem = format!("is {:?}; name one block", self.layers.0);
                    return Err(Error::config("method.layers", problem));
                }
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
                    contexts: Contexts::ROME,
                    lookup: self.lookup,
                    search: &self.search,
                    reference: Reference::Mlp,
                    spread: Spread::Even,
                    single: true,
                    moment: self.moment,
                    memory: Memory::None,
                }
            }

            fn solve(&self, problem: &Problem<'_>) -> Result<Update> {
                rank_one(problem, $left, $right)
            }
        }
    };
}

rome!(
    /// Options of ROME.
    Rome, Key::Mean, Key::Bare,
    Card {
        id: "rome",
        number: Some(33),
        title: "ROME",
        family: Family::Edit,
        paper: "Meng et al. 2022, arXiv 2202.05262",
        summary: "Writes one fact into one MLP by a change of rank one; may destroy the model where its two \
                  keys differ.",
    }
);

rome!(
    /// Options of C-ROME.
    CRome, Key::Mean, Key::Mean,
    Card {
        id: "c_rome",
        number: Some(33),
        title: "C-ROME",
        family: Family::Edit,
        paper: "Yang et al. 2024, arXiv 2406.11263",
        summary: "ROME with the mean key in all places, whose denominator cannot vanish.",
    }
);

rome!(
    /// Options of R-ROME.
    RRome, Key::Mean, Key::Mean,
    Card {
        id: "r_rome",
        number: Some(33),
        title: "R-ROME",
        family: Family::Edit,
        paper: "Gupta et al. 2024, arXiv 2403.07175",
        summary: "ROME rebuilt with one key throughout; the formula of C-ROME.",
    }
);

rome!(
    /// Options of P-ROME.
    PRome, Key::Bare, Key::Bare,
    Card {
        id: "p_rome",
        number: Some(33),
        title: "P-ROME",
        family: Family::Edit,
        paper: "Gupta et al. 2024, arXiv 2403.07175",
        summary: "ROME with the key of the bare prompt in all places.",
    }
);

/// The change with `left` in `û` and `right` in denominator and residual.
fn rank_one(problem: &Problem<'_>, left: Key, right: Key) -> Result<Update> {
    let mean = problem.keys.mean();
    let key = |key: Key| match key {
        Key::Bare => problem.keys.bare.as_ref(),
        Key::Mean => mean.as_ref(),
    };
    let direction = match problem.moment {
        Some(moment) => moment.solve(key(left))?,
        None => key(left).to_owned(),
    };
    let length = direction.norm_l2();
    if !(length.is_finite() && length > 0.0) {
        return Err(Error::Numeric(format!(
            "the direction of the change has length {length}; the key of this subject is 0 or not finite"
        )));
    }
    let unit = scaled(direction.as_ref(), 1.0 / length);
    let denominator = dot(unit.as_ref(), key(right));
    if denominator == 0.0 {
        return Err(Error::Numeric(
            "the denominator of the change is 0; use c_rome, whose keys agree".into(),
        ));
    }
    let mut residual = problem.residual.to_owned();
    if right == Key::Mean {
        // The residual counts from the bare prompt's output; the formula wants the mean output.
        residual += problem.weight * (&problem.keys.bare - &mean);
    }
    Ok(Update {
        left: scaled(residual.as_ref(), 1.0 / denominator),
        right: unit.transpose().to_owned(),
        keys: key(right).to_owned(),
        consistency: Some((denominator / dot(unit.as_ref(), key(left))).abs()),
    })
}

fn dot(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> f64 {
    let product: Mat<f64> = a.transpose() * b;
    product[(0, 0)]
}

#[cfg(test)]
mod tests {
    use super::super::linear::Moment;
    use super::super::problem::Keys;
    use super::*;
    use faer::mat;
    use modelsmith_core::random::Stream;

    fn weight() -> Mat<f64> {
        mat![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    }

    fn moment() -> Moment {
        Moment::new(mat![[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], 1)
    }

    /// Keys whose mean over the bare one and one context is `mean`.
    fn keys(bare: [f64; 3], mean: [f64; 3]) -> Keys {
        let column = |values: [f64; 3]| Mat::from_fn(3, 1, |row, _| values[row]);
        let (bare, mean) = (column(bare), column(mean));
        Keys {
            prefixed: scaled(mean.as_ref(), 2.0) - &bare,
            bare,
            contexts: 1,
        }
    }

    /// The update that makes the output `target`, and the weight after it.
    fn edit(method: &dyn ClosedForm, keys: &Keys, target: [f64; 2]) -> (Update, Mat<f64>) {
        let weight = weight();
        let target = Mat::from_fn(2, 1, |row, _| target[row]);
        let residual = target - &weight * &keys.bare;
        let update = method
            .solve(&Problem {
                keys,
                residual: residual.as_ref(),
                weight: weight.as_ref(),
                moment: Some(&moment()),
                memory: None,
            })
            .unwrap();
        let after = weight + update.dense();
        (update, after)
    }

    fn close(found: MatRef<'_, f64>, expected: &[&[f64]], bound: f64) {
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

    const MEAN: [f64; 3] = [1.0, 1.0, 0.0];

    #[test]
    fn consistent_keys() {
        let keys = keys(MEAN, MEAN);
        for method in [
            &Rome::default() as &dyn ClosedForm,
            &CRome::default(),
            &PRome::default(),
        ] {
            let (update, after) = edit(method, &keys, [2.0, -1.0]);
            close(update.right.as_ref(), &[&[0.447_214, 0.894_427, 0.0]], 2e-6);
            let third = 1.0 / 3.0;
            let expected: [&[f64]; 2] = [
                &[third, 2.0 * third, 0.0],
                &[-2.0 * third, -4.0 * third, 0.0],
            ];
            close(update.dense().as_ref(), &expected, 2e-6);
            assert!((update.norm() - 1.666_667).abs() < 2e-6);
            close((&after * &keys.bare).as_ref(), &[&[2.0], &[-1.0]], 1e-9);
        }
    }

    #[test]
    fn a_small_denominator_makes_a_huge_change_which_c_rome_mends() {
        let bare = [1.0, -0.48, 0.0];
        let keys = keys(bare, MEAN);
        let (update, after) = edit(&Rome::default(), &keys, [2.0, -1.0]);
        close(
            update.dense().as_ref(),
            &[&[25.0, 50.0, 0.0], &[-13.0, -26.0, 0.0]],
            1e-3,
        );
        assert!((update.norm() - 63.007_94).abs() < 1e-3);
        close((&after * &keys.bare).as_ref(), &[&[2.0], &[-1.0]], 1e-9);
        close((&after * keys.mean()).as_ref(), &[&[76.0], &[-38.0]], 1e-3);
        let ratio = update.consistency.unwrap();
        assert!((ratio - 0.013_33).abs() < 1e-5, "{ratio}");

        let (update, after) = edit(&CRome::default(), &keys, [2.0, -1.0]);
        assert!((update.norm() - 1.666_667).abs() < 2e-6);
        close((&after * keys.mean()).as_ref(), &[&[2.0], &[-1.0]], 1e-9);
        close(
            (&after * &keys.bare).as_ref(),
            &[&[1.013_333], &[-0.506_667]],
            2e-6,
        );
        assert_eq!(update.consistency, Some(1.0));
    }

    #[test]
    fn near_keys_are_a_normal_case() {
        let keys = keys([1.0, 0.9, 0.1], MEAN);
        let (update, _) = edit(&Rome::default(), &keys, [2.0, -1.0]);
        assert!(
            (update.norm() - 1.714_658).abs() < 1e-5,
            "{}",
            update.norm()
        );
        assert!((update.consistency.unwrap() - 0.9333).abs() < 1e-4);
    }

    #[test]
    fn a_denominator_of_zero_is_refused() {
        let keys = keys([2.0, -1.0, 0.0], MEAN);
        let (residual, weight) = (Mat::from_fn(2, 1, |_, _| 1.0), weight());
        let problem = Problem {
            keys: &keys,
            residual: residual.as_ref(),
            weight: weight.as_ref(),
            moment: None,
            memory: None,
        };
        let orthogonal = self::keys([1.0, -1.0, 0.0], MEAN);
        assert!(Rome::default().solve(&problem).is_ok());
        let problem = Problem {
            keys: &orthogonal,
            ..problem
        };
        let error = Rome::default().solve(&problem).unwrap_err().to_string();
        assert!(error.contains("c_rome"), "{error}");
    }

    #[test]
    fn norm_times_denominator_is_the_residual() {
        for seed in 0..200 {
            let mut stream = Stream::new(seed, "rome");
            let mut draw = |rows: usize, columns: usize| {
                let values = stream.normal(rows * columns, 0.0, 1.0);
                Mat::from_fn(rows, columns, |row, column| {
                    f64::from(values[row * columns + column])
                })
            };
            let root = draw(5, 5);
            let mut covariance = &root * root.transpose();
            super::super::linear::add_diagonal(&mut covariance, 0.1);
            let keys = Keys {
                bare: draw(5, 1),
                prefixed: draw(5, 1),
                contexts: 4,
            };
            let (weight, residual) = (draw(4, 5), draw(4, 1));
            let moment = Moment::new(covariance, 1);
            let problem = Problem {
                keys: &keys,
                residual: residual.as_ref(),
                weight: weight.as_ref(),
                moment: Some(&moment),
                memory: None,
            };
            let update = Rome::default().solve(&problem).unwrap();
            let denominator = dot(update.right.transpose(), keys.bare.as_ref());
            let found = update.norm() * denominator.abs();
            let gap = (found - residual.norm_l2()).abs();
            assert!(gap < 1e-8 * residual.norm_l2(), "seed {seed}: {gap}");
            let update = CRome::default().solve(&problem).unwrap();
            assert!(dot(update.right.transpose(), keys.mean().as_ref()) > 0.0);
        }
    }
}
