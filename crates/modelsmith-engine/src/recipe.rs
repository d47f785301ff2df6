//! Recipes: TOML as a user writes it, with `--set` overrides laid over it, to typed settings.

use crate::train::TrainConfig;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_data::DataConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A whole run: host, data, method, training, outputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// One line that says what the run is for.
    pub description: String,
    /// The network that is changed.
    pub host: HostConfig,
    /// The text it is changed with.
    pub data: DataConfig,
    /// How it is changed: the method's name, and its options beside it.
    pub method: Named,
    /// How long and how fast.
    pub train: TrainConfig,
    /// Where results go.
    pub output: OutputConfig,
    /// Seed of every random draw.
    pub seed: u64,
    /// `flex` for the processor; `cuda`, `vulkan`, `metal`, `rocm` where built in.
    pub device: String,
}

/// The host of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Folder of a pretrained model in Hugging Face layout.
    pub path: PathBuf,
    /// Folder with `config.json` and `tokenizer.json` of a model to pretrain from random weights; excludes `path`.
    pub fresh: Option<PathBuf>,
    /// Classes of a fresh classification head, for a checkpoint that has none; 0 takes them from the data.
    pub classes: usize,
}

/// Results of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// Folder that holds the run folders.
    pub dir: PathBuf,
    /// Name of the run folder; empty makes one of the method and the time.
    pub name: String,
    /// Held-out rows that are answered before and after training and shown in the report, 64 at most; 0 for none.
    pub samples: usize,
}

impl OutputConfig {
    /// Refuses more samples than a report should hold.
    ///
    /// # Errors
    /// The key and the limit.
    pub fn check(&self) -> Result<()> {
        let (found, most) = (self.samples, crate::samples::MOST);
        if found > most {
            let problem =
                format!("is {found}; must be at most {most}, since a report shows them all");
            return Err(Error::config("output.samples", problem));
        }
        Ok(())
    }
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("runs"),
            name: String::new(),
            samples: 4,
        }
    }
}

/// A registered thing by name, with its options beside the name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// Its name, as `modelsmith methods` lists it.
    #[serde(default)]
    pub name: String,
    /// Its options.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl Named {
    /// A name with all options at their defaults.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            options: Map::new(),
        }
    }
}

impl Recipe {
    /// Reads a recipe file and lays overrides (`key.path=value`) over it.
    ///
    /// # Errors
    /// TOML errors with their line, unknown keys with near matches, values of the wrong type, and
    /// overrides that are not `key=value`.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let value: toml::Value = toml::from_str(&text)
            .map_err(|error| Error::config(path.display().to_string(), error.to_string().trim()))?;
        Self::from_value(to_json(path, value)?, overrides)
    }

    /// The recipe of a JSON value with overrides laid over it.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn from_value(mut value: Value, overrides: &[String]) -> Result<Self> {
        for line in overrides {
            apply(&mut value, line)?;
        }
        let mut recipe: Self = read_typed(&value)?;
        if recipe.device.is_empty() {
            recipe.device = "flex".to_owned();
        }
        // TOML's integers end there; a larger seed could be written to a run but not read back.
        if recipe.seed > i64::MAX as u64 {
            let problem = format!("is {}; must be at most {}", recipe.seed, i64::MAX);
            return Err(Error::config("seed", problem));
        }
        let paths = [&mut recipe.host.path, &mut recipe.data.path];
        for path in paths.into_iter().chain(&mut recipe.data.held_out_path) {
            *path = data_path(path)?;
        }
        Ok(recipe)
    }

    /// Hash of the settings, whatever the order they were written in.
    pub fn fingerprint(&self) -> String {
        let value = serde_json::to_value(self).map(sorted).unwrap_or_default();
        blake3::hash(value.to_string().as_bytes())
            .to_hex()
            .to_string()
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// An option that TOML cannot express.
    pub fn to_toml(&self) -> Result<String> {
        let value = without_nulls(
            serde_json::to_value(self).map_err(|error| Error::Failed(error.to_string()))?,
        );
        toml::to_string(&value).map_err(|error| Error::Failed(format!("recipe: {error}")))
    }
}

/// The folder of public data: `MODELSMITH_DATA`, or `modelsmith/data` in the user's cache folder.
///
/// # Errors
/// Neither that variable nor a home folder is set.
pub fn data_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("MODELSMITH_DATA") {
        return Ok(PathBuf::from(folder));
    }
    let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
    cache
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))
        .map(|cache| cache.join("modelsmith/data"))
        .ok_or_else(|| Error::Usage("set MODELSMITH_DATA to the folder with the data".into()))
}

/// A path, of which `$MODELSMITH_DATA` at the start stands for [`data_folder`].
///
/// # Errors
/// As there.
pub(crate) fn data_path(path: &Path) -> Result<PathBuf> {
    match path.strip_prefix("$MODELSMITH_DATA") {
        Ok(rest) => Ok(data_folder()?.join(rest)),
        Err(_) => Ok(path.to_path_buf()),
    }
}

/// TOML has no null: an absent option is written by leaving its key out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Tables with their keys in order and without absent options.
fn sorted(value: Value) -> Value {
    match without_nulls(value) {
        Value::Object(map) => {
            let map: std::collections::BTreeMap<String, Value> = map.into_iter().collect();
            map.into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

fn to_json(path: &Path, value: toml::Value) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::file(path, error))
}

/// Deserialises with the dotted key and near matches in errors.
pub(crate) fn read_typed<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let Some((unknown, known)) = unknown_field(&message) else {
            return Error::config(path, message);
        };
        let parent = path.strip_suffix(&unknown).unwrap_or(&path);
        let key = format!("{parent}{unknown}");
        let known = known.iter().map(String::as_str);
        Error::config(key, format!("unknown key; {}", suggest(&unknown, known)))
    })
}

/// The field and the known names in serde's message about an unknown field.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned);
    Some((quoted.next()?, quoted.collect()))
}

/// Sets one `key.path=value`; the value is TOML, and plain text where it is none.
fn apply(target: &mut Value, line: &str) -> Result<()> {
    let (key, text) = line
        .split_once('=')
        .ok_or_else(|| Error::Usage(format!("--set {line}: expected key=value")))?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let parsed = serde_json::to_value(parsed).map_err(|error| Error::config(key, error))?;
    let mut place = target;
    for part in key.trim().split('.') {
        if part.is_empty() {
            return Err(Error::Usage(format!("--set {line}: empty part in the key")));
        }
        if !place.is_object() {
            if !place.is_null() {
                return Err(Error::config(
                    key,
                    format!("`{part}` is below a value, not below a table"),
                ));
            }
            *place = Value::Object(Map::new());
        }
        let Value::Object(map) = place else {
            return Err(Error::config(key, "is not a table"));
        };
        place = map.entry(part).or_insert(Value::Null);
    }
    *place = parsed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value, overrides: &[&str]) -> Result<Recipe> {
        let overrides: Vec<String> = overrides.iter().map(|line| (*line).to_owned()).collect();
        Recipe::from_value(value, &overrides)
    }

    #[test]
    fn overrides_are_laid_over_the_file() {
        let base = json!({"method": {"name": "lora", "rank": 4}, "seed": 1});
        let set = [
            "method.rank=16",
            "method.dora=true",
            "data.path=a/b.txt",
            "seed=7",
        ];
        let recipe = read(base, &set).unwrap();
        assert_eq!(recipe.method.options["rank"], 16);
        assert_eq!(recipe.method.options["dora"], true);
        assert_eq!(recipe.data.path, PathBuf::from("a/b.txt"));
        assert_eq!((recipe.seed, recipe.device.as_str()), (7, "flex"));
    }

    #[test]
    fn unknown_keys_are_refused_with_a_hint() {
        let error = read(json!({"train": {"lerning_rate": 1}}), &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(
            message.starts_with("train.lerning_rate: unknown key"),
            "{message}"
        );
        assert!(message.contains("learning_rate"), "{message}");
        let top = read(json!({"methode": {}}), &[]).unwrap_err().to_string();
        assert!(top.contains("did you mean method"), "{top}");
    }

    #[test]
    fn a_recipe_survives_toml() {
        let method = json!({"name": "lora", "rank": 4, "dropout": 0.2, "alpha": 8.0});
        let recipe = read(json!({"method": method}), &[]).unwrap();
        let text = recipe.to_toml().unwrap();
        let value: toml::Value = toml::from_str(&text).unwrap();
        let again = Recipe::from_value(serde_json::to_value(value).unwrap(), &[]).unwrap();
        assert_eq!(recipe, again);
        assert_eq!(recipe.fingerprint(), again.fingerprint());
    }

    #[test]
    fn a_seed_that_toml_cannot_hold_is_refused() {
        let error = read(json!({"seed": u64::MAX}), &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("seed: is 18446744073709551615")
        );
    }

    #[test]
    fn malformed_overrides_are_usage_errors() {
        assert!(
            read(json!({}), &["seed"])
                .unwrap_err()
                .to_string()
                .contains("key=value")
        );
        let below = read(json!({"seed": 1}), &["seed.x=1"])
            .unwrap_err()
            .to_string();
        assert!(below.contains("not below a table"), "{below}");
    }
}
