//! What a reproduction found; `claim.json`, and one file a claim in `docs/claims/`.

use super::file::{Metric, PaperFigure, Tier};
use super::verdict::{Direction, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A claim after its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimReport {
    /// Name of the claim file without its ending.
    pub name: String,
    /// Number of the method's card.
    pub card: u32,
    /// Name of the method.
    pub title: String,
    /// What the paper says.
    pub statement: String,
    /// Where it says so.
    pub source: String,
    /// The paper's figures.
    pub paper: Vec<PaperFigure>,
    /// How much was spent.
    pub tier: Tier,
    /// Day of the run, UTC.
    pub date: String,
    /// Version of the program.
    pub version: String,
    /// The machine.
    pub hardware: Hardware,
    /// Seconds that this reproduction took, without runs that were there already.
    pub seconds: f64,
    /// Draws of each interval.
    pub draws: usize,
    /// What was run.
    pub experiments: Vec<ExperimentReport>,
    /// What all expectations together say.
    pub verdict: Verdict,
    /// The claim file's note.
    pub note: String,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// Threads that the process may use.
    pub cores: usize,
    /// Instruction set.
    pub architecture: String,
    /// Operating system.
    pub system: String,
    /// The processor by name, where the system tells.
    pub processor: Option<String>,
    /// Device by name.
    pub device: String,
    /// Processes that wanted to run, mean of the minutes before the start and the end: above the
    /// number of cores, seconds say little.
    pub load: Option<f64>,
}

/// One experiment of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExperimentReport {
    /// Its name.
    pub id: String,
    /// What it asks.
    pub description: String,
    /// Why it was not run.
    pub skipped: Option<String>,
    /// Seeds of the runs.
    pub seeds: Vec<u64>,
    /// Optimizer steps of every run, or facts that it wrote.
    pub steps: u64,
    /// Hashes of the training data and of each test's.
    pub data: BTreeMap<String, String>,
    /// Hash of the host's weights.
    pub host_hash: String,
    /// Each arm's figures.
    pub arms: Vec<ArmReport>,
    /// Figures of the host without any adapter, where it can do the task.
    pub untrained: Vec<Figure>,
    /// What was expected and seen.
    pub comparisons: Vec<Comparison>,
}

/// One arm of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its name.
    pub id: String,
    /// Method and options.
    pub method: Map<String, Value>,
    /// The learning rate chosen; none where the arm edits.
    pub learning_rate: Option<f64>,
    /// The grid, with the loss on the development part; `None` where training diverged.
    pub tried: Vec<Tried>,
    /// Numbers trained, or changed by edits.
    pub trained_parameters: u64,
    /// Mean seconds of training or editing a run.
    pub seconds: f64,
    /// Peak resident memory of the process over the arm's runs, in bytes. The process keeps memory
    /// from run to run, so this bounds the arm's own need from above.
    pub peak_memory: Option<u64>,
    /// Scores, a row for each test and metric in use.
    pub figures: Vec<Figure>,
    /// Run folders, in the order of the seeds.
    pub runs: Vec<PathBuf>,
}

/// A learning rate that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The learning rate.
    pub learning_rate: f64,
    /// Loss on the development part after training.
    pub loss: Option<f64>,
}

/// A score over the items of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The test.
    pub test: String,
    /// The score.
    pub metric: Metric,
    /// Mean over seeds and items.
    pub mean: f64,
    /// Standard deviation over seeds of the mean over items.
    pub deviation: Option<f64>,
    /// The mean over items of each seed.
    pub each: Vec<f64>,
}

/// A difference with its interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The arm under claim.
    pub arm: String,
    /// What it is compared with.
    pub baseline: String,
    /// The test.
    pub test: String,
    /// The score.
    pub metric: Metric,
    /// What was expected of arm minus baseline.
    pub direction: Direction,
    /// The margin of `as_good`.
    pub margin: f64,
    /// Why so, as written before the runs.
    pub reason: String,
    /// Mean of the paired differences.
    pub difference: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Items of the test.
    pub items: usize,
    /// Mean difference of each seed.
    pub each: Vec<f64>,
    /// What the interval says.
    pub verdict: Verdict,
}

impl ArmReport {
    /// The figure of a test and metric.
    pub fn figure(&self, test: &str, metric: Metric) -> Option<&Figure> {
        let mut figures = self.figures.iter();
        figures.find(|figure| figure.test == test && figure.metric == metric)
    }
}
