//! How is a budget of ranks spent over the weights of a network while it is fine-tuned (AdaLoRA, Zhang et al.)?
//!
//! ```text
//! y = x Wᵀ + b + s · drop(x) (A ⊙ E)ᵀ Bᵀ          s = alpha / (init_r + 1e-5)
//! loss = task loss + γ · mean over all A and B of ‖A Aᵀ − I‖_F, ‖Bᵀ B − I‖_F
//! ```
//!
//! After every optimizer step the triplets (a row of A, a value of E, a column of B) are scored over
//! the whole network, and those that the schedule has no room for get E = 0 ([`allocator`]). They
//! may grow again until the last `tfinal` steps, in which the pattern stays. The scale does not
//! depend on the ranks that are left. Departures from PEFT:
//!
//! - Steps count from 1, so that the schedule ends with the training also where `tfinal` is 0.
//! - `tinit` and `tfinal` default to a tenth and three tenths of the training; PEFT's are 0.
//! - The norms are the square roots of sums plus 1e-24, whose gradient at 0 is 0.
//! - A saved adapter that is trained on keeps its ranks.

mod allocator;
mod files;
#[cfg(test)]
mod tests;
mod triplets;

use super::common::attached::{Attached, attached};
use super::common::beside::{Bias, dense_targets, drop_idle, wanted};
use super::common::copies::{Copies, Wanted};
use super::common::pair::Plan;
use super::common::peft::Taker;
use super::common::range::out_of_range;
use super::common::weights::weight_of;
use allocator::{Allocator, Schedule};
use burn::module::Module;
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::hooks::Hooks;
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Progress, SiteMap};
use modelsmith_core::sites::{Selection, Site, TargetModules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use triplets::{Structure, Triplets};

/// Options of AdaLoRA and its fixed-rank form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaLoraConfig {
    /// Triplets of each weight at the start, 1 to 65536.
    pub init_r: usize,
    /// Triplets a weight keeps on average, 1 to `init_r`; at `init_r` none is ever taken.
    pub target_r: usize,
    /// Numerator of the scale, which is alpha / (init_r + 1e-5) throughout; 0 stands for `init_r`.
    pub alpha: f64,
    /// Dropout on the adapter's input while training, 0 to below 1.
    pub dropout: f64,
    /// Steps before the budget begins to fall; a tenth of the training when absent.
    pub tinit: Option<u64>,
    /// Steps at the end with the final triplets; three tenths of the training when absent.
    pub tfinal: Option<u64>,
    /// Steps between two cuts.
    pub delta_t: u64,
    /// Decay of the averaged importance, above 0 and below 1.
    pub beta1: f64,
    /// Decay of the averaged uncertainty, above 0 and below 1.
    pub beta2: f64,
    /// Weight γ of the term that keeps A and B orthogonal, 0 or more.
    pub orth_reg_weight: f64,
    /// What a triplet is judged by.
    pub score: Score,
    /// What is cut.
    pub structure: Structure,
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
    /// Modules trained in full beside the adapter, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

/// What a triplet is judged by; all but the first are the paper's ablations and baselines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Averaged importance times its averaged uncertainty.
    #[default]
    Importance,
    /// Averaged importance alone.
    Sensitivity,
    /// This step's `|w · gradient|`.
    Raw,
    /// `|E|`.
    Magnitude,
    /// One draw per triplet: a random pattern at the same budget.
    Random,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            alpha: 16.0,
            dropout: 0.0,
            tinit: None,
            tfinal: None,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.1,
            score: Score::Importance,
            structure: Structure::Triplets,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            modules_to_save: Vec::new(),
        }
    }
}

impl Method for AdaLoraConfig {
    const CARD: Card = Card {
        id: "adalora",
        number: Some(20),
        title: "AdaLoRA: adaptive budget allocation",
        family: Family::Adapter,
        paper: "Zhang et al., ICLR 2023, arXiv 2303.10512",
        summary: "Low-rank changes whose ranks move to the weights that matter, under one budget.",
    };
}

/// Card of [`svd_lora`].
pub(super) const SVD_LORA: Card = Card {
    id: "svd_lora",
    number: None,
    title: "SVD-LoRA: AdaLoRA's form at fixed rank",
    family: Family::Adapter,
    paper: "Zhang et al., ICLR 2023, arXiv 2303.10512, section 4.4",
    summary: "Orthogonal factors and singular values at one rank for all weights.",
};

/// AdaLoRA's own defaults.
pub(super) fn defaults() -> Value {
    json!(AdaLoraConfig::default())
}

/// The same form without a budget.
pub(super) fn svd_lora() -> Value {
    json!(AdaLoraConfig {
        init_r: 8,
        ..AdaLoraConfig::default()
    })
}

/// Reads the configuration of a saved adapter.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(files::read_config(config)?.options))
}

impl Adapt for AdaLoraConfig {
    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let plans = self.check(host)?;
        let copies = self.copies(host, &plans, &mut |wanted| Copies::of_host(host, wanted))?;
        let counts = self.target_r < self.init_r;
        let made = plans.into_iter().map(|plan| {
            let values = self.structure.first_values(&plan, host, seed);
            Triplets::new(plan, Some(values), self.structure, counts)
        });
        let allocator = counts.then(|| Allocator::new(self, seed));
        let adapter = self.adapter(host, made.collect(), copies, allocator);
        Ok(Box::new(adapter))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let mut saved = files::read_config(&files.config)?;
        drop_idle(&mut saved.options.target_modules, host);
        let plans = saved.options.check(host)?;
        let mut file = Taker::new(&files.tensors);
        let made = plans
            .iter()
            .map(|plan| files::take(&saved, plan, &mut file))
            .collect::<Result<_>>()?;
        let copies = saved.options.copies(host, &plans, &mut |wanted| {
            Copies::of_file(host, wanted, &mut file)
        })?;
        file.drop_copies_of(host);
        file.finish()?;
        let mut adapter = saved.options.adapter(host, made, copies, None);
        adapter.total_steps = saved.total_steps;
        Ok(Box::new(adapter))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl AdaLoraConfig {
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
        let alpha = match self.alpha > 0.0 {
            true => self.alpha,
            false => self.init_r as f64,
        };
        let plan = |site: &Site| {
            Ok(Plan {
                site: site.clone(),
                rank: self.init_r,
                scale: alpha / (self.init_r as f64 + 1e-5),
                dropout: self.dropout,
                shape: weight_of(host, site)?.shape,
            })
        };
        chosen.into_iter().map(plan).collect()
    }

    fn check_numbers(&self) -> Result<()> {
        if !(1..=65536).contains(&self.init_r) {
            return out_of_range("init_r", &self.init_r, "1 to 65536");
        }
        if !(1..=self.init_r).contains(&self.target_r) {
            let range = format!("1 to init_r, which is {}", self.init_r);
            return out_of_range("target_r", &self.target_r, &range);
        }
        if self.delta_t == 0 {
            return out_of_range("delta_t", &self.delta_t, "1 or more");
        }
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return out_of_range(name, &beta, "above 0 and below 1");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return out_of_range("dropout", &self.dropout, "0 or more and below 1");
        }
        if !(self.orth_reg_weight >= 0.0 && self.orth_reg_weight.is_finite()) {
            return out_of_range("orth_reg_weight", &self.orth_reg_weight, "0 or more");
        }
        if !(self.alpha >= 0.0 && self.alpha.is_finite()) {
            return out_of_range("alpha", &self.alpha, "0 or more");
        }
        Ok(())
    }

    fn copies(
        &self,
        host: &dyn Host,
        plans: &[Plan],
        make: &mut dyn FnMut(Vec<Wanted>) -> Result<Copies>,
    ) -> Result<Copies> {
        let adapted = |site| plans.iter().any(|plan| plan.site.id == site);
        make(wanted(host, &self.modules_to_save, self.bias, &adapted)?)
    }

    fn adapter(
        &self,
        host: &dyn Host,
        made: Vec<Triplets>,
        copies: Copies,
        allocator: Option<Allocator>,
    ) -> AdaLora {
        AdaLora {
            attached: Attached::new(host, made, copies),
            allocator,
            total_steps: None,
            config: self.clone(),
        }
    }
}

/// An AdaLoRA adapter: triplets per adapted site, and the weights trained in full beside them.
#[derive(Module, Debug)]
pub(super) struct AdaLora {
    attached: Attached<Triplets>,
    #[module(skip)]
    allocator: Option<Allocator>,
    /// Of the training it was made in, which PEFT wants to know.
    #[module(skip)]
    total_steps: Option<u64>,
    #[module(skip)]
    config: AdaLoraConfig,
}

impl Adapter for AdaLora {
    attached!();

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        Ok(files::write(self, host))
    }

    /// Plain LoRA: `B' = s · B diag(E)` with alpha = rank at every site, sites without a rank left out.
    fn portable(&self, host: &dyn Host) -> Result<AdapterFiles> {
        files::as_lora(self, host)
    }

    fn penalty(&self) -> Option<Tensor<1>> {
        if self.config.orth_reg_weight == 0.0 {
            return None;
        }
        let norms = self
            .attached
            .states()
            .flat_map(Triplets::distances_from_orthogonal);
        let norms: Vec<Tensor<1>> = norms.collect();
        let count = norms.len();
        if count == 0 {
            return None;
        }
        let sum = Tensor::cat(norms, 0).sum();
        Some(sum * (self.config.orth_reg_weight / count as f64))
    }

    fn before_step(&mut self, progress: Progress) -> Result<()> {
        self.total_steps = Some(progress.total_steps);
        if self.allocator.is_some() && progress.step == 0 {
            Schedule::new(&self.config, 1, progress.total_steps)?;
        }
        Ok(())
    }

    fn after_step(
        &mut self,
        progress: Progress,
        gradients: &BTreeMap<String, Flat>,
        scale: f64,
    ) -> Result<()> {
        let Some(allocator) = &self.allocator else {
            return Ok(());
        };
        let mut states: Vec<&mut Triplets> = self.attached.states_mut().collect();
        let matrices = states.len();
        let schedule = Schedule::new(&self.config, matrices, progress.total_steps)?;
        allocator.after_step(&mut states, &schedule, progress.step + 1, gradients, scale)
    }

    fn measures(&self) -> Vec<(&'static str, f64)> {
        let ranks = self.attached.states().map(|found| found.kept() as f64);
        match self.allocator {
            Some(_) => vec![("rank_budget", ranks.sum())],
            None => Vec::new(),
        }
    }

    fn maps(&self) -> Vec<SiteMap> {
        let ranks = self
            .attached
            .states()
            .map(|found| (found.plan().site.path.clone(), found.kept() as f64));
        vec![SiteMap {
            title: "Ranks".to_owned(),
            caption: format!(
                "Triplets that each weight kept, of {} at the start.",
                self.config.init_r
            ),
            values: ranks.collect(),
        }]
    }
}
