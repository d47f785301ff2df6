//! Products of blocks that lie in the caches: no packing, no threads.
//!
//! A tile of the result stays in registers while the inner axis runs: the matrix on the right is
//! read by vectors, the one on the left value by value. Multiplications and additions are fused
//! where the processor can.

// Bounds are checked once a product, not once an element.
#![allow(unsafe_code)]

use pulp::{Simd, WithSimd};
use std::array;

/// A matrix in memory, its steps along rows and along columns in values.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Lengths of a product.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

/// `out = a b`, or `out += a b`; rows of `out` and `b` are the given numbers of values apart.
#[inline(always)]
pub(super) fn multiply<S: Simd, const ADD: bool>(
    simd: S,
    (out, out_row): (&mut [f32], usize),
    a: Strided<'_>,
    (b, b_row): (&[f32], usize),
    size: Size,
) {
    let Size {
        rows,
        inner,
        columns,
    } = size;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= out_row && (rows - 1) * out_row + columns <= out.len());
    if inner > 0 {
        assert!((inner - 1) * b_row + columns <= b.len());
        assert!((rows - 1) * a.row + (inner - 1) * a.column < a.values.len());
    }
    let panel = Panel {
        out: out.as_mut_ptr(),
        out_row,
        a: a.values.as_ptr(),
        a_row: a.row,
        a_column: a.column,
        b: b.as_ptr(),
        b_row,
        rows,
        inner,
    };
    // A function of its own, compiled for the vector instructions once for all callers.
    simd.vectorize(Product::<ADD> { panel, columns });
}

/// A product whose lengths have been checked.
struct Product<const ADD: bool> {
    panel: Panel,
    columns: usize,
}

impl<const ADD: bool> WithSimd for Product<ADD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            mut panel,
            mut columns,
        } = self;
        let wide = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        // SAFETY: `multiply` found every element of the three matrices inside its slice; the
        // panels are disjoint columns of them.
        unsafe {
            while columns > 0 {
                let vectors = (columns / S::F32_LANES).min(wide);
                match vectors {
                    4 => panel.run::<S, 4, 4, ADD>(simd),
                    3 => panel.run::<S, 4, 3, ADD>(simd),
                    2 => panel.run::<S, 4, 2, ADD>(simd),
                    1 => panel.run::<S, 8, 1, ADD>(simd),
                    _ => panel.rest::<ADD>(columns),
                }
                let done = match vectors {
                    0 => columns,
                    vectors => vectors * S::F32_LANES,
                };
                columns -= done;
                panel.out = panel.out.wrapping_add(done);
                panel.b = panel.b.wrapping_add(done);
            }
        }
    }
}

/// Some columns of a product.
struct Panel {
    out: *mut f32,
    out_row: usize,
    a: *const f32,
    a_row: usize,
    a_column: usize,
    b: *const f32,
    b_row: usize,
    rows: usize,
    inner: usize,
}

impl Panel {
    /// All rows, `R` at a time, of `C` vectors of columns.
    ///
    /// # Safety
    /// The pointers reach as many values as lengths and steps say.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize, const ADD: bool>(&self, simd: S) {
        let mut row = 0;
        while row + R <= self.rows {
            // SAFETY: as the caller promises.
            unsafe { self.tile::<S, R, C, ADD>(simd, row) };
            row += R;
        }
        while row < self.rows {
            // SAFETY: as the caller promises.
            unsafe { self.tile::<S, 1, C, ADD>(simd, row) };
            row += 1;
        }
    }

    /// A tile of the result.
    ///
    /// # Safety
    /// As for [`Self::run`], and the rows exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize, const ADD: bool>(
        &self,
        simd: S,
        row: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        // SAFETY: as the caller promises; vectors are read and written unaligned.
        unsafe {
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b;
            for _ in 0..self.inner {
                let vectors: [S::f32s; C] =
                    array::from_fn(|c| b.add(c * S::F32_LANES).cast::<S::f32s>().read_unaligned());
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*a.add(r * self.a_row));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_e_f32s(factor, vector, *sum);
                    }
                }
                a = a.wrapping_add(self.a_column);
                b = b.wrapping_add(self.b_row);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    let at = self.out.add((row + r) * self.out_row + c * S::F32_LANES);
                    let at = at.cast::<S::f32s>();
                    let sum = match ADD {
                        true => simd.add_f32s(at.read_unaligned(), sum),
                        false => sum,
                    };
                    at.write_unaligned(sum);
                }
            }
        }
    }

    /// The last columns, fewer than a vector has lanes.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn rest<const ADD: bool>(&self, columns: usize) {
        for row in 0..self.rows {
            for column in 0..columns {
                // SAFETY: as the caller promises.
                unsafe {
                    let mut sum = 0.0;
                    for k in 0..self.inner {
                        let a = *self.a.add(row * self.a_row + k * self.a_column);
                        sum += a * *self.b.add(k * self.b_row + column);
                    }
                    let at = self.out.add(row * self.out_row + column);
                    *at = if ADD { *at + sum } else { sum };
                }
            }
        }
    }
}
