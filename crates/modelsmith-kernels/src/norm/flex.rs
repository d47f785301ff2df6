//! The loops over rows.

use super::Normalise;
use crate::math;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, Shape, TensorMetadata};
use modelsmith_core::layers::NormKind;
use rayon::prelude::*;

/// Rows whose gradients by the weight are summed before the sums are: fixed, for determinism.
const BLOCK: usize = 128;

impl Normalise for Flex {
    fn fused_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        forward(&x, &weight, None, kind, epsilon).0
    }

    fn fused_norm_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: NormKind,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        forward(&x, &weight, Some(&bias), kind, epsilon).0
    }
}

/// Mean and inverse deviation of every row.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

/// The result, and the moments that its gradients need.
pub(super) fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    kind: NormKind,
    epsilon: f64,
) -> (FlexTensor, Moments) {
    let (shape, width) = (x.shape(), weight.shape()[0]);
    let count = shape.num_elements() / width.max(1);
    let (x, weight) = (rows::contiguous(x), rows::contiguous(weight));
    let bias = match bias {
        Some(bias) => rows::contiguous(bias),
        None => rows::tensor(vec![0.0; width], Shape::new([width])),
    };
    let kernel = Forward {
        weight: rows::values(&weight),
        bias: rows::values(&bias),
        kind,
        epsilon: epsilon as f32,
    };
    let mut y = vec![0.0; count * width];
    let (mut mean, mut inverse) = (vec![0.0; count], vec![0.0; count]);
    if width > 0 {
        let moments = [(mean.as_mut_slice(), 1), (inverse.as_mut_slice(), 1)];
        let [mean, inverse] = moments;
        let outputs = [(y.as_mut_slice(), width), mean, inverse];
        rows::run(&kernel, 0, count, outputs, [(rows::values(&x), width)]);
    }
    (rows::tensor(y, shape), Moments { mean, inverse })
}

struct Forward<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    kind: NormKind,
    epsilon: f32,
}

impl Kernel<3, 1> for Forward<'_> {
    #[inline(always)]
    fn run(&self, _: usize, [y, mean, inverse]: [&mut [f32]; 3], [x]: [&[f32]; 1]) {
        let width = self.weight.len();
        let share = 1.0 / width as f32;
        let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((y, x), (mean, inverse)) in rows.zip(mean.iter_mut().zip(inverse)) {
            *mean = match self.kind {
                NormKind::Layer => math::sum(x) * share,
                NormKind::Rms => 0.0,
            };
            let centre = *mean;
            let square = |x: f32| (x - centre) * (x - centre);
            let variance = math::sum_of(x, square) * share;
            *inverse = 1.0 / (variance + self.epsilon).sqrt();
            let scale = *inverse;
            let affine = self.weight.iter().zip(self.bias);
            for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(affine) {
                *y = (x - centre) * scale * weight + bias;
            }
        }
    }
}

/// The gradient by `x`, in place of that of the result where it can be.
pub(super) fn backward(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: FlexTensor,
    moments: &Moments,
    kind: NormKind,
) -> FlexTensor {
    let width = weight.shape()[0];
    let (x, weight) = (rows::contiguous(x), rows::contiguous(weight));
    let mut grad = rows::owned(grad);
    if width > 0 {
        let kernel = Gradient {
            weight: rows::values(&weight),
            kind,
        };
        let inputs = [
            (rows::values(&x), width),
            (moments.mean.as_slice(), 1),
            (moments.inverse.as_slice(), 1),
        ];
        let count = moments.mean.len();
        rows::run(&kernel, 0, count, [(grad.storage_mut(), width)], inputs);
    }
    grad
}

struct Gradient<'a> {
    weight: &'a [f32],
    kind: NormKind,
}

impl Kernel<1, 3> for Gradient<'_> {
    #[inline(always)]
    fn run(&self, _: usize, [grad]: [&mut [f32]; 1], [x, mean, inverse]: [&[f32]; 3]) {
        let width = self.weight.len();
        let share = 1.0 / width as f32;
        let rows = grad.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((u, x), (mean, inverse)) in rows.zip(mean.iter().zip(inverse)) {
            for (u, weight) in u.iter_mut().zip(self.weight) {
                *u *= weight;
            }
            let level = match self.kind {
                NormKind::Layer => math::sum(u) * share,
                NormKind::Rms => 0.0,
            };
            let along = math::sum_pairs(u, x, |u, x| u * ((x - mean) * inverse)) * share;
            for (u, x) in u.iter_mut().zip(x) {
                *u = (*u - level - (x - mean) * inverse * along) * inverse;
            }
        }
    }
}

/// The gradients by weight and bias: sums over rows of `g x̂` and of `g`, block by block of rows.
pub(super) fn affine_backward(
    x: &FlexTensor,
    grad: &FlexTensor,
    moments: &Moments,
    width: usize,
) -> [FlexTensor; 2] {
    let (x, grad) = (rows::contiguous(x), rows::contiguous(grad));
    let block = (BLOCK * width).max(1);
    let pieces = rows::values(&x)
        .par_chunks(block)
        .zip(rows::values(&grad).par_chunks(block));
    let sums: Vec<_> = pieces
        .enumerate()
        .map(|(at, (x, grad))| {
            let mut sums = vec![0.0; 2 * width];
            let kernel = Affine {
                width,
                moments,
                x,
                grad,
            };
            rows::run(&kernel, at * BLOCK, 1, [(&mut sums, 2 * width)], []);
            sums
        })
        .collect();
    let mut total = vec![0.0; 2 * width];
    for sums in sums {
        total
            .iter_mut()
            .zip(sums)
            .for_each(|(all, one)| *all += one);
    }
    let bias = total.split_off(width);
    [total, bias].map(|values| rows::tensor(values, Shape::new([width])))
}

/// One block of [`affine_backward`].
struct Affine<'a> {
    width: usize,
    moments: &'a Moments,
    x: &'a [f32],
    grad: &'a [f32],
}

impl Kernel<1, 0> for Affine<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [sums]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        let (to_weight, to_bias) = sums.split_at_mut(self.width);
        let rows = self
            .x
            .chunks_exact(self.width)
            .zip(self.grad.chunks_exact(self.width));
        for (at, (x, grad)) in rows.enumerate() {
            let (mean, inverse) = (
                self.moments.mean[first + at],
                self.moments.inverse[first + at],
            );
            let sums = to_weight.iter_mut().zip(to_bias.iter_mut());
            for ((to_weight, to_bias), (x, grad)) in sums.zip(x.iter().zip(grad)) {
                *to_weight += grad * ((x - mean) * inverse);
                *to_bias += grad;
            }
        }
    }
}
