//! One transformer, many dialects.
//!
//! [`config`] is what a block can be; [`dialects`] read a family's `config.json` into it and name
//! its tensors; [`plan`] turns it into sites and weights; [`walk`] computes, opening the hooks at
//! every site. A model is one stack of blocks, or two: an encoder reads a text once ([`encode`]),
//! and a decoder whose blocks attend to the outcome writes the answer. Both look tokens up in one
//! table, at a site each.
//!
//! Paths are the module paths of the class that `architectures` names. The output site, which spans
//! the whole head, is called after the head's last layer with `:output` (`lm_head:output`), so that
//! paths are unique and no pattern for modules sees it.

mod activation;
mod attention;
mod build;
mod builder;
mod cache;
mod config;
mod dialects;
mod encode;
mod facts;
mod head;
mod input;
mod load;
mod network;
mod open;
mod plan;
mod prepare;
mod reader;
mod relative;
mod rope;
mod stages;
mod walk;

pub use cache::KvCache;
pub use config::{Head, Task};
pub use input::TokenInput;
pub use open::{LoadOptions, load, load_with, random};
pub use stages::Stages;

use burn::tensor::{Device, Tensor};
use config::Config;
use load::Weights;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Around, Hooks, Pass};
use modelsmith_core::host::HostInfo;
use network::Network;
use plan::{HeadPlan, Plan};
use prepare::Prepared;
use std::collections::BTreeMap;
use std::sync::Arc;
use walk::{Visit, Walk};

/// A pretrained transformer: frozen f32 weights on a plain device, and its sites.
#[derive(Clone, Debug)]
pub struct Transformer {
    config: Arc<Config>,
    plan: Arc<Plan>,
    index: Arc<BTreeMap<String, usize>>,
    network: Network,
    weights: Weights,
    info: HostInfo,
    device: Device,
}

/// A head that is one product: `logits = scale x Wᵀ`.
#[derive(Clone, Debug)]
pub struct OutputMatrix {
    /// `[vocabulary, width]`, `f32` or `bf16`.
    pub matrix: Tensor<2>,
    /// Multiplies the hidden state; 1 but for T5 1.0.
    pub scale: f64,
}

impl Transformer {
    /// The last hidden state after the final norm, `[batch, time, width]`. With a cache, `input`
    /// holds the new tokens only and the cache grows by them, unless it is fixed; gradients do not flow
    /// through what a cache holds.
    ///
    /// # Errors
    /// Ids outside the vocabulary, sequences longer than the model's positions, inputs whose
    /// shapes differ, a cache with a model that reads in both directions, a source that is missing
    /// or that nothing reads.
    pub fn hidden(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor<3>> {
        self.pass(input, pass, hooks, cache, &mut |_| ())
    }

    /// The embedding and the output of every block, the last after the final norm, as
    /// `output_hidden_states` of `transformers` gives them; the decoder's where there is an encoder
    /// (see [`Transformer::encoder_states`]).
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn hidden_states(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Result<Vec<Tensor<3>>> {
        let mut states = Vec::with_capacity(self.config.layers + 1);
        let last = self.pass(input, pass, hooks, None, &mut |x| states.push(x.clone()))?;
        states.pop();
        states.push(last);
        Ok(states)
    }

    fn pass(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
        mut cache: Option<&mut KvCache>,
        seen: &mut dyn FnMut(&Tensor<3>),
    ) -> Result<Tensor<3>> {
        let [batch, _] = input.dims();
        let pass = &input.told(pass);
        if let Some(cache) = cache.as_deref_mut() {
            if !self.config.attention.causal {
                return Err(Error::Failed(format!(
                    "{} reads in both directions and has no use for a key-value cache",
                    self.info.architecture
                )));
            }
            cache.admit(self.config.layers, batch)?;
        }
        let source_pass = match &input.source {
            Some(source) => encode::source_pass(pass, source),
            None => Pass::default(),
        };
        let encoded = self.encoded(input, &source_pass, hooks, cache.as_deref_mut())?;
        let offset = cache.as_deref().map_or(0, KvCache::len);
        let pass = Pass {
            offset,
            ..pass.clone()
        };
        let around = Around { hooks, pass: &pass };
        let held = cache.as_deref();
        // A prompt stands in front of the text that the encoder reads, where there is one.
        let lead = encoded.is_none().then_some(&around);
        let prepared = Prepared::new(&self.config, input, lead, held, &self.device)?;
        let layers = cache.as_deref_mut().map(|held| held.layers.as_mut_slice());
        let visit = Visit {
            model: self,
            around,
        };
        let stack = &self.plan.stack;
        let walk = Walk::new(visit, stack, &prepared, layers, encoded.as_ref());
        let mut x = walk.embed(input.ids.clone());
        seen(&walk.tokens(x.clone()));
        for layer in 0..stack.blocks.len() {
            x = walk.block(layer, x);
            seen(&walk.tokens(x.clone()));
        }
        let x = walk.top(x);
        if let Some(cache) = cache {
            cache.advance(prepared.columns, prepared.mask.as_deref());
        }
        Ok(x)
    }

    /// The head's logits: `[batch, time, vocabulary]` for language models, `[batch, time,
    /// classes]` for token classifiers, `[batch, 1, classes]` for sequence classifiers. `input` is
    /// what `hidden` was computed from. Without a head it is the hidden state.
    pub fn logits(
        &self,
        hidden: Tensor<3>,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Tensor<3> {
        let around = Around { hooks, pass };
        Visit {
            model: self,
            around,
        }
        .head(hidden, input)
    }

    /// The matrix whose product with the hidden state is all that the head computes under these
    /// hooks; `None` for other heads, and where a hook may do more.
    pub fn output_matrix(&self, hooks: &[&dyn Hooks]) -> Option<OutputMatrix> {
        let Some(HeadPlan::Causal(at)) = self.plan.head else {
            return None;
        };
        let pass = &Pass::default();
        let site = &self.plan.sites[at.site];
        let around = Around { hooks, pass };
        let matrix = around.head_weight(site, &self.network.linears[at.layer])?;
        Some(OutputMatrix {
            matrix,
            scale: self.config.output_scale(),
        })
    }

    /// Logits from tokens.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn forward(
        &self,
        input: &TokenInput,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<3>> {
        let hidden = self.hidden(input, pass, hooks, None)?;
        Ok(self.logits(hidden, input, pass, hooks))
    }

    /// Sentence embeddings `[batch, width]`: the mean of the last hidden state over real tokens,
    /// with unit length on request.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn embed(
        &self,
        input: &TokenInput,
        normalise: bool,
        hooks: &[&dyn Hooks],
    ) -> Result<Tensor<2>> {
        let hidden = self.hidden(input, &Pass::default(), hooks, None)?;
        let mean: Tensor<2> = match &input.mask {
            Some(mask) => {
                let weight = mask.clone().float().unsqueeze_dim::<3>(2);
                let count = weight.clone().sum_dim(1).clamp_min(1e-9);
                ((hidden * weight).sum_dim(1) / count).squeeze_dim(1)
            }
            None => hidden.mean_dim(1).squeeze_dim(1),
        };
        if !normalise {
            return Ok(mean);
        }
        let length = mean.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        Ok(mean / length)
    }

    /// The bare encoder's pooler on a hidden state, `[batch, width]`; `None` where there is none.
    pub fn pooled(
        &self,
        hidden: Tensor<3>,
        pass: &Pass,
        hooks: &[&dyn Hooks],
    ) -> Option<Tensor<2>> {
        let around = Around { hooks, pass };
        let visit = Visit {
            model: self,
            around,
        };
        let pooled = visit.pool(self.plan.pooler?, hidden);
        Some(pooled.squeeze_dim(1))
    }
}
