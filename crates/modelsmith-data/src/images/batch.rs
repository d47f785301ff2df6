//! Pictures as the numbers that a network reads.

use modelsmith_core::random::Stream;
use serde::{Deserialize, Serialize};

use super::set::ImageSet;

/// What is taken from a value between 0 and 1, and what the rest is divided by, for red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Taken away.
    pub mean: [f32; 3],
    /// Divided by.
    pub deviation: [f32; 3],
}

impl Normalisation {
    /// Of networks trained on ImageNet.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        deviation: [0.229, 0.224, 0.225],
    };

    /// From -1 to 1.
    pub const CENTRED: Self = Self {
        mean: [0.5; 3],
        deviation: [0.5; 3],
    };
}

impl Default for Normalisation {
    fn default() -> Self {
        Self::CENTRED
    }
}

/// Pictures of a set as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// `[batch, 3, height, width]`, row-major.
    pub values: Vec<f32>,
    /// The dimensions of `values`.
    pub shape: [usize; 4],
    /// Class of each picture.
    pub labels: Vec<usize>,
}

impl ImageSet {
    /// The pictures of these numbers.
    pub fn batch(&self, numbers: &[usize], by: &Normalisation) -> ImageBatch {
        let [height, width] = self.size();
        let area = height * width;
        let mut values = Vec::with_capacity(numbers.len() * 3 * area);
        for number in numbers {
            let pixels = self.pixels(*number);
            for channel in 0..3 {
                let (mean, deviation) = (by.mean[channel], by.deviation[channel]);
                let channel = pixels.iter().skip(channel).step_by(3);
                values.extend(channel.map(|x| (f32::from(*x) / 255.0 - mean) / deviation));
            }
        }
        ImageBatch {
            values,
            shape: [numbers.len(), 3, height, width],
            labels: numbers.iter().map(|at| self.labels()[*at]).collect(),
        }
    }

    /// All pictures in order, in batches of at most `size`, which is at least 1.
    pub fn batches<'a>(
        &'a self,
        size: usize,
        by: &'a Normalisation,
    ) -> impl Iterator<Item = ImageBatch> + 'a {
        let firsts = (0..self.len()).step_by(size);
        firsts.map(move |first| {
            let numbers: Vec<usize> = (first..(first + size).min(self.len())).collect();
            self.batch(&numbers, by)
        })
    }
}

/// The numbers below `count` in the order of an epoch, which depends on seed and epoch only.
pub fn epoch_order(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    Stream::new(seed, &format!("images/epoch/{epoch}")).shuffle(&mut order);
    order
}
