//! From a recipe to a trained adapter in a run folder.

use crate::adapter_folder::{self, Provenance};
use crate::device::device;
use crate::memory::peak_resident;
use crate::recipe::Recipe;
use crate::record;
use crate::registry;
use crate::run_folder::RunFolder;
use crate::samples::Sampling;
use crate::signals::Stop;
use crate::site_change;
use crate::train::{Event, Masking, Observer, Outcome, Stepper, Trainer, TrainerState};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, atomic_json, read_json};
use modelsmith_core::host::Host;
use modelsmith_core::roles::Adapter;
use modelsmith_data::{Counts, Dataset, Tokenizer};
use modelsmith_hosts::{Head, LoadOptions, Transformer};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a run changed, gained and cost; `summary.json` of the run folder.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Run folder.
    pub run: PathBuf,
    /// Folder of the adapter, or of the whole model after pretraining.
    pub artifact: PathBuf,
    /// Method id.
    pub method: String,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Numbers trained.
    pub trained_parameters: u64,
    /// Numbers of the host.
    pub host_parameters: u64,
    /// Tensors in the adapter file.
    pub adapter_tensors: usize,
    /// Trained parameters that differ from their starting values.
    pub changed_parameters: usize,
    /// Euclidean norm of the change over all trained parameters.
    pub change_norm: f64,
    /// Held-out loss before training.
    pub loss_before: Option<f64>,
    /// Held-out loss of the kept adapter.
    pub loss_after: Option<f64>,
    /// Held-out accuracy of the kept adapter.
    pub accuracy_after: Option<f64>,
    /// Training loss of every step.
    pub losses: Vec<f32>,
    /// What became of the rows of the data.
    pub data: Counts,
    /// Seconds of training.
    pub seconds: f64,
    /// Peak resident memory in bytes.
    pub peak_memory: Option<u64>,
    /// Why it ended before its time, if it did.
    pub stopped_early: bool,
}

/// Runs a recipe in a new run folder.
///
/// # Errors
/// Whatever recipe, host, data, method, numbers or disk refuse; see [`Error`].
pub fn run(mut recipe: Recipe, stop: &Stop, observer: &mut dyn Observer) -> Result<Summary> {
    // Paths are resolved once, so that a run can be resumed from another folder.
    let named = [&mut recipe.host.path, &mut recipe.data.path];
    let optional = [&mut recipe.host.fresh, &mut recipe.data.held_out_path];
    for path in named.into_iter().chain(optional.into_iter().flatten()) {
        if path.exists() {
            *path = absolute(path)?;
        }
    }
    let parts = Parts::load(&recipe)?;
    let folder = RunFolder::create(&recipe)?;
    record::keep(folder, &recipe, observer, |folder, observer| {
        train(&recipe, parts, folder, stop, observer)
    })
}

/// Goes on with an interrupted run.
///
/// # Errors
/// As [`run`]; a folder without a run, one that another process holds, a changed recipe or data.
pub fn resume(path: &Path, stop: &Stop, observer: &mut dyn Observer) -> Result<Summary> {
    let (folder, recipe) = RunFolder::open(path)?;
    let parts = Parts::load(&recipe)?;
    check_data(&folder, &parts)?;
    record::keep(folder, &recipe, observer, |folder, observer| {
        train(&recipe, parts, folder, stop, observer)
    })
}

/// Host, data and untrained adapter of a recipe.
pub struct Parts {
    /// The frozen host.
    pub host: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Training and held-out rows.
    pub data: Dataset,
    /// The adapter before training.
    pub adapter: Box<dyn Adapter>,
    /// The method's options as resolved.
    pub options: Value,
}

impl Parts {
    /// Checks the recipe and loads what it names, before anything is written.
    ///
    /// # Errors
    /// As [`run`].
    pub fn load(recipe: &Recipe) -> Result<Self> {
        recipe.train.check()?;
        recipe.output.check()?;
        let mut method = registry::adapter_method(&recipe.method)?;
        registry::optimizer_method(&recipe.train.optimizer)?.optimizer()?;
        let folder = host_folder(recipe)?;
        let device = device(&recipe.device)?;
        let tokenizer = Tokenizer::load(&folder)?;
        method.read_words(&|text, whole| tokenizer.encode(text, whole))?;
        let mut data = recipe.data.clone();
        let context = Context::read(&folder)?;
        data.apart = context.apart;
        data.tasks = told_apart(method.tasks());
        let limit = room_for_text(context.limit, method.virtual_tokens())?;
        if data.max_length == 0 {
            let usual = room_for_text(context.usual, method.virtual_tokens())?;
            data.max_length = tokenizer.max_length().map_or(usual, |own| own.min(usual));
        } else if data.max_length > limit {
            return Err(Error::config(
                "data.max_length",
                format!(
                    "is {}; the model reads at most {limit} tokens here",
                    data.max_length
                ),
            ));
        }
        let data = Dataset::open(&data, &tokenizer, recipe.seed)?;
        let host = load_host(recipe, &folder, &data, &device)?;
        check_vocabulary(&host, &tokenizer)?;
        check_checkpointing(recipe, &host)?;
        let adapter = method.attach(&host, recipe.seed)?;
        Ok(Self {
            options: method.options(),
            host,
            tokenizer,
            data,
            adapter,
        })
    }
}

/// The tasks that rows have to name: none where there is one only.
pub(crate) fn told_apart(tasks: &[String]) -> Vec<String> {
    match tasks.len() {
        0 | 1 => Vec::new(),
        _ => tasks.to_vec(),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path, error))
}

fn host_folder(recipe: &Recipe) -> Result<PathBuf> {
    match (&recipe.host.fresh, recipe.host.path.as_os_str().is_empty()) {
        (Some(_), false) => Err(Error::config(
            "host.fresh",
            "excludes host.path; set one of the two",
        )),
        (Some(folder), true) => Ok(folder.clone()),
        (None, true) => Err(Error::config(
            "host.path",
            "is empty; name a folder with config.json, tokenizer.json and model.safetensors",
        )),
        (None, false) => {
            crate::model::check_folder(&recipe.host.path)?;
            Ok(recipe.host.path.clone())
        }
    }
}

/// How a model reads texts, by its configuration.
struct Context {
    /// Longest sequence in tokens.
    limit: usize,
    /// Longest sequence where nobody names one.
    usual: usize,
    /// An encoder reads prompts, a decoder writes answers.
    apart: bool,
}

impl Context {
    fn read(folder: &Path) -> Result<Self> {
        let config: Value = read_json(folder.join("config.json"))?;
        let positions = ["max_position_embeddings", "n_positions", "n_ctx"];
        let found = positions.iter().find_map(|key| config[*key].as_u64());
        let found = found.map(|n| n as usize);
        let apart = config["is_encoder_decoder"] == true;
        Ok(match apart {
            // Distances have no end; the length of the texts of pretraining is usual.
            true => Self {
                limit: usize::MAX,
                usual: found.unwrap_or(512),
                apart,
            },
            false => Self {
                limit: found.unwrap_or(usize::MAX),
                usual: found.unwrap_or(usize::MAX),
                apart,
            },
        })
    }
}

/// Blocks of two stacks cannot be run again one by one yet.
fn check_checkpointing(recipe: &Recipe, host: &Transformer) -> Result<()> {
    if recipe.train.gradient_checkpointing && host.decoder_start().is_some() {
        return Err(Error::config(
            "train.gradient_checkpointing",
            format!(
                "is not implemented for {}, an encoder with a decoder; set it to false",
                host.info().architecture
            ),
        ));
    }
    Ok(())
}

/// The positions that virtual tokens leave for the text.
fn room_for_text(positions: usize, taken: usize) -> Result<usize> {
    let room = positions.saturating_sub(taken);
    match room {
        0 => Err(Error::config(
            "method.virtual_tokens",
            format!("is {taken}; of the model's {positions} positions none is left for the text"),
        )),
        room => Ok(room),
    }
}

fn load_host(
    recipe: &Recipe,
    folder: &Path,
    data: &Dataset,
    device: &burn::tensor::Device,
) -> Result<Transformer> {
    let mut host = match recipe.host.fresh {
        Some(_) => {
            let config: Value = read_json(folder.join("config.json"))?;
            let origin = folder.display().to_string();
            modelsmith_hosts::random(&config, &origin, recipe.seed, device)?
        }
        None => {
            let options = LoadOptions {
                new_head: new_head(recipe, data),
                seed: recipe.seed,
                ..LoadOptions::default()
            };
            modelsmith_hosts::load_with(folder, options, device)?
        }
    };
    recipe.train.dtype.apply(&mut host)?;
    Ok(host)
}

/// Classes of the classifier that is drawn for the run; `None` where the host's own head is used.
fn new_head(recipe: &Recipe, data: &Dataset) -> Option<usize> {
    match recipe.host.classes {
        0 if data.classes.is_empty() => None,
        0 => Some(data.classes.len()),
        classes => Some(classes),
    }
}

pub(crate) fn check_vocabulary(host: &Transformer, tokenizer: &Tokenizer) -> Result<()> {
    if tokenizer.vocabulary() > host.vocab_size() {
        return Err(Error::file(
            tokenizer.file(),
            format!(
                "has {} tokens; the model's vocabulary has {}; this tokenizer belongs to another model",
                tokenizer.vocabulary(),
                host.vocab_size()
            ),
        ));
    }
    Ok(())
}

/// A resumed run must see the data it began with.
fn check_data(folder: &RunFolder, parts: &Parts) -> Result<()> {
    let path = folder.path().join("data.json");
    if !path.is_file() {
        return Ok(());
    }
    let recorded: Value = read_json(&path)?;
    if recorded["hash"].as_str() == Some(&parts.data.hash) {
        return Ok(());
    }
    Err(Error::file(
        &path,
        "the data has changed since the run began; put it back, or start a new run",
    ))
}

fn train(
    recipe: &Recipe,
    parts: Parts,
    folder: &RunFolder,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let Parts {
        host,
        tokenizer,
        data,
        adapter,
        options,
    } = parts;
    record_data(folder, &data)?;
    warn_about_data(&data, observer);
    let counts = data.counts;
    let data_hash = data.hash.clone();
    let start = adapter.boxed();
    let mut trainer = Trainer {
        stepper: Stepper {
            host: &host,
            config: &recipe.train,
            groups: crate::train::Groups::new(&recipe.train)?,
            seed: recipe.seed,
        },
        adapter,
        optimizer: registry::optimizer_method(&recipe.train.optimizer)?.optimizer()?,
        data,
        masking: masking(recipe.train.mask_probability, &host, &tokenizer)?,
        run: folder.path().to_path_buf(),
        recipe: recipe.fingerprint(),
        device: device(&recipe.device)?,
        stop: stop.clone(),
    };
    let outcome = trainer.run(observer)?;
    let mut trained = trainer.adapter;
    trained.set_trainable(&|_| false);
    let change = Change::between(&*start, &*trained);
    if change.changed == 0 {
        return Err(Error::Verification(format!(
            "training left all {} parameters as they were; look at train.learning_rate and at the targets",
            change.total
        )));
    }
    record_sites(folder, &host, &*trained, observer);
    let files = trained.files(&host)?;
    let artifact = if recipe.host.fresh.is_some() {
        write_model(folder, &host, &*trained)?
    } else {
        let provenance = provenance(recipe, &host, options, data_hash)?;
        adapter_folder::write(&folder.adapter(), &files, &provenance)?;
        folder.adapter()
    };
    let sampling = Sampling {
        host: &host,
        tokenizer: &tokenizer,
        data: &trainer.data,
        count: recipe.output.samples,
        new_head: new_head(recipe, &trainer.data).is_some(),
        stop,
    };
    sampling.record(folder.path(), &*trained, observer);
    let summary = Summary {
        adapter_tensors: files.tensors.len(),
        artifact,
        data: counts,
        ..summary(recipe, folder, &host, &outcome, &change)
    };
    atomic_json(folder.path().join("summary.json"), &summary)?;
    Ok(summary)
}

/// What an adapter was made of and with.
fn provenance(
    recipe: &Recipe,
    host: &Transformer,
    options: Value,
    data_hash: String,
) -> Result<Provenance> {
    Ok(Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        method: recipe.method.name.clone(),
        options,
        seed: recipe.seed,
        base_hash: adapter_folder::base_hash(Path::new(&host.info().origin))?,
        data_hash,
    })
}

/// Writes a pretrained model as a checkpoint, in the type that its configuration names.
fn write_model(folder: &RunFolder, host: &Transformer, trained: &dyn Adapter) -> Result<PathBuf> {
    let config = &host.info().config;
    let named = ["dtype", "torch_dtype"];
    let dtype = match named.iter().find_map(|key| config[*key].as_str()) {
        Some("float16") => DType::F16,
        Some("bfloat16") => DType::BF16,
        _ => DType::F32,
    };
    let path = folder.path().join("model");
    let changed = |name: &str| trained.merged(host, name);
    modelsmith_hosts::save(host, &path, dtype, u64::MAX, &changed, &Map::new())?;
    Ok(path)
}

fn record_data(folder: &RunFolder, data: &Dataset) -> Result<()> {
    let record = serde_json::json!({
        "hash": data.hash,
        "format": data.format,
        "classes": data.classes,
        "max_length": data.max_length,
        "counts": data.counts,
        "held_out_counts": data.held_out_counts,
        "complete": data.complete,
    });
    atomic_json(folder.path().join("data.json"), &record)
}

/// `sites.json`, where the weights moved, and `maps.json`, what the method has to show of its sites, for the
/// report. An adapter that is no change of weights has no picture of the first kind.
fn record_sites(
    folder: &RunFolder,
    host: &Transformer,
    trained: &dyn Adapter,
    observer: &mut dyn Observer,
) {
    let sites = || {
        let sites = site_change::measure(host, trained)?;
        atomic_json(folder.path().join("sites.json"), &sites)
    };
    let maps = trained.maps();
    let written = [
        trained.is_mergeable().then(sites),
        (!maps.is_empty()).then(|| atomic_json(folder.path().join("maps.json"), &maps)),
    ];
    for error in written.into_iter().flatten().filter_map(Result::err) {
        observer.event(Event::Warning(format!(
            "the report lacks a picture of the sites: {error}"
        )));
    }
}

/// Nothing about the data goes unsaid: what was cut, left out, or spelled like a special token.
fn warn_about_data(data: &Dataset, observer: &mut dyn Observer) {
    let Counts {
        total,
        truncated,
        dropped,
        empty,
        untrained,
        special_in_text,
        ..
    } = data.counts;
    let notes = [
        (truncated, "examples were cut to the longest length"),
        (dropped, "examples were left out for their length"),
        (empty, "examples were empty"),
        (untrained, "examples had no token that counts in the loss"),
        (
            special_in_text,
            "special tokens are spelled out in the text",
        ),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        observer.event(Event::Warning(format!("{count} {what} (of {total} rows)")));
    }
}

pub(crate) fn masking(
    probability: f64,
    host: &Transformer,
    tokenizer: &Tokenizer,
) -> Result<Option<Masking>> {
    if host.head() != Head::MaskedLm {
        return Ok(None);
    }
    let mask = tokenizer.special().mask.ok_or_else(|| {
        Error::file(
            tokenizer.file(),
            "has no mask token, which masked language modelling needs",
        )
    })?;
    Ok(Some(Masking {
        probability,
        mask,
        vocabulary: host.vocab_size(),
    }))
}

/// How far training moved the parameters.
struct Change {
    total: usize,
    changed: usize,
    trained: u64,
    norm: f64,
}

impl Change {
    fn between(before: &dyn Adapter, after: &dyn Adapter) -> Self {
        let before = before.parameters();
        let mut change = Self {
            total: 0,
            changed: 0,
            trained: 0,
            norm: 0.0,
        };
        for (old, new) in before.iter().zip(after.parameters()) {
            if !old.trainable {
                continue;
            }
            let square: f64 = old
                .value
                .to_vec()
                .iter()
                .zip(new.value.to_vec())
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum();
            change.total += 1;
            change.changed += usize::from(square > 0.0);
            change.trained += old.value.len() as u64;
            change.norm += square;
        }
        change.norm = change.norm.sqrt();
        change
    }
}

fn summary(
    recipe: &Recipe,
    folder: &RunFolder,
    host: &Transformer,
    outcome: &Outcome,
    change: &Change,
) -> Summary {
    let TrainerState {
        step,
        losses,
        stopped_early,
        ..
    } = outcome.state.clone();
    Summary {
        run: folder.path().to_path_buf(),
        artifact: folder.adapter(),
        method: recipe.method.name.clone(),
        steps: step,
        trained_parameters: change.trained,
        host_parameters: host.parameter_count() as u64,
        adapter_tensors: 0,
        changed_parameters: change.changed,
        change_norm: change.norm,
        loss_before: outcome.state.before.map(|e| e.loss),
        loss_after: outcome.evaluation.map(|e| e.loss),
        accuracy_after: outcome.evaluation.map(|e| e.accuracy),
        losses,
        data: Counts::default(),
        seconds: outcome.seconds,
        peak_memory: peak_resident(),
        stopped_early,
    }
}
