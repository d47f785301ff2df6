//! What do the biases alone reach? BitFit trains every bias of the host and a classifier's head, nothing else.

use super::common::beside::{saved_names, wanted};
use super::common::copies::{Copies, Wanted};
use super::common::peft::{Taker, own_options};
use super::common::trained::Trained;
use super::common::weights::{Part, bound_weights, under_modules};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method, defaults_of};
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options of BitFit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BitFitConfig {
    /// Train only the biases under these modules, by path suffix; all when empty.
    pub modules: Vec<String>,
    /// Modules trained in full beside the biases, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

impl Method for BitFitConfig {
    const CARD: Card = Card {
        id: "bitfit",
        number: None,
        title: "BitFit: bias terms only",
        family: Family::Adapter,
        paper: "Ben Zaken et al., ACL 2022, arXiv 2106.10199",
        summary: "Trains the host's biases and nothing else.",
    };
}

/// Every bias.
pub(super) fn defaults() -> Value {
    defaults_of::<BitFitConfig>()
}

/// Reads the configuration of saved biases.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(own_options::<BitFitConfig>(config)?))
}

impl Adapt for BitFitConfig {
    fn attach(&self, host: &dyn Host, _seed: u64) -> Result<Box<dyn Adapter>> {
        let copies = Copies::of_host(host, self.wanted(host)?)?;
        Ok(Box::new(Trained::new(copies, "BITFIT", json!(self))))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let saved: Self = own_options(&files.config)?;
        let mut file = Taker::new(&files.tensors);
        let copies = Copies::of_file(host, saved.wanted(host)?, &mut file)?;
        file.finish()?;
        Ok(Box::new(Trained::new(copies, "BITFIT", json!(saved))))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl BitFitConfig {
    fn wanted(&self, host: &dyn Host) -> Result<Vec<Wanted>> {
        let chosen = match self.modules.is_empty() {
            true => bound_weights(host),
            false => under_modules(host, "modules", &self.modules, &[])?,
        };
        let mut found = wanted(host, &self.modules_to_save, Default::default(), &|_| false)?;
        let beside = found.len();
        for bound in chosen {
            let known = found.iter().any(|item| item.bound.name == bound.name);
            if bound.part == Part::Bias && !known {
                found.push(Wanted::plain(bound));
            }
        }
        let heads = saved_names(host, &[]);
        if found.len() == beside && heads.is_empty() {
            return Err(Error::config(
                "method.modules",
                format!(
                    "{} has no bias there; BitFit needs a host with biases, as BERT, GPT-2 and OPT are",
                    host.info().architecture
                ),
            ));
        }
        Ok(found)
    }
}
