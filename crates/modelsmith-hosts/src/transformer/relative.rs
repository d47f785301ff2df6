//! How far is a key from its query? Relative position buckets (Raffel et al., arXiv 1910.10683,
//! section 2.1).
//!
//! ```text
//! b(d) = |d|                                               |d| < e
//!      = e + floor(ln(|d| / e) / ln(longest / e) (n - e))  otherwise, at most n - 1
//! ```
//! There are `n` buckets a direction, `e = n / 2` of them for one distance each. Where keys on both
//! sides are seen, half of all buckets are for those behind the query; where only those before it
//! are, all are theirs. The first block of a stack holds a table of one number a bucket and head,
//! which every block of the stack adds to its scores.

use super::input::ints;
use burn::tensor::{Device, Int, Tensor};

/// The buckets of one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relative {
    /// Rows of the table, at least 4.
    pub(crate) buckets: usize,
    /// Distance from which on all share the last bucket; more than half of `buckets`.
    pub(crate) longest: usize,
}

impl Relative {
    /// The bucket of each key as each query sees it, `[1, queries * keys]`, one query's keys behind
    /// the other's; the first query stands at place `offset` among the keys. With `both`, keys
    /// behind the query have buckets of their own.
    pub(crate) fn table(
        self,
        offset: usize,
        [queries, keys]: [usize; 2],
        both: bool,
        device: &Device,
    ) -> Tensor<2, Int> {
        // From the first key as the last query sees it to the last key as the first query does.
        let last = (offset + queries - 1) as i64;
        let ahead = -last..keys as i64 - offset as i64;
        let by_distance: Vec<i64> = ahead.map(|ahead| self.bucket(ahead, both)).collect();
        let mut found = Vec::with_capacity(queries * keys);
        for first in (0..queries).rev() {
            found.extend(&by_distance[first..first + keys]);
        }
        ints(found, [1, queries * keys], device)
    }

    /// The bucket of a key `ahead` places behind the query in the text, negative before it.
    fn bucket(self, ahead: i64, both: bool) -> i64 {
        let (count, first) = match both {
            true => (
                self.buckets / 2,
                if ahead > 0 { self.buckets / 2 } else { 0 },
            ),
            false => (self.buckets, 0),
        };
        let distance = if both { ahead.abs() } else { (-ahead).max(0) } as usize;
        (first + self.by_distance(distance, count)) as i64
    }

    /// The bucket of a distance among `count`, in the single precision of the reference, which
    /// decides where a distance at the edge of two buckets falls.
    fn by_distance(self, distance: usize, count: usize) -> usize {
        let exact = count / 2;
        if distance < exact {
            return distance;
        }
        let share = (distance as f32 / exact as f32).ln()
            / (self.longest as f64 / exact as f64).ln() as f32;
        let more = (share * (count - exact) as f32) as usize;
        (exact + more).min(count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const PARITY: &str = include_str!("../../../../parity/hosts/buckets.json");

    #[test]
    fn buckets_agree_with_transformers() {
        let cases: BTreeMap<String, Vec<i64>> = serde_json::from_str(PARITY).unwrap();
        assert_eq!(cases.len(), 6);
        for (name, wanted) in cases {
            let words: Vec<&str> = name.split(' ').collect();
            let relative = Relative {
                buckets: words[0].parse().unwrap(),
                longest: words[1].parse().unwrap(),
            };
            let bucket = |ahead| relative.bucket(ahead, words[2] == "both");
            assert_eq!(
                (-300..=300).map(bucket).collect::<Vec<_>>(),
                wanted,
                "{name}"
            );
        }
    }

    #[test]
    fn the_table_has_the_keys_of_each_query_in_turn() {
        let relative = Relative {
            buckets: 8,
            longest: 20,
        };
        let found = relative.table(2, [2, 4], true, &Device::flex());
        let bucket = |ahead| relative.bucket(ahead, true);
        let wanted = [-2, -1, 0, 1, -3, -2, -1, 0].map(bucket);
        assert_eq!(found.dims(), [1, 8]);
        assert_eq!(found.into_data().iter::<i64>().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn near_keys_have_buckets_of_their_own_and_far_ones_share() {
        let relative = Relative {
            buckets: 32,
            longest: 128,
        };
        let both = |ahead| relative.bucket(ahead, true);
        assert_eq!([both(0), both(-1), both(-7), both(1)], [0, 1, 7, 17]);
        assert_eq!([both(-8), both(-11), both(-12), both(-16)], [8, 8, 9, 10]);
        assert_eq!([both(-128), both(-5000), both(5000)], [15, 15, 31]);
        let back = |ahead| relative.bucket(ahead, false);
        assert_eq!([back(3), back(0), back(-15), back(-16)], [0, 0, 15, 16]);
        assert_eq!([back(-127), back(-128), back(-9000)], [31, 31, 31]);
    }
}
