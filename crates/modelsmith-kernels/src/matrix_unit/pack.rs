//! Operands as the matrix unit reads them: `bf16`, in tiles of 16 rows of 64 bytes.
//!
//! A value becomes one number of 8 significant bits, or three whose sum it is:
//!
//! ```text
//! h = bf16(x);   m = bf16(x - h);   l = bf16(x - h - m)
//! ```
//! each rounded to nearest, so that `x = h + m + l` unless the last falls below the least exponent
//! (2^-126), which the unit takes for zero. A left tile has 16 rows of 32 values along `k`; a right
//! one has 16 pairs along `k` of 16 columns. A chunk is 32 along `k` for two tiles, part by part.

use crate::memory::{LANES, Source, Value, first_lanes};
use crate::vectors::turn;
use std::arch::x86_64::{
    __m256i, __m512, __m512i, __mmask16, _mm256_store_si256, _mm512_castsi512_ps,
    _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_or_si512,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_store_si512, _mm512_sub_ps,
};

/// Rows or columns of two tiles, and the length of a chunk along `k`.
pub(super) const SIDE: usize = 2 * LANES;

/// Bytes of a tile.
pub(super) const TILE: usize = 1024;

/// Bytes of a chunk of two tiles in `P` parts.
pub(super) const fn chunk<const P: usize>() -> usize {
    2 * P * TILE
}

/// Bytes of a strip of 32 rows, or a panel of 32 columns, of this length along `k`.
pub(super) const fn strip<const P: usize>(inner: usize) -> usize {
    inner.div_ceil(SIDE) * chunk::<P>()
}

/// Lays up to 32 rows `[rows, inner]` out as left tiles, filled up with zeros.
///
/// # Safety
/// The processor has the features, `a` may be read, and `to` begins a line and has room for
/// [`strip`] bytes.
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
pub(super) unsafe fn left<const P: usize, T: Value>(
    rows: usize,
    inner: usize,
    a: Source<T>,
    to: *mut u8,
) {
    let mut room = [_mm512_setzero_ps(); LANES];
    for (k, tile, half) in squares(inner) {
        let (row, column) = (LANES * tile, k + LANES * half);
        let (rows, columns) = (rows.saturating_sub(row), inner.saturating_sub(column));
        // SAFETY: the square begins within the matrix or has no values, the tiles are in the room.
        unsafe {
            let to = to.add(k / SIDE * chunk::<P>() + tile * TILE + half * 32);
            let square = Square::new(a, [row, column], [rows, columns], &mut room);
            for at in 0..LANES {
                for (part, values) in split::<P>(square.row(at)).into_iter().enumerate() {
                    let to: *mut __m256i = to.add(part * 2 * TILE + at * 64).cast();
                    _mm256_store_si256(to, _mm512_cvtepi32_epi16(values));
                }
            }
        }
    }
}

/// Lays up to 32 columns `[inner, columns]` out as right tiles, filled up with zeros.
///
/// # Safety
/// As for [`left`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
pub(super) unsafe fn right<const P: usize, T: Value>(
    inner: usize,
    columns: usize,
    b: Source<T>,
    to: *mut u8,
) {
    let mut room = [_mm512_setzero_ps(); LANES];
    for (k, tile, half) in squares(inner) {
        let (row, column) = (k + LANES * half, LANES * tile);
        let (rows, columns) = (inner.saturating_sub(row), columns.saturating_sub(column));
        // SAFETY: as for the left.
        unsafe {
            let to = to.add(k / SIDE * chunk::<P>() + tile * TILE + half * 512);
            let square = Square::new(b, [row, column], [rows, columns], &mut room);
            for at in 0..LANES / 2 {
                let first = split::<P>(square.row(2 * at));
                let second = split::<P>(square.row(2 * at + 1));
                for part in 0..P {
                    let high = _mm512_slli_epi32::<16>(second[part]);
                    let to: *mut __m512i = to.add(part * 2 * TILE + at * 64).cast();
                    _mm512_store_si512(to, _mm512_or_si512(first[part], high));
                }
            }
        }
    }
}

/// The squares of 16 by 16 values of two tiles: where they begin along `k`, the tile, the half of it.
fn squares(inner: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..inner)
        .step_by(SIDE)
        .flat_map(|k| [(k, 0, 0), (k, 0, 1), (k, 1, 0), (k, 1, 1)])
}

/// The first 16 rows of 16 values of a matrix, zeros beyond it.
enum Square<'a, T> {
    /// Read when they are asked for: how many there are, and their mask.
    Rows(Source<T>, usize, __mmask16),
    /// Read already.
    Read(&'a [__m512; LANES]),
}

impl<'a, T: Value> Square<'a, T> {
    /// The square at a place of which this many rows and columns are within the matrix, and room for
    /// one that is read at once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    unsafe fn new(
        from: Source<T>,
        at: [usize; 2],
        [rows, columns]: [usize; 2],
        room: &'a mut [__m512; LANES],
    ) -> Self {
        if rows == 0 || columns == 0 {
            return Self::Rows(from, 0, 0);
        }
        // SAFETY: only values within the matrix are read.
        unsafe {
            let from = from.offset(at[0], at[1]);
            if from.column == 1 {
                return Self::Rows(from, rows, first_lanes(columns));
            }
            *room = [_mm512_setzero_ps(); LANES];
            if from.row == 1 {
                let mask = first_lanes(rows);
                for (at, column) in room.iter_mut().enumerate().take(columns) {
                    *column = T::load(mask, from.at.add(at * from.column));
                }
                turn(room);
                return Self::Read(room);
            }
            for (at, row) in room.iter_mut().enumerate().take(rows) {
                let mut values = [0.0; LANES];
                for (column, value) in values.iter_mut().enumerate().take(columns) {
                    *value = (*from.offset(at, column).at).single();
                }
                *row = f32::load(first_lanes(LANES), values.as_ptr());
            }
            Self::Read(room)
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    unsafe fn row(&self, at: usize) -> __m512 {
        match self {
            // SAFETY: the masked values of a row that there is are within the matrix.
            Self::Rows(from, rows, mask) if at < *rows => unsafe {
                T::load(*mask, from.at.add(at * from.row))
            },
            Self::Rows(..) => _mm512_setzero_ps(),
            Self::Read(rows) => rows[at],
        }
    }
}

/// The parts of 16 values, each as the bits of a `bf16` in the low half of a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn split<const P: usize>(mut rest: __m512) -> [__m512i; P] {
    let mut parts = [_mm512_setzero_si512(); P];
    for (at, part) in parts.iter_mut().enumerate() {
        // SAFETY: both types are 16 numbers of 16 bits.
        let bits: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(rest)) };
        *part = _mm512_cvtepu16_epi32(bits);
        if at + 1 < P {
            let taken = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(*part));
            rest = _mm512_sub_ps(rest, taken);
        }
    }
    parts
}
