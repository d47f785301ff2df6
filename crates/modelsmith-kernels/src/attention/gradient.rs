//! The backward pass: probabilities are computed again from the scores (Dao, arXiv 2307.08691).
//!
//! ```text
//! p = exp(s - top) scale,  dv = pᵀ g,  ds = p (g vᵀ - rowsum(g y)),  dq = ds k,  dk = dsᵀ q
//! ```

use super::block::{
    KEYS, LANES, QUERIES, Queries, by_keys, group, group_mut, packed, padded, scores,
    sum_over_keys, sum_over_queries, transposed,
};
use super::forward::Normaliser;
use super::view::{Problem, Sink, View};
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Tasks that are worth having: below, the queries of a head are split among several.
const TASKS: usize = 8;

/// What the gradients are computed from, beside the problem.
pub(super) struct Known<'a> {
    /// The result and its gradient, `[batch, heads, time, width]`.
    pub(super) y: View<'a>,
    pub(super) grad: View<'a>,
    pub(super) normaliser: &'a Normaliser,
}

/// Where gradients go, `[batch, time, heads, dim]` each; those not wanted are absent.
pub(super) struct Gradients<'a> {
    pub(super) q: Option<&'a mut [f32]>,
    pub(super) k: Option<&'a mut [f32]>,
    pub(super) v: Option<&'a mut [f32]>,
}

/// The same while tasks write them.
struct Sinks<'a> {
    q: Option<Sink<'a>>,
    k: Option<Sink<'a>>,
    v: Option<Sink<'a>>,
}

/// Computes the gradients.
pub(super) fn backward(problem: &Problem<'_>, known: &Known<'_>, out: Gradients<'_>) {
    let lengths = |view: View<'_>| {
        let [batch, heads, time, dim] = view.lengths;
        [batch, time, heads, dim]
    };
    let sinks = Sinks {
        q: out.q.map(|q| Sink::new(q, lengths(problem.q))),
        k: out.k.map(|k| Sink::new(k, lengths(problem.k))),
        v: out.v.map(|v| Sink::new(v, lengths(problem.v))),
    };
    let heads = problem.batch() * problem.kv_heads();
    let blocks = problem.rows().div_ceil(QUERIES);
    let parts = TASKS.div_ceil(heads.max(1)).min(blocks);
    let tasks = (0..heads).into_par_iter();
    tasks.for_each_init(
        || Scratch::new(problem),
        |scratch, at| {
            let head = Head {
                problem,
                known,
                sinks: &sinks,
                batch: at / problem.kv_heads(),
                kv_head: at % problem.kv_heads(),
            };
            let sums = head.run(0..blocks, parts, scratch);
            for key in 0..problem.keys() {
                for (sink, sums) in [(&sinks.k, &sums.k), (&sinks.v, &sums.v)] {
                    if let Some(sink) = sink {
                        // SAFETY: the keys and values of a head belong to one task.
                        #[allow(unsafe_code)]
                        let out = unsafe { sink.row(head.batch, head.kv_head, key) };
                        let width = padded(out.len());
                        out.copy_from_slice(&sums[key * width..][..out.len()]);
                    }
                }
            }
        },
    );
}

/// Gradients of the keys and values of a head, in padded rows.
struct Sums {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// A head of keys and values.
struct Head<'a> {
    problem: &'a Problem<'a>,
    known: &'a Known<'a>,
    sinks: &'a Sinks<'a>,
    batch: usize,
    kv_head: usize,
}

impl Head<'_> {
    /// Goes through blocks of queries, in so many parts; the cuts depend on the shapes alone.
    fn run(&self, blocks: Range<usize>, parts: usize, scratch: &mut Scratch) -> Sums {
        if parts > 1 {
            let middle = blocks.start + blocks.len() * (parts / 2) / parts;
            let (mut sums, others) = rayon::join(
                || self.run(blocks.start..middle, parts / 2, scratch),
                || {
                    let mut scratch = Scratch::new(self.problem);
                    self.run(middle..blocks.end, parts - parts / 2, &mut scratch)
                },
            );
            for (sum, other) in sums.k.iter_mut().zip(&others.k) {
                *sum += other;
            }
            for (sum, other) in sums.v.iter_mut().zip(&others.v) {
                *sum += other;
            }
            return sums;
        }
        let (dim, width) = (padded(self.problem.dim()), padded(self.problem.width()));
        let room = |wanted: bool, width: usize| match wanted {
            true => vec![0.0; self.problem.keys() * width],
            false => Vec::new(),
        };
        let mut sums = Sums {
            k: room(self.sinks.k.is_some(), dim),
            v: room(self.sinks.v.is_some(), width),
        };
        Arch::new().dispatch(Part {
            head: self,
            blocks,
            sums: &mut sums,
            scratch,
        });
        sums
    }
}

/// Buffers of a part.
struct Scratch {
    q_lanes: Vec<f32>,
    grad_lanes: Vec<f32>,
    q_rows: Vec<f32>,
    grad_rows: Vec<f32>,
    p: Vec<f32>,
    to_p: Vec<f32>,
    keys: Vec<f32>,
    to_q: Vec<f32>,
}

impl Scratch {
    fn new(problem: &Problem<'_>) -> Self {
        let (dim, width) = (padded(problem.dim()), padded(problem.width()));
        Self {
            q_lanes: vec![0.0; problem.dim() * QUERIES],
            grad_lanes: vec![0.0; problem.width() * QUERIES],
            q_rows: vec![0.0; QUERIES * dim],
            grad_rows: vec![0.0; QUERIES * width],
            p: vec![0.0; KEYS * QUERIES],
            to_p: vec![0.0; KEYS * QUERIES],
            keys: vec![0.0; KEYS * dim],
            to_q: vec![0.0; QUERIES * dim],
        }
    }
}

struct Part<'a> {
    head: &'a Head<'a>,
    blocks: Range<usize>,
    sums: &'a mut Sums,
    scratch: &'a mut Scratch,
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for block in self.blocks {
            self.head.block(simd, block, self.sums, self.scratch);
        }
    }
}

impl Head<'_> {
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, block: usize, sums: &mut Sums, scratch: &mut Scratch) {
        let problem = self.problem;
        let queries = Queries::new(problem, self.batch, self.kv_head, block * QUERIES);
        let (lanes, dim) = (queries.lanes, padded(problem.dim()));
        let softmax = self.pack(&queries, scratch);
        scratch.to_q.fill(0.0);
        for first in queries.keys().step_by(KEYS) {
            let keys = first..(first + KEYS).min(queries.keys().end);
            self.keys(simd, &queries, &keys, &softmax, sums, scratch);
        }
        let Some(sink) = &self.sinks.q else {
            return;
        };
        for (lane, row) in queries.rows.clone().enumerate().take(lanes) {
            let (head, time) = queries.place(problem, row);
            // SAFETY: a row belongs to one block, and a block to one task.
            #[allow(unsafe_code)]
            let out = unsafe { sink.row(self.batch, head, time) };
            for (out, sum) in out.iter_mut().zip(&scratch.to_q[lane * dim..]) {
                *out = sum * problem.scale;
            }
        }
    }

    /// Lays out the queries and the gradients of their results; gives what softmax needs.
    #[inline(always)]
    fn pack(&self, queries: &Queries, scratch: &mut Scratch) -> Softmax {
        let (problem, known) = (self.problem, self.known);
        let (lanes, count) = (queries.lanes, queries.rows.len());
        let row = |view: View<'_>, row: usize| {
            let (head, time) = queries.place(problem, queries.rows.start + row);
            view.at([queries.batch, head, time, 0])
        };
        let q = |at: usize| &problem.q.values[row(problem.q, at)..][..problem.dim()];
        let grad = |at: usize| &known.grad.values[row(known.grad, at)..][..problem.width()];
        let q_lanes = &mut scratch.q_lanes[..problem.dim() * lanes];
        transposed(q_lanes, lanes, count, problem.scale, q);
        let grad_lanes = &mut scratch.grad_lanes[..problem.width() * lanes];
        transposed(grad_lanes, lanes, count, 1.0, grad);
        let (dim, width) = (padded(problem.dim()), padded(problem.width()));
        packed(&mut scratch.q_rows, dim, problem.scale, (0..count).map(q));
        packed(&mut scratch.grad_rows, width, 1.0, (0..count).map(grad));
        let mut softmax = Softmax::default();
        let first = (self.batch * problem.kv_heads() + self.kv_head) * problem.rows();
        for lane in 0..count {
            let at = first + queries.rows.start + lane;
            softmax.top[lane] = known.normaliser.top[at];
            softmax.scale[lane] = known.normaliser.scale[at];
            let y = &known.y.values[row(known.y, lane)..][..problem.width()];
            softmax.mean[lane] = math::sum_pairs(y, grad(lane), |y, grad| y * grad);
        }
        softmax
    }

    /// A block of queries with a block of keys.
    #[inline(always)]
    fn keys<S: Simd>(
        &self,
        simd: S,
        queries: &Queries,
        keys: &Range<usize>,
        softmax: &Softmax,
        sums: &mut Sums,
        scratch: &mut Scratch,
    ) {
        let (problem, lanes) = (self.problem, queries.lanes);
        let (dim, width) = (padded(problem.dim()), padded(problem.width()));
        let p = &mut scratch.p[..keys.len() * lanes];
        let q_lanes = &scratch.q_lanes[..problem.dim() * lanes];
        scores(simd, p, problem, queries, q_lanes, keys);
        softmax.probabilities(p, queries, keys);
        if self.sinks.v.is_some() {
            let out = &mut sums.v[keys.start * width..];
            sum_over_queries(simd, out, queries, p, &scratch.grad_rows, keys, width);
        }
        if self.sinks.k.is_none() && self.sinks.q.is_none() {
            return;
        }
        let to_p = &mut scratch.to_p[..keys.len() * lanes];
        let grad_lanes = &scratch.grad_lanes[..problem.width() * lanes];
        by_keys(simd, to_p, problem.v, queries, grad_lanes, keys);
        softmax.to_scores(p, to_p, queries, keys);
        if self.sinks.k.is_some() {
            let out = &mut sums.k[keys.start * dim..];
            sum_over_queries(simd, out, queries, p, &scratch.q_rows, keys, dim);
        }
        if self.sinks.q.is_some() {
            let rows = keys
                .clone()
                .map(|key| problem.k.row(queries.batch, queries.kv_head, key));
            packed(&mut scratch.keys[..keys.len() * dim], dim, 1.0, rows);
            let rows = (scratch.keys.as_slice(), dim);
            let out = (scratch.to_q.as_mut_slice(), dim);
            sum_over_keys(simd, out, queries, p, rows, keys, dim);
        }
    }
}

/// Softmax of the lanes of a block.
struct Softmax {
    top: [f32; QUERIES],
    scale: [f32; QUERIES],
    /// The mean of the gradient by the probabilities.
    mean: [f32; QUERIES],
}

impl Default for Softmax {
    /// Lanes without a query: probabilities of 0 whatever their scores.
    fn default() -> Self {
        Self {
            top: [f32::INFINITY; QUERIES],
            scale: [0.0; QUERIES],
            mean: [0.0; QUERIES],
        }
    }
}

impl Softmax {
    /// Turns scores into probabilities, 0 where a query does not see a key.
    #[inline(always)]
    fn probabilities(&self, scores: &mut [f32], queries: &Queries, keys: &Range<usize>) {
        for first in (0..queries.lanes).step_by(LANES) {
            let seen = queries.keys_of(first, keys);
            let (top, scale) = (group(&self.top, first), group(&self.scale, first));
            for (key, row) in scores.chunks_exact_mut(queries.lanes).enumerate() {
                let row = group_mut(row, first);
                if !seen.contains(&key) {
                    row.fill(0.0);
                    continue;
                }
                for lane in 0..LANES {
                    row[lane] = math::exp(row[lane] - top[lane]) * scale[lane];
                }
            }
        }
    }

    /// Turns probabilities into gradients by the scores, given those by the probabilities.
    #[inline(always)]
    fn to_scores(&self, p: &mut [f32], to_p: &[f32], queries: &Queries, keys: &Range<usize>) {
        for first in (0..queries.lanes).step_by(LANES) {
            let seen = queries.keys_of(first, keys);
            let mean = group(&self.mean, first);
            let rows = p.chunks_exact_mut(queries.lanes);
            let rows = rows.zip(to_p.chunks_exact(queries.lanes));
            for (p, to_p) in rows.skip(seen.start).take(seen.len()) {
                let (p, to_p) = (group_mut(p, first), group(to_p, first));
                for lane in 0..LANES {
                    p[lane] *= to_p[lane] - mean[lane];
                }
            }
        }
    }
}
