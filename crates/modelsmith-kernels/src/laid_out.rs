//! Products with a right-hand side that is laid out once and met by many left-hand sides.

#![allow(unsafe_code)]

use crate::memory::{Finish, Source, Target, Value};
use crate::{matrix_unit, tiles};

/// A part of the processor that multiplies.
pub(crate) trait Multiply {
    /// Values of memory that a right-hand side of this size takes.
    fn room(inner: usize, columns: usize) -> usize;

    /// Lays a right-hand side `[inner, columns]` out.
    ///
    /// # Safety
    /// The processor has this part, `b` may be read, and `to` begins a line and has [`Self::room`].
    unsafe fn lay_out<B: Value>(inner: usize, columns: usize, b: Source<B>, to: *mut f32);

    /// `out = a b`, finished as said, for `[rows, columns, inner]` and what was laid out.
    ///
    /// # Safety
    /// The processor has this part, `a` may be read, the right-hand side is of this size, and `out`
    /// may be written and overlaps neither.
    unsafe fn multiply<A: Value>(
        size: [usize; 3],
        a: Source<A>,
        right: *const f32,
        out: Target,
        finish: Finish,
    );
}

/// Vectors of 512 bits.
pub(crate) struct Vectors;

impl Multiply for Vectors {
    fn room(inner: usize, columns: usize) -> usize {
        tiles::room(inner, columns)
    }

    unsafe fn lay_out<B: Value>(inner: usize, columns: usize, b: Source<B>, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { tiles::lay_out(inner, columns, b, to) };
    }

    unsafe fn multiply<A: Value>(
        size: [usize; 3],
        a: Source<A>,
        right: *const f32,
        out: Target,
        finish: Finish,
    ) {
        // SAFETY: the caller's promises.
        unsafe { tiles::with_right(size, a, tiles::Right::Panels(right), out, finish) };
    }
}

/// The matrix unit, with operands in this many parts.
pub(crate) struct Unit<const P: usize>;

impl<const P: usize> Multiply for Unit<P> {
    fn room(inner: usize, columns: usize) -> usize {
        matrix_unit::room::<P>(inner, columns)
    }

    unsafe fn lay_out<B: Value>(inner: usize, columns: usize, b: Source<B>, to: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { matrix_unit::lay_out::<P, B>(inner, columns, b, to) };
    }

    unsafe fn multiply<A: Value>(
        size: [usize; 3],
        a: Source<A>,
        right: *const f32,
        out: Target,
        finish: Finish,
    ) {
        // SAFETY: the caller's promises.
        unsafe { matrix_unit::with_right::<P, A>(size, a, right, out, finish) };
    }
}
