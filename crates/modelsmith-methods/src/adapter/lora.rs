//! How is a network fine-tuned through a low-rank change of some of its weights (Hu et al.)?
//!
//! ```text
//! y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ        s = alpha / rank,  with rslora alpha / √rank
//! ```
//!
//! Each targeted site holds a [`Pair`]; the formulas for embeddings, convolutions, DoRA and the
//! inits that start from the weight stand there and in `common/low_rank`. Departures from PEFT:
//!
//! - PiSSA and OLoRA leave the host's weights alone and subtract their first factors instead; they
//!   are saved as PEFT's own conversion does, as plain LoRA of twice the rank for the same base.
//! - An adapted embedding changes the lookup only, also where the output layer shares its weight;
//!   merging then separates the two. PEFT computes the same but merges into the shared tensor.
//! - A scale ([`Adapter::set_scale`]) multiplies the pairs; saved modules and biases are on or,
//!   at scale 0, off.

use super::common::copies::{Copies, Wanted};
use super::common::factor::{truncated_qr, truncated_svd};
use super::common::lora_files;
use super::common::low_rank::LowRank;
use super::common::pair::{Pair, Plan, Values, first_magnitude};
use super::common::peft::{Taker, key};
use super::common::weights::{Bound, Part, bound_weights, separated, under_modules, weight_of};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall};
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use modelsmith_core::sites::{Selection, Site, SiteId, SiteKind, TargetModules, pattern_value};
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

/// Which biases of the host are trained along with the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the host.
    All,
    /// Those of the adapted layers.
    LoraOnly,
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
    Ok(Box::new(lora_files::read_config(config)?))
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
        let mut config = lora_files::read_config(&files.config)?.without_idle_targets(host);
        config.save_embedding = false;
        let plans = config.check(host)?;
        let mut file = Taker::new(&files.tensors);
        let wanted = config.wanted(host, &plans)?;
        let mut pairs = vec![None; host.sites().len()];
        for plan in plans {
            config.save_embedding |= lora_files::take_base(host, &plan, &mut file)?;
            let start = config.start(host, &plan)?;
            let values = lora_files::take_values(&config, &plan, start, &mut file)?;
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

impl LoraConfig {
    /// The chosen sites with their ranks and scales, or what is wrong with the options.
    fn check(&self, host: &dyn Host) -> Result<Vec<Plan>> {
        self.check_numbers()?;
        let saved = self.saved_modules(host)?;
        let whole = |site: &Site| {
            saved
                .iter()
                .any(|bound| bound.site == site.id && bound.part == Part::Weight)
        };
        let chosen = self
            .selection()
            .select(host.sites(), host.info().default_targets)?;
        let plans = chosen.into_iter().filter(|site| !whole(site));
        let plans: Vec<Plan> = plans
            .map(|site| self.plan(host, site))
            .collect::<Result<_>>()?;
        if plans.is_empty() {
            return Err(Error::config(
                "method.target_modules",
                "every targeted site is in modules_to_save and trained in full; nothing is left \
                 to adapt",
            ));
        }
        Ok(plans)
    }

    fn check_numbers(&self) -> Result<()> {
        let wrong = |name: &str, found: &dyn std::fmt::Display, range: &str| {
            Err(Error::config(
                format!("method.{name}"),
                format!("{found} given; must be {range}"),
            ))
        };
        let ranks = self
            .rank_pattern
            .iter()
            .map(|(name, rank)| (name.as_str(), *rank));
        for (name, rank) in ranks.chain([("rank", self.rank)]) {
            if !(1..=65536).contains(&rank) {
                return wrong(name, &rank, "1 to 65536");
            }
        }
        let alphas = self
            .alpha_pattern
            .iter()
            .map(|(name, alpha)| (name.as_str(), *alpha));
        for (name, alpha) in alphas.chain([("alpha", self.alpha)]) {
            if !alpha.is_finite() {
                return wrong(name, &alpha, "a finite number");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", &self.dropout, "0 or more and below 1");
        }
        if self.dora && self.lora_bias {
            return wrong("lora_bias", &true, "false together with dora");
        }
        Ok(())
    }

    fn plan(&self, host: &dyn Host, site: &Site) -> Result<Plan> {
        let rank = pattern_value("method.rank_pattern", &self.rank_pattern, &site.path)?;
        let rank = rank.unwrap_or(self.rank);
        let plan = Plan {
            site: site.clone(),
            rank,
            scale: self.scale(&site.path, rank)?,
            dropout: self.dropout,
            shape: weight_of(host, site)?.shape,
        };
        self.check_site(&plan)?;
        Ok(plan)
    }

    /// The scale of the pair at `path`.
    pub(super) fn scale(&self, path: &str, rank: usize) -> Result<f64> {
        let alpha = pattern_value("method.alpha_pattern", &self.alpha_pattern, path)?;
        let alpha = alpha.unwrap_or(self.alpha);
        let rank = rank as f64;
        Ok(alpha / if self.rslora { rank.sqrt() } else { rank })
    }

    fn check_site(&self, plan: &Plan) -> Result<()> {
        let Site {
            path,
            kind,
            inputs,
            outputs,
            ..
        } = &plan.site;
        let refuse = |key: &str, problem: String| {
            Err(Error::config(
                format!("method.{key}"),
                format!("{path}: {problem}"),
            ))
        };
        let splits = matches!(self.init, Init::Pissa | Init::Olora);
        match kind {
            SiteKind::Conv if self.dora => refuse(
                "dora",
                "covers dense layers and embeddings, not convolutions".into(),
            ),
            SiteKind::Conv if splits => refuse(
                "init",
                "pissa and olora split dense layers, not convolutions".into(),
            ),
            SiteKind::Conv if plan.rank % plan.groups() != 0 => refuse(
                "rank",
                format!(
                    "{} must be divisible by the {} groups",
                    plan.rank,
                    plan.groups()
                ),
            ),
            SiteKind::Embedding if self.lora_bias => refuse(
                "lora_bias",
                "an embedding takes no bias; do not target it".into(),
            ),
            SiteKind::Linear if splits && plan.rank > *inputs.min(outputs) => refuse(
                "rank",
                format!(
                    "{} given; must be 1 to {} with this init",
                    plan.rank,
                    inputs.min(outputs)
                ),
            ),
            _ => Ok(()),
        }
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            target_modules: self.target_modules.as_ref(),
            exclude_modules: self.exclude_modules.as_ref(),
            layers_to_transform: self.layers_to_transform.as_deref(),
            layers_pattern: self.layers_pattern.as_deref(),
        }
    }

    /// PEFT keeps suffixes that match nothing; a saved adapter may hold some.
    fn without_idle_targets(mut self, host: &dyn Host) -> Self {
        if let Some(TargetModules::Suffixes(items)) = &mut self.target_modules {
            let used = |item: &String| {
                let item = TargetModules::Suffixes(vec![item.clone()]);
                let one = Selection {
                    target_modules: Some(&item),
                    ..Selection::default()
                };
                one.select(host.sites(), &[]).is_ok()
            };
            if items.iter().any(used) {
                items.retain(used);
            }
        }
        self
    }

    /// Modules trained in full: those asked for and a classifier's head.
    pub(super) fn saved_names(&self, host: &dyn Host) -> Vec<String> {
        let heads = host
            .info()
            .head_modules
            .iter()
            .map(|name| (*name).to_owned());
        let mut names = self.modules_to_save.clone();
        for head in heads.filter(|_| is_classifier(host)) {
            if !names.contains(&head) {
                names.push(head);
            }
        }
        names
    }

    fn saved_modules(&self, host: &dyn Host) -> Result<Vec<Bound>> {
        // PEFT lists both of its usual head names for every classifier.
        let optional: &[&str] = if is_classifier(host) {
            &["classifier", "score"]
        } else {
            &[]
        };
        under_modules(host, "modules_to_save", &self.saved_names(host), optional)
    }

    /// Copies to train: saved modules and the chosen biases, each once.
    fn wanted(&self, host: &dyn Host, plans: &[Plan]) -> Result<Vec<Wanted>> {
        let adapted = |site: SiteId| plans.iter().any(|plan| plan.site.id == site);
        let mut wanted: Vec<Wanted> = self
            .saved_modules(host)?
            .into_iter()
            .map(Wanted::plain)
            .collect();
        for bound in bound_weights(host) {
            let at_pair = adapted(bound.site);
            let chosen = match self.bias {
                Bias::None => false,
                Bias::All => true,
                Bias::LoraOnly => at_pair,
            };
            let known = wanted.iter().any(|item| item.bound.name == bound.name);
            if bound.part == Part::Bias && chosen && !known {
                wanted.push(if at_pair {
                    under_base_layer(bound)
                } else {
                    Wanted::plain(bound)
                });
            }
        }
        Ok(wanted)
    }

    fn first_values(&self, host: &dyn Host, plan: &Plan, seed: u64) -> Result<Values> {
        let start = self.start(host, plan)?;
        let device = host.device().without_autodiff();
        let (a, b) = match &start {
            Some(start) => (Flat::new(start.a.clone()), Flat::new(start.b.clone())),
            None => {
                let (a, b) = self.first_factors(plan, seed);
                (
                    Flat::from_vec(a, &plan.a_shape(), &device),
                    Flat::from_vec(b, &plan.b_shape(), &device),
                )
            }
        };
        let zeros = || Flat::from_vec(vec![0.0; plan.site.outputs], &[plan.site.outputs], &device);
        let bias = self.lora_bias.then(zeros);
        let mut values = Values {
            a,
            b,
            bias,
            magnitude: None,
            start,
        };
        if self.dora {
            values.magnitude = Some(first_magnitude(host, plan, &values)?);
        }
        Ok(values)
    }

    /// Random factors, drawn under the seed and the site's path.
    fn first_factors(&self, plan: &Plan, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let (count_a, count_b) = (count(&plan.a_shape()), count(&plan.b_shape()));
        let stream = |factor: &str| Stream::new(seed, &format!("lora/{}/{factor}", plan.site.path));
        let uniform = |factor: &str, count: usize, inputs: usize| {
            let bound = 1.0 / (inputs as f32).sqrt();
            stream(factor).uniform(count, -bound, bound)
        };
        let normal = |factor, count, deviation| stream(factor).normal(count, 0.0, deviation);
        let (inputs_a, inputs_b) = (count_a / plan.rank, plan.rank / plan.groups());
        match (plan.site.kind, self.init) {
            (SiteKind::Embedding, Init::Random) => {
                (normal("A", count_a, 1.0), normal("B", count_b, 1.0))
            }
            (SiteKind::Embedding, _) => (vec![0.0; count_a], normal("B", count_b, 1.0)),
            (_, Init::Gaussian) => (
                normal("A", count_a, 1.0 / plan.rank as f32),
                vec![0.0; count_b],
            ),
            (_, Init::Random) => (
                uniform("A", count_a, inputs_a),
                uniform("B", count_b, inputs_b),
            ),
            _ => (uniform("A", count_a, inputs_a), vec![0.0; count_b]),
        }
    }

    /// The factors that PiSSA and OLoRA take out of a dense weight.
    fn start(&self, host: &dyn Host, plan: &Plan) -> Result<Option<LowRank>> {
        if plan.site.kind != SiteKind::Linear {
            return Ok(None);
        }
        let weight = || plan.as_matrix(&weight_of(host, &plan.site)?);
        let scale = plan.scale;
        Ok(match self.init {
            Init::Pissa => {
                let factors = truncated_svd(&weight()?, plan.rank, 0.5)?;
                let root = scale.abs().sqrt();
                Some(LowRank {
                    a: factors.right / root,
                    b: factors.left / root * scale.signum(),
                    scale,
                })
            }
            Init::Olora => {
                let factors = truncated_qr(&weight()?, plan.rank);
                Some(LowRank {
                    a: factors.right,
                    b: factors.left,
                    scale,
                })
            }
            _ => None,
        })
    }
}

fn is_classifier(host: &dyn Host) -> bool {
    matches!(host.info().task_type, Some("SEQ_CLS" | "TOKEN_CLS"))
}

fn under_base_layer(bound: Bound) -> Wanted {
    let module = bound.name.trim_end_matches(".bias");
    let file_key = key(&format!("{module}.base_layer.bias"));
    Wanted { bound, file_key }
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
        let mut tensors = lora_files::tensors(&pairs);
        tensors.extend(self.copies.tensors());
        if self.config.save_embedding {
            for pair in pairs
                .iter()
                .filter(|pair| pair.plan().site.kind == SiteKind::Embedding)
            {
                let site = &pair.plan().site;
                let base = key(&format!("{}.base_layer.weight", site.path));
                tensors.insert(base, weight_of(host, site)?);
            }
        }
        let config = lora_files::write_config(&self.config, host, &pairs);
        Ok(AdapterFiles { config, tensors })
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
        if self.copies.merged(host, name)?.is_some() {
            return Err(Error::Usage(format!(
                "{name} was trained in full and replaced; its old value is in the base model only"
            )));
        }
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
        let y = self.copies.linear(call, x.clone());
        let bias = self
            .copies
            .bias(site.id, layer.bias.as_ref().map(Param::val));
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

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.copies.norm(call, x)
    }
}

fn no_bias(path: &str) -> Error {
    Error::Failed(format!(
        "the adapter at {path} has a bias (lora_bias) and the host's layer has none to merge it \
         into; keep it as an adapter"
    ))
}
