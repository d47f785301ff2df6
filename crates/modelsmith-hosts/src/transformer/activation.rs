//! The element-wise functions of the MLP, exactly as `transformers` names them.

use super::config::Activation;
use super::reader::Reader;
use burn::tensor::{Tensor, activation};
use modelsmith_core::error::{Error, Result, suggest};

impl Activation {
    /// Reads the activation under `key`.
    pub(crate) fn read(reader: &Reader<'_>, key: &str, default: &str) -> Result<Self> {
        let name = reader.text_if(key)?.unwrap_or(default);
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh"
            | "gelu_python_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            other => {
                let known = [
                    "silu",
                    "swish",
                    "gelu",
                    "gelu_new",
                    "gelu_pytorch_tanh",
                    "relu",
                ];
                let near = suggest(other, known);
                Err(Error::config(
                    key,
                    format!("`{other}` is not implemented; {near}"),
                ))
            }
        }
    }

    /// Applies it.
    pub(crate) fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::Relu => activation::relu(x),
        }
    }
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (cube * 0.044_715 + x.clone()) * root;
    (inner.tanh() + 1.0) * x * 0.5
}
