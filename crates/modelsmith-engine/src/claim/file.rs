//! What a claim says: `claims/NN-name.toml`, read strictly.

use super::collapse::Collapse;
use super::deltas::Deltas;
use super::edits::HouseEdits;
use super::measured::Kind;
use super::policy::Policy;
use super::toxicity::Toxicity;
use super::verdict::Direction;
use crate::recipe::{Named, read_typed};
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// How much a reproduction spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Under two minutes on two cores: shows that it runs.
    Smoke,
    /// Under ten minutes on two cores: what `docs/CLAIMS.md` records.
    Full,
}

impl Tier {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Full => "full",
        }
    }
}

/// A claim with its protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Claim {
    /// Name of the file without its ending; not written in it.
    #[serde(skip)]
    pub name: String,
    /// Number of the method's card.
    pub card: u32,
    /// Name of the method.
    pub title: String,
    /// What the paper says, in one sentence.
    pub statement: String,
    /// Where it says so.
    pub source: String,
    /// The paper's figures that stand beside ours.
    pub paper: Vec<PaperFigure>,
    /// What was looked into: reasons where the claim does not hold, limits where it does.
    pub note: String,
    /// What is run.
    pub experiment: Vec<Experiment>,
}

/// A figure of the paper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaperFigure {
    /// Which model, data and metric.
    pub setting: String,
    /// Which method.
    pub arm: String,
    /// The figure as printed.
    pub figure: String,
}

/// Arms on the same host, data and budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Experiment {
    /// Short name, unique in the claim.
    pub id: String,
    /// What it asks, in one sentence.
    pub description: String,
    /// Questions and facts of the house world, written to the folder that `$CLAIM` names.
    pub house: Option<HouseData>,
    /// Facts of the house world that every arm writes into its model. An experiment with this or one of the next
    /// four has no recipe: its arms change a model in their own way.
    pub edits: Option<HouseEdits>,
    /// Words of which every arm edits one at a time, each in the model as it was.
    pub collapse: Option<Collapse>,
    /// Texts that are continued, and how many continuations are toxic.
    pub toxicity: Option<Toxicity>,
    /// Texts on which feedback changes what is allowed.
    pub policy: Option<Policy>,
    /// Images, and edits of what a network learns of them.
    pub deltas: Option<Deltas>,
    /// Files to put into the folder that `$CLAIM` names, those of one name one behind the other.
    pub prepare: Vec<Prepared>,
    /// Runs that the arms build upon, made before them and once.
    pub first: Vec<First>,
    /// The recipe of all arms, without method, learning rate, seed and output. Its held-out rows
    /// are the development part on which learning rates are chosen; no test item may be in them.
    pub recipe: Map<String, Value>,
    /// Budgets.
    pub tiers: Tiers,
    /// What is compared.
    pub arms: Vec<Arm>,
    /// Held-out items that the finished arms are scored on.
    pub tests: Vec<Test>,
    /// What is expected of the scores.
    pub expect: Vec<Expectation>,
}

/// Which part of the house world is for what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HouseData {
    /// Folder of the house model.
    pub folder: PathBuf,
    /// Share of the people with training questions that are moved to the development part.
    pub development_share: f64,
    /// Statements of known facts, drawn from all wordings, to measure forgetting with.
    pub facts: usize,
}

impl Default for HouseData {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("assets/house"),
            development_share: 0.2,
            facts: 500,
        }
    }
}

/// A run that arms build upon, for instance the training that a ticket comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct First {
    /// Its name; `$FIRST/ID` in the recipe and the arms stands for its run folder.
    pub id: String,
    /// The whole recipe, without output.
    pub recipe: Map<String, Value>,
    /// What the smoke tier lays over it.
    pub smoke: Map<String, Value>,
}

/// A file in UTF-8 or Latin-1, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prepared {
    /// Its name in the folder that `$CLAIM` names.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether of the label that begins a line only what stands before a colon is kept.
    pub coarse_labels: bool,
    /// Share of the lines at which the part begins and ends; all where absent.
    pub part: Option<[f64; 2]>,
    /// Only lines of this many words at least and at most; all where absent.
    pub words: Option<[usize; 2]>,
    /// Columns of a JSON list to take as lines, joined by spaces; the file is text where it is empty.
    pub columns: Vec<String>,
}

/// The budget of each tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tiers {
    /// Shows that it runs.
    pub smoke: Budget,
    /// What is recorded.
    pub full: Budget,
}

/// A budget: the same for every arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Seeds 1 to this; the search for learning rates uses seed 0.
    pub seeds: u64,
    /// Laid over the experiment's recipe.
    pub recipe: Map<String, Value>,
    /// Test items read at most, of each test; 0 reads all.
    pub items: usize,
}

/// A method with its options and the learning rates to choose from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Arm {
    /// Short name, unique in the experiment.
    pub id: String,
    /// The method's name and options.
    pub method: Named,
    /// The grid; every arm of an experiment has as many. Arms that edit have none.
    pub learning_rates: Vec<f64>,
}

/// Held-out items.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Test {
    /// Short name, unique in the experiment. Where no arm is trained by a recipe it is one of the scores of what the
    /// experiment is about.
    pub id: String,
    /// What the items are.
    pub description: String,
    /// Laid over the recipe's `[data]`.
    pub data: Map<String, Value>,
}

/// What is measured on each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// 1 where every token of the answer (or the class) has the highest score, else 0.
    #[default]
    Exact,
    /// Mean negative log-likelihood of the answer's tokens (or of the class).
    Loss,
    /// A number in the test's own unit, for instance the norm of a change.
    Amount,
}

impl Metric {
    /// As claim files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Loss => "loss",
            Self::Amount => "amount",
        }
    }
}

/// What is expected of a difference between two arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The arm under claim.
    pub arm: String,
    /// What it is compared with.
    pub baseline: String,
    /// On which items.
    pub test: String,
    /// By which score.
    #[serde(default)]
    pub metric: Metric,
    /// Which way the difference should go.
    pub direction: Direction,
    /// The difference that still counts as none, for `as_good`.
    #[serde(default)]
    pub margin: f64,
    /// Why this direction, and why this margin; written before the runs.
    #[serde(default)]
    pub reason: String,
}

impl Claim {
    /// Reads and checks a claim file.
    ///
    /// # Errors
    /// TOML errors, unknown keys with near matches, and whatever [`Claim::check`] refuses, each
    /// with the file's name.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self::parse(&text, &name).map_err(|error| match error {
            Error::Config { key, problem } => Error::Config {
                key: format!("{}: {key}", path.display()),
                problem,
            },
            other => other,
        })
    }

    /// Reads and checks the text of a claim.
    ///
    /// # Errors
    /// As [`Claim::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let value: toml::Value = toml::from_str(text)
            .map_err(|error| Error::config("TOML", error.to_string().trim()))?;
        let value = serde_json::to_value(value).map_err(|error| Error::config("TOML", error))?;
        let claim = Self {
            name: name.to_owned(),
            ..read_typed(&value)?
        };
        claim.check()?;
        Ok(claim)
    }
}

impl Experiment {
    /// What its arms are measured on, where no recipe trains them.
    ///
    /// # Errors
    /// Two such kinds at once.
    pub(super) fn kind(&self) -> Result<Option<&dyn Kind>> {
        let all: [Option<&dyn Kind>; 5] = [
            self.edits.as_ref().map(|kind| kind as &dyn Kind),
            self.collapse.as_ref().map(|kind| kind as &dyn Kind),
            self.toxicity.as_ref().map(|kind| kind as &dyn Kind),
            self.policy.as_ref().map(|kind| kind as &dyn Kind),
            self.deltas.as_ref().map(|kind| kind as &dyn Kind),
        ];
        match all.into_iter().flatten().collect::<Vec<_>>()[..] {
            [] => Ok(None),
            [kind] => Ok(Some(kind)),
            [first, second, ..] => {
                let problem = format!("stands beside {}; an experiment is about one", first.key());
                Err(Error::config(second.key(), problem))
            }
        }
    }

    /// The budget of a tier.
    pub fn budget(&self, tier: Tier) -> &Budget {
        match tier {
            Tier::Smoke => &self.tiers.smoke,
            Tier::Full => &self.tiers.full,
        }
    }
}

/// All claims of a folder, by name.
///
/// # Errors
/// A folder that cannot be read or holds no claim, and as [`Claim::read`].
pub fn read_all(folder: &Path) -> Result<Vec<Claim>> {
    let io = |error| Error::io(folder, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Error::file(folder, "holds no claim (NN-name.toml)"));
    }
    paths.iter().map(|path| Claim::read(path)).collect()
}
