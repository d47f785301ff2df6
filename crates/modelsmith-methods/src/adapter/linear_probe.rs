//! How much do the frozen features hold already? A linear probe trains the head alone, the
//! baseline at the other end from full fine-tuning.
//!
//! The head is a classifier's head modules, or else the projection to the vocabulary; where that
//! shares the embedding's weight, the probe trains a copy and the embedding stays as it is.

use super::common::copies::{Copies, Wanted};
use super::common::peft::{Taker, acted_on};
use super::common::trained::Trained;
use super::common::weights::{Bound, bound_weights, under_modules};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method, defaults_of, read_options};
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options of the linear probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LinearProbeConfig {
    /// Modules to train, by path suffix; the host's head when empty.
    pub head_modules: Vec<String>,
}

impl Method for LinearProbeConfig {
    const CARD: Card = Card {
        id: "linear_probe",
        number: None,
        title: "Linear probe",
        family: Family::Adapter,
        paper: "Alain and Bengio, arXiv 1610.01644",
        summary: "Trains the head alone on the frozen features.",
    };
}

/// The host's own head.
pub(super) fn defaults() -> Value {
    defaults_of::<LinearProbeConfig>()
}

/// Reads the configuration of a saved probe.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read(config)?))
}

fn read(config: &Map<String, Value>) -> Result<LinearProbeConfig> {
    read_options(&Value::Object(acted_on(config, &["head_modules"])?))
}

impl Adapt for LinearProbeConfig {
    fn attach(&self, host: &dyn Host, _seed: u64) -> Result<Box<dyn Adapter>> {
        let copies = Copies::of_host(host, self.wanted(host)?)?;
        Ok(Box::new(Trained::new(copies, "LINEAR_PROBE", json!(self))))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config = read(&files.config)?;
        let mut file = Taker::new(&files.tensors);
        let copies = Copies::of_file(host, config.wanted(host)?, &mut file)?;
        file.finish()?;
        Ok(Box::new(Trained::new(
            copies,
            "LINEAR_PROBE",
            json!(config),
        )))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl LinearProbeConfig {
    fn wanted(&self, host: &dyn Host) -> Result<Vec<Wanted>> {
        let heads = host
            .info()
            .head_modules
            .iter()
            .map(|name| (*name).to_owned());
        let heads: Vec<String> = heads.collect();
        let chosen: Vec<Bound> = if !self.head_modules.is_empty() {
            under_modules(host, "head_modules", &self.head_modules, &[])?
        } else if !heads.is_empty() {
            // A host names every head its kind may have.
            under_modules(host, "head_modules", &heads, host.info().head_modules)?
        } else {
            let all = bound_weights(host).into_iter();
            all.filter(|bound| host.sites()[bound.site.0].head)
                .collect()
        };
        if chosen.is_empty() {
            return Err(Error::config(
                "method.head_modules",
                format!(
                    "{} has no head to train; name the modules, `modelsmith inspect` lists the sites",
                    host.info().architecture
                ),
            ));
        }
        Ok(chosen.into_iter().map(Wanted::plain).collect())
    }
}
