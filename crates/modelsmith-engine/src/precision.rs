//! The numbers that a host's matrices are stored in and multiplied by.

use modelsmith_core::error::Result;
use modelsmith_hosts::Transformer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of a host's matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 8 are the exponent: half the memory, and faster where the processor multiplies
    /// them. Adapters, sums and everything but products with the host's matrices stay `f32`.
    Bf16,
}

impl Precision {
    /// Makes the host's matrices ones of these numbers.
    pub(crate) fn apply(self, host: &mut Transformer) -> Result<()> {
        match self {
            Self::F32 => Ok(()),
            Self::Bf16 => host.round_matrices(),
        }
    }
}
