//! The layers of a planned model with their weights.

use super::config::Config;
use super::plan::{NormSpec, Plan};
use burn::module::Param;
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::layers::{Embedding, Linear, Norm};
use modelsmith_core::parameters::{Flat, frozen};

/// All layers, by the numbers the plan gives them. Tied layers share one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) embeddings: Vec<Embedding>,
    pub(crate) linears: Vec<Linear>,
    pub(crate) norms: Vec<Norm>,
}

impl Network {
    /// Makes the layers around the weights, which are shared, not copied.
    pub(crate) fn new(config: &Config, plan: &Plan, weights: &[Flat]) -> Result<Self> {
        let matrix = |number: usize| parameter::<2>(&weights[number]);
        let vector = |number: usize| parameter::<1>(&weights[number]);
        let embedding = |weight: &usize| {
            Ok(Embedding {
                weight: matrix(*weight)?,
            })
        };
        let norm = |spec: &NormSpec| {
            Ok(Norm {
                weight: vector(spec.weight)?,
                bias: spec.bias.map(vector).transpose()?,
                epsilon: config.epsilon,
                kind: config.norm,
            })
        };
        let linears = plan.linears.iter().map(|spec| {
            Ok(Linear {
                weight: matrix(spec.weight)?,
                bias: spec.bias.map(vector).transpose()?,
                fan_in_fan_out: spec.fan_in_fan_out,
            })
        });
        Ok(Self {
            embeddings: plan
                .embeddings
                .iter()
                .map(embedding)
                .collect::<Result<_>>()?,
            linears: linears.collect::<Result<_>>()?,
            norms: plan.norms.iter().map(norm).collect::<Result<_>>()?,
        })
    }

    /// Replaces one weight in every layer that has it.
    pub(crate) fn set(&mut self, plan: &Plan, number: usize, value: &Flat) -> Result<()> {
        for (embedding, weight) in self.embeddings.iter_mut().zip(&plan.embeddings) {
            if *weight == number {
                embedding.weight = parameter(value)?;
            }
        }
        for (linear, spec) in self.linears.iter_mut().zip(&plan.linears) {
            if spec.weight == number {
                linear.weight = parameter(value)?;
            }
            if spec.bias == Some(number) {
                linear.bias = Some(parameter(value)?);
            }
        }
        for (norm, spec) in self.norms.iter_mut().zip(&plan.norms) {
            if spec.weight == number {
                norm.weight = parameter(value)?;
            }
            if spec.bias == Some(number) {
                norm.bias = Some(parameter(value)?);
            }
        }
        Ok(())
    }
}

fn parameter<const D: usize>(value: &Flat) -> Result<Param<Tensor<D>>> {
    Ok(frozen(value.tensor()?))
}
