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
    __m256i, __m512, __m512i, _mm256_store_si256, _mm512_castsi512_ps, _mm512_cvtepi32_epi16,
    _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_or_si512, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_store_si512, _mm512_sub_ps,
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
    for (k, tile, half) in squares(inner) {
        let (row, column) = (LANES * tile, k + LANES * half);
        // SAFETY: the square begins within the matrix or has no values, the tiles are in the room.
        unsafe {
            let to = to.add(k / SIDE * chunk::<P>() + tile * TILE + half * 32);
            let rows = match row < rows && column < inner {
                true => square(a.offset(row, column), [rows - row, inner - column]),
                false => [_mm512_setzero_ps(); LANES],
            };
            for (at, row) in rows.into_iter().enumerate() {
                for (part, values) in split::<P>(row).into_iter().enumerate() {
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
    for (k, tile, half) in squares(inner) {
        let (row, column) = (k + LANES * half, LANES * tile);
        // SAFETY: as for the left.
        unsafe {
            let to = to.add(k / SIDE * chunk::<P>() + tile * TILE + half * 512);
            let rows = match row < inner && column < columns {
                true => square(b.offset(row, column), [inner - row, columns - column]),
                false => [_mm512_setzero_ps(); LANES],
            };
            for (at, pair) in rows.chunks_exact(2).enumerate() {
                let (first, second) = (split::<P>(pair[0]), split::<P>(pair[1]));
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

/// The first 16 rows of 16 values of a matrix of this size, zeros beyond it.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn square<T: Value>(from: Source<T>, [rows, columns]: [usize; 2]) -> [__m512; LANES] {
    let mut found = [_mm512_setzero_ps(); LANES];
    // SAFETY: only values within the matrix are read.
    unsafe {
        if from.column == 1 {
            let mask = first_lanes(columns);
            for (at, row) in found.iter_mut().enumerate().take(rows) {
                *row = T::load(mask, from.at.add(at * from.row));
            }
            return found;
        }
        if from.row == 1 {
            let mask = first_lanes(rows);
            for (at, column) in found.iter_mut().enumerate().take(columns) {
                *column = T::load(mask, from.at.add(at * from.column));
            }
            return turn(found);
        }
        for (at, row) in found.iter_mut().enumerate().take(rows) {
            let mut values = [0.0; LANES];
            for (column, value) in values.iter_mut().enumerate().take(columns) {
                *value = (*from.offset(at, column).at).single();
            }
            *row = f32::load(first_lanes(LANES), values.as_ptr());
        }
        found
    }
}

/// The parts of 16 values, each as the bits of a `bf16` in the low half of a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn split<const P: usize>(mut rest: __m512) -> [__m512i; P] {
    let mut parts = [_mm512_setzero_si512(); P];
    for part in 0..P {
        // SAFETY: both types are 16 numbers of 16 bits.
        let bits: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(rest)) };
        parts[part] = _mm512_cvtepu16_epi32(bits);
        if part + 1 < P {
            let taken = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(parts[part]));
            rest = _mm512_sub_ps(rest, taken);
        }
    }
    parts
}
