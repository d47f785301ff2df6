//! Products in tiles of registers, for processors with 512-bit vectors.
//!
//! A tile is 8 rows by up to 48 columns of the output: 24 vectors that stay in registers while `k`
//! runs (Goto and van de Geijn, doi 10.1145/1356052.1356053, with the roles that fit rows in order).
//! The right-hand side is laid out anew in panels of 48 columns, a block of it at a time, so that it
//! is read in order from the second cache; the left-hand side is read where it lies when its rows are
//! in order or its columns near, else laid out in strips of 8 rows.
//!
//! Every output is one chain of fused multiply-adds over `k`, cut at multiples of [`DEPTH`] only, so
//! that neither the tiles nor the number of threads change a bit.

#![allow(unsafe_code)]

use crate::memory::{Finish, LANES, Scratch, Source, Target, Value, first_lanes};
use crate::vectors::turn;
use rayon::prelude::*;
use std::any::TypeId;
use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::cell::RefCell;

/// Rows of a tile.
const ROWS: usize = 8;

/// Columns of a panel: three vectors.
const PANEL: usize = 3 * LANES;

/// Length of a chain of additions before it goes to memory.
pub(crate) const DEPTH: usize = 384;

/// Panels of a block of the right-hand side, so that it fits the second cache.
const PANELS: usize = 6;

/// Rows of a strip that meets a block while both are in the second cache.
const STRIP: usize = 256;

/// Whether this processor has what the tiles need.
pub(crate) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// A right-hand side as the tiles read it.
#[derive(Clone, Copy)]
pub(crate) enum Right {
    /// In panels, as [`lay_out`] writes them.
    Panels(*const f32),
    /// Where it lies, its rows in order, in whole vectors of columns.
    Lying(Source),
}

/// Rows of an output for which laying out the right-hand side costs more than it saves.
const FEW: usize = 2 * ROWS;

/// Columns of a left-hand side that lie no further apart than this are read where they lie: 8 rows
/// of them share a line, and the lines few pages.
const NEAR: usize = 512;

thread_local! {
    static LEFT: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
    static RIGHT: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// `out = a b` for `a` `[rows, inner]` and `b` `[inner, columns]`, finished as said, on all threads
/// if `parallel`.
///
/// # Safety
/// The processor is [`available`]; the matrices lie within memory that may be read, `out` within
/// memory that may be written and overlaps neither.
pub(crate) unsafe fn product<A: Value, B: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    b: Source<B>,
    out: Target,
    finish: Finish,
    parallel: bool,
) {
    let threads = match parallel {
        true => rayon::current_num_threads(),
        false => 1,
    };
    if rows == 0 || columns == 0 {
        return;
    }
    let panels = columns.div_ceil(PANEL);
    let per_block = PANELS.min(panels.div_ceil(threads)).max(1);
    let blocks = panels.div_ceil(per_block);
    let strips = threads.div_ceil(blocks).min(rows.div_ceil(ROWS)).max(1);
    let height = rows.div_ceil(strips).next_multiple_of(ROWS);
    let task = |task: usize| {
        let (block, strip) = (task % blocks, task / blocks);
        let (column, row) = (block * per_block * PANEL, strip * height);
        if row >= rows {
            return;
        }
        let size = [
            (rows - row).min(height),
            (columns - column).min(per_block * PANEL),
            inner,
        ];
        // SAFETY: row and column are within the matrices, and no two tasks write the same place.
        unsafe {
            let (a, b) = (a.offset(row, 0), b.offset(0, column));
            one_block(size, a, b, out.offset(row, column), finish);
        }
    };
    match blocks * strips {
        1 => task(0),
        tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// The same on this thread, with a right-hand side of few panels.
unsafe fn one_block<A: Value, B: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    b: Source<B>,
    out: Target,
    finish: Finish,
) {
    if let Some(b) = lying(rows, columns, b) {
        // SAFETY: the caller's promises.
        return unsafe { with_right([rows, columns, inner], a, Right::Lying(b), out, finish) };
    }
    RIGHT.with_borrow_mut(|right| {
        for start in (0..inner.max(1)).step_by(DEPTH) {
            let depth = (inner - start).min(DEPTH);
            let panels = right.room(room(depth, columns));
            let finish = Finish {
                add: finish.add || start > 0,
                ..finish
            };
            // SAFETY: the caller's promises; `panels` has room for all columns in whole vectors.
            unsafe {
                lay_out(depth, columns, b.offset(start, 0), panels.as_mut_ptr());
                let size = [rows, columns, depth];
                let right = Right::Panels(panels.as_ptr());
                with_right(size, a.offset(0, start), right, out, finish);
            }
        }
    });
}

/// The right-hand side as one that is read where it lies, if it can be and that pays.
fn lying<B: Value>(rows: usize, columns: usize, b: Source<B>) -> Option<Source> {
    let pays = rows <= FEW && b.column == 1 && columns.is_multiple_of(LANES);
    (pays && TypeId::of::<B>() == TypeId::of::<f32>()).then(|| Source {
        at: b.at.cast(),
        row: b.row,
        column: b.column,
    })
}

/// `out = a b` for a right-hand side that is ready to be read.
///
/// # Safety
/// As for [`product`]; the right-hand side is of these sizes.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn with_right<A: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    right: Right,
    out: Target,
    finish: Finish,
) {
    for start in (0..rows).step_by(STRIP) {
        let height = (rows - start).min(STRIP);
        let size = [height, columns, inner];
        // SAFETY: the strip is within the matrices.
        unsafe {
            let (a, out) = (a.offset(start, 0), out.offset(start, 0));
            if a.column == 1 || (a.row == 1 && a.column <= NEAR) {
                strip(size, a, a.row * ROWS, right, out, finish);
                continue;
            }
            LEFT.with_borrow_mut(|left| {
                let room = left.room(height.next_multiple_of(ROWS) * inner);
                lay_out_left(height, inner, a, room.as_mut_ptr());
                let laid = Source {
                    at: room.as_ptr(),
                    row: 1,
                    column: ROWS,
                };
                strip(size, laid, ROWS * inner, right, out, finish);
            });
        }
    }
}

/// All tiles of a strip; `step` is the distance between the starts of 8 rows of `a`.
#[target_feature(enable = "avx512f")]
unsafe fn strip<A: Value>(
    [rows, columns, inner]: [usize; 3],
    a: Source<A>,
    step: usize,
    right: Right,
    out: Target,
    finish: Finish,
) {
    for row in (0..rows).step_by(ROWS) {
        let height = (rows - row).min(ROWS);
        // SAFETY: the rows are within the strip, the panels within the block.
        unsafe {
            let a = Source {
                at: a.at.add(row / ROWS * step),
                ..a
            };
            for column in (0..columns).step_by(PANEL) {
                let width = (columns - column).min(PANEL);
                let vectors = width.div_ceil(LANES);
                let (panel, panel_step) = match right {
                    Right::Panels(at) => (at.add(column * inner), vectors * LANES),
                    Right::Lying(b) => (b.offset(0, column).at, b.row),
                };
                let tile = Tile {
                    inner,
                    a,
                    panel,
                    panel_step,
                    out: out.offset(row, column),
                    width,
                    finish,
                };
                match vectors {
                    1 => tile.of_height::<1>(height),
                    2 => tile.of_height::<2>(height),
                    _ => tile.of_height::<3>(height),
                }
            }
        }
    }
}

struct Tile<A> {
    inner: usize,
    a: Source<A>,
    panel: *const f32,
    panel_step: usize,
    out: Target,
    width: usize,
    finish: Finish,
}

impl<A: Value> Tile<A> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn of_height<const V: usize>(&self, height: usize) {
        // SAFETY: the caller's promises hold for the rows there are.
        unsafe {
            match height {
                1 => self.run::<1, V>(),
                2 => self.run::<2, V>(),
                3 => self.run::<3, V>(),
                4 => self.run::<4, V>(),
                5 => self.run::<5, V>(),
                6 => self.run::<6, V>(),
                7 => self.run::<7, V>(),
                _ => self.run::<ROWS, V>(),
            }
        }
    }

    /// `R` rows by `V` vectors.
    #[target_feature(enable = "avx512f")]
    unsafe fn run<const R: usize, const V: usize>(&self) {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let (mut a, mut b) = (self.a.at, self.panel);
        for _ in 0..self.inner {
            let mut right = [_mm512_setzero_ps(); V];
            // SAFETY: row `k` of the panel has V vectors, column `k` of `a` has R values.
            unsafe {
                for (v, right) in right.iter_mut().enumerate() {
                    *right = _mm512_loadu_ps(b.add(v * LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps((*a.add(r * self.a.row)).single());
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_fmadd_ps(left, right, *sum);
                    }
                }
            }
            b = b.wrapping_add(self.panel_step);
            a = a.wrapping_add(self.a.column);
        }
        // SAFETY: the tile is within the output, its last vector being masked.
        unsafe { self.store(&sums) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const R: usize, const V: usize>(&self, sums: &[[__m512; V]; R]) {
        let last = first_lanes(self.width - (V - 1) * LANES);
        let factor = _mm512_set1_ps(self.finish.factor);
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let mask = if v + 1 == V { last } else { first_lanes(LANES) };
                let scaled = _mm512_mul_ps(*sum, factor);
                // SAFETY: the masked lanes are within the output.
                unsafe {
                    let at = self.out.at.add(r * self.out.row + v * LANES);
                    let value = match self.finish.add {
                        true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), scaled),
                        false => scaled,
                    };
                    _mm512_mask_storeu_ps(at, mask, value);
                }
            }
        }
    }
}

/// Values of memory that [`lay_out`] writes.
pub(crate) fn room(inner: usize, columns: usize) -> usize {
    inner * columns.next_multiple_of(LANES)
}

/// Lays a right-hand side `[inner, columns]` out in panels of 48 columns, each row by row; the last
/// panel has as many whole vectors as it needs, filled up with zeros.
///
/// # Safety
/// `b` may be read and `to` has [`room`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn lay_out<B: Value>(inner: usize, columns: usize, b: Source<B>, to: *mut f32) {
    for column in (0..columns).step_by(PANEL) {
        let width = (columns - column).min(PANEL);
        // SAFETY: the panel is within both.
        unsafe { lay_out_panel(inner, width, b.offset(0, column), to.add(column * inner)) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn lay_out_panel<B: Value>(inner: usize, width: usize, b: Source<B>, to: *mut f32) {
    let step = width.next_multiple_of(LANES);
    for v in (0..width).step_by(LANES) {
        let lanes = (width - v).min(LANES);
        let mask = first_lanes(lanes);
        let (mut k, turned) = (0, b.row == 1 && lanes == LANES);
        // SAFETY: `k` stays below `inner` and the lanes within the width.
        unsafe {
            while turned && k + LANES <= inner {
                let square = b.offset(k, v);
                let mut columns =
                    std::array::from_fn(|at| B::load(mask, square.at.add(at * square.column)));
                turn(&mut columns);
                for (at, row) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((k + at) * step + v), row);
                }
                k += LANES;
            }
            while b.column == 1 && k < inner {
                let values = B::load(mask, b.offset(k, v).at);
                _mm512_storeu_ps(to.add(k * step + v), values);
                k += 1;
            }
            while k < inner {
                for lane in 0..LANES {
                    let value = match lane < lanes {
                        true => (*b.offset(k, v + lane).at).single(),
                        false => 0.0,
                    };
                    *to.add(k * step + v + lane) = value;
                }
                k += 1;
            }
        }
    }
}

/// Lays a left-hand side `[rows, inner]` out in strips of 8 rows, each column by column.
#[target_feature(enable = "avx512f")]
unsafe fn lay_out_left<A: Value>(rows: usize, inner: usize, a: Source<A>, to: *mut f32) {
    for row in (0..rows).step_by(ROWS) {
        let height = (rows - row).min(ROWS);
        for k in 0..inner {
            // A constant count becomes one copy of what lies together.
            for r in 0..if height == ROWS { ROWS } else { height } {
                // SAFETY: row and column are within the matrix, the strip within the room.
                unsafe {
                    *to.add(row * inner + k * ROWS + r) = (*a.offset(row + r, k).at).single();
                }
            }
        }
    }
}
