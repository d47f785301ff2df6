//! AlphaEdit (Fang et al., arXiv 2410.02355, equation 14): changes only where ordinary keys have no part.
//!
//! ```text
//! Δᵀ = (P (M + K Kᵀ) + L₂ I)⁻¹ P K Rᵀ      P = U₀ U₀ᵀ
//! ```
//!
//! `U₀` are the eigenvectors of the moment below a threshold. Solved in their space, where the system is
//! symmetric: `Δᵀ = U₀ (U₀ᵀ (M + K Kᵀ) U₀ + L₂ I)⁻¹ U₀ᵀ K Rᵀ`.

use super::linear::{add_diagonal, solve_symmetric};
use super::memit::{Units, check_weight};
use super::search::{Contexts, Lookup, Reference, Search};
use super::{ClosedForm, Edit, Layers, Memory, Plan, Problem, Spread, Update, Way};
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of AlphaEdit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlphaEdit {
    /// The blocks whose MLPs are edited; empty for some of the first third of the model.
    pub layers: Layers,
    /// The token at which facts are looked up.
    pub lookup: Lookup,
    /// The search for target activations.
    pub search: Search,
    /// τ: directions in which the moment is below this are free to change.
    pub threshold: f64,
    /// L₂: weight of the norm of the change.
    pub norm_weight: f64,
    /// What both are multiples of: `model`, or `absolute` for published values.
    pub units: Units,
    /// Whether keys of earlier batches keep their outputs.
    pub memory: bool,
    /// Remembers keys as the edited model has them, as first published, in place of those that the
    /// update was computed from.
    pub edited_keys: bool,
}

impl Default for AlphaEdit {
    fn default() -> Self {
        Self {
            layers: Layers::default(),
            lookup: Lookup::default(),
            search: Search {
                learning_rate: 0.1,
                ..Search::default()
            },
            threshold: 0.06,
            norm_weight: 0.08,
            units: Units::default(),
            memory: true,
            edited_keys: true,
        }
    }
}

impl Method for AlphaEdit {
    const CARD: Card = Card {
        id: "alphaedit",
        number: None,
        title: "AlphaEdit",
        family: Family::Edit,
        paper: "Fang et al. 2025, arXiv 2410.02355",
        summary: "MEMIT confined to directions that ordinary text does not use.",
    };
}

impl Edit for AlphaEdit {
    fn way(&self) -> Way<'_> {
        Way::ClosedForm(self)
    }

    fn check(&self) -> Result<()> {
        check_weight("threshold", self.threshold)?;
        check_weight("norm_weight", self.norm_weight)?;
        self.search.check()
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

impl ClosedForm for AlphaEdit {
    fn plan(&self) -> Plan<'_> {
        Plan {
            layers: &self.layers,
            contexts: Contexts::MEMIT,
            lookup: self.lookup,
            search: &self.search,
            reference: Reference::Block,
            spread: Spread::Even,
            single: false,
            moment: true,
            memory: match (self.memory, self.edited_keys) {
                (false, _) => Memory::None,
                (true, false) => Memory::Solved,
                (true, true) => Memory::Edited,
            },
        }
    }

    fn solve(&self, problem: &Problem<'_>) -> Result<Update> {
        let Some(moment) = problem.moment else {
            return Err(Error::Failed(
                "alphaedit needs the second moment of the keys".into(),
            ));
        };
        let keys = problem.keys.halves();
        let (values, vectors) = moment.spectrum()?;
        let scale = match self.units {
            Units::Model => moment.trace() / values.len() as f64,
            Units::Absolute => 1.0,
        };
        let free = values
            .iter()
            .filter(|value| **value < self.threshold * scale)
            .count();
        if free == 0 {
            let problem = format!(
                "is {}; the smallest eigenvalue of the moment is {:.3e}, so no direction is free; raise it",
                self.threshold,
                values[0] / scale
            );
            return Err(Error::config("method.threshold", problem));
        }
        let free = vectors.subcols(0, free);
        let inner: Mat<f64> = free.transpose() * &keys;
        let mut system = &inner * inner.transpose();
        if let Some(memory) = problem.memory {
            system += free.transpose() * memory * free;
        }
        add_diagonal(&mut system, self.units.norm(self.norm_weight, Some(moment)));
        let right = free * solve_symmetric(system, inner.as_ref())?;
        Ok(Update {
            left: problem.residual.to_owned(),
            right: right.transpose().to_owned(),
            keys,
            consistency: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memit::tests::{Case, close};
    use super::*;
    use faer::linalg::solvers::Solve;
    use faer::{Mat, mat};

    fn alphaedit(threshold: f64) -> AlphaEdit {
        AlphaEdit {
            threshold,
            norm_weight: 1.0,
            units: Units::Absolute,
            ..AlphaEdit::default()
        }
    }

    #[test]
    fn only_free_directions_change() {
        let case = Case::new();
        let update = alphaedit(0.75).solve(&case.problem()).unwrap();
        close(
            update.dense().as_ref(),
            &[&[0.0, 0.0, 0.0], &[0.0, 0.0, 1.0]],
            1e-12,
        );
        let update = alphaedit(1.5).solve(&case.problem()).unwrap();
        close(
            update.dense().as_ref(),
            &[&[0.0, 0.4, -0.2], &[0.0, -0.4, 1.2]],
            1e-12,
        );
        assert_eq!(update.dense()[(0, 0)].abs(), 0.0);
    }

    #[test]
    fn equals_the_published_system_solved_whole() {
        let case = Case::new();
        let memory = mat![[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]];
        let problem = Problem {
            memory: Some(memory.as_ref()),
            ..case.problem()
        };
        let found = alphaedit(1.5).solve(&problem).unwrap().dense();
        let keys = case.keys.halves();
        let projector = mat![[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let mut system: Mat<f64> = &projector * (&memory + &keys * keys.transpose());
        add_diagonal(&mut system, 1.0);
        let wanted = &projector * &keys * case.residual.transpose();
        let expected = system.partial_piv_lu().solve(&wanted);
        assert!((found - expected.transpose()).norm_l2() < 1e-12);
    }

    #[test]
    fn a_threshold_that_frees_nothing_is_refused() {
        let case = Case::new();
        let error = alphaedit(0.1)
            .solve(&case.problem())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("method.threshold: is 0.1"), "{error}");
    }
}
