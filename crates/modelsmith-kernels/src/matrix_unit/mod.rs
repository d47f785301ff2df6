//! Products on the processor's matrix unit (Intel AMX), which multiplies `bf16` and adds in `f32`.
//!
//! With one part a value is rounded to `bf16`. With three, `f32` values are split into three `bf16`
//! and six of their nine products are added, which is as exact as a chain of `f32` multiply-adds: the
//! three left out are below 2^-23 of the product (Henry, Tang and Heinecke, arXiv 1904.06376), and the
//! unit is so much faster than vectors that six are still ahead. Not kept are infinities, which become
//! NaN in their sums because a part of the other side is zero, and values below 2^-126.
//!
//! Both operands are laid out anew, the right one whole (a block of it at a time, which all threads
//! share in the second cache), the left one in strips, by the thread that needs it. Sums are cut along
//! `k` by its length alone, so that the number of threads changes no bit.

#![allow(unsafe_code)]

mod pack;
#[cfg(test)]
mod tests;
mod unit;

pub(crate) use unit::{available, multiply_adds};

use crate::memory::{Finish, LANES, Scratch, Source, Target, Value, first_lanes};
use pack::SIDE;
use rayon::prelude::*;
use std::arch::x86_64::{
    _mm512_add_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_storeu_ps,
};
use std::cell::RefCell;
use unit::Tiles;

/// Longest sum before it goes to memory, a multiple of a chunk.
const DEPTH: usize = 512;

/// Bytes of a right-hand side that stay in the second cache, which other work shares.
const BLOCK: usize = 3 << 18;

/// Bytes of an operand that stay in the first cache while the other streams by: a sum is cut there, and
/// goes on from the output.
const NEAR: usize = 3 << 13;

/// Rows that a thread lays out at a time.
const STRIP: usize = 2 * SIDE;

/// Rows, columns and length from which the unit is faster than vectors.
pub(crate) const LEAST: usize = SIDE;

thread_local! {
    static LEFT: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
    static RIGHT: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// A second product `c d` that is added to a first, `[rows, inner]` by `[inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Second {
    pub(crate) inner: usize,
    pub(crate) left: Source,
    pub(crate) right: Source,
}

impl Second {
    /// The product from a row and a column of the output on.
    unsafe fn offset(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller's row and column are within the output.
        let (left, right) = unsafe { (self.left.offset(row, 0), self.right.offset(0, column)) };
        Self {
            left,
            right,
            ..self
        }
    }
}

/// Values of scratch memory for a right-hand side of this size in `P` parts.
pub(crate) fn room<const P: usize>(inner: usize, columns: usize) -> usize {
    columns.div_ceil(SIDE) * pack::strip::<P>(inner) / size_of::<f32>()
}

/// `out = a b + c d` in `P` parts, finished as said, on all threads if `parallel`; `c d` is the second
/// product, if there is one.
///
/// # Safety
/// The unit is [`available`]; the matrices lie within memory that may be read, `out` within memory
/// that may be written and overlaps none of them.
pub(crate) unsafe fn product<const P: usize, A: Value, B: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    b: Source<B>,
    second: Option<Second>,
    out: Target,
    finish: Finish,
    parallel: bool,
) {
    let depth = inner.div_ceil(inner.div_ceil(DEPTH).max(1));
    let depth = depth.next_multiple_of(SIDE).max(SIDE);
    let (panels, most) = (columns.div_ceil(SIDE), BLOCK / pack::strip::<P>(depth));
    let blocks = panels.div_ceil(most.max(1)).max(1);
    let width = panels.div_ceil(blocks).max(1) * SIDE;
    // Work that waits for other threads may run another product meanwhile, so the memory is taken.
    let mut scratch = RIGHT.take();
    for start in (0..inner.max(1)).step_by(depth) {
        let depth = (inner - start).min(depth);
        let second = second.filter(|_| start + depth == inner);
        let finish = Finish {
            add: finish.add || start > 0,
            ..finish
        };
        for column in (0..columns).step_by(width) {
            let size = [rows, (columns - column).min(width), depth];
            // SAFETY: the block is within the matrices.
            unsafe {
                let (a, b) = (a.offset(0, start), b.offset(start, column));
                let (second, out) = (
                    second.map(|second| second.offset(0, column)),
                    out.offset(0, column),
                );
                block::<P, A, B>(size, a, b, second, out, finish, parallel, &mut scratch);
            }
        }
    }
    RIGHT.set(scratch);
}

/// The same for a right-hand side that fits the second cache.
#[allow(clippy::too_many_arguments)]
unsafe fn block<const P: usize, A: Value, B: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    b: Source<B>,
    second: Option<Second>,
    out: Target,
    finish: Finish,
    parallel: bool,
    scratch: &mut Scratch,
) {
    let first = room::<P>(inner, SIDE);
    let step = first + second.map_or(0, |second| room::<P>(second.inner, SIDE));
    let panels = columns.div_ceil(SIDE);
    let right = scratch.room(panels * step);
    let panel = |(at, to): (usize, &mut [f32])| {
        let (column, width) = (at * SIDE, (columns - at * SIDE).min(SIDE));
        let (to, then) = to.split_at_mut(first);
        // SAFETY: the panel is within the matrices and its room.
        unsafe {
            pack::right::<P, B>(inner, width, b.offset(0, column), to.as_mut_ptr().cast());
            if let Some(Second { inner, right, .. }) = second {
                let to = then.as_mut_ptr().cast();
                pack::right::<P, f32>(inner, width, right.offset(0, column), to);
            }
        }
    };
    let room = &mut right[..panels * step];
    match parallel && step > 0 {
        true => room.par_chunks_exact_mut(step).enumerate().for_each(panel),
        false => room
            .chunks_exact_mut(step.max(1))
            .enumerate()
            .for_each(panel),
    }
    let right = Source {
        at: right.as_ptr(),
        row: 0,
        column: 0,
    };
    // Columns are shared out too where the rows do not keep all threads busy.
    let strips = rows.div_ceil(STRIP);
    let groups = match parallel {
        true => (2 * rayon::current_num_threads()).div_ceil(strips.max(1)),
        false => 1,
    };
    let per_group = panels.div_ceil(groups.min(panels.max(1))).max(1);
    let groups = panels.div_ceil(per_group);
    let task = |task: usize| {
        let (row, panel) = (task / groups * STRIP, task % groups * per_group);
        let width = (columns - panel * SIDE).min(per_group * SIDE);
        let size = [(rows - row).min(STRIP), width, inner];
        // SAFETY: the part is within the matrices, and no two tasks write the same place.
        unsafe {
            let out = out.offset(row, panel * SIDE);
            let right = { right }.at.add(panel * step);
            let second = second.map(|second| (second.inner, second.left.offset(row, 0)));
            with_both::<P, A>(size, a.offset(row, 0), second, right, out, finish);
        }
    };
    match parallel {
        true => (0..strips * groups)
            .into_par_iter()
            .with_max_len(1)
            .for_each(task),
        false => (0..strips * groups).for_each(task),
    }
}

/// Lays a right-hand side `[inner, columns]` out for [`with_right`].
///
/// # Safety
/// The unit is [`available`], `b` may be read, and `to` begins a line and has [`room`].
pub(crate) unsafe fn lay_out<const P: usize, B: Value>(
    inner: usize,
    columns: usize,
    b: Source<B>,
    to: *mut f32,
) {
    let step = room::<P>(inner, SIDE);
    for column in (0..columns).step_by(SIDE) {
        let width = (columns - column).min(SIDE);
        // SAFETY: the panel is within the matrix and the room.
        unsafe {
            let to = to.add(column / SIDE * step);
            pack::right::<P, B>(inner, width, b.offset(0, column), to.cast());
        }
    }
}

/// `out = a b` on this thread for a right-hand side that was laid out.
///
/// # Safety
/// As for [`product`]; the right-hand side is of this size.
pub(crate) unsafe fn with_right<const P: usize, A: Value>(
    size: [usize; 3],
    a: Source<A>,
    right: *const f32,
    out: Target,
    finish: Finish,
) {
    // SAFETY: the caller's promises.
    unsafe { with_both::<P, A>(size, a, None, right, out, finish) };
}

/// The same where the right-hand side is followed, panel by panel, by that of a second product, of
/// which this is the length and the left-hand side.
unsafe fn with_both<const P: usize, A: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    second: Option<(usize, Source)>,
    right: *const f32,
    out: Target,
    finish: Finish,
) {
    let first = room::<P>(inner, SIDE);
    let step = first + second.map_or(0, |(inner, _)| room::<P>(inner, SIDE));
    let chunks = step * size_of::<f32>() / pack::chunk::<P>();
    // SAFETY: the caller's promises; the strips and panels are within the matrices and the room.
    unsafe {
        let tiles = Tiles::new();
        LEFT.with_borrow_mut(|left| {
            let left = left.room(step * STRIP / SIDE);
            for start in (0..rows).step_by(STRIP) {
                let height = (rows - start).min(STRIP);
                for row in (0..height).step_by(SIDE) {
                    let to = left.as_mut_ptr().add(row / SIDE * step);
                    let rows = (height - row).min(SIDE);
                    pack::left::<P, A>(rows, inner, a.offset(start + row, 0), to.cast());
                    if let Some((inner, c)) = second {
                        let (c, to) = (c.offset(start + row, 0), to.add(first));
                        pack::left::<P, f32>(rows, inner, c, to.cast());
                    }
                }
                let part = Part {
                    left: left.as_ptr(),
                    right,
                    step,
                    chunks,
                };
                part.multiply::<P>(&tiles, [height, columns], out.offset(start, 0), finish);
            }
        });
    }
}

/// Operands that were laid out: strips of 32 rows, and panels of 32 columns.
#[derive(Clone, Copy)]
struct Part {
    left: *const f32,
    right: *const f32,
    /// Values of a strip and of a panel.
    step: usize,
    /// The length of the sums.
    chunks: usize,
}

impl Part {
    /// All squares of the output: a strip's first part stays near while all panels meet it, and so on.
    unsafe fn multiply<const P: usize>(
        self,
        tiles: &Tiles,
        [rows, columns]: [usize; 2],
        out: Target,
        finish: Finish,
    ) {
        let (chunk, near) = (
            pack::chunk::<P>() / size_of::<f32>(),
            NEAR / pack::chunk::<P>(),
        );
        for first in (0..self.chunks.max(1)).step_by(near) {
            let chunks = (self.chunks - first).min(near);
            let finish = Finish {
                add: finish.add || first > 0,
                ..finish
            };
            for row in (0..rows).step_by(SIDE) {
                for column in (0..columns).step_by(SIDE) {
                    let size = [(rows - row).min(SIDE), (columns - column).min(SIDE)];
                    // SAFETY: the caller's promises; chunks, strip and panel are within the operands.
                    unsafe {
                        let left = self.left.add(row / SIDE * self.step + first * chunk);
                        let right = self.right.add(column / SIDE * self.step + first * chunk);
                        let out = out.offset(row, column);
                        square::<P>(tiles, size, chunks, [left, right], out, finish);
                    }
                }
            }
        }
    }
}

/// At most 32 by 32 values of the output.
unsafe fn square<const P: usize>(
    tiles: &Tiles,
    size: [usize; 2],
    chunks: usize,
    operands: [*const f32; 2],
    out: Target,
    finish: Finish,
) {
    let operands = operands.map(<*const f32>::cast);
    let (whole, plain) = (size == [SIDE; 2], finish.factor == 1.0);
    // SAFETY: the caller's promises; a part of a square goes through memory of its own.
    unsafe {
        if whole && plain && chunks > 0 {
            return tiles.multiply::<P>(chunks, operands, out.at, out.row, finish.add);
        }
        let mut sums = Sums([0.0; SIDE * SIDE]);
        // In a whole square the sum goes on from what was there; a part must give the same bits.
        let goes_on = plain && finish.add;
        if goes_on {
            sums.take(size, out);
        }
        if chunks > 0 {
            tiles.multiply::<P>(chunks, operands, sums.0.as_mut_ptr(), SIDE, true);
        }
        let add = finish.add && !goes_on;
        sums.put(size, out, Finish { add, ..finish });
    }
}

/// The values of a square.
#[repr(align(64))]
struct Sums([f32; SIDE * SIDE]);

impl Sums {
    /// Reads a part of a square.
    #[target_feature(enable = "avx512f")]
    unsafe fn take(&mut self, [rows, columns]: [usize; 2], from: Target) {
        for (row, sums) in self.0.chunks_exact_mut(SIDE).enumerate().take(rows) {
            for column in (0..columns).step_by(LANES) {
                let mask = first_lanes(columns - column);
                // SAFETY: the masked values are within the output.
                unsafe {
                    let values = _mm512_maskz_loadu_ps(mask, from.offset(row, column).at);
                    _mm512_storeu_ps(sums[column..].as_mut_ptr(), values);
                }
            }
        }
    }

    /// Writes a part of a square, finished as said.
    #[target_feature(enable = "avx512f")]
    unsafe fn put(&self, [rows, columns]: [usize; 2], out: Target, finish: Finish) {
        let factor = _mm512_set1_ps(finish.factor);
        for (row, sums) in self.0.chunks_exact(SIDE).enumerate().take(rows) {
            for column in (0..columns).step_by(LANES) {
                let mask = first_lanes(columns - column);
                // SAFETY: the masked values are within the output.
                unsafe {
                    let at = out.offset(row, column).at;
                    let scaled = _mm512_mul_ps(_mm512_loadu_ps(sums[column..].as_ptr()), factor);
                    let value = match finish.add {
                        true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), scaled),
                        false => scaled,
                    };
                    _mm512_mask_storeu_ps(at, mask, value);
                }
            }
        }
    }
}
