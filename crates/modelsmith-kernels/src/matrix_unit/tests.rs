use super::*;
use half::bf16;
use modelsmith_core::random::Stream;

fn values(name: &str, count: usize) -> Vec<f32> {
    Stream::new(11, name).normal(count, 0.0, 1.0)
}

/// A matrix of this size in rows or in columns.
fn source<T>(values: &[T], [rows, columns]: [usize; 2], in_columns: bool) -> Source<T> {
    let (row, column) = if in_columns { (1, rows) } else { (columns, 1) };
    let at = values.as_ptr();
    Source { at, row, column }
}

fn at<T: Value>(
    values: &[T],
    [rows, columns]: [usize; 2],
    in_columns: bool,
    row: usize,
    column: usize,
) -> f64 {
    f64::from(
        values[if in_columns {
            column * rows + row
        } else {
            row * columns + column
        }]
        .single(),
    )
}

fn run<const P: usize, A: Value, B: Value>(
    size: [usize; 3],
    a: Source<A>,
    b: Source<B>,
    out: &mut [f32],
    finish: Finish,
    parallel: bool,
) {
    let to = Target {
        at: out.as_mut_ptr(),
        row: size[1],
    };
    // SAFETY: the caller's matrices are of this size.
    unsafe { product::<P, A, B>(size, a, b, None, to, finish, parallel) };
}

const WRITE: Finish = Finish {
    factor: 1.0,
    add: false,
};

const SIZES: [[usize; 3]; 8] = [
    [1, 1, 1],
    [32, 32, 32],
    [33, 31, 65],
    [100, 70, 0],
    [129, 300, 288],
    [64, 1100, 513],
    [257, 40, 1030],
    [16, 2000, 40],
];

/// The error of each value over the sum of the sizes of its terms.
fn greatest_error(
    out: &[f32],
    size: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> f64 {
    let [rows, columns, inner] = size;
    let mut greatest: f64 = 0.0;
    for row in (0..rows).step_by(3) {
        for column in (0..columns).step_by(7) {
            let terms = (0..inner).map(|k| a(row, k) * b(k, column));
            let (sum, total) = terms.fold((0.0, 1e-30), |(sum, total), term| {
                (sum + term, total + term.abs())
            });
            let error = (f64::from(out[row * columns + column]) - sum).abs() / total;
            greatest = greatest.max(error);
        }
    }
    greatest
}

#[test]
fn three_parts_are_as_exact_as_f32() {
    if !available() {
        return;
    }
    for size in SIZES {
        let [rows, columns, inner] = size;
        let (a, b) = (values("a", rows * inner), values("b", inner * columns));
        for layout in 0..4 {
            let (turned_a, turned_b) = (layout & 1 != 0, layout & 2 != 0);
            let left = source(&a, [rows, inner], turned_a);
            let right = source(&b, [inner, columns], turned_b);
            let mut out = vec![f32::NAN; rows * columns];
            run::<3, _, _>(size, left, right, &mut out, WRITE, true);
            let a = |row, k| at(&a, [rows, inner], turned_a, row, k);
            let b = |k, column| at(&b, [inner, columns], turned_b, k, column);
            let error = greatest_error(&out, size, a, b);
            // A unit in the last place is 2^-23 = 1.2e-7.
            assert!(error < 2e-7, "{size:?} {layout}: {error:e}");
            let once = out.clone();
            let finish = Finish {
                factor: -0.5,
                add: true,
            };
            run::<3, _, _>(size, left, right, &mut out, finish, false);
            for (out, once) in out.iter().zip(&once) {
                let near = (out - 0.5 * once).abs() <= 1e-7 * (10.0 + inner as f32);
                assert!(near, "{size:?} {layout}: {out} {once}");
            }
        }
    }
}

#[test]
fn one_part_is_exact_for_what_bf16_holds() {
    if !available() {
        return;
    }
    for size in SIZES {
        let [rows, columns, inner] = size;
        let short = |name, count| -> Vec<bf16> {
            values(name, count)
                .into_iter()
                .map(bf16::from_f32)
                .collect()
        };
        let (a, b) = (short("a", rows * inner), short("b", inner * columns));
        let wide: Vec<f32> = a.iter().map(|value| value.single()).collect();
        let (left, right) = (
            source(&wide, [rows, inner], false),
            source(&b, [inner, columns], true),
        );
        let mut out = vec![f32::NAN; rows * columns];
        run::<1, _, _>(size, left, right, &mut out, WRITE, true);
        let a = |row, k| at(&a, [rows, inner], false, row, k);
        let b = |k, column| at(&b, [inner, columns], true, k, column);
        let error = greatest_error(&out, size, a, b);
        assert!(error < 2e-7, "{size:?}: {error:e}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    if !available() {
        return;
    }
    let size = [300, 500, 700];
    let (a, b) = (values("a", 300 * 700), values("b", 700 * 500));
    let mut alone = vec![0.0; 300 * 500];
    let (left, right) = (source(&a, [300, 700], false), source(&b, [700, 500], true));
    run::<3, _, _>(size, left, right, &mut alone, WRITE, false);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let mut out = vec![0.0; 300 * 500];
        pool.build()
            .unwrap()
            .install(|| run::<3, _, _>(size, left, right, &mut out, WRITE, true));
        assert_eq!(out, alone, "{threads}");
    }
}

#[test]
fn extreme_values_keep_their_size_and_what_is_not_finite_shows() {
    if !available() {
        return;
    }
    let mut a = vec![1.0; 32 * 32];
    (a[0], a[32], a[64], a[96]) = (3e38, 1e-37, f32::NAN, f32::INFINITY);
    let b = vec![1.0 / 32.0; 32 * 32];
    let mut out = vec![0.0; 32 * 32];
    let sides = [[32, 32]; 2].map(|size| (size, false));
    let (left, right) = (source(&a, sides[0].0, false), source(&b, sides[1].0, false));
    run::<3, _, _>([32; 3], left, right, &mut out, WRITE, false);
    assert!((out[0] / (3e38 / 32.0) - 1.0).abs() < 2e-7);
    assert_eq!(out[32], 31.0 / 32.0);
    assert!(!out[64].is_finite() && !out[96].is_finite());
    assert_eq!(out[128], 1.0);
}
