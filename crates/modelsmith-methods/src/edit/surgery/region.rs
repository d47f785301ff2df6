//! Which rows are changed: the ones that oppose the direction most, over all blocks together.
//!
//! Rows are offered matrix after matrix and only the best K are kept, so that a model may be read block
//! by block. The order is by score, then block, then matrix, then row; it does not depend on the
//! order in which matrices are offered.

use modelsmith_core::random::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// Which rows are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// The rows with the smallest cosine to the direction: the paper's.
    #[default]
    AntiAligned,
    /// Those with the largest.
    Aligned,
    /// Any rows, drawn by the seed.
    Random,
    /// Those with the smallest cosine in each block, the same number in each.
    PerBlock,
    /// All rows.
    All,
}

/// Cosine of each row with the direction; `None` for rows of zeros, which have none.
///
/// `rows` is `[rows, width]` flat, sums are in f64. `gains`, where given, multiply rows and direction, so
/// that both act on a normalised state before its gain: those of the rows' norm and of the direction's,
/// `[width]` each.
pub fn cosines(
    rows: &[f32],
    direction: &[f32],
    gains: Option<(&[f32], &[f32])>,
) -> Vec<Option<f64>> {
    let width = direction.len();
    let by = |gain: Option<&[f32]>, at: usize| gain.map_or(1.0, |gain| f64::from(gain[at]));
    let (own, last) = (gains.map(|both| both.0), gains.map(|both| both.1));
    let toward: Vec<f64> = (0..width)
        .map(|at| f64::from(direction[at]) * by(last, at))
        .collect();
    let length = toward.iter().map(|x| x * x).sum::<f64>().sqrt();
    rows.chunks_exact(width)
        .map(|row| {
            let (mut along, mut square) = (0.0, 0.0);
            for (at, (x, toward)) in row.iter().zip(&toward).enumerate() {
                let x = f64::from(*x) * by(own, at);
                along += x * toward;
                square += x * x;
            }
            let both = square.sqrt() * length;
            (both > 0.0 && both.is_finite()).then(|| along / both)
        })
        .collect()
}

/// A row that may be changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Number of the block.
    pub block: usize,
    /// Number of the matrix, whatever the caller counts by.
    pub matrix: usize,
    /// Number of the row in its matrix.
    pub row: usize,
    /// Minus its cosine with the direction.
    pub score: f64,
    /// What rows are chosen by.
    rank: f64,
}

impl Candidate {
    fn place(&self) -> (usize, usize, usize) {
        (self.block, self.matrix, self.row)
    }
}

impl Eq for Candidate {}

impl Ord for Candidate {
    /// The better one is greater.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = self.rank.total_cmp(&other.rank);
        by_rank.then_with(|| other.place().cmp(&self.place()))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Chooses rows while matrices pass by.
#[derive(Debug)]
pub struct Selector {
    region: Region,
    count: usize,
    blocks: usize,
    seed: u64,
    /// The best so far, the worst of them on top; one heap, or one a block.
    kept: BTreeMap<usize, BinaryHeap<Reverse<Candidate>>>,
}

impl Selector {
    /// Chooses `count` rows of a model with `blocks` blocks.
    pub fn new(region: Region, count: usize, blocks: usize, seed: u64) -> Self {
        Self {
            region,
            count,
            blocks: blocks.max(1),
            seed,
            kept: BTreeMap::new(),
        }
    }

    /// Offers all rows of a matrix by their cosines; rows without one are never chosen.
    pub fn offer(&mut self, block: usize, matrix: usize, cosines: &[Option<f64>]) {
        let mut draws = Stream::new(self.seed, &format!("surgery/region/{matrix}"));
        for (row, cosine) in cosines.iter().enumerate() {
            let drawn = draws.unit();
            let Some(cosine) = *cosine else {
                continue;
            };
            let score = -cosine;
            let rank = match self.region {
                Region::AntiAligned | Region::PerBlock | Region::All => score,
                Region::Aligned => cosine,
                Region::Random => drawn,
            };
            self.keep(Candidate {
                block,
                matrix,
                row,
                score,
                rank,
            });
        }
    }

    fn keep(&mut self, candidate: Candidate) {
        let (heap, room) = match self.region {
            Region::All => (0, usize::MAX),
            Region::PerBlock => {
                let extra = usize::from(candidate.block < self.count % self.blocks);
                (candidate.block, self.count / self.blocks + extra)
            }
            _ => (0, self.count),
        };
        let kept = self.kept.entry(heap).or_default();
        if kept.len() < room {
            kept.push(Reverse(candidate));
        } else if kept.peek().is_some_and(|worst| candidate > worst.0) {
            kept.pop();
            kept.push(Reverse(candidate));
        }
    }

    /// The rows chosen, best first.
    pub fn finish(self) -> Vec<Candidate> {
        let heaps = self.kept.into_values();
        let mut chosen: Vec<Candidate> = heaps.flatten().map(|kept| kept.0).collect();
        chosen.sort_by(|a, b| b.cmp(a));
        chosen
    }
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
