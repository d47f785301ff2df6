//! Sums that come out the same on every processor: fixed lanes, `f64`.

/// Lanes of a sum: two registers of eight.
const LANES: usize = 16;

/// Adds terms to sixteen interleaved sums, which are added in order at the end.
#[inline(always)]
fn sum<const N: usize>(of: [&[f32]; N], term: impl Fn([f32; N]) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let parts = of.map(|values| values.as_chunks::<LANES>());
    for number in 0..parts[0].0.len() {
        let part = parts.map(|(whole, _)| &whole[number]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(part.map(|values| values[lane]));
        }
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(parts[0].1.len()) {
        *sum += term(parts.map(|(_, rest)| rest[lane]));
    }
    lanes.iter().sum()
}

/// `Σ |x|`.
pub(crate) fn l1(values: &[f32]) -> f64 {
    crate::wide!({
        sum(
            [values],
            #[inline(always)]
            |[x]| f64::from(x.abs()),
        )
    })
}

/// `Σ x y`; the slices are equally long.
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f64 {
    let y = &y[..x.len()];
    crate::wide!({
        sum(
            [x, y],
            #[inline(always)]
            |[x, y]| f64::from(x) * f64::from(y),
        )
    })
}
