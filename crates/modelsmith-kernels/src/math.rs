//! Elementary functions in `f32`, branch-free so that loops over slices become vector code.
//!
//! Errors are in units of the last place (ulp) of the result, measured against `f64` over the whole
//! range by the tests below. No step relies on fused multiply-add, so that every processor computes
//! the same bits.

// The digits are the nearest `f32`s of the fits, written as the fits gave them.
#![allow(clippy::excessive_precision)]

use crate::memory::Value;

/// Adding and subtracting this rounds to an integer, whose bits stand at the low end meanwhile.
const ROUND: f32 = 12_582_912.0;

/// `e^x` within 1.2 ulp (above 2^-126; absolute 2^-149 below). NaN, infinities as in `f32::exp`.
///
/// `x = n ln 2 + r`, `e^r = 1 + r + r² P(r)` with `P` of degree 4 fitted for the least greatest
/// relative error (3.1e-9).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -110.0 { -110.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has so few digits that its product with n is exact.
    let r = (x - n * 0.693_359_375) + n * 2.121_944_4e-4;
    let p = 0.001_381_453_622_3;
    let p = p * r + 0.008_368_745_029_94;
    let p = p * r + 0.041_668_390_837_7;
    let p = p * r + 0.166_665_204_002;
    let p = p * r + 0.499_999_934_321;
    let e = (p * (r * r) + r) + 1.0;
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    // Two factors reach the subnormal numbers and infinity.
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e^-x)` within 3 ulp (zero below -88.7).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The standard normal distribution function `Φ(x)` and `e^(-x²/2)`.
///
/// Absolute error of `Φ` at most 2e-7. For `a = |x|`, `Φ(-a) = e^(-a²/2) t P(t)`,
/// `t = 1 / (1 + 0.35 a)`, `P` of degree 8 fitted on `0 <= a <= 14` (relative error 3.2e-8).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let a = x.abs();
    let bell = exp(-0.5 * (a * a));
    let t = 1.0 / (1.0 + 0.35 * a);
    let p = -0.029_145_977_835_6;
    let p = p * t + 0.143_971_901_615;
    let p = p * t + -0.255_714_616_596;
    let p = p * t + 0.159_174_505_847;
    let p = p * t + -0.023_110_026_093_4;
    let p = p * t + 0.105_508_065_535;
    let p = p * t + 0.119_832_856_705;
    let p = p * t + 0.139_861_869_606;
    let p = p * t + 0.139_621_404_272;
    let tail = bell * (t * p);
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    (if x.is_nan() { x } else { phi }, bell)
}

/// Lanes of the sums and maxima below: fixed, so that the order of additions is too.
const LANES: usize = 16;

/// Folds `x` lane by lane, then the lanes in order.
#[inline(always)]
fn fold(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, *x);
    }
    lanes.iter().fold(start, |all, lane| f(all, *lane))
}

/// The greatest value; NaNs are passed over, an empty slice gives negative infinity.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    fold(x, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// The sum.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    fold(x, 0.0, |a, b| a + b)
}

/// The sum of `f(x)`.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    lanes.iter().sum()
}

/// The sum of `f(x, y)`, pair by pair.
#[inline(always)]
pub(crate) fn sum_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(*x, *y);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(*x, *y);
    }
    lanes.iter().sum()
}

/// The sum of the products, pair by pair. Twice the lanes of the other sums, added up in halves: the
/// rows of a weight are short, and a chain of additions takes longer than reading one.
#[inline(always)]
pub(crate) fn dot<T: Value>(x: &[f32], y: &[T]) -> f32 {
    const WIDE: usize = 2 * LANES;
    let mut lanes = [0.0; WIDE];
    let (xs, x_rest) = x.as_chunks::<WIDE>();
    let (ys, y_rest) = y.as_chunks::<WIDE>();
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y.single();
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += x * y.single();
    }
    let mut half = WIDE / 2;
    while half > 0 {
        for at in 0..half {
            lanes[at] += lanes[at + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `step`-th `f32` of a range, both ends of the sign.
    fn floats(limit: f32, step: usize) -> impl Iterator<Item = f32> {
        (0..limit.to_bits())
            .step_by(step)
            .map(f32::from_bits)
            .flat_map(|x| [x, -x])
    }

    /// Distance in units of the last place of the exact result.
    fn ulps(got: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        let unit = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
        (f64::from(got) - exact).abs() / unit
    }

    #[test]
    fn the_exponential_is_within_its_bound() {
        let mut worst = (0.0, 0.0);
        for x in floats(88.7, 379) {
            let exact = f64::from(x).exp();
            let error = if exact < f64::from(f32::MIN_POSITIVE) {
                0.0
            } else {
                ulps(exp(x), exact)
            };
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= 1.2, "{worst:?}");
    }

    #[test]
    fn the_exponential_has_the_limits_of_the_standard_one() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(1e30), f32::INFINITY);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.722_83).is_finite());
        for x in [-88.0f32, -95.0, -103.0] {
            let gap = f64::from(exp(x)) - f64::from(x).exp();
            assert!(gap.abs() <= 2f64.powi(-149), "{x}");
        }
    }

    #[test]
    fn the_sigmoid_is_within_its_bound() {
        for x in floats(80.0, 997) {
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = ulps(sigmoid(x), exact);
            assert!(error <= 3.0, "{x}: {error}");
        }
        assert_eq!(sigmoid(-200.0), 0.0);
        assert_eq!(sigmoid(200.0), 1.0);
    }

    /// `Φ` in `f64` by the series `1/2 + φ(x) (x + x³/3 + x⁵/15 + ..)` (Marsaglia 2004).
    fn exact_normal(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn the_normal_distribution_is_within_its_bound() {
        for x in floats(8.0, 9_973).filter(|x| x.abs() > 1e-6) {
            let gap = f64::from(normal(x).0) - exact_normal(f64::from(x));
            assert!(gap.abs() <= 2e-7, "{x}: {gap}");
        }
        assert_eq!(normal(-40.0).0, 0.0);
        assert_eq!(normal(40.0).0, 1.0);
        assert!(normal(f32::NAN).0.is_nan());
    }

    #[test]
    fn folds_take_every_element_once() {
        for count in [0usize, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let expected = (count * count.saturating_sub(1) / 2) as f32;
            assert_eq!(sum(&x), expected);
            assert_eq!(sum_of(&x, |x| 2.0 * x), 2.0 * expected);
            assert_eq!(sum_pairs(&x, &x, |x, y| x + y), 2.0 * expected);
            let top = x.last().copied().unwrap_or(f32::NEG_INFINITY);
            assert_eq!(max(&x), top);
        }
    }
}
