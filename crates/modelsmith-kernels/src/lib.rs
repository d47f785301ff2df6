//! Fused tensor operations: forward and backward in one pass over memory each.
//!
//! Every operation has a folder: the function on [`burn::tensor::Tensor`] with its plain reference,
//! the loop over memory (`flex.rs`), the backward pass (`backward.rs`) and tests. The fused form
//! runs on the CPU backend for `f32`, with or without autodiff; anything else (another backend,
//! another dtype) and everything after [`set_fused`]`(false)` takes the reference, which is
//! composed of burn's own operations.
//!
//! All fused forms are deterministic: work is cut at places that depend on the shapes alone, sums
//! run over a fixed number of lanes, and no step contracts multiplications and additions. The same
//! input gives the same bytes for any number of threads and any vector width; only the matrix
//! products inside [`linear_cross_entropy()`] are the backend's.

mod activation;
mod linear_cross_entropy;
mod math;
mod norm;
mod rotate;
mod rows;
mod softmax;
mod switch;

pub use activation::{Activation, activate, gated, gelu, gelu_tanh, silu, swiglu};
pub use linear_cross_entropy::linear_cross_entropy;
pub use norm::{layer_norm, norm, rms_norm};
pub use rotate::rotate;
pub use softmax::{log_softmax, softmax};
pub use switch::{fused, set_fused};

/// The plain forms, composed of burn's operations: what the fused ones are tested against.
pub mod reference {
    pub use crate::activation::reference as activate;
    pub use crate::activation::reference_gated as gated;
    pub use crate::linear_cross_entropy::reference as linear_cross_entropy;
    pub use crate::rotate::reference as rotate;
    pub use crate::softmax::reference as softmax;
    pub use crate::softmax::reference_log as log_softmax;
    pub use modelsmith_core::layers::normalise as norm;
}

#[cfg(test)]
mod checks;
