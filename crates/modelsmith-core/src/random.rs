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

/// Random words that are found by their number, in any order and from any thread.
///
/// The word of number `i` is a mix of `key + i` alone (SplitMix64's finalizer over its Weyl
/// sequence), so a mask over a tensor does not depend on how the tensor is cut up, and costs well
/// under a nanosecond an element.
///
/// ```
/// use modelsmith_core::random::Counter;
/// let words = Counter::new(1, "model.norm.weight");
/// let mut tail = [0; 2];
/// words.fill(5, &mut tail);
/// assert_eq!(tail, [words.word(5), words.word(6)]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    key: u64,
}

impl Counter {
    /// The words of `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"counter").update(&seed.to_le_bytes());
        let hash = hasher.update(name.as_bytes()).finalize();
        let mut key = [0; 8];
        key.copy_from_slice(&hash.as_bytes()[..8]);
        Self {
            key: u64::from_le_bytes(key),
        }
    }

    /// The word of one number, uniform over all `u32`.
    #[inline(always)]
    pub fn word(self, number: u64) -> u32 {
        let z = self
            .key
            .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// The words from `first` on.
    #[inline(always)]
    pub fn fill(self, first: u64, words: &mut [u32]) {
        for (number, word) in (first..).zip(words) {
            *word = self.word(number);
        }
    }

    /// The bound below which a word falls with this probability; above every word for 1.
    pub fn bound(probability: f64) -> u64 {
        (probability.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
    }

    /// A value uniform in `(0, 1)` for one number.
    #[inline(always)]
    pub fn unit(self, number: u64) -> f64 {
        (f64::from(self.word(number)) + 0.5) / 4_294_967_296.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_by_number_are_uniform_and_uncorrelated() {
        let words = Counter::new(3, "w");
        let count = 1 << 20;
        let mean = (0..count).map(|i| words.unit(i)).sum::<f64>() / count as f64;
        // Three standard deviations of a mean of 2^20 uniform values.
        assert!(
            (mean - 0.5).abs() < 3.0 * 0.2887 / 1024.0,
            "mean of the words: {mean}"
        );
        let mut bits = [0_u32; 32];
        let mut equal_neighbours = 0_u32;
        for i in 0..count {
            let (word, next) = (words.word(i), words.word(i + 1));
            for (bit, count) in bits.iter_mut().enumerate() {
                *count += (word >> bit) & 1;
            }
            equal_neighbours += (!(word ^ next)).count_ones();
        }
        let half = f64::from(1 << 19);
        for count in bits {
            assert!((f64::from(count) - half).abs() < 4.0 * 512.0);
        }
        assert!((f64::from(equal_neighbours) / 32.0 - half).abs() < 4.0 * 512.0);
        assert_ne!(Counter::new(3, "v").word(0), words.word(0));
        assert_ne!(Counter::new(4, "w").word(0), words.word(0));
    }

    #[test]
    fn bounds_reach_both_ends() {
        assert_eq!(Counter::bound(0.0), 0);
        assert_eq!(Counter::bound(0.5), 1 << 31);
        assert!(Counter::bound(1.0) > u64::from(u32::MAX));
    }

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
