//! Element-wise functions of the MLP, alone or as the gate of a second tensor.
//!
//! ```text
//! silu(x)      = x / (1 + e^-x)                                 (Elfwing et al., arXiv 1702.03118)
//! gelu(x)      = x Φ(x)                                    (Hendrycks and Gimpel, arXiv 1606.08415)
//! gelu_tanh(x) = x / (1 + e^-2u),  u = sqrt(2/π) (x + 0.044715 x³)
//! gated        = f(gate) up                                            (Shazeer, arXiv 2002.05202)
//! ```
//! The backward pass computes `f` and `f'` again from the inputs, which are all that is kept.

mod backward;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, activation};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x Φ(x)` with the exact normal distribution.
    Gelu,
    /// The approximation of GELU by the hyperbolic tangent.
    GeluTanh,
}

/// The backend's side of the operations.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Activate: Backend {
    /// `f(x)`.
    fn fused_activate(x: FloatTensor<Self>, function: Activation) -> FloatTensor<Self>;

    /// `f(gate) up`, of equal shapes.
    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        function: Activation,
    ) -> FloatTensor<Self>;
}

/// `f(x)` element by element, of any shape and float dtype; `f32` on the CPU is fused.
///
/// Error of the fused forms: 4 units of the last place for SiLU (below -88.7 the result is -0, the
/// exact one under 1e-36 in size), `2.6e-7 |x|` for the GELUs. NaN stays NaN; negative infinity
/// gives NaN, as the composed forms do.
pub fn activate<const D: usize>(x: Tensor<D>, function: Activation) -> Tensor<D> {
    let x = x.into_dispatch();
    if !applies(&[&x]) {
        return reference(Tensor::from_dispatch(x), function);
    }
    Tensor::from_dispatch(Dispatch::fused_activate(x, function))
}

/// `f(gate) up` element by element, in one pass; shapes must be equal to be fused.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, function: Activation) -> Tensor<D> {
    let same = gate.dims() == up.dims();
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    if !same || !applies(&[&gate, &up]) {
        let (gate, up) = (Tensor::from_dispatch(gate), Tensor::from_dispatch(up));
        return reference_gated(gate, up, function);
    }
    Tensor::from_dispatch(Dispatch::fused_gated(gate, up, function))
}

/// `x / (1 + e^-x)`; see [`activate`].
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Silu)
}

/// `x Φ(x)`; see [`activate`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Gelu)
}

/// GELU by the hyperbolic tangent; see [`activate`].
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::GeluTanh)
}

/// `silu(gate) up`; see [`gated`].
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Activation::Silu)
}

/// [`activate`] composed of burn's operations.
pub fn reference<const D: usize>(x: Tensor<D>, function: Activation) -> Tensor<D> {
    match function {
        Activation::Silu => activation::silu(x),
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let cube = x.clone() * x.clone() * x.clone();
            let inner = (cube * 0.044_715 + x.clone()) * root;
            (inner.tanh() + 1.0) * x * 0.5
        }
    }
}

/// [`gated`] composed of burn's operations.
pub fn reference_gated<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    function: Activation,
) -> Tensor<D> {
    reference(gate, function) * up
}
