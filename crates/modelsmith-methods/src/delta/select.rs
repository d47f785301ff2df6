//! Which entries are the largest by magnitude, when a tensor may not fit into memory?
//!
//! The bits of `|x|` order as `|x|` does, so two counts of them, of the upper and then of the lower half, find the k-th
//! largest magnitude exactly, over any number of parts. Of equal magnitudes those that come first in the tensor are taken
//! first: exactly k entries are kept, as a stable sort would keep them.

const LOW: u32 = 15;
/// Buckets of the upper count: sign 0, exponent and the first eight digits.
pub const HIGH_BUCKETS: usize = 1 << (31 - LOW);
/// Buckets of the lower count: the rest of the digits.
pub const LOW_BUCKETS: usize = 1 << LOW;

/// The bits of a magnitude.
#[inline(always)]
pub fn size(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// Counts magnitudes by their upper bits.
pub fn count_high(values: &[f32], counts: &mut [u32]) {
    for value in values {
        counts[(size(*value) >> LOW) as usize] += 1;
    }
}

/// Counts the lower bits of magnitudes whose upper bits are `high`.
pub fn count_low(values: &[f32], high: u32, counts: &mut [u32]) {
    for value in values {
        let bits = size(*value);
        if bits >> LOW == high {
            counts[(bits & (LOW_BUCKETS as u32 - 1)) as usize] += 1;
        }
    }
}

/// A border in the order of magnitudes: what lies beyond it, and of the entries that lie on it the first `ties`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Border {
    /// Bits of the magnitude on the border.
    pub bits: u32,
    /// Entries of exactly this magnitude that belong to the far side, the first of the tensor.
    pub ties: u64,
    /// Whether the far side is that of the larger magnitudes.
    pub above: bool,
}

/// From which end entries are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// From the largest magnitude down.
    Largest,
    /// From the smallest magnitude up.
    Smallest,
}

/// The bucket in which the entry number `wanted` (from 1) lies, and how many are needed of it.
pub fn bucket(counts: &[u64], wanted: u64, from: End) -> (u32, u64) {
    let mut left = wanted;
    let mut last = 0;
    let order: Box<dyn Iterator<Item = usize>> = match from {
        End::Largest => Box::new((0..counts.len()).rev()),
        End::Smallest => Box::new(0..counts.len()),
    };
    for index in order {
        let found = counts[index];
        if found == 0 {
            continue;
        }
        last = index as u32;
        if left <= found {
            return (last, left);
        }
        left -= found;
    }
    (last, left)
}

impl Border {
    /// The border from its two buckets.
    pub fn new(high: u32, low: u32, ties: u64, from: End) -> Self {
        Self {
            bits: high << LOW | low,
            ties,
            above: from == End::Largest,
        }
    }

    /// The border around the first `wanted` entries of a tensor that is in memory; `None` for no entry.
    pub fn of(values: &[f32], wanted: usize, from: End) -> Option<Self> {
        if wanted == 0 || values.is_empty() {
            return None;
        }
        let widen = |counts: Vec<u32>| counts.into_iter().map(u64::from).collect::<Vec<_>>();
        let mut counts = vec![0; HIGH_BUCKETS];
        count_high(values, &mut counts);
        let (high, left) = bucket(&widen(counts), wanted as u64, from);
        let mut counts = vec![0; LOW_BUCKETS];
        count_low(values, high, &mut counts);
        let (low, ties) = bucket(&widen(counts), left, from);
        Some(Self::new(high, low, ties, from))
    }

    /// Entries exactly on the border.
    pub fn count_ties(&self, values: &[f32]) -> u64 {
        let bits = self.bits;
        let count = crate::wide!({
            values
                .iter()
                .map(|value| u32::from(size(*value) == bits))
                .sum::<u32>()
        });
        u64::from(count)
    }

    /// Sets entries of one part to zero: those on the far side, or all others. `before` is the number of ties in earlier
    /// parts.
    pub fn zero(&self, values: &mut [f32], before: u64, far_side: bool) {
        let left = self.ties.saturating_sub(before);
        if left == 0 || left >= values.len() as u64 {
            let ties_are_far = left > 0;
            crate::wide!(self.zero_alike(values, ties_are_far, far_side));
            return;
        }
        let mut left = left;
        for value in values {
            let bits = size(*value);
            let far = if bits == self.bits {
                let taken = left > 0;
                left = left.saturating_sub(1);
                taken
            } else {
                (bits > self.bits) == self.above
            };
            if far == far_side {
                *value = 0.0;
            }
        }
    }

    /// As [`zero`](Self::zero) where all ties lie on one side: no entry depends on another.
    #[inline(always)]
    fn zero_alike(&self, values: &mut [f32], ties_are_far: bool, far_side: bool) {
        // "far" is `bits > limit` from above and `bits < limit` from below.
        let limit = match (self.above, ties_are_far) {
            (true, true) => self.bits.wrapping_sub(1),
            (false, true) => self.bits.wrapping_add(1),
            (_, false) => self.bits,
        };
        let everything = self.above && ties_are_far && self.bits == 0;
        for value in values {
            let bits = size(*value);
            let far = everything
                | if self.above {
                    bits > limit
                } else {
                    bits < limit
                };
            *value = if far == far_side { 0.0 } else { *value };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(values: &[f32], wanted: usize, from: End) -> Vec<f32> {
        let mut values = values.to_vec();
        match Border::of(&values, wanted, from) {
            Some(border) => border.zero(&mut values, 0, false),
            None => values.fill(0.0),
        }
        values
    }

    #[test]
    fn the_largest_and_the_smallest_are_found_with_ties_in_order() {
        let values = [0.5, -2.0, 0.5, 3.0, -0.5, 0.0];
        assert_eq!(
            kept(&values, 3, End::Largest),
            [0.5, -2.0, 0.0, 3.0, 0.0, 0.0]
        );
        assert_eq!(
            kept(&values, 4, End::Largest),
            [0.5, -2.0, 0.5, 3.0, 0.0, 0.0]
        );
        assert_eq!(kept(&values, 0, End::Largest), [0.0; 6]);
        assert_eq!(kept(&values, 6, End::Largest), values);
        assert_eq!(
            kept(&values, 2, End::Smallest),
            [0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        let values: Vec<f32> = (0..1000_i32)
            .map(|i| ((i * 37 % 23) as f32 - 11.0) / 8.0)
            .collect();
        for wanted in [1, 10, 333, 999, 1000] {
            let border = Border::of(&values, wanted, End::Largest).unwrap();
            let whole = kept(&values, wanted, End::Largest);
            let (mut parts, mut before) = (values.clone(), 0);
            for part in parts.chunks_mut(7) {
                let ties = border.count_ties(part);
                border.zero(part, before, false);
                before += ties;
            }
            assert_eq!(parts, whole);
            let zero = values.iter().filter(|value| **value == 0.0).count();
            let left = whole.iter().filter(|value| **value != 0.0).count();
            assert_eq!(left, wanted.min(1000 - zero));
        }
    }
}
