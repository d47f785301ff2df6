//! Sums that come out the same on every processor: fixed lanes, `f64`.

/// Lanes of a sum: two registers of eight.
const LANES: usize = 16;

/// `Σ term(i)` over `0..count`, by sixteen interleaved sums that are added in order.
#[inline(always)]
pub(crate) fn sum(count: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (lane, index) in (whole..count).enumerate() {
        lanes[lane] += term(index);
    }
    lanes.iter().sum()
}

/// `Σ |x|`.
pub(crate) fn l1(values: &[f32]) -> f64 {
    pulp::Arch::new().dispatch(|| sum(values.len(), |i| f64::from(values[i].abs())))
}

/// `Σ x y`; the slices are equally long.
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f64 {
    let y = &y[..x.len()];
    pulp::Arch::new().dispatch(|| sum(x.len(), |i| f64::from(x[i]) * f64::from(y[i])))
}
