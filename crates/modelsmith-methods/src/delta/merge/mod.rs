//! Several checkpoints into one, tensor by tensor, by the names and parameters that merging tools use.
//!
//! A method first looks at a tensor as often as it needs ([`Source`]: parts of it, in any order, from files), which leaves a
//! few numbers: thresholds, sums, coefficients. Then every entry follows from the inputs at its place alone ([`Blend`]), so a
//! tensor of any size is merged in bounded memory, and parts may be computed anywhere. All arithmetic is `f32`, sums are
//! `f64` in a fixed order.
//!
//! Two families cover the methods: [`consensus`](Rule::Consensus) (task vectors, masked, with or without an elected sign) and
//! linear combinations, whose coefficients are given or follow from the inner products of the inputs (SLERP, Karcher mean,
//! model stock).

mod combination;
mod consensus;
mod geometry;
mod table;

pub use table::{Base, Mask, MergeMethod, Parameter, Rule, Scope, TABLE, find, parameter_names};

use super::Place;
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use std::collections::BTreeMap;

/// Values of parameters for one tensor, flags as 0 and 1.
pub type Values = BTreeMap<&'static str, f64>;

/// One tensor to be merged.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Name, shape and seed.
    pub place: Place<'a>,
    /// Which input is the base.
    pub base: Option<usize>,
    /// Parameters of the tensor.
    pub common: Values,
    /// Parameters of each input; those of the base are not read.
    pub inputs: Vec<Values>,
}

impl Job<'_> {
    /// A parameter of the tensor; the table gives every parameter a value, so 0 is never met.
    fn common(&self, name: &str) -> f64 {
        self.common.get(name).copied().unwrap_or(0.0)
    }

    fn flag(&self, name: &str) -> bool {
        self.common(name) != 0.0
    }

    fn of(&self, input: usize, name: &str) -> f64 {
        let values = self.inputs.get(input);
        values
            .and_then(|values| values.get(name))
            .copied()
            .unwrap_or(0.0)
    }

    /// The inputs that are not the base.
    fn tasks(&self) -> Vec<usize> {
        (0..self.inputs.len())
            .filter(|input| Some(*input) != self.base)
            .collect()
    }
}

/// A part of a tensor, with the values of every input.
#[derive(Debug)]
pub struct Block<'a> {
    /// Number of the first entry within the tensor.
    pub start: usize,
    /// Number of the part, from 0; all parts but the last are equally long.
    pub number: usize,
    /// Values of each input; a visitor may overwrite them.
    pub inputs: &'a mut [Vec<f32>],
}

impl Block<'_> {
    /// Subtracts the base from the other inputs.
    fn subtract(&mut self, base: usize) {
        let kept = std::mem::take(&mut self.inputs[base]);
        for (number, input) in self.inputs.iter_mut().enumerate() {
            if number != base {
                crate::wide!({
                    for (value, base) in input.iter_mut().zip(&kept) {
                        *value -= base;
                    }
                });
            }
        }
        self.inputs[base] = kept;
    }
}

/// A tensor of several checkpoints, read part by part as often as asked.
pub trait Source: Sync {
    /// Entries of the tensor.
    fn length(&self) -> usize;

    /// Visits every part, on all cores; what the visits return, in the order of the parts.
    ///
    /// # Errors
    /// An input that cannot be read.
    fn sweep<T: Send>(&self, visit: impl Fn(&mut Block<'_>) -> T + Sync) -> Result<Vec<T>>;

    /// Visits every part, on all cores, with counters of the visiting thread; their sums.
    ///
    /// # Errors
    /// An input that cannot be read.
    fn tally(
        &self,
        counters: usize,
        visit: impl Fn(&mut Block<'_>, &mut [u32]) + Sync,
    ) -> Result<Vec<u64>>;
}

/// What is left of a method once the tensor has been looked at.
pub trait Blend: Send + Sync {
    /// The merged entries of one part. The inputs of the part may be overwritten.
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]);
}

impl MergeMethod {
    /// Parts of a tensor must hold a multiple of this many entries.
    pub fn alignment(&self, place: &Place<'_>) -> usize {
        match self.rule {
            Rule::Consensus {
                mask: Mask::MagPrune,
                ..
            } => place.matrix().1.max(1),
            _ => 1,
        }
    }

    /// Looks at a tensor.
    ///
    /// # Errors
    /// Parameters out of range (with their name), inputs without a direction where one is needed.
    pub fn plan<S: Source>(&self, job: &Job<'_>, source: &S) -> Result<Box<dyn Blend>> {
        Ok(match self.rule {
            Rule::Consensus { mask, elect } => Box::new(consensus::plan(mask, elect, job, source)?),
            Rule::Linear => Box::new(combination::linear(job)?),
            Rule::Passthrough => Box::new(combination::passthrough(job)),
            _ => Box::new(geometry::plan(self.rule, job, source)?),
        })
    }
}

/// Refuses a parameter out of its range, by its name.
fn parameter_within(job: &Job<'_>, name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let problem = format!("is {value} for {}; must be {low} to {high}", job.place.name);
    Err(Error::config(format!("parameters.{name}"), problem))
}

#[cfg(test)]
mod tests;
