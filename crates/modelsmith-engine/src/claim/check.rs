//! What would make a claim unfair, or impossible to judge.

use super::file::{Claim, Expectation, Experiment, Tier};
use super::verdict::Direction;
use super::{fragment, measured};
use crate::recipe::{Recipe, read_typed};
use crate::registry;
use modelsmith_core::error::{Error, Result, suggest};
use std::collections::BTreeSet;

impl Claim {
    /// Refuses a claim that could not be judged fairly.
    ///
    /// # Errors
    /// The key, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        if self.card == 0 {
            return Err(Error::config("card", "is 0; must be the number of a card"));
        }
        let needed = [
            ("title", &self.title),
            ("statement", &self.statement),
            ("source", &self.source),
        ];
        for (key, text) in needed {
            if text.trim().is_empty() {
                return Err(Error::config(
                    key,
                    "is empty; a claim says what it claims and where from",
                ));
            }
        }
        let ids = self.experiment.iter().map(|one| one.id.as_str());
        check_ids("experiment", ids)?;
        for (number, one) in self.experiment.iter().enumerate() {
            one.check()
                .map_err(|error| below(&format!("experiment[{number}]"), error))?;
        }
        Ok(())
    }
}

impl Experiment {
    fn check(&self) -> Result<()> {
        check_ids("arms", self.arms.iter().map(|arm| arm.id.as_str()))?;
        check_ids("tests", self.tests.iter().map(|test| test.id.as_str()))?;
        if self.arms.len() < 2 {
            return Err(Error::config(
                "arms",
                "has one arm; a claim needs a baseline",
            ));
        }
        match self.kind()? {
            Some(kind) => measured::check(self, kind)?,
            None => {
                self.check_recipe()?;
                self.check_grids()?;
            }
        }
        for tier in [Tier::Smoke, Tier::Full] {
            if self.budget(tier).seeds == 0 {
                let key = format!("tiers.{}.seeds", tier.name());
                return Err(Error::config(key, "is 0; must be at least 1"));
            }
        }
        if self.expect.is_empty() {
            return Err(Error::config(
                "expect",
                "is empty; a claim expects something",
            ));
        }
        for (number, expectation) in self.expect.iter().enumerate() {
            let checked = self.check_expectation(expectation);
            checked.map_err(|error| below(&format!("expect[{number}]"), error))?;
        }
        Ok(())
    }

    /// What differs between arms is the method and its learning rate, and nothing else.
    fn check_recipe(&self) -> Result<()> {
        for tier in [Tier::Smoke, Tier::Full] {
            let budget = self.budget(tier);
            let both = [("recipe", &self.recipe), ("tiers recipe", &budget.recipe)];
            for (place, shared) in both {
                for key in ["method", "seed", "output", "train.learning_rate"] {
                    fragment::refuse_set(shared, key).map_err(|error| below(place, error))?;
                }
            }
            for arm in &self.arms {
                let rate = arm.learning_rates.first().copied().unwrap_or(1.0);
                let recipe: Recipe = read_typed(&fragment::recipe(self, tier, arm, rate, 1))?;
                recipe.train.check()?;
            }
            for test in &self.tests {
                fragment::test_data(&self.recipe, test)?;
            }
        }
        Ok(())
    }

    fn check_grids(&self) -> Result<()> {
        let size = self.arms[0].learning_rates.len();
        for (number, arm) in self.arms.iter().enumerate() {
            let place = format!("arms[{number}]");
            registry::adapter_method(&arm.method).map_err(|error| below(&place, error))?;
            let key = format!("{place}.learning_rates");
            let rates = &arm.learning_rates;
            if rates.len() != size || rates.is_empty() {
                let problem = format!(
                    "has {} values, the first arm has {size}; every arm gets a grid of the same size, one at least",
                    rates.len()
                );
                return Err(Error::config(key, problem));
            }
            if let Some(rate) = rates
                .iter()
                .find(|rate| !(rate.is_finite() && **rate > 0.0))
            {
                return Err(Error::config(key, format!("holds {rate}; must be above 0")));
            }
        }
        Ok(())
    }

    fn check_expectation(&self, expectation: &Expectation) -> Result<()> {
        let arms: Vec<&str> = self.arms.iter().map(|arm| arm.id.as_str()).collect();
        let tests: Vec<&str> = self.tests.iter().map(|test| test.id.as_str()).collect();
        let named = [
            ("arm", &expectation.arm, &arms),
            ("baseline", &expectation.baseline, &arms),
            ("test", &expectation.test, &tests),
        ];
        for (key, found, known) in named {
            if !known.contains(&found.as_str()) {
                let hint = suggest(found, known.iter().copied());
                return Err(Error::config(key, format!("unknown `{found}`; {hint}")));
            }
        }
        if expectation.arm == expectation.baseline {
            return Err(Error::config(
                "baseline",
                "is the arm itself; name another arm",
            ));
        }
        let margin = expectation.margin;
        match expectation.direction {
            Direction::AsGood if !(margin.is_finite() && margin > 0.0) => {
                let problem = format!("is {margin}; as_good needs a margin above 0");
                Err(Error::config("margin", problem))
            }
            Direction::AsGood if expectation.reason.trim().is_empty() => Err(Error::config(
                "reason",
                "is empty; a margin is justified before the runs",
            )),
            Direction::AsGood => Ok(()),
            _ if margin != 0.0 => Err(Error::config(
                "margin",
                "counts for direction = \"as_good\" only; leave it out",
            )),
            _ => Ok(()),
        }
    }
}

fn check_ids<'a>(key: &str, ids: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for id in ids {
        let legal =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if id.is_empty() || !id.chars().all(legal) {
            let problem = format!("id {id:?}: must be of lower-case letters, digits, - and _");
            return Err(Error::config(key, problem));
        }
        if !seen.insert(id) {
            return Err(Error::config(key, format!("id `{id}` is there twice")));
        }
    }
    if seen.is_empty() {
        return Err(Error::config(key, "is empty; one at least is needed"));
    }
    Ok(())
}

/// Names where in the claim a refused key is.
fn below(place: &str, error: Error) -> Error {
    match error {
        Error::Config { key, problem } => Error::Config {
            key: format!("{place}.{key}"),
            problem,
        },
        other => other,
    }
}
