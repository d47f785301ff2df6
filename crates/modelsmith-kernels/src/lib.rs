//! Fused tensor operations: forward and backward in one pass over memory each.
//!
//! Every operation has a folder: the function on [`burn::tensor::Tensor`] with its plain reference,
//! the loop over memory (`flex.rs`), the backward pass (`backward.rs`) and tests. The fused form
//! runs on the CPU backend for `f32`, with or without autodiff; anything else (another backend,
//! another dtype) and everything after [`set_fused`]`(false)` takes the reference, which is
//! composed of burn's own operations.
//!
//! All fused forms are deterministic: work is cut at places that depend on the shapes alone, and
//! sums run over a fixed number of lanes. The same input gives the same bytes for any number of
//! threads. Outside matrix products and [`attention()`] no step contracts multiplications and
//! additions, so that any vector width gives the same bytes too.

mod activation;
mod adamw;
mod attention;
#[cfg(target_arch = "x86_64")]
mod laid_out;
mod linear;
mod linear_cross_entropy;
mod lookup;
pub mod machine;
mod math;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod matrix_unit;
mod memory;
mod norm;
mod product;
mod rotate;
mod rows;
mod softmax;
mod square_sum;
mod switch;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vectors;

pub use activation::{Activation, activate, gated, gelu, gelu_tanh, silu, swiglu};
pub use adamw::{AdamWParameter, AdamWStep, adamw};
pub use attention::attention;
pub use linear::{LowRank, linear};
pub use linear_cross_entropy::linear_cross_entropy;
pub use lookup::lookup;
pub use norm::{layer_norm, norm, rms_norm};
pub use rotate::rotate;
pub use rows::vectorised;
pub use softmax::{log_softmax, softmax};
pub use square_sum::square_sum;
pub use switch::{fused, set_fused};

/// The plain forms, composed of burn's operations: what the fused ones are tested against.
pub mod reference {
    pub use crate::activation::reference as activate;
    pub use crate::activation::reference_gated as gated;
    pub use crate::adamw::reference as adamw;
    pub use crate::attention::reference as attention;
    pub use crate::linear::reference as linear;
    pub use crate::linear_cross_entropy::reference as linear_cross_entropy;
    pub use crate::rotate::reference as rotate;
    pub use crate::softmax::reference as softmax;
    pub use crate::softmax::reference_log as log_softmax;
    pub use crate::square_sum::reference as square_sum;
    pub use modelsmith_core::layers::lookup;
    pub use modelsmith_core::layers::normalise as norm;
}

#[cfg(test)]
mod checks;
