//! What several operations do to each other, and how sure a reduction is.

use super::behaviour::Behaviour;
use super::host::edited;
use modelsmith_core::error::Result;
use modelsmith_core::random::Stream;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::Patch;
use serde::Serialize;

/// Behaviours under several patches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interference {
    /// Of the base, `[behaviours]`.
    pub base: Vec<f64>,
    /// With each patch alone, `[patches][behaviours]`.
    pub alone: Vec<Vec<f64>>,
    /// With all patches, `[behaviours]`.
    pub together: Vec<f64>,
    /// Rows that two patches both change, `[patches][patches]`.
    pub shared_rows: Vec<Vec<usize>>,
}

/// Measures behaviours with each patch alone and with all of them.
///
/// # Errors
/// Patches for another model; what measuring refuses.
pub fn interference(
    base: &Transformer,
    patches: &[Patch],
    behaviours: &[&dyn Behaviour],
) -> Result<Interference> {
    let measured = |patches: &[Patch]| -> Result<Vec<f64>> {
        let host = edited(base, patches)?;
        let figures = behaviours
            .iter()
            .map(|behaviour| behaviour.measure(&host, &[]));
        figures.map(|found| Ok(found?.behaviour)).collect()
    };
    let each = patches
        .iter()
        .map(|patch| measured(std::slice::from_ref(patch)));
    let shared = |one: &Patch| patches.iter().map(|other| one.shared_rows(other)).collect();
    Ok(Interference {
        base: measured(&[])?,
        alone: each.collect::<Result<_>>()?,
        together: measured(patches)?,
        shared_rows: patches.iter().map(shared).collect(),
    })
}

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// The relative reduction `(before - after) / before` of the mean over prompts, and the bounds of its 95 %
/// bootstrap interval over prompts drawn in pairs. `None` where there is nothing to reduce.
pub fn reduction(before: &[f64], after: &[f64], seed: u64) -> Option<[f64; 3]> {
    let count = before.len().min(after.len());
    let relative = |numbers: &[usize]| {
        let sum = |of: &[f64]| numbers.iter().map(|at| of[*at]).sum::<f64>();
        let start = sum(before);
        (start != 0.0).then(|| (start - sum(after)) / start)
    };
    let all: Vec<usize> = (0..count).collect();
    let found = relative(&all)?;
    let mut stream = Stream::new(seed, "surgery/reduction");
    let draws = (0..DRAWS).filter_map(|_| {
        let numbers: Vec<usize> = (0..count).map(|_| stream.below(count)).collect();
        relative(&numbers)
    });
    let mut draws: Vec<f64> = draws.collect();
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| draws[((draws.len() - 1) as f64 * share).round() as usize];
    match draws.is_empty() {
        true => None,
        false => Some([found, at(0.025), at(0.975)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduction_lies_within_its_interval() {
        let before: Vec<f64> = (0..200)
            .map(|at| f64::from(u8::from(at % 2 == 0)))
            .collect();
        let after: Vec<f64> = (0..200)
            .map(|at| f64::from(u8::from(at % 4 == 0)))
            .collect();
        let [found, low, high] = reduction(&before, &after, 0).unwrap();
        assert_eq!(found, 0.5);
        assert!(
            low > 0.35 && low < 0.5 && high > 0.5 && high < 0.65,
            "{low} {high}"
        );
        assert_eq!(reduction(&before, &before, 0).unwrap(), [0.0; 3]);
        assert!(reduction(&[0.0], &[1.0], 0).is_none());
        assert!(reduction(&[], &[], 0).is_none());
    }
}
