//! Masks: which keys a query of an attention sees.

use burn::tensor::{Device, Tensor, TensorData};
use std::ops::Range;

/// Which keys a query sees: those of the band, and among them what the bias says.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// What follows from places alone.
    pub band: Band,
    /// Added to the scores, every axis as long as that of `[batch, heads, time, keys]` or 1: 0 where
    /// attention is allowed, the lowest finite f32 where it is not.
    pub bias: Option<Tensor<4>>,
}

/// Which keys a query sees by its place, the last query's place being the last key's. Keys outside
/// the band take no part at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Band {
    /// None after the query's own place.
    pub causal: bool,
    /// None that lie this number of places or more before the query's own; at least 1.
    pub window: Option<usize>,
}

impl Mask {
    /// Every query sees the keys up to its own place.
    pub fn causal() -> Self {
        Self {
            band: Band {
                causal: true,
                window: None,
            },
            bias: None,
        }
    }

    /// The mask of `time` queries and `keys` keys with `count` keys more in front, which every query sees.
    pub fn behind(self, count: usize, time: usize, keys: usize, device: &Device) -> Self {
        let (band, bias) = match self.band.window {
            None => (self.band, self.bias),
            // Places alone no longer say what is seen.
            Some(_) => (Band::default(), self.dense(time, keys, device)),
        };
        let bias = bias.map(|bias| {
            let [batch, heads, queries, _] = bias.dims();
            let seen = Tensor::zeros([batch, heads, queries, count], device);
            Tensor::cat(vec![seen, bias.expand([batch, heads, queries, keys])], 3)
        });
        Self { band, bias }
    }

    /// The mask as one tensor to add to the scores, negative infinity outside the band; `None`
    /// where it hides nothing.
    pub fn dense(&self, time: usize, keys: usize, device: &Device) -> Option<Tensor<4>> {
        let whole = |query| self.band.keys(query, time, keys) == (0..keys);
        if (0..time).all(whole) {
            return self.bias.clone();
        }
        let mut values = vec![f32::NEG_INFINITY; time * keys];
        for (query, row) in values.chunks_exact_mut(keys).enumerate() {
            row[self.band.keys(query, time, keys)].fill(0.0);
        }
        let band = Tensor::from_data(TensorData::new(values, [1, 1, time, keys]), device);
        Some(match &self.bias {
            Some(bias) => bias.clone() + band,
            None => band,
        })
    }
}

impl Band {
    /// The keys that a query sees, of so many queries and keys.
    #[inline(always)]
    pub fn keys(self, query: usize, time: usize, keys: usize) -> Range<usize> {
        let end = query + 1 + keys.saturating_sub(time);
        let first = self.window.map_or(0, |window| end.saturating_sub(window));
        let last = if self.causal { end.min(keys) } else { keys };
        first.min(last)..last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::to_vec;

    #[test]
    fn places_count_from_the_last_key() {
        let band = |causal, window| Band { causal, window };
        assert_eq!(band(true, None).keys(0, 2, 5), 0..4);
        assert_eq!(band(true, None).keys(1, 2, 5), 0..5);
        assert_eq!(band(true, Some(2)).keys(0, 2, 5), 2..4);
        assert_eq!(band(false, Some(2)).keys(1, 2, 5), 3..5);
        assert_eq!(band(false, None).keys(0, 2, 5), 0..5);
        assert_eq!(band(true, Some(9)).keys(0, 2, 5), 0..4);
    }

    #[test]
    fn keys_in_front_are_seen_whatever_is_hidden_behind_them() {
        let device = Device::flex();
        let out = f32::NEG_INFINITY;
        let causal = Mask::causal().behind(1, 2, 2, &device);
        assert_eq!(causal.band, Mask::causal().band);
        let dense = causal.dense(2, 3, &device).unwrap();
        assert_eq!(to_vec(dense), [0.0, 0.0, out, 0.0, 0.0, 0.0]);
        let window = Mask {
            band: Band {
                causal: true,
                window: Some(1),
            },
            bias: Some(Tensor::from_floats([[[[-1.0]]]], &device)),
        };
        let dense = window
            .behind(2, 2, 2, &device)
            .dense(2, 4, &device)
            .unwrap();
        assert_eq!(to_vec(dense), [0.0, 0.0, -1.0, out, 0.0, 0.0, out, -1.0]);
    }

    #[test]
    fn the_dense_form_joins_band_and_bias() {
        let device = Device::flex();
        assert!(Mask::default().dense(2, 3, &device).is_none());
        assert!(Mask::causal().dense(1, 3, &device).is_none());
        let out = f32::NEG_INFINITY;
        let dense = Mask::causal().dense(2, 2, &device).unwrap();
        assert_eq!(to_vec(dense), [0.0, out, 0.0, 0.0]);
        let bias = Tensor::from_floats([[[[1.0, 2.0]]]], &device);
        let mask = Mask {
            bias: Some(bias),
            ..Mask::causal()
        };
        let dense = mask.dense(2, 2, &device).unwrap();
        assert_eq!(to_vec(dense), [1.0, out, 1.0, 2.0]);
    }
}
