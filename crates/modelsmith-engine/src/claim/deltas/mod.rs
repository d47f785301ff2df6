//! Experiments about the difference between a network and what it was trained on to, on real images: what edits of
//! that difference cost (Tang et al., arXiv 2410.13841), and how well that is told without trying ([`estimated`]).
//!
//! A convolutional network learns classes of images, then the same classes of images in opposite colours; each arm
//! edits the difference of the two.

mod edited;
mod estimated;
mod world;

use super::arms::Bench;
use super::file::{Experiment, Metric};
use super::measured::{Kind, Subject, at_least_one, no_first};
use crate::recipe::Named;
use crate::registry;
use crate::vision::Fit;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A network before and after it was trained on, and edits of the difference. Arms: `none`, an operator with its
/// options, `chain` (`operators`, one after the other), `chosen` (extrapolation as far as development images say).
/// Tests: `accuracy`, `loss` (image by image), `change` (norm of what editing changed over that of the difference),
/// `bits` (of the edited difference in its smallest form, a number). With `edits`, arms tell what these do to the loss
/// instead: `exact`, `riemann` (`points`, `rule`), `law` (half the variance of DARE's factor times `Σ F ΔW²`); their tests
/// are `agreement` (mean: the correlation with what is measured) and `error` (distance to it, edit by edit).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deltas {
    /// Parquet file of training images.
    pub train: PathBuf,
    /// Parquet file of test images.
    pub test: PathBuf,
    /// Height and width that images are resized to.
    pub size: [usize; 2],
    /// How the network is trained first.
    pub before: Training,
    /// How it is trained on, on images in opposite colours; seeds differ in the order of the images.
    pub after: Training,
    /// Images in opposite colours behind those, for what must be chosen without the test.
    pub development: usize,
    /// Share of all these images that the smoke tier takes.
    pub smoke: f64,
    /// Edits whose effect on the loss is to be told.
    pub edits: Vec<Named>,
}

/// Images of the training file, and how they are trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// How many.
    pub images: usize,
    /// How long and how fast.
    pub fit: Fit,
}

impl Default for Deltas {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            test: PathBuf::new(),
            size: [16, 16],
            before: Training::default(),
            after: Training::default(),
            development: 2000,
            smoke: 0.05,
            edits: Vec::new(),
        }
    }
}

impl Kind for Deltas {
    fn key(&self) -> &'static str {
        "deltas"
    }

    fn tests(&self) -> Vec<(&'static str, Metric)> {
        match self.edits.is_empty() {
            true => edited::TESTS.to_vec(),
            false => estimated::TESTS.to_vec(),
        }
    }

    fn check(&self, experiment: &Experiment) -> Result<()> {
        let counts = [
            ("before.images", self.before.images),
            ("after.images", self.after.images),
            ("development", self.development),
        ];
        at_least_one(self.key(), &counts)?;
        if !(self.smoke > 0.0 && self.smoke <= 1.0) {
            let problem = format!("is {}; must be above 0 and at most 1", self.smoke);
            return Err(Error::config("deltas.smoke", problem));
        }
        for training in [&self.before, &self.after] {
            training.fit.check()?;
        }
        for edit in &self.edits {
            registry::delta_operator(edit)?;
        }
        no_first(self.key(), experiment)
    }

    fn check_method(&self, method: &Named) -> Result<()> {
        match self.edits.is_empty() {
            true => edited::Edit::read(method).map(|_| ()),
            false => estimated::Estimator::read(method, &self.edits).map(|_| ()),
        }
    }

    fn open(&self, bench: &mut Bench) -> Result<Box<dyn Subject>> {
        let world = world::World::open(bench, self)?;
        Ok(match self.edits.is_empty() {
            true => Box::new(edited::Edited { world }),
            false => Box::new(estimated::Estimated::new(world)?),
        })
    }
}
