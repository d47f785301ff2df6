//! The loops over rows.

use super::Softmax;
use crate::math;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

impl Softmax for Flex {
    fn fused_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        by_rows(&Plain(width(&x)), x, [])
    }

    fn fused_softmax_biased(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let bias = rows::contiguous(&bias);
        let kernel = Biased {
            width: width(&x),
            bias: rows::values(&bias),
            axes: axes(&x, &bias),
        };
        by_rows(&kernel, x, [])
    }

    fn fused_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        by_rows(&Log(width(&x)), x, [])
    }
}

/// `p (g - sum(p g))`, row by row.
pub(super) fn backward(p: &FlexTensor, grad: FlexTensor) -> FlexTensor {
    by_rows(&Gradient(width(p)), grad, [p])
}

/// `g - e^y sum(g)`, row by row, for `y` the log-probabilities.
pub(super) fn log_backward(y: &FlexTensor, grad: FlexTensor) -> FlexTensor {
    by_rows(&LogGradient(width(y)), grad, [y])
}

/// The gradient by a bias of this shape, from that by the scores.
pub(super) fn bias_gradient(mut grad: FlexTensor, lengths: &[usize]) -> FlexTensor {
    for (axis, length) in lengths.iter().enumerate() {
        if *length == 1 && grad.shape()[axis] != 1 {
            grad = Flex::float_sum_dim(grad, axis);
        }
    }
    grad
}

fn width(x: &FlexTensor) -> usize {
    x.shape().last().copied().unwrap_or(1)
}

/// Runs a kernel over the rows of a tensor, in place where it can be, beside others of its shape.
fn by_rows<const N: usize>(
    kernel: &impl Kernel<1, N>,
    values: FlexTensor,
    inputs: [&FlexTensor; N],
) -> FlexTensor {
    let width = width(&values);
    let count = values.shape().num_elements();
    let inputs = inputs.map(rows::contiguous);
    let mut values = rows::owned(values);
    if count > 0 {
        let inputs = inputs.each_ref().map(|input| (rows::values(input), width));
        rows::run(
            kernel,
            0,
            count / width,
            [(values.storage_mut(), width)],
            inputs,
        );
    }
    values
}

/// For every leading axis from the last to the first: its length in `x`, and how far a step along
/// it moves in `bias`, in rows.
fn axes(x: &FlexTensor, bias: &FlexTensor) -> Vec<(usize, usize)> {
    let (x, bias) = (x.shape(), bias.shape());
    let mut step = 1;
    let leading = (0..x.num_dims() - 1).rev();
    leading
        .map(|axis| {
            let moves = if bias[axis] == 1 { 0 } else { step };
            step *= bias[axis];
            (x[axis], moves)
        })
        .collect()
}

/// Exponentials of `row` less its greatest value, over their sum.
#[inline(always)]
fn normalise(row: &mut [f32]) {
    let top = math::max(row);
    row.iter_mut().for_each(|x| *x = math::exp(*x - top));
    let scale = 1.0 / math::sum(row);
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Softmax of rows of this width.
struct Plain(usize);

impl Kernel<1, 0> for Plain {
    #[inline(always)]
    fn run(&self, _: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        x.chunks_exact_mut(self.0).for_each(normalise);
    }
}

/// Softmax of rows plus rows of a bias.
struct Biased<'a> {
    width: usize,
    bias: &'a [f32],
    axes: Vec<(usize, usize)>,
}

impl Biased<'_> {
    /// The bias of a row.
    #[inline(always)]
    fn of(&self, mut row: usize) -> &[f32] {
        let mut at = 0;
        for (length, moves) in &self.axes {
            at += row % length * moves;
            row /= length;
        }
        &self.bias[at * self.width..(at + 1) * self.width]
    }
}

impl Kernel<1, 0> for Biased<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        for (at, row) in x.chunks_exact_mut(self.width).enumerate() {
            for (x, bias) in row.iter_mut().zip(self.of(first + at)) {
                *x += bias;
            }
            normalise(row);
        }
    }
}

/// Log-softmax of rows of this width.
struct Log(usize);

impl Kernel<1, 0> for Log {
    #[inline(always)]
    fn run(&self, _: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        for row in x.chunks_exact_mut(self.0) {
            let top = math::max(row);
            let log = math::sum_of(row, |x| math::exp(x - top)).ln();
            row.iter_mut().for_each(|x| *x = (*x - top) - log);
        }
    }
}

struct Gradient(usize);

impl Kernel<1, 1> for Gradient {
    #[inline(always)]
    fn run(&self, _: usize, [grad]: [&mut [f32]; 1], [p]: [&[f32]; 1]) {
        for (grad, p) in grad.chunks_exact_mut(self.0).zip(p.chunks_exact(self.0)) {
            let mean = math::sum_pairs(p, grad, |p, grad| p * grad);
            for (grad, p) in grad.iter_mut().zip(p) {
                *grad = p * (*grad - mean);
            }
        }
    }
}

struct LogGradient(usize);

impl Kernel<1, 1> for LogGradient {
    #[inline(always)]
    fn run(&self, _: usize, [grad]: [&mut [f32]; 1], [y]: [&[f32]; 1]) {
        for (grad, y) in grad.chunks_exact_mut(self.0).zip(y.chunks_exact(self.0)) {
            let total = math::sum(grad);
            for (grad, y) in grad.iter_mut().zip(y) {
                *grad -= math::exp(*y) * total;
            }
        }
    }
}
