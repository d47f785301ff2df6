//! The loop over values, gradients and moments.

use super::{AdamWParameter, AdamWStep};
use crate::rows::{self, Kernel};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Steps of `f32` tensors on the CPU.
pub(super) fn adamw(parameters: Vec<AdamWParameter<'_>>) {
    let steps: Vec<_> = parameters.into_iter().map(opened).collect();
    let done: Vec<_> = steps
        .into_par_iter()
        .map(|(home, tensors, step)| (home, moved(tensors, step)))
        .collect();
    for (home, tensors) in done {
        let tensors = tensors.map(Tensor::from_primitive::<Flex>);
        let [value, first, second] = tensors;
        (*home.value, *home.first, *home.second) = (value, first, second);
    }
}

/// Where the changed tensors go.
struct Home<'a> {
    value: &'a mut Tensor<1>,
    first: &'a mut Tensor<1>,
    second: &'a mut Tensor<1>,
}

/// Takes the tensors out, so that nothing but the caller's own copies shares their buffers.
fn opened(parameter: AdamWParameter<'_>) -> (Home<'_>, [FlexTensor; 4], AdamWStep) {
    let home = Home {
        value: parameter.value,
        first: parameter.first,
        second: parameter.second,
    };
    let nothing = Tensor::empty([0], &parameter.gradient.device());
    let tensors = [
        std::mem::replace(home.value, nothing.clone()),
        std::mem::replace(home.first, nothing.clone()),
        std::mem::replace(home.second, nothing),
        parameter.gradient,
    ];
    (home, tensors.map(rows::on_cpu), parameter.step)
}

/// Value and moments after the step.
fn moved(tensors: [FlexTensor; 4], step: AdamWStep) -> [FlexTensor; 3] {
    let [value, first, second, gradient] = tensors;
    let mut outputs = [value, first, second].map(rows::owned);
    let gradient = rows::contiguous(&gradient);
    let gradient = rows::values(&gradient);
    let slices = outputs.each_mut().map(|tensor| (tensor.storage_mut(), 1));
    rows::run(&Step::new(step), 0, gradient.len(), slices, [(gradient, 1)]);
    outputs
}

/// The numbers as the loop uses them.
struct Step {
    scale: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    kept: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
}

impl Step {
    fn new(step: AdamWStep) -> Self {
        Self {
            scale: step.scale as f32,
            beta1: step.beta1 as f32,
            rest1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            rest2: (1.0 - step.beta2) as f32,
            kept: (1.0 - step.learning_rate * step.weight_decay) as f32,
            rate: (step.learning_rate / step.correction(step.beta1)) as f32,
            root: (1.0 / step.correction(step.beta2).sqrt()) as f32,
            epsilon: step.epsilon as f32,
        }
    }
}

impl Kernel<3, 1> for Step {
    #[inline(always)]
    fn run(&self, _: usize, [value, first, second]: [&mut [f32]; 3], [gradient]: [&[f32]; 1]) {
        let moments = first.iter_mut().zip(second);
        let all = value.iter_mut().zip(gradient).zip(moments);
        for ((w, g), (m, v)) in all {
            let g = g * self.scale;
            *m = *m * self.beta1 + g * self.rest1;
            *v = *v * self.beta2 + g * g * self.rest2;
            let change = *m / (v.sqrt() * self.root + self.epsilon);
            *w = *w * self.kept - change * self.rate;
        }
    }
}
