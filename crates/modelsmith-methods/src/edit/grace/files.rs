//! Codebooks as adapter folders: keys and values as tensors, the rest in the configuration.

use super::attached::{Grace, Replacement};
use super::codebook::{Codebook, Entry};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::host::Host;
use modelsmith_core::method::read_options;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use modelsmith_core::sites::{Site, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a new value begins as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Uniform in `[0, 1)`.
    #[default]
    Cold,
    /// What the layer gives.
    Warm,
}

/// Options of GRACE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GraceConfig {
    /// Path of the dense layer; empty for the last layer of an MLP about three quarters of the way up.
    pub module: String,
    /// Radius of a new entry, in units of distances between activations.
    pub radius: f64,
    /// Steps of Adam for a value at most.
    pub steps: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// A value is done at a loss below this.
    pub loss_stop: f64,
    /// What a new value begins as.
    pub init: Init,
    /// Which outputs get the value.
    pub replacement: Replacement,
    /// Keys move half-way to a query that their entry reaches out for.
    pub moving_average: bool,
    /// Trains the end of the text behind the target too.
    pub end_of_text: bool,
}

impl Default for GraceConfig {
    fn default() -> Self {
        Self {
            module: String::new(),
            radius: 1.0,
            steps: 100,
            learning_rate: 1.0,
            loss_stop: 0.01,
            init: Init::default(),
            replacement: Replacement::default(),
            moving_average: false,
            end_of_text: false,
        }
    }
}

impl GraceConfig {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, found: f64, expected: &str| {
            let problem = format!("is {found}; must be {expected}");
            Err(Error::config(format!("method.{key}"), problem))
        };
        for (key, value) in [
            ("radius", self.radius),
            ("learning_rate", self.learning_rate),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(key, value, "a number above 0");
            }
        }
        if !(self.loss_stop.is_finite() && self.loss_stop >= 0.0) {
            return wrong("loss_stop", self.loss_stop, "0 or a number above it");
        }
        match self.steps {
            0 => wrong("steps", 0.0, "at least 1"),
            _ => Ok(()),
        }
    }

    /// The layer of a host that has it.
    ///
    /// # Errors
    /// A path that is no dense layer, with near ones.
    pub fn site(&self, host: &dyn Host) -> Result<Site> {
        let dense = || {
            host.sites()
                .iter()
                .filter(|site| site.kind == SiteKind::Linear)
        };
        match dense().find(|site| site.path == self.module) {
            Some(site) => Ok(site.clone()),
            None => {
                let problem = format!(
                    "{:?} is no dense layer of this model; {}",
                    self.module,
                    suggest(&self.module, dense().map(|site| site.path.as_str()))
                );
                Err(Error::config("method.module", problem))
            }
        }
    }
}

/// Reads the configuration of a saved codebook.
///
/// # Errors
/// Options that are not GRACE's.
pub fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    let options = config.get("grace").cloned().unwrap_or(Value::Null);
    let options: GraceConfig = read_options(&options)?;
    options.check()?;
    Ok(Box::new(options))
}

/// The files of a codebook.
pub(super) fn files(grace: &Grace, host: &dyn Host) -> Result<AdapterFiles> {
    let [keys, values] = grace.book.widths();
    let (count, device) = (grace.book.len(), host.device());
    let tensor =
        |numbers: &[f32], width: usize| Flat::from_vec(numbers.to_vec(), &[count, width], &device);
    let Value::Object(config) = json!({
        "peft_type": "GRACE",
        "task_type": host.info().task_type,
        "base_model_name_or_path": host.info().origin,
        "grace": grace.config,
        "entries": grace.book.entries(),
    }) else {
        return Err(Error::Failed("the configuration is no object".into()));
    };
    Ok(AdapterFiles {
        config,
        tensors: BTreeMap::from([
            ("keys".to_owned(), tensor(grace.book.keys(), keys)),
            ("values".to_owned(), tensor(grace.book.values(), values)),
        ]),
    })
}

impl Adapt for GraceConfig {
    fn attach(&self, host: &dyn Host, _seed: u64) -> Result<Box<dyn Adapter>> {
        let site = self.site(host)?;
        let book = Codebook::new(site.inputs, site.outputs);
        Ok(Box::new(Grace::new(book, self.clone(), site)))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let site = self.site(host)?;
        let entries = files.config.get("entries").cloned().unwrap_or(Value::Null);
        let entries: Vec<Entry> = serde_json::from_value(entries)
            .map_err(|error| Error::config("entries", format!("is no list of entries: {error}")))?;
        let take = |name: &str, width: usize| {
            let shape = [entries.len(), width];
            match files.tensors.get(name) {
                Some(flat) if flat.shape == shape => Ok(flat.to_vec()),
                Some(flat) => Err(Error::config(
                    name,
                    format!(
                        "has shape {:?}; the entries and this model need {shape:?}",
                        flat.shape
                    ),
                )),
                None => Err(Error::config(name, "is missing")),
            }
        };
        let surplus = files
            .tensors
            .keys()
            .find(|name| *name != "keys" && *name != "values");
        if let Some(name) = surplus {
            return Err(Error::config(name, "is no tensor of a codebook"));
        }
        let (keys, values) = (take("keys", site.inputs)?, take("values", site.outputs)?);
        let book = Codebook::from_parts([site.inputs, site.outputs], entries, keys, values)?;
        Ok(Box::new(Grace::new(book, self.clone(), site)))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}
