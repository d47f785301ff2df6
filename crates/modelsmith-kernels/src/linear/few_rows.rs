//! Products with so few rows that reading the weight once is all the work there is.
//!
//! The weight lies in one of two ways. By outputs (`[out, in]` in order), an output is the dot
//! product of `x` with a row. By inputs (`[in, out]` in order, as GPT-2 stores it), rows are summed,
//! a stretch of outputs at a time. Both read the weight once, and each part of it by one thread.

use crate::math;
use crate::product::{Matrix, turned};
use crate::rows::{self, Kernel};
use rayon::prelude::*;

/// Up to this number of rows.
const ROWS: usize = 8;

/// Outputs of a weight by inputs that are summed together: they stay in the nearest cache.
const STRETCH: usize = 256;

/// Whether the loops here are for this product.
pub(super) fn applies(x: Matrix<'_>, weight: Matrix<'_>) -> bool {
    let [count, inputs] = x.shape();
    (1..=ROWS).contains(&count)
        && inputs > 0
        && x.in_order().is_some()
        && (weight.in_order().is_some() || weight.t().in_order().is_some())
}

/// `x Wᵀ`.
///
/// # Panics
/// Where [`applies`] is false.
pub(super) fn times_transpose(x: Matrix<'_>, weight: Matrix<'_>) -> Vec<f32> {
    let ([count, inputs], outputs) = (x.shape(), weight.shape()[0]);
    let x = x.in_order().expect("rows in order");
    match (weight.in_order(), weight.t().in_order()) {
        (Some(by_outputs), _) => {
            let mut y = vec![0.0; count * outputs];
            let out = [(y.as_mut_slice(), count)];
            rows::run(&Dots { x, count }, 0, outputs, out, [(by_outputs, inputs)]);
            turned(y, outputs)
        }
        (None, Some(by_inputs)) => sums(x, by_inputs, count, outputs),
        (None, None) => panic!("a weight in order"),
    }
}

/// Dot products of all rows of `x` with rows of a weight.
struct Dots<'a> {
    x: &'a [f32],
    count: usize,
}

impl Kernel<1, 1> for Dots<'_> {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], [weight]: [&[f32]; 1]) {
        let inputs = self.x.len() / self.count;
        let rows = weight.chunks_exact(inputs);
        for (y, weight) in y.chunks_exact_mut(self.count).zip(rows) {
            for (y, x) in y.iter_mut().zip(self.x.chunks_exact(inputs)) {
                *y = math::dot(x, weight);
            }
        }
    }
}

/// `x W` for `W` `[in, out]` in order.
fn sums(x: &[f32], weight: &[f32], count: usize, outputs: usize) -> Vec<f32> {
    let stretch = |start: usize| {
        let width = STRETCH.min(outputs - start);
        let mut sums = vec![0.0; count * width];
        rows::vectorised(
            #[inline(always)]
            || add_rows(&mut sums, x, weight, [count, outputs, start]),
        );
        sums
    };
    let starts: Vec<usize> = (0..outputs).step_by(STRETCH).collect();
    let parts: Vec<Vec<f32>> = starts.par_iter().map(|start| stretch(*start)).collect();
    let mut y = vec![0.0; count * outputs];
    for (start, part) in starts.into_iter().zip(parts) {
        let width = part.len() / count;
        for (y, part) in y.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
            y[start..start + width].copy_from_slice(part);
        }
    }
    y
}

/// Adds to the sums of a stretch every row of the weight, four at a time.
#[inline(always)]
fn add_rows(sums: &mut [f32], x: &[f32], weight: &[f32], [count, outputs, start]: [usize; 3]) {
    let (inputs, width) = (x.len() / count, sums.len() / count);
    let row = |input: usize| &weight[input * outputs + start..][..width];
    let fours = inputs / 4 * 4;
    for input in (0..fours).step_by(4) {
        let rows = [0, 1, 2, 3].map(|at| row(input + at));
        for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(inputs)) {
            let x = &x[input..input + 4];
            for (at, sum) in sums.iter_mut().enumerate() {
                let near = x[0] * rows[0][at] + x[1] * rows[1][at];
                *sum += near + (x[2] * rows[2][at] + x[3] * rows[3][at]);
            }
        }
    }
    for input in fours..inputs {
        for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(inputs)) {
            for (sum, weight) in sums.iter_mut().zip(row(input)) {
                *sum += x[input] * weight;
            }
        }
    }
}
