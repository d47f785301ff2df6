//! A few queries, as in writing a text token by token: keys and values are read once, in place, and
//! the time is that of reading them.

use super::product::{Size, Strided, multiply};
use super::view::{Problem, Sink};
use crate::math;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// The greatest number of queries that share keys and values for which this is the faster way.
pub(super) const FEW: usize = 4;

/// Values of keys that are worth a task.
const TASK: usize = 1 << 16;

/// Attends; `out` is `[batch, time, heads, width]`.
pub(super) fn forward(problem: &Problem<'_>, out: &mut [f32]) {
    let lengths = [
        problem.batch(),
        problem.time(),
        problem.heads(),
        problem.width(),
    ];
    let sink = Sink::new(out, lengths);
    let heads = problem.batch() * problem.kv_heads();
    let attend = |at: usize| {
        Arch::new().dispatch(Head {
            problem,
            batch: at / problem.kv_heads(),
            kv_head: at % problem.kv_heads(),
            out: &sink,
        });
    };
    let least = (TASK / (problem.keys() * problem.dim()).max(1)).max(1);
    if heads <= 2 * least {
        // Waking another thread would take longer.
        return (0..heads).for_each(attend);
    }
    let tasks = (0..heads).into_par_iter().with_min_len(least);
    tasks.for_each(attend);
}

/// The queries that share a head of keys and values.
struct Head<'a> {
    problem: &'a Problem<'a>,
    batch: usize,
    kv_head: usize,
    out: &'a Sink<'a>,
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (problem, rows) = (self.problem, self.problem.rows());
        let (time, all) = (problem.time(), problem.keys());
        let seen = |row: usize| problem.band.keys(row % time, time, all);
        let first = (0..rows).map(|row| seen(row).start).min().unwrap_or(0);
        let last = (0..rows).map(|row| seen(row).end).max().unwrap_or(0);
        let keys = first..last.max(first);
        let mut p = vec![0.0; rows * keys.len()];
        let mut scale = [0.0; FEW];
        self.scores(simd, &mut p, &keys);
        for (row, p) in p.chunks_exact_mut(keys.len().max(1)).enumerate() {
            let seen = seen(row);
            p[..seen.start - first].fill(0.0);
            p[seen.end - first..].fill(0.0);
            let p = &mut p[seen.start - first..seen.end - first];
            let (head, time) = self.place(row);
            if let Some(bias) = &problem.bias {
                let at = bias.at([self.batch, head, time, seen.start]);
                for (key, p) in p.iter_mut().enumerate() {
                    *p += bias.values[at + key * bias.steps[3]];
                }
            }
            let top = math::max(p);
            p.iter_mut().for_each(|p| *p = math::exp(*p - top));
            scale[row] = 1.0 / math::sum(p);
        }
        if !keys.is_empty() {
            self.mix(simd, &p, &keys, &scale);
        }
    }
}

impl Head<'_> {
    /// Writes the values of these keys, mixed by the rows of `p`, each row scaled.
    #[inline(always)]
    fn mix<S: Simd>(&self, simd: S, p: &[f32], keys: &Range<usize>, scale: &[f32; FEW]) {
        let (rows, width) = (self.problem.rows(), self.problem.width());
        let mut sums = vec![0.0; rows * width];
        let p = Strided {
            values: p,
            row: keys.len(),
            column: 1,
        };
        let values = self.problem.v.matrix(self.batch, self.kv_head, keys.start);
        let size = Size {
            rows,
            inner: keys.len(),
            columns: width,
        };
        let values = (values.values, values.row);
        multiply::<S, false>(simd, (&mut sums, width), p, values, size);
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            let (head, time) = self.place(row);
            // SAFETY: the queries of a head belong to one task, and each is met once.
            #[allow(unsafe_code)]
            let out = unsafe { self.out.row(self.batch, head, time) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * scale[row];
            }
        }
    }

    /// The query head and the time of a row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let time = self.problem.time();
        (self.kv_head * self.problem.group() + row / time, row % time)
    }

    /// Scores of all queries by these keys, a row of them for a query.
    #[inline(always)]
    fn scores<S: Simd>(&self, simd: S, out: &mut [f32], keys: &Range<usize>) {
        let rows = self.problem.rows();
        let queries: [&[f32]; FEW] = std::array::from_fn(|row| {
            let (head, time) = self.place(row.min(rows - 1));
            self.problem.q.row(self.batch, head, time)
        });
        for (at, key) in keys.clone().enumerate() {
            let k = self.problem.k.row(self.batch, self.kv_head, key);
            for (row, q) in queries.iter().take(rows).enumerate() {
                out[row * keys.len() + at] = dot(simd, q, k) * self.problem.scale;
            }
        }
    }
}

/// The sum of products.
#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let (x, x_rest) = S::as_simd_f32s(x);
    let (y, y_rest) = S::as_simd_f32s(y);
    let mut sums = [simd.splat_f32s(0.0); 2];
    let (x_pairs, x_last) = x.as_chunks::<2>();
    let (y_pairs, y_last) = y.as_chunks::<2>();
    for (x, y) in x_pairs.iter().zip(y_pairs) {
        sums[0] = simd.mul_add_e_f32s(x[0], y[0], sums[0]);
        sums[1] = simd.mul_add_e_f32s(x[1], y[1], sums[1]);
    }
    for (x, y) in x_last.iter().zip(y_last) {
        sums[0] = simd.mul_add_e_f32s(*x, *y, sums[0]);
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])) + rest
}
