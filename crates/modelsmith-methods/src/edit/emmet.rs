//! EMMET (Gupta et al., arXiv 2403.14236): many facts in one layer, written exactly.
//!
//! ```text
//! Δ = R (Kᵀ A⁻¹ K + μ I)⁻¹ Kᵀ A⁻¹      A = λ C (+ M) (+ λₙ I)
//! ```

use super::linear::{add_diagonal, solve_symmetric};
use super::memit::{Units, check_weight, preserved};
use super::search::{Contexts, Lookup, Reference, Search};
use super::{ClosedForm, Edit, Layers, Memory, Plan, Problem, Spread, Update, Way};
use faer::{Mat, MatRef};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of EMMET.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Emmet {
    /// The block whose MLP is edited, as a list of one; empty for one about a third of the way up.
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
    /// μ: how far batches may miss their targets; 0 writes exactly. One fact alone always is.
    pub slack: f64,
    /// Whether keys of earlier batches keep their outputs.
    pub memory: bool,
}

impl Default for Emmet {
    fn default() -> Self {
        Self {
            layers: Layers::default(),
            lookup: Lookup::default(),
            search: Search::default(),
            moment_weight: 0.5,
            norm_weight: 0.0,
            units: Units::default(),
            slack: 0.1,
            memory: true,
        }
    }
}

impl Method for Emmet {
    const CARD: Card = Card {
        id: "emmet",
        number: None,
        title: "EMMET",
        family: Family::Edit,
        paper: "Gupta et al. 2024, arXiv 2403.14236",
        summary: "Writes a batch of facts exactly into one MLP while ordinary keys move least.",
    };
}

impl Edit for Emmet {
    fn way(&self) -> Way<'_> {
        Way::ClosedForm(self)
    }

    fn check(&self) -> Result<()> {
        check_weight("moment_weight", self.moment_weight)?;
        check_weight("norm_weight", self.norm_weight)?;
        check_weight("slack", self.slack)?;
        if self.moment_weight == 0.0 && self.norm_weight == 0.0 {
            let problem = "is 0 and so is method.norm_weight; one of them must be above 0";
            return Err(Error::config("method.moment_weight", problem));
        }
        self.search.check()
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

impl ClosedForm for Emmet {
    fn plan(&self) -> Plan<'_> {
        Plan {
            layers: &self.layers,
            contexts: Contexts::MEMIT,
            lookup: self.lookup,
            search: &self.search,
            reference: Reference::Block,
            spread: Spread::Even,
            single: false,
            moment: self.moment_weight > 0.0,
            memory: if self.memory {
                Memory::Solved
            } else {
                Memory::None
            },
        }
    }

    fn solve(&self, problem: &Problem<'_>) -> Result<Update> {
        let keys = problem.keys.halves();
        let system = preserved(problem, self.moment_weight, self.norm_weight, self.units);
        let slack = if keys.ncols() > 1 { self.slack } else { 0.0 };
        let weighted = solve_symmetric(system, keys.as_ref())?;
        let mut gram: Mat<f64> = keys.transpose() * &weighted;
        add_diagonal(&mut gram, slack);
        Ok(Update {
            left: problem.residual.to_owned(),
            right: gram_solve(gram, weighted.transpose())?,
            keys,
            consistency: None,
        })
    }
}

/// `G⁻¹ B`, by the pseudo-inverse where keys are equal or nearly so.
fn gram_solve(gram: Mat<f64>, b: MatRef<'_, f64>) -> Result<Mat<f64>> {
    if let Ok(factor) = gram.llt(faer::Side::Lower) {
        return Ok(faer::linalg::solvers::Solve::solve(&factor, b));
    }
    let inverse = gram
        .self_adjoint_eigen(faer::Side::Lower)
        .map_err(|_| Error::Numeric("the keys of this batch are not finite".into()))?;
    Ok(inverse.pseudoinverse() * b)
}

#[cfg(test)]
mod tests {
    use super::super::memit::tests::{Case, close, single};
    use super::*;
    use faer::mat;

    fn emmet(slack: f64) -> Emmet {
        Emmet {
            moment_weight: 4.0,
            units: Units::Absolute,
            slack,
            ..Emmet::default()
        }
    }

    #[test]
    fn without_slack_facts_are_written_exactly() {
        let case = Case::new();
        let update = emmet(0.0).solve(&case.problem()).unwrap();
        let expected: [&[f64]; 2] = [
            &[0.428_571, 0.571_429, -0.571_429],
            &[-1.142_857, -0.857_143, 2.857_143],
        ];
        close(update.dense().as_ref(), &expected, 1e-6);
        let after = (&case.weight + update.dense()) * &case.keys.bare;
        close(after.as_ref(), &[&[2.0, 0.0], &[-1.0, 3.0]], 1e-9);
        let update = emmet(0.1).solve(&case.problem()).unwrap();
        assert!(
            (update.norm() - 2.426_792).abs() < 1e-6,
            "{}",
            update.norm()
        );
    }

    #[test]
    fn equal_keys_share_their_mean() {
        let case = Case {
            keys: single(mat![[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
            residual: mat![[1.0, 3.0], [0.0, 0.0]],
            ..Case::new()
        };
        let update = emmet(0.0).solve(&case.problem()).unwrap();
        let change = update.dense() * &case.keys.bare;
        close(change.as_ref(), &[&[2.0, 2.0], &[0.0, 0.0]], 1e-6);
    }
}
