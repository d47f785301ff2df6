//! The network in pieces: embedding, one block at a time, what stands above the blocks.
//!
//! Gradient checkpointing runs the blocks forward without a graph, and later each again with one.

use super::Transformer;
use super::input::TokenInput;
use super::prepare::Prepared;
use super::walk::{Visit, Walk};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Around, Hooks, Pass};

/// One forward pass whose pieces can be run in any order and more than once.
pub struct Stages<'a> {
    model: &'a Transformer,
    ids: Tensor<2, Int>,
    prepared: Prepared,
    pass: &'a Pass,
    hooks: &'a [&'a dyn Hooks],
}

impl Transformer {
    /// Prepares a forward pass without a cache, to be run in pieces.
    ///
    /// # Errors
    /// As [`Transformer::hidden`]; an encoder with a decoder.
    pub fn stages<'a>(
        &'a self,
        input: &TokenInput,
        pass: &'a Pass,
        hooks: &'a [&'a dyn Hooks],
    ) -> Result<Stages<'a>> {
        if self.plan.encoder.is_some() {
            return Err(Error::config(
                "train.gradient_checkpointing",
                format!(
                    "is not implemented for {}, an encoder with a decoder; set it to false",
                    self.info.architecture
                ),
            ));
        }
        let told = input.told(pass);
        let around = Around { hooks, pass: &told };
        Ok(Stages {
            model: self,
            ids: input.ids.clone(),
            prepared: Prepared::new(&self.config, input, Some(&around), None, &self.device)?,
            pass,
            hooks,
        })
    }
}

impl Stages<'_> {
    fn walk(&self) -> Walk<'_> {
        let visit = Visit {
            model: self.model,
            around: Around {
                hooks: self.hooks,
                pass: self.pass,
            },
        };
        Walk::new(visit, &self.model.plan.stack, &self.prepared, None, None)
    }

    /// The embedded tokens behind the hooks' prompt, `[batch, time, width]`.
    pub fn embed(&self) -> Tensor<3> {
        self.walk().embed(self.ids.clone())
    }

    /// One block, `[batch, time, width]` to the same.
    pub fn block(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        self.walk().block(layer, x)
    }

    /// From the last block to the last hidden state.
    pub fn top(&self, x: Tensor<3>) -> Tensor<3> {
        self.walk().top(x)
    }
}
