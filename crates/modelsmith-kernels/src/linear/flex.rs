//! The products, forward and backward.

use super::{Dense, few_rows};
use crate::matrix::{Half, Matrix};
use crate::product::{add_product, product, product_and_more, turned};
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, Shape, TensorMetadata};

/// A low-rank change, as the loops see it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) a: FlexTensor,
    pub(super) b: FlexTensor,
    pub(super) scale: f32,
}

impl Change {
    /// A change from its operands, made readable; nothing at rank 0.
    pub(super) fn new(a: &FlexTensor, b: &FlexTensor, scale: f64) -> Option<Self> {
        (a.shape()[0] > 0).then(|| Self {
            a: rows::unflipped(a),
            b: rows::unflipped(b),
            scale: scale as f32,
        })
    }
}

impl Dense for Flex {
    fn dense(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (x, weight) = (rows::contiguous(&x), rows::unflipped(&weight));
        forward(&x, &weight, &bias, Change::new(&a, &b, scale).as_ref()).0
    }
}

/// `x Wᵀ + bias + s (x Aᵀ) Bᵀ`, and the narrow `x Aᵀ` `[rows, rank]`. `x` lies in order.
pub(super) fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    change: Option<&Change>,
) -> (FlexTensor, Option<FlexTensor>) {
    let (from, w) = (Matrix::last_axis(x), Matrix::of(weight));
    let outputs = weight.shape()[0];
    let narrow = change.map(|change| {
        let values = times_transpose(from, Matrix::of(&change.a));
        rows::tensor(values, [from.shape()[0], change.a.shape()[0]].into())
    });
    let mut y = match (change, &narrow) {
        (Some(Change { b, scale, .. }), Some(narrow)) => {
            let (inner, up) = (Matrix::of(narrow), Matrix::of(b).t());
            match few_rows::applies(from, w) {
                false => product_and_more(from, w.t(), *scale, inner, up),
                true => {
                    let mut y = few_rows::times_transpose(from, w);
                    add_product(&mut y, *scale, inner, up);
                    y
                }
            }
        }
        _ => times_transpose(from, w),
    };
    if bias.shape().num_elements() > 0 {
        let bias = rows::contiguous(bias);
        let kernel = AddToRows(rows::values(&bias));
        rows::run(&kernel, 0, from.shape()[0], [(&mut y, outputs)], []);
    }
    (rows::tensor(y, with_last(x, outputs)), narrow)
}

/// `x Wᵀ`.
fn times_transpose(x: Matrix<'_>, weight: Matrix<'_>) -> Vec<f32> {
    match few_rows::applies(x, weight) {
        true => few_rows::times_transpose(x, weight),
        false => product(x, weight.t()),
    }
}

/// `g W + s (g B) A`, and the narrow `g B`, for `g` in order.
pub(super) fn input_gradient(
    grad: &FlexTensor,
    weight: &FlexTensor,
    change: Option<(&Change, &FlexTensor)>,
) -> FlexTensor {
    let g = Matrix::last_axis(grad);
    let weight_at = Matrix::of(weight);
    let dx = match change {
        Some((Change { a, scale, .. }, narrow)) => {
            product_and_more(g, weight_at, *scale, Matrix::of(narrow), Matrix::of(a))
        }
        None => product(g, weight_at),
    };
    rows::tensor(dx, with_last(grad, weight.shape()[1]))
}

/// `g B` `[rows, rank]`.
pub(super) fn narrow_gradient(grad: &FlexTensor, change: &Change) -> FlexTensor {
    let (g, b) = (Matrix::last_axis(grad), Matrix::of(&change.b));
    let shape = [g.shape()[0], b.shape()[1]];
    rows::tensor(product(g, b), shape.into())
}

/// `factor · gᵀ x` for rows `g` and `x`, the latter rounded to `bf16` if the products are to be of that.
pub(super) fn weight_gradient(
    grad: &FlexTensor,
    x: &FlexTensor,
    factor: f32,
    in_half: bool,
) -> FlexTensor {
    let (g, x) = (Matrix::last_axis(grad), Matrix::last_axis(x));
    let rounded = in_half.then(|| x.half());
    let x = rounded.as_ref().map_or(x, Half::matrix);
    let [outputs, inputs] = [g.shape()[1], x.shape()[1]];
    let mut found = match inputs < outputs && inputs <= NARROW {
        // Of the two, the product reads the right-hand one in order.
        true => turned(product(x.t(), g), inputs),
        false => product(g.t(), x),
    };
    if factor != 1.0 {
        found.iter_mut().for_each(|value| *value *= factor);
    }
    rows::tensor(found, [outputs, inputs].into())
}

/// Widths up to this are those of low-rank factors.
const NARROW: usize = 64;

/// The sum of the rows of `g`.
pub(super) fn bias_gradient(grad: &FlexTensor) -> FlexTensor {
    let g = Matrix::last_axis(grad);
    let [count, width] = g.shape();
    let ones = vec![1.0; count];
    let found = product(Matrix::new(&ones, 1, count), g);
    rows::tensor(found, [width].into())
}

/// The shape of a tensor with another length of the last axis.
fn with_last(tensor: &FlexTensor, length: usize) -> Shape {
    let mut shape = tensor.shape();
    let last = shape.num_dims() - 1;
    shape[last] = length;
    shape
}

/// Adds a row to every row.
struct AddToRows<'a>(&'a [f32]);

impl Kernel<1, 0> for AddToRows<'_> {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        for row in y.chunks_exact_mut(self.0.len()) {
            for (y, bias) in row.iter_mut().zip(self.0) {
                *y += bias;
            }
        }
    }
}
