//! Products with so few rows that reading the weight once is all the work there is.
//!
//! The weight lies in one of two ways. By outputs (`[out, in]` in order), an output is the dot
//! product of `x` with a row. By inputs (`[in, out]` in order, as GPT-2 stores it), rows are summed,
//! a stretch of outputs at a time. Both read the weight once, and each part of it by one thread.

use crate::math;
use crate::matrix::{Matrix, Values, of_any_kind};
use crate::memory::Value;
use crate::product::turned;
use crate::rows;
use rayon::prelude::*;

/// Up to this number of rows.
const ROWS: usize = 8;

/// Outputs of a weight by inputs that are summed together: they stay in the nearest cache.
const STRETCH: usize = 256;

/// Values of a weight by outputs that one piece of work reads.
const PIECE: usize = 1 << 14;

/// Whether the loops here are for this product.
pub(super) fn applies(x: Matrix<'_>, weight: Matrix<'_>) -> bool {
    let [count, inputs] = x.shape();
    (1..=ROWS).contains(&count)
        && inputs > 0
        && matches!(x.in_order(), Some(Values::Single(_)))
        && (weight.in_order().is_some() || weight.t().in_order().is_some())
}

/// `x Wᵀ`.
///
/// # Panics
/// Where [`applies`] is false.
pub(super) fn times_transpose(x: Matrix<'_>, weight: Matrix<'_>) -> Vec<f32> {
    let ([count, _], outputs) = (x.shape(), weight.shape()[0]);
    let Some(Values::Single(x)) = x.in_order() else {
        panic!("rows of f32 in order");
    };
    match (weight.in_order(), weight.t().in_order()) {
        (Some(weight), _) => of_any_kind!(weight, weight => dots(x, weight, count, outputs)),
        (None, Some(weight)) => of_any_kind!(weight, weight => sums(x, weight, count, outputs)),
        (None, None) => panic!("a weight in order"),
    }
}

/// Dot products of all rows of `x` with rows of a weight `[out, in]` in order.
fn dots<T: Value>(x: &[f32], weight: &[T], count: usize, outputs: usize) -> Vec<f32> {
    let inputs = x.len() / count;
    let piece = (PIECE / inputs).max(1);
    let mut y = vec![0.0; count * outputs];
    let pieces = y.par_chunks_mut(piece * count);
    pieces
        .zip(weight.par_chunks(piece * inputs))
        .for_each(|(y, weight)| {
            rows::vectorised(
                #[inline(always)]
                || {
                    let rows = weight.chunks_exact(inputs);
                    for (y, weight) in y.chunks_exact_mut(count).zip(rows) {
                        for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                            *y = math::dot(x, weight);
                        }
                    }
                },
            );
        });
    turned(y, outputs)
}

/// `x W` for `W` `[in, out]` in order.
fn sums<T: Value>(x: &[f32], weight: &[T], count: usize, outputs: usize) -> Vec<f32> {
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
fn add_rows<T: Value>(
    sums: &mut [f32],
    x: &[f32],
    weight: &[T],
    [count, outputs, start]: [usize; 3],
) {
    let (inputs, width) = (x.len() / count, sums.len() / count);
    let row = |input: usize| &weight[input * outputs + start..][..width];
    let fours = inputs / 4 * 4;
    for input in (0..fours).step_by(4) {
        let rows = [0, 1, 2, 3].map(|at| row(input + at));
        for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(inputs)) {
            let x = &x[input..input + 4];
            for (at, sum) in sums.iter_mut().enumerate() {
                let [a, b, c, d] = rows.map(|row| row[at].single());
                *sum += (x[0] * a + x[1] * b) + (x[2] * c + x[3] * d);
            }
        }
    }
    for input in fours..inputs {
        for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(inputs)) {
            for (sum, weight) in sums.iter_mut().zip(row(input)) {
                *sum += x[input] * weight.single();
            }
        }
    }
}
