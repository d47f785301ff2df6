//! Which sites and weights do LoRA's options choose, and do they fit the host?
//!
//! Everything is checked here before anything is allocated.

use super::beside::{drop_idle, targets, wanted};
use super::copies::Wanted;
use super::pair::Plan;
use super::range::out_of_range;
use super::weights::weight_of;
use crate::adapter::lora::{Init, LoraConfig};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::sites::{Selection, Site, SiteKind, pattern_value};

impl LoraConfig {
    /// The chosen sites with their ranks and scales, or what is wrong with the options.
    pub(crate) fn check(&self, host: &dyn Host) -> Result<Vec<Plan>> {
        self.check_numbers()?;
        let chosen = targets(host, &self.selection(), &self.modules_to_save)?;
        let plans = chosen.into_iter().map(|site| self.plan(host, site));
        plans.collect()
    }

    fn check_numbers(&self) -> Result<()> {
        let ranks = self
            .rank_pattern
            .iter()
            .map(|(name, rank)| (name.as_str(), *rank));
        for (name, rank) in ranks.chain([("rank", self.rank)]) {
            if !(1..=65536).contains(&rank) {
                return out_of_range(name, &rank, "1 to 65536");
            }
        }
        let alphas = self
            .alpha_pattern
            .iter()
            .map(|(name, alpha)| (name.as_str(), *alpha));
        for (name, alpha) in alphas.chain([("alpha", self.alpha)]) {
            if !alpha.is_finite() {
                return out_of_range(name, &alpha, "a finite number");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return out_of_range("dropout", &self.dropout, "0 or more and below 1");
        }
        if matches!(self.init, Init::Pissa | Init::Olora) && self.alpha == 0.0 {
            return out_of_range("alpha", &self.alpha, "other than 0 with this init");
        }
        if self.dora && self.lora_bias {
            return out_of_range("lora_bias", &true, "false together with dora");
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
    pub(crate) fn scale(&self, path: &str, rank: usize) -> Result<f64> {
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
            SiteKind::Conv if !plan.rank.is_multiple_of(plan.groups()) => refuse(
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
    pub(crate) fn without_idle_targets(mut self, host: &dyn Host) -> Self {
        drop_idle(&mut self.target_modules, host);
        self
    }

    /// Copies to train beside the pairs.
    pub(crate) fn wanted(&self, host: &dyn Host, plans: &[Plan]) -> Result<Vec<Wanted>> {
        let adapted = |site| plans.iter().any(|plan| plan.site.id == site);
        wanted(host, &self.modules_to_save, self.bias, &adapted)
    }
}
