//! What does training every weight reach? Full fine-tuning, the baseline that adapters are
//! measured against.
//!
//! The adapter holds trained copies of the weights and uses them in place of the host's, which
//! stay untouched, so that one loop, one file form and one comparison serve all methods. A tied
//! weight is trained once and used at each of its sites. Weights that no site uses stay frozen.
//! A scale between 0 and 1 uses weights on the line between the host's and the trained ones.

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

/// Options of full fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FullConfig {
    /// Train only the weights under these modules, by path suffix; all when empty.
    pub modules: Vec<String>,
}

impl Method for FullConfig {
    const CARD: Card = Card {
        id: "full",
        number: None,
        title: "Full fine-tuning",
        family: Family::Adapter,
        paper: "baseline",
        summary: "Trains every weight, or those of chosen modules, on copies of the host's.",
    };
}

/// Every weight.
pub(super) fn defaults() -> Value {
    defaults_of::<FullConfig>()
}

/// Reads the configuration of saved full fine-tuning.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    let known = Value::Object(acted_on(config, &["modules"])?);
    Ok(Box::new(read_options::<FullConfig>(&known)?))
}

impl Adapt for FullConfig {
    fn attach(&self, host: &dyn Host, _seed: u64) -> Result<Box<dyn Adapter>> {
        let copies = Copies::of_host(host, self.wanted(host)?)?;
        Ok(Box::new(Trained::new(copies, "FULL", json!(self))))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let known = Value::Object(acted_on(&files.config, &["modules"])?);
        let saved: Self = read_options(&known)?;
        let mut file = Taker::new(&files.tensors);
        let copies = Copies::of_file(host, saved.wanted(host)?, &mut file)?;
        file.finish()?;
        Ok(Box::new(Trained::new(copies, "FULL", json!(saved))))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl FullConfig {
    fn wanted(&self, host: &dyn Host) -> Result<Vec<Wanted>> {
        let chosen = if self.modules.is_empty() {
            bound_weights(host)
        } else {
            under_modules(host, "modules", &self.modules, &[])?
        };
        if chosen.is_empty() {
            return Err(Error::Failed(
                "the host has no weight that a site uses".into(),
            ));
        }
        // Under the host's own name, the uses of a tied weight share one copy.
        let shared = |bound: Bound| Bound {
            name: bound.stored.clone(),
            ..bound
        };
        let wanted = chosen.into_iter().map(|bound| Wanted::plain(shared(bound)));
        let mut wanted: Vec<Wanted> = wanted.collect();
        self.add_other_uses(host, &mut wanted);
        Ok(wanted)
    }

    /// A chosen weight is replaced wherever it is used, also by modules not chosen.
    fn add_other_uses(&self, host: &dyn Host, wanted: &mut Vec<Wanted>) {
        for bound in bound_weights(host) {
            let same_use =
                |item: &Wanted| item.bound.site == bound.site && item.bound.part == bound.part;
            let trained = wanted.iter().any(|item| item.bound.stored == bound.stored);
            if trained && !wanted.iter().any(same_use) {
                let name = bound.stored.clone();
                wanted.push(Wanted::plain(Bound { name, ..bound }));
            }
        }
    }
}
