//! A key in a few numbers: where it lies along the directions in which keys vary most, and how long the rest
//! of it is.
//!
//! ```text
//! r = k - mean;   for each direction u:  c = r . u,  r <- r - c u;   signature = (|r|, c..)
//! ```
//! Each step turns r into (c, r) of the same length, as long as u is a unit vector, so signatures are never
//! further apart than their keys. That the directions are the right ones only makes them tell more apart.

use modelsmith_core::random::Stream;
use modelsmith_kernels::vectorised;

/// Numbers of a signature.
pub(super) const NUMBERS: usize = 16;

/// Rounds of the subspace iteration that finds the directions.
const ROUNDS: usize = 6;

/// Keys that the directions are found from at most.
const SAMPLE: usize = 1024;

/// Sums that run side by side: some vectors of any processor, since loops over a single one are not made vector
/// code.
const LANES: usize = 64;

/// What signatures are measured by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Directions {
    mean: Vec<f32>,
    /// Unit vectors, or zeros where keys vary in fewer directions.
    units: Vec<Vec<f32>>,
}

impl Directions {
    /// Those in which keys `[count, width]` vary most.
    pub(super) fn new(keys: &[f32], width: usize) -> Self {
        let rows = keys.chunks_exact(width.max(1));
        let step = rows.len().div_ceil(SAMPLE).max(1);
        let mut sample: Vec<Vec<f32>> = rows.step_by(step).map(<[f32]>::to_vec).collect();
        let mut mean = vec![0.0; width];
        let share = 1.0 / sample.len().max(1) as f32;
        sample.iter().for_each(|key| add(&mut mean, share, key));
        sample.iter_mut().for_each(|key| add(key, -1.0, &mean));
        let mut stream = Stream::new(0, "grace/directions");
        let start = (1..NUMBERS).map(|_| stream.normal(width, 0.0, 1.0));
        let mut units = orthonormal(start.collect());
        for _ in 0..ROUNDS {
            units = orthonormal(vectorised(
                #[inline(always)]
                || spread(&sample, &units),
            ));
        }
        Self { mean, units }
    }

    /// The signature of a key or a query.
    pub(super) fn signature(&self, key: &[f32]) -> [f32; NUMBERS] {
        vectorised(
            #[inline(always)]
            || {
                let mut signature = [0.0; NUMBERS];
                let mut rest = key.to_vec();
                add(&mut rest, -1.0, &self.mean);
                for (place, unit) in signature[1..].iter_mut().zip(&self.units) {
                    *place = dot(&rest, unit);
                    add(&mut rest, -*place, unit);
                }
                signature[0] = dot(&rest, &rest).sqrt();
                signature
            },
        )
    }

    /// How far off the distance of two signatures may be for the rounding of sums, in parts of the sum of
    /// their lengths; twice what a count of the roundings gives.
    pub(super) fn rounding(&self) -> f32 {
        f32::EPSILON * (self.mean.len() + 128) as f32
    }
}

/// The products of the vectors with the sample's covariance, but for a factor.
#[inline(always)]
fn spread(sample: &[Vec<f32>], vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let product = |vector: &Vec<f32>| {
        let mut product = vec![0.0; vector.len()];
        for key in sample {
            add(&mut product, dot(key, vector), key);
        }
        product
    };
    vectors.iter().map(product).collect()
}

/// The vectors made orthogonal to those in front of them, and as long as 1; zeros where nothing remains.
fn orthonormal(mut vectors: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    for at in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(at);
        let vector = &mut rest[0];
        let whole = dot(vector, vector).sqrt();
        for other in &*before {
            let along = dot(vector, other);
            add(vector, -along, other);
        }
        let length = vector.iter().map(|value| f64::from(*value).powi(2));
        let length = length.sum::<f64>().sqrt();
        let sound = length.is_finite() && length > 1e-4 * f64::from(whole);
        let unit = |value: f32| match sound {
            true => (f64::from(value) / length) as f32,
            false => 0.0,
        };
        vector.iter_mut().for_each(|value| *value = unit(*value));
    }
    vectors
}

/// `a += factor * b`
#[inline(always)]
fn add(a: &mut [f32], factor: f32, b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of_pairs(a, b, |a, b| a * b)
}

/// The sum over pairs of `f`, in sums side by side that are added up in halves.
#[inline(always)]
pub(super) fn sum_of_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..LANES {
            sums[lane] += f(a[lane], b[lane]);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a.1.iter().zip(b.1)) {
        *sum += f(*a, *b);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}
