//! A small host of every kind of weight, for tests of methods that must not know real hosts.
//!
//! ```text
//! prompt of the hooks and embed -> + layers.0.q_proj (bias) -> + layers.0.v_proj (stored transposed)
//!       -> + layers.0.attn (two heads on one of keys) -> + layers.0.conv -> the tokens alone -> norm -> lm_head (tied to embed on request)
//! ```

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Around, AttentionShape, DrawKey, Hooks, Pass, Qkv};
use modelsmith_core::host::{BlockParts, Host, HostInfo};
use modelsmith_core::layers::{Conv2d, Embedding, Linear, Norm, NormKind};
use modelsmith_core::mask::Mask;
use modelsmith_core::parameters::{Flat, frozen, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::Adapter;
use modelsmith_core::sites::{Site, SiteId, SiteKind};
use serde_json::json;

/// Width of the stream.
pub(crate) const WIDTH: usize = 8;
/// Token ids.
pub(crate) const VOCABULARY: usize = 11;

/// See the module.
#[derive(Clone)]
pub(crate) struct FakeHost {
    info: HostInfo,
    sites: Vec<Site>,
    embed: Embedding,
    query: Linear,
    value: Linear,
    conv: Conv2d,
    norm: Norm,
    head: Linear,
}

impl FakeHost {
    /// With an output layer of its own.
    pub(crate) fn new() -> Self {
        Self::build(false)
    }

    /// With an output layer that shares the embedding's weight.
    pub(crate) fn tied() -> Self {
        Self::build(true)
    }

    /// A classifier whose head is `lm_head`.
    pub(crate) fn classifier() -> Self {
        let mut host = Self::new();
        host.info.task_type = Some("SEQ_CLS");
        host.info.head_modules = &["lm_head"];
        host
    }

    fn build(tied: bool) -> Self {
        let embed = Embedding {
            weight: matrix("embed", [VOCABULARY, WIDTH]),
        };
        let head = match tied {
            true => frozen(embed.weight.val()),
            false => matrix("head", [VOCABULARY, WIDTH]),
        };
        Self {
            info: info(),
            sites: sites(tied),
            embed,
            query: Linear {
                weight: matrix("query", [WIDTH, WIDTH]),
                bias: Some(vector("query bias", WIDTH)),
                fan_in_fan_out: false,
            },
            value: Linear {
                weight: matrix("value", [WIDTH, WIDTH]),
                bias: None,
                fan_in_fan_out: true,
            },
            conv: Conv2d {
                weight: frozen(draw("conv", [4, 4, 3, 3])),
                bias: Some(vector("conv bias", 4)),
                stride: [1, 1],
                padding: [1, 1],
                groups: 1,
            },
            norm: Norm {
                weight: vector("gain", WIDTH),
                bias: None,
                epsilon: 1e-5,
                kind: NormKind::Rms,
            },
            head: Linear {
                weight: head,
                bias: None,
                fan_in_fan_out: false,
            },
        }
    }

    /// Logits `[batch, time, vocabulary]`.
    pub(crate) fn forward(&self, hooks: &[&dyn Hooks], pass: &Pass) -> Tensor<3> {
        let around = Around { hooks, pass };
        let site = |index: usize| &self.sites[index];
        let x = around.embedding(site(0), &self.embed, ids(), &|ids| self.embed.forward(ids));
        let [batch, tokens, _] = x.dims();
        let prompt = around.prompt();
        let lead = prompt.as_ref().map_or(0, |prompt| prompt.dims()[1]);
        let x = match prompt {
            Some(prompt) => Tensor::cat(vec![prompt.expand([batch, lead, WIDTH]), x], 1),
            None => x,
        };
        let y = around.linear(site(1), &self.query, x.clone(), &|x| dense(&self.query, x));
        let x = x + y;
        let y = around.linear(site(2), &self.value, x.clone(), &|x| dense(&self.value, x));
        let x = x + y;
        let y = around.attention(site(6), &ATTENTION, heads_of(&x), &attend);
        let [batch, time, _] = x.dims();
        let x = x + y.swap_dims(1, 2).reshape([batch, time, WIDTH]);
        let image = x.clone().reshape([batch, time, 4, 2]).swap_dims(1, 2);
        let y = around.conv(site(3), &self.conv, image, &|x| self.conv.forward(x));
        let x = x + y.swap_dims(1, 2).reshape([batch, time, WIDTH]);
        let x = x.narrow(1, lead, tokens);
        let Norm {
            weight,
            bias,
            epsilon,
            kind,
        } = &self.norm;
        let x = around.norm(site(4), &self.norm, x, &|x| {
            let bias = bias.as_ref().map(Param::val);
            modelsmith_kernels::norm(x, weight.val(), bias, *kind, *epsilon)
        });
        around.linear(site(5), &self.head, x, &|x| dense(&self.head, x))
    }

    /// Logits as numbers, outside training.
    pub(crate) fn logits(&self, adapters: &[&dyn Adapter]) -> Vec<f32> {
        let hooks: Vec<&dyn Hooks> = adapters.iter().map(|adapter| adapter.hooks()).collect();
        to_vec(self.forward(&hooks, &Pass::default()))
    }

    /// The head's outputs for fixed inputs under an adapter, and those of the weight that the
    /// adapter says the head comes to.
    pub(crate) fn head(&self, adapter: &dyn Adapter) -> (Vec<f32>, Option<Vec<f32>>) {
        let (hooks, pass): (&[&dyn Hooks], _) = (&[adapter.hooks()], &Pass::default());
        let around = Around { hooks, pass };
        let x = draw("hidden", [2, 3, WIDTH]);
        let site = &self.sites[5];
        let y = around.linear(site, &self.head, x.clone(), &|x| dense(&self.head, x));
        let of = |weight| to_vec(modelsmith_kernels::linear(x, weight, None, None));
        (to_vec(y), around.head_weight(site, &self.head).map(of))
    }

    /// A copy with an adapter folded into its weights, tied ones apart where they differ.
    pub(crate) fn with_merged(&self, adapter: &dyn Adapter) -> Self {
        let mut merged = self.clone();
        let mut names = self.weight_names();
        names.push("lm_head.weight".into());
        names.dedup();
        for name in names {
            if let Some(weight) = adapter.merged(self, &name).unwrap() {
                merged.set_weight(&name, &weight).unwrap();
            }
        }
        merged
    }

    /// All weights as bit patterns.
    pub(crate) fn fingerprint(&self) -> Vec<(String, Vec<u32>)> {
        let bits = |name: &String| -> Vec<u32> {
            let weight = self.weight(name).unwrap().to_vec();
            weight.into_iter().map(f32::to_bits).collect()
        };
        self.weight_names()
            .iter()
            .map(|name| (name.clone(), bits(name)))
            .collect()
    }

    fn is_tied(&self) -> bool {
        self.sites[5].tied_to.is_some()
    }
}

impl Host for FakeHost {
    fn info(&self) -> &HostInfo {
        &self.info
    }

    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn weight_names(&self) -> Vec<String> {
        let all = NAMES.iter().map(|name| (*name).to_owned());
        all.filter(|name| !self.is_tied() || name != "lm_head.weight")
            .collect()
    }

    fn weight(&self, name: &str) -> Option<Flat> {
        let bias =
            |bias: &Option<Param<Tensor<1>>>| bias.as_ref().map(|bias| Flat::new(bias.val()));
        match name {
            "embed.weight" => Some(Flat::new(self.embed.weight.val())),
            "layers.0.q_proj.weight" => Some(Flat::new(self.query.weight.val())),
            "layers.0.q_proj.bias" => bias(&self.query.bias),
            "layers.0.v_proj.weight" => Some(Flat::new(self.value.weight.val())),
            "layers.0.conv.weight" => Some(Flat::new(self.conv.weight.val())),
            "layers.0.conv.bias" => bias(&self.conv.bias),
            "norm.weight" => Some(Flat::new(self.norm.weight.val())),
            "lm_head.weight" if !self.is_tied() => Some(Flat::new(self.head.weight.val())),
            _ => None,
        }
    }

    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()> {
        match name {
            "embed.weight" => {
                self.embed.weight = frozen(value.tensor()?);
                if self.is_tied() {
                    self.head.weight = frozen(value.tensor()?);
                }
            }
            "layers.0.q_proj.weight" => self.query.weight = frozen(value.tensor()?),
            "layers.0.q_proj.bias" => self.query.bias = Some(frozen(value.tensor()?)),
            "layers.0.v_proj.weight" => self.value.weight = frozen(value.tensor()?),
            "layers.0.conv.weight" => self.conv.weight = frozen(value.tensor()?),
            "layers.0.conv.bias" => self.conv.bias = Some(frozen(value.tensor()?)),
            "norm.weight" => self.norm.weight = frozen(value.tensor()?),
            "lm_head.weight" => {
                self.head.weight = frozen(value.tensor()?);
                self.sites[5].tied_to = None;
            }
            _ => return Err(Error::Failed(format!("no weight {name}"))),
        }
        Ok(())
    }

    fn attention_shape(&self, site: &Site) -> Option<AttentionShape> {
        (site.kind == SiteKind::Attention).then_some(ATTENTION)
    }

    fn device(&self) -> Device {
        Device::flex()
    }
}

/// Two heads of queries that share their keys and values.
const ATTENTION: AttentionShape = AttentionShape {
    heads: 2,
    kv_heads: 1,
    head_dim: WIDTH / 2,
    scale: 0.5,
};

/// Both halves of the stream as queries, the first as keys and values.
fn heads_of(x: &Tensor<3>) -> Qkv {
    let [batch, time, _] = x.dims();
    let (heads, dim) = (ATTENTION.heads, ATTENTION.head_dim);
    let q = x.clone().reshape([batch, time, heads, dim]).swap_dims(1, 2);
    let k = q.clone().narrow(1, 0, 1);
    Qkv {
        q,
        v: k.clone(),
        k,
        mask: Mask::causal(),
    }
}

/// Attention in steps that give the same bits under a graph and without one.
fn attend(Qkv { q, k, v, mask }: Qkv) -> Tensor<4> {
    let ([_, heads, time, _], [batch, _, keys, dim]) = (q.dims(), k.dims());
    let [k, v] = [k, v].map(|shared| shared.expand([batch, heads, keys, dim]));
    let scores = q.matmul(k.swap_dims(2, 3)) * ATTENTION.scale;
    let scores = match mask.dense(time, keys, &Device::flex()) {
        Some(mask) => scores + mask,
        None => scores,
    };
    let weights = (scores.clone() - scores.max_dim(3)).exp();
    let sums = weights.clone().sum_dim(3);
    (weights / sums).matmul(v)
}

/// A dense layer as real hosts compute it.
fn dense(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let bias = layer.bias.as_ref().map(Param::val);
    modelsmith_kernels::linear(x, layer.matrix(), bias, None)
}

/// A pass of training, with random draws.
pub(crate) fn training() -> Pass {
    Pass {
        training: Some(DrawKey {
            seed: 1,
            step: 0,
            micro: 0,
        }),
        ..Pass::default()
    }
}

const NAMES: [&str; 8] = [
    "embed.weight",
    "layers.0.q_proj.weight",
    "layers.0.q_proj.bias",
    "layers.0.v_proj.weight",
    "layers.0.conv.weight",
    "layers.0.conv.bias",
    "norm.weight",
    "lm_head.weight",
];

fn ids() -> Tensor<2, Int> {
    Tensor::from_ints([[1, 4, 9, 0], [3, 3, 10, 7]], &Device::flex())
}

fn info() -> HostInfo {
    HostInfo {
        model_type: "fake".into(),
        architecture: "FakeForCausalLM".into(),
        origin: "fake".into(),
        task_type: Some("CAUSAL_LM"),
        default_targets: &["q_proj", "v_proj"],
        head_modules: &[],
        pools_first: false,
        block: BlockParts {
            keys_values: vec!["q_proj"],
            attention_out: vec!["q_proj"],
            mlp_gate: vec!["q_proj"],
            mlp_up: vec![],
            mlp_out: vec!["v_proj"],
        },
        config: json!({}),
    }
}

fn sites(tied: bool) -> Vec<Site> {
    let rows = [
        ("embed", SiteKind::Embedding, VOCABULARY, WIDTH, false),
        ("layers.0.q_proj", SiteKind::Linear, WIDTH, WIDTH, true),
        ("layers.0.v_proj", SiteKind::Linear, WIDTH, WIDTH, false),
        ("layers.0.conv", SiteKind::Conv, 4, 4, true),
        ("norm", SiteKind::Norm, 0, WIDTH, false),
        ("lm_head", SiteKind::Linear, WIDTH, VOCABULARY, false),
        ("layers.0.attn", SiteKind::Attention, WIDTH, WIDTH, false),
    ];
    let site = |(id, (path, kind, inputs, outputs, bias)): (usize, (&str, _, _, _, _))| Site {
        id: SiteId(id),
        path: path.into(),
        kind,
        inputs,
        outputs,
        bias,
        fan_in_fan_out: path.ends_with("v_proj"),
        head: path == "lm_head",
        tied_to: (tied && path == "lm_head").then(|| "embed".into()),
    };
    rows.into_iter().enumerate().map(site).collect()
}

fn draw<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let values = Stream::new(5, name).normal(shape.iter().product(), 0.0, 0.4);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn matrix(name: &str, shape: [usize; 2]) -> Param<Tensor<2>> {
    frozen(draw(name, shape))
}

fn vector(name: &str, length: usize) -> Param<Tensor<1>> {
    frozen(draw(name, [length]))
}
