//! Counter-based random streams keyed by (seed, name).
//!
//! A draw depends on its key alone, never on how many draws were made elsewhere or on thread
//! scheduling, so a run repeats to the bit and resumes without saving generator state.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A stream of random numbers named by its use.
///
/// ```
/// use modelsmith_core::random::Stream;
/// let mut a = Stream::new(1, "lora/q_proj/A");
/// let mut b = Stream::new(1, "lora/q_proj/A");
/// assert_eq!(a.normal(4, 0.0, 1.0), b.normal(4, 0.0, 1.0));
/// ```
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// `count` values uniform in `[low, high)`.
    pub fn uniform(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count)
            .map(|_| low + (high - low) * self.0.random::<f32>())
            .collect()
    }

    /// `count` values from a normal distribution.
    pub fn normal(&mut self, count: usize, mean: f32, deviation: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let draw: f32 = StandardNormal.sample(&mut self.0);
                mean + deviation * draw
            })
            .collect()
    }

    /// A multiplicative dropout mask: 0 with probability `rate`, else `1 / (1 - rate)`.
    pub fn dropout(&mut self, count: usize, rate: f32) -> Vec<f32> {
        let keep = 1.0 / (1.0 - rate);
        let threshold = (f64::from(rate) * 4_294_967_296.0) as u32;
        (0..count)
            .map(|_| {
                if self.0.next_u32() < threshold {
                    0.0
                } else {
                    keep
                }
            })
            .collect()
    }

    /// An integer in `0..bound`; `bound` must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// A value uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.0.random_range(0..=last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_independent_of_each_other() {
        let first = Stream::new(7, "a").uniform(3, 0.0, 1.0);
        let mut other = Stream::new(7, "b");
        assert_ne!(first, other.uniform(3, 0.0, 1.0));
        assert_eq!(first, Stream::new(7, "a").uniform(3, 0.0, 1.0));
        assert_ne!(first, Stream::new(8, "a").uniform(3, 0.0, 1.0));
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let mask = Stream::new(0, "drop").dropout(100_000, 0.25);
        let mean: f32 = mask.iter().sum::<f32>() / mask.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!(
            mask.iter()
                .all(|m| *m == 0.0 || (*m - 4.0 / 3.0).abs() < 1e-6)
        );
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..100).collect();
        Stream::new(3, "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
