//! The loops over elements.

use super::{Activate, Activation};
use crate::math;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

impl Activate for Flex {
    fn fused_activate(x: FloatTensor<Self>, function: Activation) -> FloatTensor<Self> {
        activate(&x, function)
    }

    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        function: Activation,
    ) -> FloatTensor<Self> {
        gated(&gate, &up, function)
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
const TWICE_ROOT: f32 = 1.595_769_1;
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

/// `f(x)`.
pub(super) fn activate(x: &FlexTensor, function: Activation) -> FlexTensor {
    let [y] = with_function!(function, F => map(&Forward::<F>::NEW, [x]));
    y
}

/// `f'(x) grad`.
pub(super) fn activate_backward(
    x: &FlexTensor,
    grad: &FlexTensor,
    function: Activation,
) -> FlexTensor {
    let [dx] = with_function!(function, F => map(&Slope::<F>::NEW, [x, grad]));
    dx
}

/// `f(gate) up`.
pub(super) fn gated(gate: &FlexTensor, up: &FlexTensor, function: Activation) -> FlexTensor {
    let [y] = with_function!(function, F => map(&Gated::<F>::NEW, [gate, up]));
    y
}

/// `f'(gate) up grad` and `f(gate) grad`.
pub(super) fn gated_backward(
    gate: &FlexTensor,
    up: &FlexTensor,
    grad: &FlexTensor,
    function: Activation,
) -> [FlexTensor; 2] {
    with_function!(function, F => map(&GatedSlope::<F>::NEW, [gate, up, grad]))
}

/// Runs an element-wise kernel over tensors of one shape.
fn map<const M: usize, const N: usize>(
    kernel: &impl Kernel<M, N>,
    inputs: [&FlexTensor; N],
) -> [FlexTensor; M] {
    let shape = inputs[0].shape();
    let count = shape.num_elements();
    let inputs = inputs.map(rows::contiguous);
    let mut outputs = [const { Vec::new() }; M].map(|_: Vec<f32>| vec![0.0; count]);
    let slots = outputs.each_mut().map(|output| (output.as_mut_slice(), 1));
    let inputs = inputs.each_ref().map(|input| (rows::values(input), 1));
    rows::run(kernel, 0, count, slots, inputs);
    outputs.map(|values| rows::tensor(values, shape.clone()))
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

impl<F: Function> Kernel<1, 1> for Forward<F> {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], [x]: [&[f32]; 1]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = F::at(*x);
        }
    }
}

impl<F: Function> Kernel<1, 2> for Slope<F> {
    #[inline(always)]
    fn run(&self, _: usize, [dx]: [&mut [f32]; 1], [x, grad]: [&[f32]; 2]) {
        for ((dx, x), grad) in dx.iter_mut().zip(x).zip(grad) {
            *dx = F::slope(*x).1 * grad;
        }
    }
}

impl<F: Function> Kernel<1, 2> for Gated<F> {
    #[inline(always)]
    fn run(&self, _: usize, [y]: [&mut [f32]; 1], [gate, up]: [&[f32]; 2]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = F::at(*gate) * up;
        }
    }
}

impl<F: Function> Kernel<2, 3> for GatedSlope<F> {
    #[inline(always)]
    fn run(&self, _: usize, [dgate, dup]: [&mut [f32]; 2], [gate, up, grad]: [&[f32]; 3]) {
        let outputs = dgate.iter_mut().zip(dup);
        for ((((dgate, dup), gate), up), grad) in outputs.zip(gate).zip(up).zip(grad) {
            let (y, slope) = F::slope(*gate);
            *dgate = slope * up * grad;
            *dup = y * grad;
        }
    }
}
