//! Matrix products into memory that is already there.
//!
//! The backend's own product zeroes its output before it writes it and cannot add to one. Here
//! processors with a matrix unit run it (`matrix_unit`) where all sides are wide enough; 512-bit
//! vectors run the project's own `tiles`, which are faster than `gemm` where a side is narrow or
//! long, and which the loss of a frozen head needs; any other takes the `gemm` crate.
//!
//! Sums are `f32`. A product of which a side is stored in `bf16` may round the other to it too, where
//! the processor multiplies such numbers faster.

use crate::matrix::{Matrix, Values, of_any_kind};
use crate::memory::{Finish, Source, Target, Value};
#[cfg(target_arch = "x86_64")]
use crate::{matrix_unit, tiles};
use gemm::Parallelism;

/// Multiplications from which a product is shared among threads.
const PARALLEL: usize = 1 << 20;

/// Rows from which tiles pay; below it a product is read once and is the `gemm` crate's.
const LEAST_ROWS: usize = 4;

/// `a b`.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let count = a.shape[0] * b.shape[1];
    let mut out: Vec<f32> = Vec::with_capacity(count);
    run(out.as_mut_ptr(), count, false, 1.0, a, b);
    // SAFETY: the capacity is `count`, and the product has written every value.
    #[allow(unsafe_code)]
    unsafe {
        out.set_len(count);
    }
    out
}

/// `a b + factor · c d` for `c` and `d` in `f32`.
pub(crate) fn product_and_more(
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    c: Matrix<'_>,
    d: Matrix<'_>,
) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if let Some(found) = at_once(a, b, factor, c, d) {
        return found;
    }
    let mut out = product(a, b);
    add_product(&mut out, factor, c, d);
    out
}

/// The same in one pass over the output, where the matrix unit does it.
#[cfg(target_arch = "x86_64")]
fn at_once(
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    c: Matrix<'_>,
    d: Matrix<'_>,
) -> Option<Vec<f32>> {
    let ([rows, inner], [_, columns]) = (a.shape, b.shape);
    let (size, count) = ([rows, columns, inner], rows * columns);
    let applies = matrix_unit::available() && size.iter().all(|side| *side >= matrix_unit::LEAST);
    let (Values::Single(a_values), Values::Single(_), Values::Single(d_values), true) =
        (a.values, c.values, d.values, applies)
    else {
        return None;
    };
    assert_eq!(
        [c.shape, d.shape],
        [[rows, c.shape[1]], [c.shape[1], columns]],
        "products that do not fit"
    );
    assert_eq!(b.shape[0], inner, "a product of matrices that do not fit");
    let scaled: Vec<f32> = c.single().into_iter().map(|value| value * factor).collect();
    let scaled = Matrix::new(&scaled, rows, c.shape[1]);
    let Values::Single(c_values) = scaled.values else {
        return None;
    };
    let second = matrix_unit::Second {
        inner: c.shape[1],
        left: scaled.source(c_values),
        right: d.source(d_values),
    };
    let mut out: Vec<f32> = Vec::with_capacity(count);
    let to = Target {
        at: out.as_mut_ptr(),
        row: columns,
    };
    let finish = Finish {
        factor: 1.0,
        add: false,
    };
    let (a, parallel) = (a.source(a_values), count.saturating_mul(inner) >= PARALLEL);
    // SAFETY: all matrices were checked to lie within their memory and to fit; the capacity of `out` is
    // `count`, and the product writes every value.
    #[allow(unsafe_code)]
    unsafe {
        match b.values {
            Values::Single(values) => matrix_unit::product::<3, _, _>(
                size,
                a,
                b.source(values),
                Some(second),
                to,
                finish,
                parallel,
            ),
            Values::Half(values) => matrix_unit::product::<1, _, _>(
                size,
                a,
                b.source(values),
                Some(second),
                to,
                finish,
                parallel,
            ),
        }
        out.set_len(count);
    }
    Some(out)
}

/// `out = a b`.
pub(crate) fn write_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    run(out.as_mut_ptr(), out.len(), false, 1.0, a, b);
}

/// `out += factor · a b`.
pub(crate) fn add_product(out: &mut [f32], factor: f32, a: Matrix<'_>, b: Matrix<'_>) {
    run(out.as_mut_ptr(), out.len(), true, factor, a, b);
}

/// `[rows, columns]` to `[columns, rows]`.
pub(crate) fn turned(values: Vec<f32>, rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    if rows == 1 || columns == 1 {
        return values;
    }
    let value = |at: usize| values[at % rows * columns + at / rows];
    (0..rows * columns).map(value).collect()
}

/// `out = factor · a b`, plus what was there `before`; else that is not read.
fn run(out: *mut f32, length: usize, before: bool, factor: f32, a: Matrix<'_>, b: Matrix<'_>) {
    let ([rows, inner], [inner_too, columns]) = (a.shape, b.shape);
    assert_eq!(inner, inner_too, "a product of matrices that do not fit");
    assert_eq!(length, rows * columns, "a product of another size");
    let to = Target {
        at: out,
        row: columns,
    };
    let finish = Finish {
        factor,
        add: before,
    };
    let work = rows.saturating_mul(columns).saturating_mul(inner);
    let (size, parallel) = ([rows, columns, inner], work >= PARALLEL);
    #[cfg(target_arch = "x86_64")]
    if rows >= LEAST_ROWS && tiles::available() {
        // SAFETY: `out` has room for `rows * columns` values in row order and is nobody else's; both
        // matrices were checked to lie within their memory; the processor was asked.
        #[allow(unsafe_code)]
        return of_any_kind!(a.values, left => of_any_kind!(b.values, right => unsafe {
            let parts = if a.is_half() || b.is_half() { 1 } else { 3 };
            by_vectors(size, parts, a.source(left), b.source(right), to, finish, parallel);
        }));
    }
    if a.is_half() || b.is_half() {
        let (left, right) = (a.single(), b.single());
        let (a, b) = (
            Matrix::new(&left, rows, inner),
            Matrix::new(&right, inner, columns),
        );
        return run(out, length, before, factor, a, b);
    }
    if let (Values::Single(left), Values::Single(right)) = (a.values, b.values) {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            by_gemm(size, a.source(left), b.source(right), to, finish, parallel);
        }
    }
}

/// On the matrix unit where there is one and the sides are wide enough, else in vectors.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
unsafe fn by_vectors<A: Value, B: Value>(
    size: [usize; 3],
    parts: usize,
    a: Source<A>,
    b: Source<B>,
    to: Target,
    finish: Finish,
    parallel: bool,
) {
    let wide = size.iter().all(|side| *side >= matrix_unit::LEAST);
    // SAFETY: the caller's promises, and the processor was asked.
    unsafe {
        match (wide && matrix_unit::available(), parts) {
            (false, _) => tiles::product(size, a, b, to, finish, parallel),
            (true, 1) => matrix_unit::product::<1, A, B>(size, a, b, None, to, finish, parallel),
            (true, _) => matrix_unit::product::<3, A, B>(size, a, b, None, to, finish, parallel),
        }
    }
}

/// By the `gemm` crate.
#[allow(unsafe_code)]
unsafe fn by_gemm(
    [rows, columns, inner]: [usize; 3],
    a: Source,
    b: Source,
    to: Target,
    finish: Finish,
    parallel: bool,
) {
    let parallelism = match parallel {
        true => Parallelism::Rayon(0),
        false => Parallelism::None,
    };
    let step = |stride: usize| isize::try_from(stride).expect("a stride within memory");
    // SAFETY: the caller's promises.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            to.at,
            1,
            step(to.row),
            finish.add,
            a.at,
            step(a.column),
            step(a.row),
            b.at,
            step(b.column),
            step(b.row),
            if finish.add { 1.0 } else { 0.0 },
            finish.factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Value;
    use modelsmith_core::random::Stream;

    /// A matrix in rows or in columns, in more memory than it needs.
    struct Lying {
        values: Vec<f32>,
        shape: [usize; 2],
        in_columns: bool,
    }

    impl Lying {
        fn new(name: &str, shape: [usize; 2], in_columns: bool) -> Self {
            let values = Stream::new(5, name).normal(shape[0] * shape[1], 0.0, 1.0);
            Self {
                values,
                shape,
                in_columns,
            }
        }

        fn matrix(&self) -> Matrix<'_> {
            let [rows, columns] = self.shape;
            match self.in_columns {
                false => Matrix::new(&self.values, rows, columns),
                true => Matrix::new(&self.values, columns, rows).t(),
            }
        }

        fn at(&self, row: usize, column: usize) -> f64 {
            let [rows, columns] = self.shape;
            f64::from(match self.in_columns {
                false => self.values[row * columns + column],
                true => self.values[column * rows + row],
            })
        }
    }

    #[test]
    fn products_are_the_sums_they_stand_for() {
        let sizes = [
            [1, 1, 1],
            [4, 16, 3],
            [8, 48, 16],
            [9, 49, 17],
            [13, 300, 100],
            [16, 96, 800],
            [270, 31, 33],
            [300, 8, 500],
            [31, 100, 385],
            [5, 7, 0],
        ];
        for [rows, columns, inner] in sizes {
            for layout in 0..4 {
                let a = Lying::new("a", [rows, inner], layout & 1 != 0);
                let b = Lying::new("b", [inner, columns], layout & 2 != 0);
                let mut out = product(a.matrix(), b.matrix());
                let once = out.clone();
                add_product(&mut out, -0.5, a.matrix(), b.matrix());
                for at in 0..rows * columns {
                    let (row, column) = (at / columns, at % columns);
                    let sum: f64 = (0..inner).map(|k| a.at(row, k) * b.at(k, column)).sum();
                    let bound = 1e-6 * (1.0 + inner as f64);
                    assert!(
                        (f64::from(once[at]) - sum).abs() < bound,
                        "{rows} {columns} {inner}"
                    );
                    assert!((f64::from(out[at]) - 0.5 * sum).abs() < bound);
                }
            }
        }
    }

    #[test]
    fn a_side_in_bf16_is_read_as_its_values() {
        for [rows, columns, inner] in [[2, 40, 50], [20, 30, 10], [31, 100, 385]] {
            let a = Lying::new("a", [rows, inner], true);
            let b = Lying::new("b", [inner, columns], true);
            // Below 32 rows nothing is rounded on the way.
            let half = b.matrix().half();
            let exact = Lying {
                values: half.values.iter().map(|value| value.single()).collect(),
                in_columns: false,
                ..b
            };
            let found = product(a.matrix(), half.matrix());
            let expected = product(a.matrix(), exact.matrix());
            let bound = 1e-6 * (1.0 + inner as f32);
            assert!(
                found
                    .iter()
                    .zip(&expected)
                    .all(|(x, y)| (x - y).abs() < bound)
            );
        }
    }

    #[test]
    fn rows_are_cut_from_a_view() {
        let a = Lying::new("a", [20, 6], true);
        let b = Lying::new("b", [6, 40], false);
        let whole = product(a.matrix(), b.matrix());
        let part = product(a.matrix().rows(4, 15), b.matrix());
        assert_eq!(part, whole[4 * 40..15 * 40]);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn matrices_that_do_not_fit_are_refused() {
        let a = Lying::new("a", [2, 3], false);
        product(a.matrix(), a.matrix());
    }
}
