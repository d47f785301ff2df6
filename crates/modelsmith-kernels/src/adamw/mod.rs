//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) over many parameters in one pass over memory.
//!
//! ```text
//! w <- w (1 - lr·wd)
//! m <- β₁ m + (1-β₁) g        v <- β₂ v + (1-β₂) g²
//! w <- w - lr/(1-β₁ᵗ) · m / (√v/√(1-β₂ᵗ) + ε)
//! ```
//! Values and moments are written over where nothing else shares their buffers, and copied first
//! where something does. Large tensors are cut among the threads, many small ones dealt out.

mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies_plain;
use burn::tensor::Tensor;

/// The numbers of one parameter's step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// β₁ in [0, 1).
    pub beta1: f64,
    /// β₂ in [0, 1).
    pub beta2: f64,
    /// ε, above 0.
    pub epsilon: f64,
    /// `t`: steps of this parameter, this one included.
    pub steps: u32,
    /// lr.
    pub learning_rate: f64,
    /// wd.
    pub weight_decay: f64,
    /// Multiplies the gradient first.
    pub scale: f64,
}

/// A parameter in a step, all of its tensors of one length.
#[derive(Debug)]
pub struct AdamWParameter<'a> {
    /// `w`, changed.
    pub value: &'a mut Tensor<1>,
    /// `g` before scaling.
    pub gradient: Tensor<1>,
    /// `m`, changed.
    pub first: &'a mut Tensor<1>,
    /// `v`, changed.
    pub second: &'a mut Tensor<1>,
    /// The numbers.
    pub step: AdamWStep,
}

impl AdamWStep {
    /// `1 - βᵗ`.
    fn correction(&self, beta: f64) -> f64 {
        1.0 - beta.powi(i32::try_from(self.steps).unwrap_or(i32::MAX))
    }
}

/// Takes the step of every parameter. Any float dtype and device; `f32` on the CPU is fused, within
/// about 1e-6 of the reference in relation to the step.
///
/// # Panics
/// When the tensors of a parameter differ in length.
pub fn adamw(parameters: Vec<AdamWParameter<'_>>) {
    let (fused, others): (Vec<_>, Vec<_>) = parameters.into_iter().partition(|parameter| {
        let count = parameter.value.dims();
        let all = [
            &*parameter.value,
            &parameter.gradient,
            &*parameter.first,
            &*parameter.second,
        ];
        let same = all.iter().all(|tensor| tensor.dims() == count);
        assert!(same, "adamw: the tensors of a parameter differ in length");
        applies_plain(&all)
    });
    flex::adamw(fused);
    others.into_iter().for_each(reference);
}

/// One parameter's step, composed of burn's operations.
pub fn reference(parameter: AdamWParameter<'_>) {
    let step = parameter.step;
    let g = parameter.gradient.mul_scalar(step.scale);
    let first = parameter.first.clone().mul_scalar(step.beta1);
    let first = first + g.clone().mul_scalar(1.0 - step.beta1);
    let second = parameter.second.clone().mul_scalar(step.beta2);
    let second = second + g.clone().mul(g).mul_scalar(1.0 - step.beta2);
    let root = second.clone().sqrt();
    let root = root.div_scalar(step.correction(step.beta2).sqrt());
    let change = first.clone().div(root.add_scalar(step.epsilon));
    let change = change.mul_scalar(step.learning_rate / step.correction(step.beta1));
    let kept = 1.0 - step.learning_rate * step.weight_decay;
    *parameter.value = parameter.value.clone().mul_scalar(kept) - change;
    (*parameter.first, *parameter.second) = (first, second);
}
