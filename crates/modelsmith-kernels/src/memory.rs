//! Matrices as addresses, for the loops that work below slices.

#![allow(unsafe_code)]

use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, __mmask16, _mm256_maskz_loadu_epi16, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_maskz_loadu_ps, _mm512_slli_epi32,
};

/// Lanes of a vector of 512 bits.
pub(crate) const LANES: usize = 16;

/// A matrix to read: its first value, and the steps between rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Source<T = f32> {
    pub(crate) at: *const T,
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
unsafe impl<T> Send for Source<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Source<T> {}
// SAFETY: as above.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl<T> Source<T> {
    /// The matrix from a row and a column on.
    ///
    /// # Safety
    /// Both are within the matrix.
    pub(crate) unsafe fn offset(self, row: usize, column: usize) -> Self {
        let by = row * self.row + column * self.column;
        // SAFETY: the caller's row and column are within the matrix.
        let at = unsafe { self.at.add(by) };
        Self { at, ..self }
    }
}

impl Target {
    /// The matrix from a row and a column on.
    ///
    /// # Safety
    /// Both are within the matrix.
    pub(crate) unsafe fn offset(self, row: usize, column: usize) -> Self {
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

/// A kind of number that a matrix is stored in and `f32` arithmetic reads.
pub(crate) trait Value: Copy + Send + Sync + 'static {
    /// The number.
    fn single(self) -> f32;

    /// The masked of 16 numbers that lie together, zeros for the others.
    ///
    /// # Safety
    /// The masked ones may be read, and the processor has AVX-512 F, BW and VL.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(mask: __mmask16, at: *const Self) -> __m512;
}

impl Value for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(mask: __mmask16, at: *const Self) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, at) }
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(mask: __mmask16, at: *const Self) -> __m512 {
        // SAFETY: the caller's promise; the type is 16 bits wide.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// The first lanes of a vector, at most all.
#[cfg(target_arch = "x86_64")]
pub(crate) fn first_lanes(count: usize) -> __mmask16 {
    match count {
        0 => 0,
        count => __mmask16::MAX >> (LANES - count.min(LANES)),
    }
}

/// Memory that begins at the start of a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _values: [f32; LANES],
}

/// Scratch memory that grows and stays.
#[derive(Default)]
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
