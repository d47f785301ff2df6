//! Which weights win? Those that moved most, or whatever else they are judged by, up to a number.

use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What weights are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All that may win.
    #[default]
    Global,
    /// Those of their block.
    Layer,
    /// Those of their tensor.
    Tensor,
}

/// Scores of a tensor's weights, in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    /// The tensor's name.
    pub(super) name: String,
    /// The block it belongs to.
    pub(super) layer: Option<usize>,
    /// One for each weight; larger is better.
    pub(super) scores: Vec<f32>,
}

/// How many win.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// This share, rounded down.
    Share(f64),
    /// This many.
    Count(usize),
}

impl Size {
    /// Winners of a group of `weights` out of `all`.
    fn of(self, weights: usize, all: usize) -> usize {
        match self {
            Self::Share(share) => (share * weights as f64) as usize,
            Self::Count(count) if weights == all => count.min(all),
            Self::Count(count) => (count as f64 * weights as f64 / all as f64) as usize,
        }
    }
}

/// Flat places of the winners of each tensor, ascending. Of equal scores the first win, so that the
/// number is exact.
///
/// # Errors
/// Fewer weights with a score above `least` than are to win, or none at all.
pub(super) fn select(
    tensors: &[Scored],
    size: Size,
    scope: Scope,
    least: f32,
) -> Result<Vec<Vec<u32>>> {
    let all: usize = tensors.iter().map(|tensor| tensor.scores.len()).sum();
    let mut winners = vec![Vec::new(); tensors.len()];
    for group in groups(tensors, scope) {
        let weights = group.iter().map(|at| tensors[*at].scores.len()).sum();
        let count = size.of(weights, all);
        if count > 0 {
            best(tensors, &group, count, least, &mut winners)?;
        }
    }
    match winners.iter().all(Vec::is_empty) {
        true => Err(Error::config(
            "method.proportion",
            format!("leaves no winner among {all} weights; raise it"),
        )),
        false => Ok(winners),
    }
}

/// Numbers of the tensors that are compared with each other.
fn groups(tensors: &[Scored], scope: Scope) -> Vec<Vec<usize>> {
    let mut found: Vec<(Option<usize>, Vec<usize>)> = Vec::new();
    for (at, tensor) in tensors.iter().enumerate() {
        let key = match scope {
            Scope::Global => None,
            Scope::Layer => tensor.layer,
            Scope::Tensor => Some(at),
        };
        match found.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(at),
            None => found.push((key, vec![at])),
        }
    }
    found.into_iter().map(|(_, group)| group).collect()
}

fn best(
    tensors: &[Scored],
    group: &[usize],
    count: usize,
    least: f32,
    winners: &mut [Vec<u32>],
) -> Result<()> {
    let scores = group.iter().flat_map(|at| &tensors[*at].scores);
    let mut sorted: Vec<f32> = scores.copied().collect();
    let last = count - 1;
    let (_, threshold, _) = sorted.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    if threshold <= least {
        let above = sorted.iter().filter(|score| **score > least).count();
        return Err(Error::config(
            "method.proportion",
            format!(
                "asks for {count} of the weights of {} and what is compared with it; only {above} \
                 have moved; lower it, or train the ticket longer",
                tensors[group[0]].name
            ),
        ));
    }
    let above = sorted.iter().filter(|score| **score > threshold).count();
    let mut ties = count - above;
    for at in group {
        for (place, score) in tensors[*at].scores.iter().enumerate() {
            let wins = *score > threshold || (*score == threshold && ties > 0);
            if wins {
                ties -= usize::from(*score == threshold);
                winners[*at].push(place as u32);
            }
        }
    }
    Ok(())
}

/// Winners as bits, sixteen in each number, the first in the lowest.
pub(super) fn packed(winners: &[u32], weights: usize) -> Vec<f32> {
    let mut words = vec![0_u16; weights.div_ceil(16)];
    for place in winners {
        words[*place as usize / 16] |= 1 << (place % 16);
    }
    words.into_iter().map(f32::from).collect()
}

/// What [`packed`] was given.
///
/// # Errors
/// A number that is not sixteen bits, or a bit behind the last weight.
pub(super) fn unpacked(name: &str, words: &[f32], weights: usize) -> Result<Vec<u32>> {
    let broken = || Error::Failed(format!("the adapter's tensor {name} is no ticket"));
    let mut winners = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if word.fract() != 0.0 || !(0.0..65536.0).contains(word) {
            return Err(broken());
        }
        let word = *word as u16;
        let bits = (0..16).filter(|bit| word & (1 << bit) != 0);
        winners.extend(bits.map(|bit| (at * 16 + bit) as u32));
    }
    match winners.last().is_some_and(|last| *last as usize >= weights) {
        true => Err(broken()),
        false => Ok(winners),
    }
}
