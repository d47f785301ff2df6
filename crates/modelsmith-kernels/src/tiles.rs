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

use rayon::prelude::*;
use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::cell::RefCell;

/// Rows of a tile.
const ROWS: usize = 8;

/// Lanes of a vector.
const LANES: usize = 16;

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
}

/// A matrix to read: its first value, and the steps between rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) at: *const f32,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// A matrix to write, its rows in order.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) at: *mut f32,
    pub(crate) row: usize,
}

// SAFETY: these are addresses; who dereferences them answers for what lies there.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}
// SAFETY: as above.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Source {
    unsafe fn offset(self, row: usize, column: usize) -> Self {
        let by = row * self.row + column * self.column;
        // SAFETY: the caller's row and column are within the matrix.
        let at = unsafe { self.at.add(by) };
        Self { at, ..self }
    }
}

impl Target {
    unsafe fn offset(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller's row and column are within the matrix.
        let at = unsafe { self.at.add(row * self.row + column) };
        Self { at, ..self }
    }
}

/// What becomes of a finished sum: `out = factor · sum`, plus what was there.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) factor: f32,
    pub(crate) add: bool,
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

/// Memory that begins at the start of a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _values: [f32; LANES],
}

/// Scratch memory that grows and stays.
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Room for this many values, at the start of a line. What is there is of no meaning.
    pub(crate) fn room(&mut self, count: usize) -> &mut [f32] {
        let lines = count.div_ceil(LANES);
        if self.0.len() < lines {
            let line = Line {
                _values: [0.0; LANES],
            };
            self.0.resize(lines, line);
        }
        let values: *mut f32 = self.0.as_mut_ptr().cast();
        // SAFETY: `lines` lines of 16 values each are initialised and borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(values, lines * LANES) }
    }
}

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
pub(crate) unsafe fn product(
    [rows, columns, inner]: [usize; 3],
    a: Source,
    b: Source,
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
unsafe fn one_block(
    [rows, columns, inner]: [usize; 3],
    a: Source,
    b: Source,
    out: Target,
    finish: Finish,
) {
    if rows <= FEW && b.column == 1 && columns.is_multiple_of(LANES) {
        // SAFETY: the caller's promises.
        return unsafe { with_right([rows, columns, inner], a, Right::Lying(b), out, finish) };
    }
    RIGHT.with_borrow_mut(|right| {
        for start in (0..inner.max(1)).step_by(DEPTH) {
            let depth = (inner - start).min(DEPTH);
            let panels = right.room(depth * columns.next_multiple_of(LANES));
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

/// `out = a b` for a right-hand side that is ready to be read.
///
/// # Safety
/// As for [`product`]; the right-hand side is of these sizes.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn with_right(
    [rows, columns, inner]: [usize; 3],
    a: Source,
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
unsafe fn strip(
    [rows, columns, inner]: [usize; 3],
    a: Source,
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

struct Tile {
    inner: usize,
    a: Source,
    panel: *const f32,
    panel_step: usize,
    out: Target,
    width: usize,
    finish: Finish,
}

impl Tile {
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
                    let left = _mm512_set1_ps(*a.add(r * self.a.row));
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
        let last = self.width - (V - 1) * LANES;
        let mask: __mmask16 = (u32::MAX >> (32 - last)) as __mmask16;
        let factor = _mm512_set1_ps(self.finish.factor);
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let mask = if v + 1 == V { mask } else { __mmask16::MAX };
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

/// Lays a right-hand side `[inner, columns]` out in panels of 48 columns, each row by row; the last
/// panel has as many whole vectors as it needs, filled up with zeros.
///
/// # Safety
/// `b` may be read and `to` has room for `inner` rows of whole vectors.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn lay_out(inner: usize, columns: usize, b: Source, to: *mut f32) {
    for column in (0..columns).step_by(PANEL) {
        let width = (columns - column).min(PANEL);
        // SAFETY: the panel is within both.
        unsafe { lay_out_panel(inner, width, b.offset(0, column), to.add(column * inner)) };
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn lay_out_panel(inner: usize, width: usize, b: Source, to: *mut f32) {
    let step = width.next_multiple_of(LANES);
    for v in (0..width).step_by(LANES) {
        let lanes = (width - v).min(LANES);
        let mask: __mmask16 = (u32::MAX >> (32 - lanes)) as __mmask16;
        let (mut k, turned) = (0, b.row == 1 && lanes == LANES);
        // SAFETY: `k` stays below `inner` and the lanes within the width.
        unsafe {
            while turned && k + LANES <= inner {
                turn(b.offset(k, v).at, b.column, to.add(k * step + v), step);
                k += LANES;
            }
            while b.column == 1 && k < inner {
                let values = _mm512_maskz_loadu_ps(mask, b.offset(k, v).at);
                _mm512_storeu_ps(to.add(k * step + v), values);
                k += 1;
            }
            while k < inner {
                for lane in 0..LANES {
                    let value = match lane < lanes {
                        true => *b.offset(k, v + lane).at,
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
unsafe fn lay_out_left(rows: usize, inner: usize, a: Source, to: *mut f32) {
    for row in (0..rows).step_by(ROWS) {
        let height = (rows - row).min(ROWS);
        for k in 0..inner {
            if a.row == 1 && height == ROWS {
                // SAFETY: 8 values that lie together, in both.
                unsafe {
                    let to = to.add(row * inner + k * ROWS);
                    a.offset(row, k).at.copy_to_nonoverlapping(to, ROWS);
                }
                continue;
            }
            for r in 0..height {
                // SAFETY: row and column are within the matrix, the strip within the room.
                unsafe { *to.add(row * inner + k * ROWS + r) = *a.offset(row + r, k).at };
            }
        }
    }
}

/// 16 rows of 16 values, turned: `to[k][n] = from[n][k]`.
#[target_feature(enable = "avx512f")]
unsafe fn turn(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
    let mut rows = [_mm512_setzero_ps(); LANES];
    for (n, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's 16 rows of 16 values.
        *row = unsafe { _mm512_loadu_ps(from.add(n * from_step)) };
    }
    // Pairs, then fours, within lanes of 128 bits; then the lanes.
    let mut pairs = [_mm512_setzero_ps(); LANES];
    for n in (0..LANES).step_by(2) {
        pairs[n] = _mm512_unpacklo_ps(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm512_unpackhi_ps(rows[n], rows[n + 1]);
    }
    for n in (0..LANES).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| _mm512_castps_pd(pairs[n + at]));
        rows[n] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        rows[n + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        rows[n + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        rows[n + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for k in 0..4 {
        let low = [rows[k], rows[k + 4]];
        let high = [rows[k + 8], rows[k + 12]];
        let even = _mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
        let odd = _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]);
        let even_high = _mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
        let odd_high = _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]);
        let found = [
            _mm512_shuffle_f32x4::<0x88>(even, even_high),
            _mm512_shuffle_f32x4::<0x88>(odd, odd_high),
            _mm512_shuffle_f32x4::<0xdd>(even, even_high),
            _mm512_shuffle_f32x4::<0xdd>(odd, odd_high),
        ];
        for (at, values) in found.into_iter().enumerate() {
            // SAFETY: the caller's 16 rows of 16 values.
            unsafe { _mm512_storeu_ps(to.add((4 * at + k) * to_step), values) };
        }
    }
}
