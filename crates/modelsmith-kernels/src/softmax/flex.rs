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
        by_rows(&Plain(width(&x)), [&x])
    }

    fn fused_softmax_biased(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let bias = rows::contiguous(&bias);
        let kernel = Biased {
            width: width(&x),
            bias: rows::values(&bias),
            axes: axes(&x, &bias),
        };
        by_rows(&kernel, [&x])
    }

    fn fused_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        by_rows(&Log(width(&x)), [&x])
    }
}

/// `p (g - sum(p g))`, row by row.
pub(super) fn backward(p: &FlexTensor, grad: &FlexTensor) -> FlexTensor {
    by_rows(&Gradient(width(p)), [p, grad])
}

/// `g - e^y sum(g)`, row by row, for `y` the log-probabilities.
pub(super) fn log_backward(y: &FlexTensor, grad: &FlexTensor) -> FlexTensor {
    by_rows(&LogGradient(width(y)), [y, grad])
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

/// Runs a kernel over the rows of tensors of one shape, into one more.
fn by_rows<const N: usize>(kernel: &impl Kernel<1, N>, inputs: [&FlexTensor; N]) -> FlexTensor {
    let (shape, width) = (inputs[0].shape(), width(inputs[0]));
    let count = shape.num_elements();
    let inputs = inputs.map(rows::contiguous);
    let mut output = vec![0.0; count];
    if count > 0 {
        let inputs = inputs.each_ref().map(|input| (rows::values(input), width));
        rows::run(kernel, 0, count / width, [(&mut output, width)], inputs);
    }
    rows::tensor(output, shape)
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

impl Kernel<1, 1> for Plain {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        for (y, x) in y.chunks_exact_mut(self.0).zip(x.chunks_exact(self.0)) {
            y.copy_from_slice(x);
            normalise(y);
        }
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

impl Kernel<1, 1> for Biased<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [y]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        let rows = y
            .chunks_exact_mut(self.width)
            .zip(x.chunks_exact(self.width));
        for (at, (y, x)) in rows.enumerate() {
            for ((y, x), bias) in y.iter_mut().zip(x).zip(self.of(first + at)) {
                *y = x + bias;
            }
            normalise(y);
        }
    }
}

/// Log-softmax of rows of this width.
struct Log(usize);

impl Kernel<1, 1> for Log {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        for (y, x) in y.chunks_exact_mut(self.0).zip(x.chunks_exact(self.0)) {
            let top = math::max(x);
            let log = math::sum_of(x, |x| math::exp(x - top)).ln();
            for (y, x) in y.iter_mut().zip(x) {
                *y = (x - top) - log;
            }
        }
    }
}

struct Gradient(usize);

impl Kernel<1, 2> for Gradient {
    #[inline(always)]
    fn run(&self, _: usize, [dx]: [&mut [f32]; 1], [p, grad]: [&[f32]; 2]) {
        let inputs = p.chunks_exact(self.0).zip(grad.chunks_exact(self.0));
        for (dx, (p, grad)) in dx.chunks_exact_mut(self.0).zip(inputs) {
            let mean = math::sum_pairs(p, grad, |p, grad| p * grad);
            for ((dx, p), grad) in dx.iter_mut().zip(p).zip(grad) {
                *dx = p * (grad - mean);
            }
        }
    }
}

struct LogGradient(usize);

impl Kernel<1, 2> for LogGradient {
    #[inline(always)]
    fn run(&self, _: usize, [dx]: [&mut [f32]; 1], [y, grad]: [&[f32]; 2]) {
        let inputs = y.chunks_exact(self.0).zip(grad.chunks_exact(self.0));
        for (dx, (y, grad)) in dx.chunks_exact_mut(self.0).zip(inputs) {
            let total = math::sum(grad);
            for ((dx, y), grad) in dx.iter_mut().zip(y).zip(grad) {
                *dx = grad - math::exp(*y) * total;
            }
        }
    }
}
