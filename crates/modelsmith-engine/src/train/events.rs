//! What a running training tells whoever watches it.

use super::evaluate::Evaluation;
use super::step::StepReport;
use std::path::PathBuf;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Training begins, or goes on after a checkpoint.
    Started {
        /// Steps already done.
        step: u64,
        /// Steps in all.
        total_steps: u64,
        /// Numbers that training changes.
        trained: u64,
        /// Numbers of the host.
        host: u64,
    },
    /// An optimizer step was taken.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Steps in all.
        total_steps: u64,
        /// What it did.
        report: StepReport,
        /// Tokens a second in this step.
        tokens_per_second: f64,
        /// Peak resident memory so far, in bytes.
        peak_memory: Option<u64>,
        /// Seconds left, judged by the steps so far.
        seconds_left: f64,
    },
    /// Held-out rows were read.
    Evaluated {
        /// After which step.
        step: u64,
        /// The figures.
        evaluation: Evaluation,
        /// Whether it is the lowest loss so far.
        best: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// After which step.
        step: u64,
        /// Where.
        path: PathBuf,
    },
    /// Something that a user should know.
    Warning(String),
}

/// Watches a run.
pub trait Observer {
    /// Called at each event, in order.
    fn event(&mut self, event: Event);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _event: Event) {}
}
