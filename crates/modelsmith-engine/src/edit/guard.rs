//! What is checked before and after weights are written, so that one bad fact cannot ruin a model (Yang et
//! al., arXiv 2406.11263: a single ROME edit can, where its denominator is small).

use super::change::Change;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What happens to a change that the guard finds dangerous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing is checked.
    Off,
    /// It is made, and reported.
    Warn,
    /// It is not made; the batch fails and the model stays as it was.
    #[default]
    Refuse,
    /// ROME's change is computed anew with consistent keys (C-ROME); what is dangerous still is refused.
    Switch,
}

/// Limits of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// What happens beyond a limit.
    pub action: Action,
    /// Least ratio of ROME's denominator to that of consistent keys.
    pub consistency: f64,
    /// Largest norm of a change relative to the weight it is added to.
    pub norm: f64,
    /// Largest perplexity after a batch, relative to that of the base; needs texts.
    pub perplexity: f64,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            action: Action::default(),
            consistency: 0.3,
            norm: 1.0,
            perplexity: 2.0,
        }
    }
}

impl Guard {
    /// A guard that checks nothing.
    pub fn off() -> Self {
        Self {
            action: Action::Off,
            ..Self::default()
        }
    }

    /// Whether a change of this consistency is to be computed anew.
    pub(crate) fn switches(&self, consistency: Option<f64>) -> bool {
        self.action == Action::Switch && consistency.is_some_and(|found| found < self.consistency)
    }

    /// Looks at a change of a weight of norm `weight`; a warning where the guard only warns.
    ///
    /// # Errors
    /// A dangerous change, unless the guard only warns.
    pub(crate) fn check(&self, change: &Change, norm: f64, weight: f64) -> Result<Option<String>> {
        if self.action == Action::Off {
            return Ok(None);
        }
        if let Some(found) = change.consistency.filter(|found| *found < self.consistency) {
            return self.found(format!(
                "the denominator of the change of {} is {found:.4} of what consistent keys give (limit {}); \
                 such a change destroys a model; use c_rome, or guard `switch`",
                change.weight, self.consistency
            ));
        }
        let ratio = norm / weight;
        if ratio.is_nan() || ratio > self.norm {
            return self.found(format!(
                "the change of {} is {ratio:.3} times as large as the weight (limit {}); edit fewer facts at \
                 once, lower method.search.clamp, or raise the norm weight",
                change.weight, self.norm
            ));
        }
        Ok(None)
    }

    /// Looks at the perplexity after a batch.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub(crate) fn check_perplexity(&self, before: f64, after: f64) -> Result<Option<String>> {
        if self.action == Action::Off || after <= self.perplexity * before {
            return Ok(None);
        }
        self.found(format!(
            "perplexity on the guard's texts went from {before:.3} to {after:.3} (limit {} times); the batch \
             damages the model",
            self.perplexity
        ))
    }

    fn found(&self, problem: String) -> Result<Option<String>> {
        match self.action {
            Action::Off => Ok(None),
            Action::Warn => Ok(Some(problem)),
            Action::Refuse | Action::Switch => Err(Error::Numeric(problem)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(consistency: f64) -> Change {
        Change {
            layer: 0,
            weight: "w".into(),
            fan_in_fan_out: false,
            sizes: [1, 1, 1],
            left: None,
            right: vec![1.0],
            consistency: Some(consistency),
        }
    }

    #[test]
    fn the_denominators_of_the_worked_cases() {
        let guard = Guard::default();
        let error = guard.check(&change(0.013_33), 0.1, 1.0).unwrap_err();
        assert!(error.to_string().contains("c_rome"), "{error}");
        assert_eq!(guard.check(&change(0.9333), 0.1, 1.0).unwrap(), None);
        let switch = Guard {
            action: Action::Switch,
            ..Guard::default()
        };
        assert!(switch.switches(Some(0.013_33)) && !switch.switches(Some(0.9333)));
        assert!(!guard.switches(Some(0.01)) && !switch.switches(None));
    }

    #[test]
    fn norms_and_perplexities_have_limits() {
        let guard = Guard::default();
        assert!(guard.check(&change(1.0), 1.5, 1.0).is_err());
        assert!(guard.check(&change(1.0), f64::NAN, 1.0).is_err());
        assert!(guard.check_perplexity(10.0, 21.0).is_err());
        assert!(guard.check_perplexity(10.0, f64::NAN).is_err());
        assert_eq!(guard.check_perplexity(10.0, 19.0).unwrap(), None);
        let warn = Guard {
            action: Action::Warn,
            ..guard
        };
        assert!(warn.check_perplexity(10.0, 21.0).unwrap().is_some());
        assert_eq!(Guard::off().check(&change(0.0), 9.0, 1.0).unwrap(), None);
    }
}
