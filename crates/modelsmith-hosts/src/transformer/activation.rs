//! The element-wise functions of the MLP, exactly as `transformers` names them.

use super::config::Activation;
use super::reader::Reader;
use burn::tensor::{Tensor, activation};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_kernels::Activation as Fused;

impl Activation {
    /// Reads the activation under `key`.
    pub(crate) fn read(reader: &Reader<'_>, key: &str, default: &str) -> Result<Self> {
        Self::named(key, reader.text_if(key)?.unwrap_or(default))
    }

    /// The activation that `key` calls by `name`.
    pub(crate) fn named(key: &str, name: &str) -> Result<Self> {
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
        match self.fused() {
            Some(function) => modelsmith_kernels::activate(x, function),
            None => activation::relu(x),
        }
    }

    /// Applies it to a gate and multiplies.
    pub(crate) fn gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self.fused() {
            Some(function) => modelsmith_kernels::gated(gate, up, function),
            None => activation::relu(gate) * up,
        }
    }

    /// The fused function; `None` for the one that needs none.
    fn fused(self) -> Option<Fused> {
        match self {
            Self::Silu => Some(Fused::Silu),
            Self::Gelu => Some(Fused::Gelu),
            Self::GeluTanh => Some(Fused::GeluTanh),
            Self::Relu => None,
        }
    }
}
