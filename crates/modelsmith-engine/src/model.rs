//! A model with its adapters, as the commands that use one load it.

use crate::adapter_folder;
use crate::device::device;
use crate::fresh_folder::FreshFolder;
use crate::precision::Precision;
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Reader, read_json};
use modelsmith_core::hooks::{Hooks, virtual_tokens};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::for_use;
use modelsmith_core::roles::Adapter;
use modelsmith_core::sites::{Selection, TargetModules};
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{LoadOptions, Task, Transformer};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use modelsmith_hosts::Inspection;

/// An adapter folder, or the run folder that holds one, how much it counts, and which of its tasks is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterRef {
    /// The folder.
    pub path: PathBuf,
    /// Multiplies the adapter's effect.
    pub weight: f64,
    /// Task of texts that name none, of adapters that tell tasks apart; the first one where absent.
    pub task: Option<String>,
}

impl AdapterRef {
    /// A folder at full weight.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            weight: 1.0,
            task: None,
        }
    }

    /// Reads `FOLDER`, `FOLDER@WEIGHT` or `FOLDER#TASK`; a folder whose own name ends so is taken whole.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub fn parse(text: &str) -> Result<Self> {
        if Path::new(text).exists() {
            return Ok(Self::new(text));
        }
        if let Some((path, task)) = text.rsplit_once('#')
            && Path::new(path).exists()
        {
            return Ok(Self {
                task: Some(task.to_owned()),
                ..Self::new(path)
            });
        }
        let Some((path, weight)) = text.rsplit_once('@') else {
            return Ok(Self::new(text));
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(Self {
                weight,
                ..Self::new(path)
            }),
            Ok(weight) => Err(Error::Usage(format!(
                "--adapter {text}: the weight {weight} is not finite"
            ))),
            Err(_) => Ok(Self::new(text)),
        }
    }

    /// The adapter folder itself, also where the run folder around it was named.
    pub fn folder(&self) -> PathBuf {
        adapter_in(&self.path)
    }

    /// The adapter at its weight, for use and not for training: nothing goes backward through it.
    pub(crate) fn load(&self, host: &dyn Host, any_base: bool) -> Result<Box<dyn Adapter>> {
        let mut adapter = for_use(|| adapter_folder::read(&self.folder(), host, any_base))?;
        if self.weight != 1.0 {
            adapter.set_scale(self.weight)?;
        }
        if let Some(task) = &self.task {
            adapter.choose_task(task)?;
        }
        Ok(adapter)
    }
}

/// `path`, or the finished adapter inside it when it is a run folder.
pub fn adapter_in(path: &Path) -> PathBuf {
    let inner = path.join("adapter");
    if !path.join("adapter_config.json").exists() && inner.join("adapter_config.json").exists() {
        inner
    } else {
        path.to_path_buf()
    }
}

/// What to load.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Folder of the host; by default the base that the first adapter names.
    pub host: Option<PathBuf>,
    /// Adapters, outermost first.
    pub adapters: Vec<AdapterRef>,
    /// Accept adapters that were made for other weights of the same shapes.
    pub any_base: bool,
    /// Device by name.
    pub device: String,
    /// Numbers of the host's matrices.
    pub dtype: Precision,
}

/// A loaded host with adapters attached.
pub struct Model {
    /// The host.
    pub host: Transformer,
    /// Its folder.
    pub folder: PathBuf,
    /// Where it lives.
    pub device: Device,
    /// The adapters with their folders and weights, in the order given.
    pub adapters: Vec<(AdapterRef, Box<dyn Adapter>)>,
}

impl Model {
    /// Loads a host and its adapters.
    ///
    /// # Errors
    /// A host or an adapter that is not there, not readable, or not made for the other.
    pub fn load(options: &ModelOptions) -> Result<Self> {
        Self::load_on(options, &device(&options.device)?)
    }

    /// Loads what is to be written anew as one folder, which is begun beside `output`; also gives
    /// the adapters' folders. `verb` says in an error what was asked for.
    ///
    /// # Errors
    /// As [`Model::load`]; no adapter, and an output that is an input or not empty.
    pub(crate) fn for_writing(
        options: &ModelOptions,
        output: &Path,
        verb: &str,
    ) -> Result<(Self, Vec<PathBuf>, FreshFolder)> {
        let model = Self::load(options)?;
        if model.adapters.is_empty() {
            return Err(Error::Usage(format!(
                "nothing to {verb}; give --adapter FOLDER"
            )));
        }
        let references = model.adapters.iter();
        let folders: Vec<PathBuf> = references.map(|(found, _)| found.folder()).collect();
        let mut inputs: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        inputs.push(&model.folder);
        let fresh = FreshFolder::begin(output, &inputs)?;
        Ok((model, folders, fresh))
    }

    /// [`Model::load`] on a device that is there already.
    pub(crate) fn load_on(options: &ModelOptions, device: &Device) -> Result<Self> {
        let folder = host_folder(options)?;
        let head = fresh_head(&folder, &options.adapters)?;
        let mut host = modelsmith_hosts::load_with(&folder, head, device)?;
        let mut adapters = Vec::new();
        for reference in &options.adapters {
            let adapter = reference.load(&host, options.any_base)?;
            adapters.push((reference.clone(), adapter));
        }
        options.dtype.apply(&mut host)?;
        Ok(Self {
            host,
            folder,
            device: device.clone(),
            adapters,
        })
    }

    /// The adapters as the slice that the host takes.
    pub fn hooks(&self) -> Vec<&dyn Hooks> {
        self.adapters
            .iter()
            .map(|(_, adapter)| adapter.hooks())
            .collect()
    }

    /// The host's tokenizer.
    ///
    /// # Errors
    /// No or a malformed tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::load(&self.folder)?;
        crate::tune::check_vocabulary(&self.host, &tokenizer)?;
        Ok(tokenizer)
    }

    /// The longest text that host and tokenizer allow, beside what adapters put in front.
    pub fn max_length(&self, tokenizer: &Tokenizer) -> usize {
        let own = self.host.max_positions();
        let own = own.saturating_sub(virtual_tokens(&self.hooks()));
        tokenizer.max_length().map_or(own, |limit| limit.min(own))
    }
}

fn host_folder(options: &ModelOptions) -> Result<PathBuf> {
    if let Some(host) = &options.host {
        check_folder(host)?;
        return Ok(host.clone());
    }
    let Some(first) = options.adapters.first() else {
        return Err(Error::Usage(
            "no model; give --host MODEL, or --adapter FOLDER".into(),
        ));
    };
    let folder = first.folder();
    match named_base(&folder)? {
        Some(base) => Ok(base),
        None => Err(Error::Usage(format!(
            "the base of {} is not a folder here; give --host MODEL",
            folder.display()
        ))),
    }
}

/// A model is a folder; a name that is none is best refused before any file in it is missed.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    let problem = if folder.is_dir() {
        return Ok(());
    } else if folder.exists() {
        "is no folder; a model is a folder with config.json, tokenizer.json and model.safetensors"
    } else {
        "there is no such model folder"
    };
    Err(Error::file(folder, problem))
}

/// The base that an adapter names, where that is a folder here.
pub(crate) fn named_base(adapter: &Path) -> Result<Option<PathBuf>> {
    let file = adapter.join("adapter_config.json");
    if !file.is_file() {
        // Reading the adapter itself tells best what is missing.
        adapter_folder::check_present(adapter)?;
    }
    let config: Map<String, Value> = read_json(file)?;
    let base = config
        .get("base_model_name_or_path")
        .and_then(Value::as_str);
    Ok(base.map(PathBuf::from).filter(|base| base.is_dir()))
}

/// The classifier that an adapter brings along for a host that has none: its class, and the
/// number of labels by the shape of the saved weight.
fn fresh_head(folder: &Path, adapters: &[AdapterRef]) -> Result<LoadOptions> {
    let plain = LoadOptions::default();
    for reference in adapters {
        let adapter = reference.folder();
        adapter_folder::check_present(&adapter)?;
        let config: Map<String, Value> = read_json(adapter.join("adapter_config.json"))?;
        let (task, class) = match config.get("task_type").and_then(Value::as_str) {
            Some("SEQ_CLS") => (Task::SequenceClassification, "ForSequenceClassification"),
            Some("TOKEN_CLS") => (Task::TokenClassification, "ForTokenClassification"),
            _ => continue,
        };
        let host: Value = read_json(folder.join("config.json"))?;
        if host["architectures"][0]
            .as_str()
            .is_some_and(|name| name.ends_with(class))
        {
            continue;
        }
        let reader = Reader::open(adapter.join("adapter_model.safetensors"))?;
        let head = [
            ".score.weight",
            ".classifier.weight",
            ".classifier.out_proj.weight",
        ];
        let names: Vec<&str> = reader.names().collect();
        let Some(name) = names
            .iter()
            .find(|name| head.iter().any(|end| name.ends_with(end)))
        else {
            continue;
        };
        let labels = reader.info(name)?.shape.first().copied();
        return Ok(LoadOptions {
            task: Some(task),
            new_head: labels,
            ..plain
        });
    }
    Ok(plain)
}

/// What is in a model folder, with only the sites that `pattern` chooses.
///
/// # Errors
/// A model that cannot be loaded, a pattern that matches nothing.
pub fn inspect(folder: &Path, pattern: Option<&str>, device_name: &str) -> Result<Inspection> {
    check_folder(folder)?;
    let host = modelsmith_hosts::load(folder, &device(device_name)?)?;
    let mut found = modelsmith_hosts::describe(&host);
    if let Some(pattern) = pattern {
        let targets = targets(pattern);
        let selection = Selection {
            target_modules: Some(&targets),
            ..Selection::default()
        };
        let chosen = selection.select(host.sites(), &[])?;
        let paths: BTreeSet<&str> = chosen.iter().map(|site| site.path.as_str()).collect();
        found
            .sites
            .retain(|site| paths.contains(site.path.as_str()));
    }
    Ok(found)
}

/// A pattern in a word: suffixes parted by commas, or what PEFT takes as a string.
fn targets(pattern: &str) -> TargetModules {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | ',' | '.');
    if pattern != "all-linear" && pattern.chars().all(plain) {
        TargetModules::Suffixes(pattern.split(',').map(str::to_owned).collect())
    } else {
        TargetModules::Pattern(pattern.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_stands_behind_the_last_at() {
        let read = |text: &str| AdapterRef::parse(text).unwrap();
        assert_eq!(
            read("a@0.5"),
            AdapterRef {
                weight: 0.5,
                ..AdapterRef::new("a")
            }
        );
        assert_eq!(read("me@home/a"), AdapterRef::new("me@home/a"));
        assert!(AdapterRef::parse("a@inf").is_err());
        // A task stands behind a folder that is there.
        assert_eq!(read(".#b").task.as_deref(), Some("b"));
        assert_eq!(read("nowhere#b"), AdapterRef::new("nowhere#b"));
    }

    #[test]
    fn patterns_are_read_as_suffixes_or_expressions() {
        let list = TargetModules::Suffixes(vec!["q_proj".into(), "mlp.up_proj".into()]);
        assert_eq!(targets("q_proj,mlp.up_proj"), list);
        assert_eq!(
            targets("all-linear"),
            TargetModules::Pattern("all-linear".into())
        );
        assert_eq!(targets(".*_proj"), TargetModules::Pattern(".*_proj".into()));
    }
}
