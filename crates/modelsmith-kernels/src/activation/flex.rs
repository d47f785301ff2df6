//! The loops over elements.

use super::{Activate, Activation};
use crate::math;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

impl Activate for Flex {
    fn fused_activate(x: FloatTensor<Self>, function: Activation) -> FloatTensor<Self> {
        activate(x, function)
    }

    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        function: Activation,
    ) -> FloatTensor<Self> {
        gated(gate, &up, function)
    }
}

/// A function and its derivative at a place.
trait Function: Sync {
    fn at(x: f32) -> f32;
    fn slope(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;

impl Function for Silu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        x * math::sigmoid(x)
    }

    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        let s = math::sigmoid(x);
        let y = x * s;
        (y, s + y * (1.0 - s))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        x * math::normal(x).0
    }

    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        /// `1 / sqrt(2 π)`.
        const HEIGHT: f32 = 0.398_942_3;
        let (phi, bell) = math::normal(x);
        (x * phi, phi + x * (HEIGHT * bell))
    }
}

/// `2 sqrt(2/π)`.
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

impl Function for GeluTanh {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        x * math::sigmoid(TWICE_ROOT * (x + CUBIC * (x * x * x)))
    }

    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        let s = math::sigmoid(TWICE_ROOT * (x + CUBIC * (x * x * x)));
        let y = x * s;
        (
            y,
            s + y * (1.0 - s) * (TWICE_ROOT * (1.0 + 3.0 * CUBIC * (x * x))),
        )
    }
}

/// Runs `$run` with the type that stands for a function.
macro_rules! with_function {
    ($function:expr, $name:ident => $run:expr) => {
        match $function {
            Activation::Silu => {
                type $name = Silu;
                $run
            }
            Activation::Gelu => {
                type $name = Gelu;
                $run
            }
            Activation::GeluTanh => {
                type $name = GeluTanh;
                $run
            }
        }
    };
}

/// `f(x)`, in place where it can be.
pub(super) fn activate(x: FlexTensor, function: Activation) -> FlexTensor {
    with_function!(function, F => over(&Forward::<F>::NEW, x, []))
}

/// `f'(x) grad`.
pub(super) fn activate_backward(
    x: &FlexTensor,
    grad: FlexTensor,
    function: Activation,
) -> FlexTensor {
    with_function!(function, F => over(&Slope::<F>::NEW, grad, [x]))
}

/// `f(gate) up`, in place of `gate` where it can be.
pub(super) fn gated(gate: FlexTensor, up: &FlexTensor, function: Activation) -> FlexTensor {
    with_function!(function, F => over(&Gated::<F>::NEW, gate, [up]))
}

/// `f'(gate) up grad` and `f(gate) grad`.
pub(super) fn gated_backward(
    gate: &FlexTensor,
    up: &FlexTensor,
    grad: FlexTensor,
    function: Activation,
) -> [FlexTensor; 2] {
    let (gate, up) = (rows::contiguous(gate), rows::contiguous(up));
    let (mut dgate, mut dup) = (vec![0.0; grad.shape().num_elements()], rows::owned(grad));
    let outputs = [(dgate.as_mut_slice(), 1), (dup.storage_mut(), 1)];
    let inputs = [(rows::values(&gate), 1), (rows::values(&up), 1)];
    let count = inputs[0].0.len();
    with_function!(function, F => {
        rows::run(&GatedSlope::<F>::NEW, 0, count, outputs, inputs);
    });
    [rows::tensor(dgate, dup.shape()), dup]
}

/// Runs an element-wise kernel over a tensor, beside others of its shape.
fn over<const N: usize>(
    kernel: &impl Kernel<1, N>,
    values: FlexTensor,
    inputs: [&FlexTensor; N],
) -> FlexTensor {
    let inputs = inputs.map(rows::contiguous);
    let mut values = rows::owned(values);
    let count = values.shape().num_elements();
    let inputs = inputs.each_ref().map(|input| (rows::values(input), 1));
    rows::run(kernel, 0, count, [(values.storage_mut(), 1)], inputs);
    values
}

/// Declares kernels that are generic over the function.
macro_rules! kernels {
    ($($name:ident),*) => {
        $(struct $name<F>(std::marker::PhantomData<F>);

        impl<F> $name<F> {
            const NEW: Self = Self(std::marker::PhantomData);
        })*
    };
}

kernels!(Forward, Slope, Gated, GatedSlope);

impl<F: Function> Kernel<1, 0> for Forward<F> {
    #[inline(always)]
    fn run(&self, _: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
        x.iter_mut().for_each(|x| *x = F::at(*x));
    }
}

impl<F: Function> Kernel<1, 1> for Slope<F> {
    #[inline(always)]
    fn run(&self, _: usize, [grad]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad *= F::slope(*x).1;
        }
    }
}

impl<F: Function> Kernel<1, 1> for Gated<F> {
    #[inline(always)]
    fn run(&self, _: usize, [gate]: [&mut [f32]; 1], [up]: [&[f32]; 1]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = F::at(*gate) * up;
        }
    }
}

impl<F: Function> Kernel<2, 2> for GatedSlope<F> {
    #[inline(always)]
    fn run(&self, _: usize, [dgate, grad]: [&mut [f32]; 2], [gate, up]: [&[f32]; 2]) {
        let outputs = dgate.iter_mut().zip(grad);
        for ((dgate, grad), (gate, up)) in outputs.zip(gate.iter().zip(up)) {
            let (y, slope) = F::slope(*gate);
            *dgate = slope * up * *grad;
            *grad *= y;
        }
    }
}
