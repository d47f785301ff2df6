//! The loop over places.

use super::Rotate;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

impl Rotate for Flex {
    fn fused_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        turn(x, &cos, &sin, 1.0)
    }
}

/// `x` rotated, back where `sign` is -1; in place where it can be.
pub(super) fn turn(x: FlexTensor, cos: &FlexTensor, sin: &FlexTensor, sign: f32) -> FlexTensor {
    let shape = x.shape();
    let (places, width) = (shape[0] * shape[1], shape[2] * shape[3]);
    let [cos, sin] = [cos, sin].map(rows::contiguous);
    let mut x = rows::owned(x);
    if places * width > 0 {
        let kernel = Turn {
            cos: rows::values(&cos),
            sin: rows::values(&sin),
            sign,
            half: shape[3] / 2,
            width,
            rows: cos.shape()[0] * cos.shape()[1],
        };
        rows::run(&kernel, 0, places, [(x.storage_mut(), width)], []);
    }
    x
}

/// Rotates the heads of places, the rows here.
struct Turn<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    sign: f32,
    half: usize,
    /// Values of all heads of a place.
    width: usize,
    /// Rows of cosines, used over and over.
    rows: usize,
}

impl Kernel<1, 0> for Turn<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        for (at, place) in x.chunks_exact_mut(self.width).enumerate() {
            let row = (first + at) % self.rows;
            let cos = &self.cos[row * self.half..(row + 1) * self.half];
            let sin = &self.sin[row * self.half..(row + 1) * self.half];
            for head in place.chunks_exact_mut(2 * self.half) {
                let (first, second) = head.split_at_mut(self.half);
                let pairs = first.iter_mut().zip(second);
                for ((x1, x2), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    let sin = sin * self.sign;
                    (*x1, *x2) = (*x1 * cos - *x2 * sin, *x2 * cos + *x1 * sin);
                }
            }
        }
    }
}
