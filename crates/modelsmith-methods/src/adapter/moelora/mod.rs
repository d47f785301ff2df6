//! How do several small low-rank experts at one weight share the work (MoELoRA, Luo et al.)?
//!
//! ```text
//! p = softmax(W_g x)     T = the k largest     g = p over T, made to sum to 1
//! y = x Wᵀ + b + s · Σ_{i in T} g_i B_i A_i drop(x)          s = alpha / rank
//! loss = task + λ_b · mean over sites of the load balance + λ_c · mean over sites of the contrast
//! ```
//!
//! The experts are stacked, `A [N·r, in]` and `B [out, N·r]`, so that a site costs what one LoRA of rank
//! N·r does. The published text leaves much open; what is decided here are options with defaults: the
//! gates are renormalised, the balance counts all k places of a token and no padding, the contrast takes
//! cosines. Not built: contrast against a queue of earlier outputs, and against experts that were not chosen.

mod contrast;
mod experts;
#[cfg(test)]
mod tests;

use super::common::attached::{Attached, attached};
use super::common::beside::{Bias, dense_targets, drop_idle, wanted};
use super::common::copies::{Copies, Wanted};
use super::common::pair::{Pair, Plan, Values};
use super::common::peft::{Taker, describe, own_options, sorted};
use super::common::range::out_of_range;
use super::common::weights::weight_of;
use super::lora::{LoraConfig, files_of_pairs};
use burn::module::Module;
use burn::tensor::Tensor;
use experts::Experts;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Progress, SiteMap};
use modelsmith_core::sites::{Selection, Site, SiteId, TargetModules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Options of MoELoRA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MoeLoraConfig {
    /// Experts at each site, 1 to 1024.
    pub num_experts: usize,
    /// Experts that a token goes to, 1 to `num_experts`.
    pub top_k: usize,
    /// Rank of each expert, 1 to 65536.
    pub rank: usize,
    /// Numerator of the scale: an expert's change is multiplied by alpha / rank.
    pub alpha: f64,
    /// Dropout on the experts' input while training, 0 to below 1.
    pub dropout: f64,
    /// Make the gates of the chosen experts sum to 1. When absent: yes, but for one expert a token,
    /// whose gate would then be 1 and teach the router nothing.
    pub normalise: Option<bool>,
    /// Who chooses the experts.
    pub routing: Routing,
    /// Weight λ_b of the load balance, 0 or more.
    pub balance_weight: f64,
    /// Weight λ_c of the contrast between experts, 0 or more.
    pub contrast_weight: f64,
    /// Temperature τ of the contrast, above 0.
    pub temperature: f64,
    /// Most outputs that a site's contrast compares in a step.
    pub contrast_samples: usize,
    /// What two outputs are compared by.
    pub similarity: Similarity,
    /// Which outputs of the same expert attract.
    pub positives: Positives,
    /// Which outputs repel.
    pub negatives: Negatives,
    /// Where outputs are compared.
    pub contrast_space: Space,
    /// Sites to adapt: a list of path suffixes, a regular expression for the whole path, or
    /// `all-linear`. The host's usual choice when absent.
    pub target_modules: Option<TargetModules>,
    /// Sites to leave out again, in the same forms.
    pub exclude_modules: Option<TargetModules>,
    /// Only these block numbers.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The path component before the block number, needed where a path holds several numbers.
    pub layers_pattern: Option<String>,
    /// Modules trained in full beside the experts, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

/// Who chooses the experts of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// The router.
    #[default]
    Learned,
    /// A draw, with equal gates: what a router must beat.
    Random,
}

/// What two outputs are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    /// The cosine of their angle.
    #[default]
    Cosine,
    /// Their product, which also rewards length.
    Dot,
}

/// Which outputs of the same expert attract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positives {
    /// All, on average.
    #[default]
    All,
    /// One, drawn for each anchor.
    One,
}

/// Which outputs repel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// All others that are compared.
    #[default]
    Batch,
    /// Those of other experts for the same token.
    Token,
}

/// Where outputs are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// At `B_i A_i x`.
    #[default]
    Output,
    /// At `A_i x`, which is cheaper.
    Rank,
}

impl Default for MoeLoraConfig {
    fn default() -> Self {
        Self {
            num_experts: 8,
            top_k: 2,
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            normalise: None,
            routing: Routing::Learned,
            balance_weight: 0.01,
            contrast_weight: 0.01,
            temperature: 0.07,
            contrast_samples: 256,
            similarity: Similarity::Cosine,
            positives: Positives::All,
            negatives: Negatives::Batch,
            contrast_space: Space::Output,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl Method for MoeLoraConfig {
    const CARD: Card = Card {
        id: "moelora",
        number: Some(42),
        title: "MoELoRA: a mixture of low-rank experts with contrast",
        family: Family::Adapter,
        paper: "Luo et al., arXiv 2402.12851",
        summary: "Several low-rank experts a weight, two a token, kept apart by a contrastive loss.",
    };
}

/// MoELoRA's own defaults.
pub(super) fn defaults() -> Value {
    json!(MoeLoraConfig::default())
}

/// Name of the form in `adapter_config.json`.
const TYPE: &str = "MOELORA";

/// Reads the configuration of saved experts.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(own_options::<MoeLoraConfig>(config)?))
}

impl Adapt for MoeLoraConfig {
    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let plans = self.check(host)?;
        let copies = Copies::of_host(host, self.wanted(host, &plans)?)?;
        let share = 1.0 / plans.len() as f64;
        let made = plans.into_iter();
        let made = made.map(|plan| Experts::fresh(self, plan, share, host, seed));
        Ok(self.adapter(host, made.collect(), copies))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let mut config: Self = own_options(&files.config)?;
        drop_idle(&mut config.target_modules, host);
        let plans = config.check(host)?;
        let mut file = Taker::new(&files.tensors);
        let share = 1.0 / plans.len() as f64;
        let wanted = config.wanted(host, &plans)?;
        let made = plans
            .into_iter()
            .map(|plan| Experts::saved(&config, plan, share, &mut file))
            .collect::<Result<_>>()?;
        let copies = Copies::of_file(host, wanted, &mut file)?;
        file.finish()?;
        Ok(config.adapter(host, made, copies))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl MoeLoraConfig {
    /// Whether the gates of the chosen experts sum to 1.
    fn normalises(&self) -> bool {
        self.normalise
            .unwrap_or(self.top_k > 1 || self.num_experts == 1)
    }

    /// The chosen sites, or what is wrong with the options.
    fn check(&self, host: &dyn Host) -> Result<Vec<Plan>> {
        let selection = Selection {
            target_modules: self.target_modules.as_ref(),
            exclude_modules: self.exclude_modules.as_ref(),
            layers_to_transform: self.layers_to_transform.as_deref(),
            layers_pattern: self.layers_pattern.as_deref(),
        };
        let chosen = dense_targets(host, &selection, &self.modules_to_save)?;
        self.check_numbers()?;
        let plan = |site: &Site| {
            Ok(Plan {
                site: site.clone(),
                rank: self.num_experts * self.rank,
                scale: self.alpha / self.rank as f64,
                dropout: self.dropout,
                shape: weight_of(host, site)?.shape,
            })
        };
        chosen.into_iter().map(plan).collect()
    }

    fn check_numbers(&self) -> Result<()> {
        if !(1..=1024).contains(&self.num_experts) {
            return out_of_range("num_experts", &self.num_experts, "1 to 1024");
        }
        if !(1..=self.num_experts).contains(&self.top_k) {
            let range = format!("1 to num_experts, which is {}", self.num_experts);
            return out_of_range("top_k", &self.top_k, &range);
        }
        if !(1..=65536).contains(&self.rank) {
            return out_of_range("rank", &self.rank, "1 to 65536");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return out_of_range("dropout", &self.dropout, "0 or more and below 1");
        }
        for (name, weight) in [
            ("balance_weight", self.balance_weight),
            ("contrast_weight", self.contrast_weight),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return out_of_range(name, &weight, "0 or more");
            }
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return out_of_range("temperature", &self.temperature, "above 0");
        }
        if !self.alpha.is_finite() {
            return out_of_range("alpha", &self.alpha, "a finite number");
        }
        Ok(())
    }

    fn wanted(&self, host: &dyn Host, plans: &[Plan]) -> Result<Vec<Wanted>> {
        let adapted = |site: SiteId| plans.iter().any(|plan| plan.site.id == site);
        wanted(host, &self.modules_to_save, Bias::None, &adapted)
    }

    fn adapter(&self, host: &dyn Host, made: Vec<Experts>, copies: Copies) -> Box<dyn Adapter> {
        Box::new(MoeLora {
            attached: Attached::new(host, made, copies),
            config: self.clone(),
        })
    }
}

/// Experts by site, and what is trained beside them.
#[derive(Module, Debug)]
struct MoeLora {
    attached: Attached<Experts>,
    #[module(skip)]
    config: MoeLoraConfig,
}

impl MoeLora {
    fn refuse_merging(&self) -> Result<()> {
        if self.is_mergeable() {
            return Ok(());
        }
        Err(Error::Usage(
            "experts are chosen by the input and cannot be merged; `adapter convert` makes the \
             mixture at their mean gates, which is near them"
                .into(),
        ))
    }
}

impl Adapter for MoeLora {
    attached!(@always);

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let mut tensors: BTreeMap<String, Flat> = self.attached.copies().tensors().collect();
        for experts in self.attached.states() {
            tensors.extend(experts.tensors());
        }
        let mut config = describe(host.info(), TYPE);
        if let Value::Object(options) = json!(self.config) {
            config.extend(options);
        }
        Ok(AdapterFiles {
            config: sorted(config),
            tensors,
        })
    }

    /// Plain LoRA of rank N·r with each expert at its mean gate: near the mixture, not equal to it.
    fn portable(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let config = &self.config;
        let lora = LoraConfig {
            rank: config.num_experts * config.rank,
            alpha: config.alpha * config.num_experts as f64,
            dropout: config.dropout,
            target_modules: config.target_modules.clone(),
            exclude_modules: config.exclude_modules.clone(),
            layers_to_transform: config.layers_to_transform.clone(),
            layers_pattern: config.layers_pattern.clone(),
            modules_to_save: config.modules_to_save.clone(),
            ..LoraConfig::default()
        };
        let pair = |experts: &Experts| {
            let (a, b) = experts.dense();
            let values = Values {
                a: Flat::new(a),
                b: Flat::new(b),
                bias: None,
                magnitude: None,
                start: None,
            };
            Pair::new(experts.plan().clone(), values)
        };
        let pairs: Vec<Pair> = self.attached.states().map(pair).collect::<Result<_>>()?;
        let pairs: Vec<&Pair> = pairs.iter().collect();
        Ok(files_of_pairs(&lora, host, &pairs, self.attached.copies()))
    }

    /// One expert with gate 1 is plain LoRA.
    fn is_mergeable(&self) -> bool {
        self.config.num_experts == 1 && self.config.normalises()
    }

    fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.refuse_merging()?;
        self.attached.merged(host, name)
    }

    fn unmerged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.refuse_merging()?;
        self.attached.unmerged(host, name)
    }

    fn take_terms(&self) -> Option<Tensor<1>> {
        let terms = self.attached.states().filter_map(Experts::take_term);
        terms.reduce(|sum, term| sum + term)
    }

    fn after_step(
        &mut self,
        _progress: Progress,
        _gradients: &BTreeMap<String, Flat>,
        _scale: f64,
    ) -> Result<()> {
        self.attached.states_mut().for_each(Experts::follow_gates);
        Ok(())
    }

    fn measures(&self) -> Vec<(&'static str, f64)> {
        let seen: Vec<experts::Seen> = self.attached.states().filter_map(Experts::seen).collect();
        let mean = |of: &dyn Fn(&experts::Seen) -> Option<f64>| {
            let values: Vec<f64> = seen.iter().filter_map(of).collect();
            let count = values.len();
            (count > 0).then(|| values.iter().sum::<f64>() / count as f64)
        };
        let figures = [
            ("load_balance", mean(&|seen| Some(seen.balance))),
            ("load_variation", mean(&|seen| Some(seen.variation()))),
            ("routing_entropy", mean(&|seen| Some(seen.entropy))),
            ("marginal_entropy", mean(&|seen| Some(seen.marginal))),
            ("contrast", mean(&|seen| seen.contrast)),
        ];
        let known = figures.into_iter();
        known
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    fn maps(&self) -> Vec<SiteMap> {
        let path = |experts: &Experts| experts.plan().site.path.clone();
        let mut maps = Vec::new();
        if self.config.num_experts > 1 {
            let values = self.attached.states();
            let values = values.map(|experts| (path(experts), experts.similarity()));
            maps.push(SiteMap {
                title: "Likeness of experts".into(),
                caption: "Mean cosine between the changes of two experts, over all pairs: 1 where they are the same."
                    .into(),
                values: values.collect(),
            });
        }
        let loads = self.attached.states();
        let loads = loads.filter_map(|experts| Some((path(experts), experts.seen()?.variation())));
        let loads: Vec<(String, f64)> = loads.collect();
        if !loads.is_empty() {
            maps.push(SiteMap {
                title: "Uneven load".into(),
                caption: "Deviation of the experts' loads over their mean in the last step: 0 where all work alike."
                    .into(),
                values: loads,
            });
        }
        maps
    }
}
