//! The keys and values themselves: what they are made from, and how they come in front of a layer's own.

use super::{PROJECTED, PrefixTuningConfig, TYPE};
use crate::adapter::common::copies::Copies;
use crate::adapter::common::peft::sorted;
use crate::prompt::common::peft::{PROMPT, describe_prompt, saved_modules};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{
    AttentionCall, AttentionShape, ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, Pass, Qkv,
};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_core::sites::{Site, SiteKind};
use serde_json::{Map, Value, json};

/// The attention of a host: its sites, and the shape that all of them have.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub(super) sites: Vec<Site>,
    pub(super) shape: AttentionShape,
}

impl Layers {
    pub(super) fn of(host: &dyn Host) -> Result<Self> {
        if host.info().task_type == Some("SEQ_2_SEQ_LM") {
            return Err(Error::Usage(format!(
                "{} has attentions in an encoder, in a decoder and between them, which take no \
                 prefix here; train a prompt in front of the encoder's text, or an adapter",
                host.info().architecture
            )));
        }
        let sites = host.sites().iter();
        let sites: Vec<Site> = sites
            .filter(|site| site.kind == SiteKind::Attention)
            .cloned()
            .collect();
        let shapes: Vec<AttentionShape> = sites
            .iter()
            .filter_map(|site| host.attention_shape(site))
            .collect();
        let alike = |shape: &AttentionShape| {
            (shape.kv_heads, shape.head_dim) == (shapes[0].kv_heads, shapes[0].head_dim)
        };
        match shapes.first() {
            Some(shape) if shapes.len() == sites.len() && shapes.iter().all(alike) => {
                let shape = *shape;
                Ok(Self { sites, shape })
            }
            _ => Err(Error::Usage(format!(
                "{} has no attention of one shape throughout, so that no prefix can stand in front of it",
                host.info().architecture
            ))),
        }
    }

    /// Width of the keys of a layer.
    pub(super) fn width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// Width of a whole prefix.
    pub(super) fn columns(&self) -> usize {
        2 * self.sites.len() * self.width()
    }

    /// Keys of the file and shapes of a prefix's tensors.
    pub(super) fn shapes(&self, config: &PrefixTuningConfig) -> Vec<(&'static str, [usize; 2])> {
        let (count, inner, columns) = (
            config.virtual_tokens,
            config.projection_size,
            self.columns(),
        );
        if !config.projection {
            return vec![(PROMPT, [count, columns])];
        }
        vec![
            ("prefix_embeddings", [count, self.width()]),
            ("prefix_projection.0.weight", [inner, self.width()]),
            ("prefix_projection.0.bias", [1, inner]),
            ("prefix_projection.2.weight", [columns, inner]),
            ("prefix_projection.2.bias", [1, columns]),
        ]
    }
}

/// A prefix, and the head trained with it.
#[derive(Module, Debug)]
pub(super) struct Prefixed {
    /// `[virtual_tokens, 2 layers kv_width]`, or `[virtual_tokens, kv_width]` before the network.
    pub(super) table: Param<Tensor<2>>,
    /// `[projection_size, kv_width]`.
    pub(super) inner: Option<Param<Tensor<2>>>,
    /// `[1, projection_size]`.
    pub(super) inner_bias: Option<Param<Tensor<2>>>,
    /// `[2 layers kv_width, projection_size]`.
    pub(super) outer: Option<Param<Tensor<2>>>,
    /// `[1, 2 layers kv_width]`.
    pub(super) outer_bias: Option<Param<Tensor<2>>>,
    pub(super) heads: Copies,
    #[module(skip)]
    pub(super) layers: Layers,
    #[module(skip)]
    pub(super) config: PrefixTuningConfig,
}

impl Prefixed {
    /// Some columns of the whole prefix.
    fn columns(&self, from: usize, count: usize) -> Tensor<2> {
        let table = self.table.val();
        match (&self.inner, &self.inner_bias, &self.outer, &self.outer_bias) {
            (Some(inner), Some(inner_bias), Some(outer), Some(outer_bias)) => {
                let hidden = table.matmul(inner.val().transpose()) + inner_bias.val();
                let outer = outer.val().narrow(0, from, count);
                hidden.tanh().matmul(outer.transpose()) + outer_bias.val().narrow(1, from, count)
            }
            _ => table.narrow(1, from, count),
        }
    }

    /// A layer's keys and values `[1, kv_heads, virtual_tokens, head_dim]`.
    fn keys_and_values(&self, layer: usize, pass: &Pass) -> [Tensor<4>; 2] {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = self.layers.shape;
        let (count, width) = (self.config.virtual_tokens, self.layers.width());
        [0, 1].map(|part| {
            let values = self.columns((2 * layer + part) * width, width);
            let values = pass.dropout(
                &format!("prefix/{layer}/{part}"),
                self.config.dropout,
                values,
            );
            values
                .reshape([1, count, kv_heads, head_dim])
                .swap_dims(1, 2)
        })
    }

    fn peft_config(&self, host: &dyn Host) -> Map<String, Value> {
        let info = host.info();
        let kind = if self.config.projection {
            PROJECTED
        } else {
            TYPE
        };
        let mut config =
            describe_prompt(info, kind, self.config.virtual_tokens, self.layers.width());
        let own = [
            // PEFT counts the heads that have keys.
            ("num_attention_heads", json!(self.layers.shape.kv_heads)),
            ("num_layers", json!(self.layers.sites.len())),
            ("encoder_hidden_size", json!(self.layers.width())),
            ("prefix_projection", json!(false)),
            ("init_weights", Value::Null),
            (
                "modules_to_save",
                saved_modules(info, &self.config.modules_to_save),
            ),
        ];
        config.extend(own.map(|(key, value)| (key.to_owned(), value)));
        if self.config.projection {
            config.insert("projection_size".into(), json!(self.config.projection_size));
        }
        sorted(config)
    }
}

impl Adapter for Prefixed {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let values = [
            Some(&self.table),
            self.inner.as_ref(),
            self.inner_bias.as_ref(),
        ];
        let values = values
            .into_iter()
            .chain([self.outer.as_ref(), self.outer_bias.as_ref()]);
        let values = values
            .flatten()
            .map(|value| Flat::new(value.val().without_autodiff()));
        let names = self.layers.shapes(&self.config).into_iter();
        let own = names.map(|(name, _)| name.to_owned()).zip(values);
        Ok(AdapterFiles {
            config: self.peft_config(host),
            tensors: self.heads.tensors().chain(own).collect(),
        })
    }

    fn portable(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let whole = self.columns(0, self.layers.columns()).without_autodiff();
        let config = PrefixTuningConfig {
            projection: false,
            ..self.config.clone()
        };
        let (layers, heads) = (self.layers.clone(), self.heads.clone());
        config
            .prefix(layers, &[Flat::new(whole)], heads)?
            .files(host)
    }

    fn is_mergeable(&self) -> bool {
        false
    }

    fn merged(&self, _: &dyn Host, _: &str) -> Result<Option<Flat>> {
        Err(Error::Usage(
            "a prefix is no change of weights and cannot be merged; keep it as an adapter".into(),
        ))
    }

    fn sites(&self) -> Vec<&Site> {
        self.layers.sites.iter().chain(self.heads.sites()).collect()
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

impl Hooks for Prefixed {
    fn prefix(&self) -> usize {
        self.config.virtual_tokens
    }

    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        let mut sites = self.layers.sites.iter();
        let Some(layer) = sites.position(|site| site.id == call.site.id) else {
            return call.run(qkv);
        };
        let Qkv { q, k, v, mask } = qkv;
        let ([_, _, time, _], [batch, heads, keys, dim]) = (q.dims(), k.dims());
        let count = self.config.virtual_tokens;
        let [first_k, first_v] = self
            .keys_and_values(layer, call.pass)
            .map(|front| front.expand([batch, heads, count, dim]));
        let device = q.device().without_autodiff();
        call.run(Qkv {
            q,
            k: Tensor::cat(vec![first_k, k], 2),
            v: Tensor::cat(vec![first_v, v], 2),
            mask: mask.behind(count, time, keys, &device),
        })
    }

    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.heads.embedding(call, ids)
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.heads.linear(call, x)
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        self.heads.conv(call, x)
    }

    fn acts_at(&self, site: &Site) -> bool {
        site.kind == SiteKind::Attention || self.heads.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        self.heads.after_linear(call, x, y)
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.heads.norm(call, x)
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        self.heads.head_weight(site, layer, weight)
    }
}
