//! The forward pass, a block of queries at a time (Dao, arXiv 2307.08691).

use super::block::{
    KEYS, LANES, QUERIES, Queries, group, group_mut, packed, padded, scores, sum_over_keys,
    transposed,
};
use super::view::{Problem, Sink};
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// What the backward pass needs of softmax, for every query: the greatest score (0 for a query
/// without any), and one over the sum of exponentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Normaliser {
    pub(super) top: Vec<f32>,
    pub(super) scale: Vec<f32>,
}

/// Attends; `out` is `[batch, time, heads, width]`.
pub(super) fn forward(problem: &Problem<'_>, out: &mut [f32], normaliser: Option<&mut Normaliser>) {
    let rows = problem.rows();
    let lengths = [
        problem.batch(),
        problem.time(),
        problem.heads(),
        problem.width(),
    ];
    let sink = Sink::new(out, lengths);
    let mut unused = Normaliser::default();
    let count = problem.batch() * problem.heads() * problem.time();
    let normaliser = normaliser.unwrap_or(&mut unused);
    normaliser.top.resize(count, 0.0);
    normaliser.scale.resize(count, 0.0);
    let heads = normaliser
        .top
        .par_chunks_mut(rows)
        .zip(normaliser.scale.par_chunks_mut(rows));
    heads.enumerate().for_each(|(at, (top, scale))| {
        let blocks_of = top
            .par_chunks_mut(QUERIES)
            .zip(scale.par_chunks_mut(QUERIES));
        blocks_of.enumerate().for_each_init(
            || Scratch::new(problem),
            |scratch, (block, (top, scale))| {
                let (batch, kv_head) = (at / problem.kv_heads(), at % problem.kv_heads());
                Arch::new().dispatch(Block {
                    problem,
                    queries: Queries::new(problem, batch, kv_head, block * QUERIES),
                    scratch,
                    out: &sink,
                    top,
                    scale,
                });
            },
        );
    });
}

/// Buffers of a block.
struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
    values: Vec<f32>,
    sums: Vec<f32>,
}

impl Scratch {
    fn new(problem: &Problem<'_>) -> Self {
        let width = padded(problem.width());
        Self {
            q: vec![0.0; problem.dim() * QUERIES],
            scores: vec![0.0; KEYS * QUERIES],
            values: vec![0.0; KEYS * width],
            sums: vec![0.0; QUERIES * width],
        }
    }
}

struct Block<'a> {
    problem: &'a Problem<'a>,
    queries: Queries,
    scratch: &'a mut Scratch,
    out: &'a Sink<'a>,
    top: &'a mut [f32],
    scale: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            problem,
            queries,
            scratch,
            out,
            top,
            scale,
        } = self;
        let (lanes, width) = (queries.lanes, padded(problem.width()));
        let q = &mut scratch.q[..problem.dim() * lanes];
        transposed(q, lanes, queries.rows.len(), problem.scale, |row| {
            let (head, time) = queries.place(problem, queries.rows.start + row);
            problem.q.row(queries.batch, head, time)
        });
        let sums = &mut scratch.sums[..lanes * width];
        sums.fill(0.0);
        let mut online = Online::new();
        for first in queries.keys().step_by(KEYS) {
            let keys = first..(first + KEYS).min(queries.keys().end);
            let p = &mut scratch.scores[..keys.len() * lanes];
            scores(simd, p, problem, &queries, q, &keys);
            online.update(p, &queries, &keys);
            if first > queries.keys().start {
                online.rescale(sums, width);
            }
            let rows = keys
                .clone()
                .map(|key| problem.v.row(queries.batch, queries.kv_head, key));
            packed(&mut scratch.values[..keys.len() * width], width, 1.0, rows);
            let values = (scratch.values.as_slice(), width);
            sum_over_keys(simd, (sums, width), &queries, p, values, &keys, width);
        }
        for (lane, row) in queries.rows.clone().enumerate() {
            (top[lane], scale[lane]) = (online.base(lane), 1.0 / online.sums[lane]);
            let (head, time) = queries.place(problem, row);
            // SAFETY: a row belongs to one block, and a block to one task.
            #[allow(unsafe_code)]
            let out = unsafe { out.row(queries.batch, head, time) };
            for (out, sum) in out.iter_mut().zip(&sums[lane * width..]) {
                *out = sum * scale[lane];
            }
        }
    }
}

/// Softmax as its scores come in (Milakov and Gimelshein, arXiv 1805.02867), for every lane.
struct Online {
    top: [f32; QUERIES],
    sums: [f32; QUERIES],
    factors: [f32; QUERIES],
}

impl Online {
    fn new() -> Self {
        Self {
            top: [f32::NEG_INFINITY; QUERIES],
            sums: [0.0; QUERIES],
            factors: [0.0; QUERIES],
        }
    }

    /// What is taken from the scores of a lane: their greatest, or 0 where there is none.
    #[inline(always)]
    fn base(&self, lane: usize) -> f32 {
        finite_or_zero(self.top[lane])
    }

    /// Turns scores into exponentials, relative to the greatest score so far.
    #[inline(always)]
    fn update(&mut self, scores: &mut [f32], queries: &Queries, keys: &Range<usize>) {
        let lanes = queries.lanes;
        for first in (0..lanes).step_by(LANES) {
            let seen = queries.keys_of(first, keys);
            let rows = &mut scores[seen.start * lanes..seen.end * lanes];
            let before = *group(&self.top, first);
            let top = group_mut(&mut self.top, first);
            for row in rows.chunks_exact(lanes) {
                let row = group(row, first);
                for lane in 0..LANES {
                    top[lane] = if row[lane] > top[lane] {
                        row[lane]
                    } else {
                        top[lane]
                    };
                }
            }
            let mut base = *top;
            base.iter_mut().for_each(|top| *top = finite_or_zero(*top));
            let mut sums = [0.0; LANES];
            for row in rows.chunks_exact_mut(lanes) {
                let row = group_mut(row, first);
                for lane in 0..LANES {
                    row[lane] = math::exp(row[lane] - base[lane]);
                    sums[lane] += row[lane];
                }
            }
            let factors = group_mut(&mut self.factors, first);
            let all = group_mut(&mut self.sums, first);
            for lane in 0..LANES {
                factors[lane] = math::exp(before[lane] - base[lane]);
                all[lane] = all[lane] * factors[lane] + sums[lane];
            }
        }
    }

    /// Brings sums of earlier exponentials to the greatest score so far.
    #[inline(always)]
    fn rescale(&self, sums: &mut [f32], width: usize) {
        for (sums, factor) in sums.chunks_exact_mut(width).zip(&self.factors) {
            if *factor != 1.0 {
                sums.iter_mut().for_each(|sum| *sum *= factor);
            }
        }
    }
}

#[inline(always)]
fn finite_or_zero(top: f32) -> f32 {
    if top == f32::NEG_INFINITY { 0.0 } else { top }
}
