//! What a transformer tells about itself, and its weights by name.

use super::Transformer;
use super::config::{Head, Place};
use super::plan::BlockPlan;
use burn::tensor::{DType, Device};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::DType as FileDType;
use modelsmith_core::hooks::AttentionShape;
use modelsmith_core::host::{Host, HostInfo};
use modelsmith_core::layers::single;
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::{Site, SiteKind};
use std::collections::BTreeSet;

impl Transformer {
    /// What stands on the last hidden state.
    pub fn head(&self) -> Head {
        self.config.head
    }

    /// Rows of the token embedding.
    pub fn vocab_size(&self) -> usize {
        self.config.vocabulary
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.config.width
    }

    /// Longest sequence the configuration speaks of; see [`Transformer::position_limit`].
    pub fn max_positions(&self) -> usize {
        self.config.limit.unwrap_or(self.config.max_positions)
    }

    /// Longest sequence that is accepted; `None` where positions adapt to any length (dynamic
    /// RoPE).
    pub fn position_limit(&self) -> Option<usize> {
        self.config.limit
    }

    /// Number of blocks, those of an encoder and its decoder together.
    pub fn num_layers(&self) -> usize {
        self.plan.stacks().map(|stack| stack.blocks.len()).sum()
    }

    /// Id that an answer of the decoder begins behind; `None` for a model of one stack.
    pub fn decoder_start(&self) -> Option<u32> {
        match self.config.head {
            Head::Seq2SeqLm(start) => Some(start),
            _ => None,
        }
    }

    /// Numbers in all weights, each tied one once.
    pub fn parameter_count(&self) -> usize {
        self.weights.values.iter().map(Flat::len).sum()
    }

    /// Whether attention looks back only, as generation needs.
    pub fn is_causal(&self) -> bool {
        self.config.attention.causal
    }

    /// Whether a block adds its attention and its MLP to the stream as they are, so that a change of
    /// what its last MLP layer gives is the same change of what the block gives.
    pub fn adds_to_stream(&self) -> bool {
        self.config.place == Place::Pre
    }

    /// Id of the padding token, where the configuration names one.
    pub fn pad_token(&self) -> Option<u32> {
        self.config.pad.map(|pad| pad as u32)
    }

    /// Bytes of keys and values that each cached token of the text, or of the answer, takes.
    pub fn cache_bytes_per_token(&self) -> usize {
        let attention = &self.config.attention;
        2 * self.config.layers * attention.kv_heads * attention.head_dim * size_of::<f32>()
    }

    /// Stored tensors that were not used: buffers, tied copies, other heads.
    pub fn skipped(&self) -> &[String] {
        &self.weights.skipped
    }

    /// Weights that the checkpoint lacked and that were drawn afresh.
    pub fn fresh_weights(&self) -> Vec<&str> {
        let pairs = self.plan.weights.iter().zip(&self.weights.dtypes);
        let fresh = pairs.filter(|(_, dtype)| dtype.is_none());
        fresh.map(|(spec, _)| spec.name.as_str()).collect()
    }

    /// Names of a site's weight and bias, where it has them.
    pub fn site_weights(&self, site: &Site) -> (Option<String>, Option<String>) {
        let name = |number: usize| self.plan.weights[number].name.clone();
        let before = &self.plan.sites[..site.id.0];
        let nth = before
            .iter()
            .filter(|other| other.kind == site.kind)
            .count();
        match site.kind {
            SiteKind::Embedding => (Some(name(self.plan.embeddings[nth])), None),
            SiteKind::Linear => {
                let spec = &self.plan.linears[nth];
                (Some(name(spec.weight)), spec.bias.map(name))
            }
            SiteKind::Norm => {
                let spec = &self.plan.norms[nth];
                (Some(name(spec.weight)), spec.bias.map(name))
            }
            _ => (None, None),
        }
    }

    /// Rounds the weights of dense layers and embeddings to `bf16`, which halves their memory. Products
    /// with them then are as [`modelsmith_kernels::linear()`] says; all other arithmetic stays `f32`,
    /// and so do the values that [`Host::weight`] gives.
    ///
    /// # Errors
    /// None that a host built by this crate can cause.
    pub fn round_matrices(&mut self) -> Result<()> {
        let matrices = self.plan.linears.iter().map(|spec| spec.weight);
        let numbers: BTreeSet<usize> = matrices
            .chain(self.plan.embeddings.iter().copied())
            .collect();
        for number in numbers {
            let value = &mut self.weights.values[number];
            value.change(|values| values.cast(DType::BF16));
            self.network
                .set(&self.plan, number, &self.weights.values[number])?;
        }
        Ok(())
    }

    /// Type that a weight had in the checkpoint.
    pub fn stored_dtype(&self, name: &str) -> Option<FileDType> {
        self.weights.dtypes[*self.index.get(name)?]
    }
}

impl Host for Transformer {
    fn info(&self) -> &HostInfo {
        &self.info
    }

    fn sites(&self) -> &[Site] {
        &self.plan.sites
    }

    fn weight_names(&self) -> Vec<String> {
        self.plan
            .weights
            .iter()
            .map(|spec| spec.name.clone())
            .collect()
    }

    fn weight(&self, name: &str) -> Option<Flat> {
        let Flat { shape, values } = &self.weights.values[*self.index.get(name)?];
        Some(Flat {
            shape: shape.clone(),
            values: single(values.clone()),
        })
    }

    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()> {
        let Some(number) = self.index.get(name).copied() else {
            let near = suggest(name, self.index.keys().map(String::as_str));
            return Err(Error::Failed(format!("no weight is called {name}; {near}")));
        };
        let expected = &self.plan.weights[number].shape;
        if value.shape != *expected {
            return Err(Error::Failed(format!(
                "the weight {name} has shape {expected:?}; a value of shape {:?} was given",
                value.shape
            )));
        }
        let value = Flat {
            shape: value.shape.clone(),
            values: match self.weights.values[number].values.dtype() {
                DType::BF16 => value.values.clone().without_autodiff().cast(DType::BF16),
                _ => value.values.clone().without_autodiff(),
            },
        };
        self.network.set(&self.plan, number, &value)?;
        self.weights.values[number] = value;
        Ok(())
    }

    fn attention_shape(&self, site: &Site) -> Option<AttentionShape> {
        let here = |block: &BlockPlan| {
            let cross = block.cross.map(|cross| cross.mix.site);
            block.attention.mix.site == site.id.0 || cross == Some(site.id.0)
        };
        let mut stacks = self.plan.stacks();
        let layer = stacks.find_map(|stack| stack.blocks.iter().position(here))?;
        Some(self.config.attention.shape(layer))
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}
