//! How is a network fine-tuned through a low-rank change of some of its weights (Hu et al.)?
//!
//! ```text
//! y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ        s = alpha / rank,  with rslora alpha / √rank
//! ```
//!
//! Each targeted site holds a [`Pair`]; the formulas for embeddings, convolutions, DoRA and the
//! inits that start from the weight stand there and in `common/low_rank`, the checks in
//! `common/lora_check`. Departures from PEFT:
//!
//! - PiSSA and OLoRA leave the host's weights alone and subtract their first factors instead; they
//!   are saved as PEFT's own conversion does, as plain LoRA of twice the rank for the same base.
//! - An adapted embedding changes the lookup only, also where the output layer shares its weight;
//!   merging then separates the two. PEFT computes the same but merges into the shared tensor.
//! - A scale ([`Adapter::set_scale`]) multiplies the pairs; saved modules and biases are on or,
//!   at scale 0, off.

use super::common::beside::Bias;
use super::common::copies::Copies;
use super::common::pair::Pair;
use super::common::peft::{Taker, key};
use super::common::weights::{separated, weight_of};
use super::common::{lora_config, lora_tensors};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use modelsmith_core::sites::{Site, SiteKind, TargetModules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Options of LoRA and its presets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the change of each weight, 1 to 65536 (PEFT's `r`).
    pub rank: usize,
    /// Numerator of the scale: the change is multiplied by alpha / rank.
    pub alpha: f64,
    /// Dropout on the adapter's input while training, 0 to below 1.
    pub dropout: f64,
    /// Divide alpha by the square root of the rank instead, which keeps large ranks learning.
    pub rslora: bool,
    /// Train the length of every weight row apart from its direction (DoRA).
    pub dora: bool,
    /// How the factors start.
    pub init: Init,
    /// Other ranks for some sites: path suffix or regular expression to rank.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for some sites: path suffix or regular expression to alpha.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Sites to adapt: a list of path suffixes, a regular expression for the whole path, or
    /// `all-linear`. The host's usual choice when absent.
    pub target_modules: Option<TargetModules>,
    /// Sites to leave out again, in the same forms.
    pub exclude_modules: Option<TargetModules>,
    /// Only these block numbers.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The path component before the block number, needed where a path holds several numbers.
    pub layers_pattern: Option<String>,
    /// Which biases of the host are trained along.
    pub bias: Bias,
    /// Give the adapter's second factor a bias of its own.
    pub lora_bias: bool,
    /// Modules trained in full beside the adapter, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
    /// Save the host's table along with an adapted embedding, as PEFT does by default.
    pub save_embedding: bool,
}

/// How the factors of a pair start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// First factor uniform within 1/√inputs, second zero; the other way round, with a normal
    /// distribution, for embeddings.
    #[default]
    Kaiming,
    /// First factor normal with deviation 1/rank, second zero.
    Gaussian,
    /// The leading singular vectors of the weight (Meng et al., arXiv 2404.02948).
    Pissa,
    /// The leading columns of its QR decomposition (Büyükakyüz, arXiv 2406.01775).
    Olora,
    /// Both factors random: not the identity at the start; for tests (PEFT's `false`).
    Random,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
            dora: false,
            init: Init::Kaiming,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            lora_bias: false,
            modules_to_save: Vec::new(),
            save_embedding: true,
        }
    }
}

impl Method for LoraConfig {
    const CARD: Card = card(
        "lora",
        "LoRA: low-rank adaptation",
        "Hu et al., ICLR 2022, arXiv 2106.09685",
        "Trains a low-rank change of chosen weights; merges into them without cost.",
    );
}

/// Card of [`rslora`].
pub(super) const RSLORA: Card = card(
    "rslora",
    "rsLoRA: rank-stabilized LoRA",
    "Kalajdzievski, arXiv 2312.03732",
    "LoRA scaled by alpha over the root of the rank, so that large ranks keep learning.",
);
/// Card of [`dora`].
pub(super) const DORA: Card = card(
    "dora",
    "DoRA: weight-decomposed low-rank adaptation",
    "Liu et al., ICML 2024, arXiv 2402.09353",
    "LoRA on the direction of every weight row, with the row's length trained apart.",
);
/// Card of [`pissa`].
pub(super) const PISSA: Card = card(
    "pissa",
    "PiSSA: principal singular values and vectors adaptation",
    "Meng et al., NeurIPS 2024, arXiv 2404.02948",
    "LoRA that starts from the leading singular vectors of each weight.",
);
/// Card of [`olora`].
pub(super) const OLORA: Card = card(
    "olora",
    "OLoRA: orthonormal low-rank adaptation",
    "Büyükakyüz, arXiv 2406.01775",
    "LoRA that starts from the QR decomposition of each weight.",
);

const fn card(
    id: &'static str,
    title: &'static str,
    paper: &'static str,
    summary: &'static str,
) -> Card {
    Card {
        id,
        number: None,
        title,
        family: Family::Adapter,
        paper,
        summary,
    }
}

/// LoRA's own defaults.
pub(super) fn defaults() -> Value {
    preset(LoraConfig::default())
}

/// rsLoRA.
pub(super) fn rslora() -> Value {
    preset(LoraConfig {
        rslora: true,
        ..LoraConfig::default()
    })
}

/// DoRA.
pub(super) fn dora() -> Value {
    preset(LoraConfig {
        dora: true,
        ..LoraConfig::default()
    })
}

/// PiSSA, with alpha = rank as published.
pub(super) fn pissa() -> Value {
    preset(LoraConfig {
        init: Init::Pissa,
        alpha: 8.0,
        ..LoraConfig::default()
    })
}

/// OLoRA, with alpha = rank as published.
pub(super) fn olora() -> Value {
    preset(LoraConfig {
        init: Init::Olora,
        alpha: 8.0,
        ..LoraConfig::default()
    })
}

fn preset(config: LoraConfig) -> Value {
    serde_json::to_value(config).unwrap_or(Value::Null)
}

/// Reads the configuration of a saved LoRA adapter.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(lora_config::read_config(config)?))
}

impl Adapt for LoraConfig {
    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let plans = self.check(host)?;
        let copies = Copies::of_host(host, self.wanted(host, &plans)?)?;
        let mut pairs = vec![None; host.sites().len()];
        for plan in plans {
            let at = plan.site.id.0;
            let values = self.first_values(host, &plan, seed)?;
            pairs[at] = Some(Pair::new(plan, values)?);
        }
        Ok(Box::new(Lora {
            pairs,
            copies,
            effect: 1.0,
            config: self.clone(),
        }))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let mut config = lora_config::read_config(&files.config)?.without_idle_targets(host);
        config.save_embedding = false;
        let plans = config.check(host)?;
        let mut file = Taker::new(&files.tensors);
        let wanted = config.wanted(host, &plans)?;
        let mut pairs = vec![None; host.sites().len()];
        for plan in plans {
            config.save_embedding |= lora_tensors::take_base(host, &plan, &mut file)?;
            let start = config.start(host, &plan)?;
            let values = lora_tensors::take_values(&config, &plan, start, &mut file)?;
            let at = plan.site.id.0;
            pairs[at] = Some(Pair::new(plan, values)?);
        }
        let copies = Copies::of_file(host, wanted, &mut file)?;
        file.drop_copies_of(host);
        file.finish()?;
        Ok(Box::new(Lora {
            pairs,
            copies,
            effect: 1.0,
            config,
        }))
    }

    fn options(&self) -> Value {
        preset(self.clone())
    }

    fn starts_as_identity(&self) -> bool {
        self.init != Init::Random
    }
}

/// A LoRA adapter: one pair per adapted site, and the weights trained in full beside them.
#[derive(Module, Debug)]
pub(super) struct Lora {
    /// By [`SiteId`].
    pairs: Vec<Option<Pair>>,
    copies: Copies,
    #[module(skip)]
    effect: f64,
    #[module(skip)]
    config: LoraConfig,
}

impl Lora {
    fn pair(&self, site: &Site) -> Option<&Pair> {
        let pair = self.pairs.get(site.id.0)?.as_ref();
        pair.filter(|_| self.effect != 0.0)
    }

    /// All pairs in the order of the sites.
    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().flatten()
    }

    /// The weight or bias of a site with its pair folded in or taken out.
    fn folded(&self, host: &dyn Host, name: &str, sign: f64) -> Result<Option<Flat>> {
        for pair in self.pairs() {
            let site = &pair.plan().site;
            let Some(part) = name.strip_prefix(&site.path) else {
                continue;
            };
            if part == ".weight" {
                if !site.bias && pair.bias_delta(1.0).is_some() {
                    return Err(no_bias(&site.path));
                }
                return pair
                    .fold(&weight_of(host, site)?, self.effect, sign)
                    .map(Some);
            }
            if part == ".bias" {
                return self.folded_bias(host, pair, name, sign);
            }
        }
        Ok(None)
    }

    fn folded_bias(
        &self,
        host: &dyn Host,
        pair: &Pair,
        name: &str,
        sign: f64,
    ) -> Result<Option<Flat>> {
        let Some(delta) = pair.bias_delta(self.effect) else {
            return self.copies.merged(host, name);
        };
        let base = match self.copies.merged(host, name)? {
            Some(copy) => Some(copy),
            None => host.weight(name),
        };
        Ok(base.map(|base| Flat {
            values: base.values + delta * sign,
            shape: base.shape,
        }))
    }
}

impl Adapter for Lora {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let pairs: Vec<&Pair> = self.pairs().collect();
        let mut files = files_of_pairs(&self.config, host, &pairs, &self.copies);
        if self.config.save_embedding {
            for pair in pairs
                .iter()
                .filter(|pair| pair.plan().site.kind == SiteKind::Embedding)
            {
                let site = &pair.plan().site;
                let base = key(&format!("{}.base_layer.weight", site.path));
                files.tensors.insert(base, weight_of(host, site)?);
            }
        }
        Ok(files)
    }

    /// For a host with a tied output layer, `lm_head.weight` may differ from the shared weight
    /// after merging; a saver asks for the name of each tied site too.
    fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        match self.folded(host, name, 1.0)? {
            Some(weight) => Ok(Some(weight)),
            None => match self.copies.merged(host, name)? {
                Some(weight) => Ok(Some(weight)),
                None => separated(host, name, &|site| {
                    self.pairs[site.0].is_some() || self.copies.has_weight(site)
                }),
            },
        }
    }

    fn unmerged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.copies.refuse_unmerging(name)?;
        self.folded(host, name, -1.0)
    }

    fn sites(&self) -> Vec<&Site> {
        let pairs = self.pairs().map(|pair| &pair.plan().site);
        let beside = self
            .copies
            .sites()
            .filter(|site| self.pairs.get(site.id.0).is_none_or(Option::is_none));
        pairs.chain(beside).collect()
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }

    fn set_scale(&mut self, scale: f64) -> Result<()> {
        self.effect = scale;
        self.copies.set_effect(if scale == 0.0 { 0.0 } else { 1.0 });
        Ok(())
    }
}

impl Hooks for Lora {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        let Some(pair) = self.pair(call.site) else {
            return self.copies.embedding(call, ids);
        };
        let layer = call.layer;
        let y = self.copies.embedding(call, ids.clone());
        pair.embedding(layer, self.effect, ids, y)
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let Some(pair) = self.pair(call.site) else {
            return self.copies.linear(call, x);
        };
        let (site, layer, pass) = (call.site, call.layer, call.pass);
        let bias = self
            .copies
            .bias(site.id, layer.bias.as_ref().map(Param::val));
        if call.is_last()
            && !self.copies.has_weight(site.id)
            && let Some(change) = pair.plain(pass, self.effect)
        {
            return change.added_to(x, layer.stored(), bias);
        }
        let y = self.copies.linear(call, x.clone());
        pair.linear(layer, pass, self.effect, x, y, bias)
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let Some(pair) = self.pair(call.site) else {
            return self.copies.conv(call, x);
        };
        let (layer, pass) = (call.layer, call.pass);
        let y = self.copies.conv(call, x.clone());
        pair.conv(layer, pass, self.effect, x, y)
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.pair(site).is_some() || self.copies.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        let y = self.copies.after_linear(call, x, y)?;
        let Some(pair) = self.pair(call.site) else {
            return Some(y);
        };
        let bias = call.layer.bias.as_ref().map(Param::val);
        let bias = self.copies.bias(call.site.id, bias);
        Some(pair.linear(call.layer, call.pass, self.effect, x.clone(), y, bias))
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.copies.norm(call, x)
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        match self.pair(site) {
            Some(_) => None,
            None => self.copies.head_weight(site, layer, weight),
        }
    }
}

/// LoRA's files of pairs made with `config`, and of the weights trained beside them.
pub(super) fn files_of_pairs(
    config: &LoraConfig,
    host: &dyn Host,
    pairs: &[&Pair],
    copies: &Copies,
) -> AdapterFiles {
    let mut tensors = lora_tensors::tensors(pairs);
    tensors.extend(copies.tensors());
    let config = lora_config::write_config(config, host, pairs);
    AdapterFiles { config, tensors }
}

fn no_bias(path: &str) -> Error {
    Error::Failed(format!(
        "the adapter at {path} has a bias (lora_bias) and the host's layer has none to merge it \
         into; keep it as an adapter"
    ))
}
