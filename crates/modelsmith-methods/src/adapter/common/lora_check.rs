//! Which sites and weights do LoRA's options choose, and do they fit the host?
//!
//! Everything is checked here before anything is allocated.

use super::copies::Wanted;
use super::pair::Plan;
use super::peft::key;
use super::weights::{Bound, Part, bound_weights, under_modules, weight_of};
use crate::adapter::lora::{Bias, Init, LoraConfig};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::sites::{Selection, Site, SiteId, SiteKind, TargetModules, pattern_value};

impl LoraConfig {
    /// The chosen sites with their ranks and scales, or what is wrong with the options.
    pub(crate) fn check(&self, host: &dyn Host) -> Result<Vec<Plan>> {
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
        if matches!(self.init, Init::Pissa | Init::Olora) && self.alpha == 0.0 {
            return wrong("alpha", &self.alpha, "other than 0 with this init");
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
    pub(crate) fn saved_names(&self, host: &dyn Host) -> Vec<String> {
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
    pub(crate) fn wanted(&self, host: &dyn Host, plans: &[Plan]) -> Result<Vec<Wanted>> {
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
}

fn is_classifier(host: &dyn Host) -> bool {
    matches!(host.info().task_type, Some("SEQ_CLS" | "TOKEN_CLS"))
}

fn under_base_layer(bound: Bound) -> Wanted {
    let module = bound.name.trim_end_matches(".bias");
    let file_key = key(&format!("{module}.base_layer.bias"));
    Wanted { bound, file_key }
}
