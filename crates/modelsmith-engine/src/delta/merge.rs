//! A merge from its configuration to a folder, with a proof of what changed.

use super::config::MergeConfig;
use super::plan::{Plan, Planned, check_names};
use super::side_files;
use super::stream::{self, Effect, Work};
use super::work_folder::WorkFolder;
use modelsmith_core::error::{Error, Result};
pub use modelsmith_core::files::Durability;
use modelsmith_core::files::{Checkpoint, TensorSpec, in_file_order, share_out};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

/// Bytes that the process takes beside the tensors: code, headers, counters.
const BESIDE: u64 = 96 << 20;
/// Fewest bytes of `--memory`: with them parts of some models still fit.
pub const LEAST_MEMORY: u64 = 128_000_000;
/// Entries of a span where memory is no concern: larger ones gain nothing.
const LARGEST_SPAN: usize = 1 << 22;

/// What is asked of a merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// The configuration, as mergekit writes it.
    pub config: PathBuf,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// Most bytes to hold in memory, mapped pages included.
    pub memory: u64,
    /// Seed of the random masks.
    pub seed: u64,
    /// Largest weight file in bytes.
    pub max_shard_bytes: u64,
    /// Whether files are synced before they get their names.
    pub durability: Durability,
}

/// The proof of a merge.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The method.
    pub method: &'static str,
    /// The models.
    pub models: Vec<PathBuf>,
    /// The model that changes are measured from: the base, or the first.
    pub reference: PathBuf,
    /// The folder written.
    pub output: PathBuf,
    /// Tensors written.
    pub tensors: usize,
    /// Those that differ from the reference; tensors of files that an earlier run finished are not counted.
    pub changed_tensors: usize,
    /// Numbers of the tensors computed by this run.
    pub numbers: u64,
    /// Those that differ from the reference's.
    pub changed_numbers: u64,
    /// Euclidean norm of the difference from the reference, before rounding to the written type.
    pub change_norm: f64,
    /// Euclidean norm of the reference.
    pub reference_norm: f64,
    /// Weight files.
    pub files: usize,
    /// Those that an earlier run of the same merge had finished.
    pub kept_files: usize,
    /// Bytes of all tensors written.
    pub bytes: u64,
    /// Bytes of all tensors of the models.
    pub bytes_read: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Largest resident memory of the process in bytes, 0 where the system does not say.
    pub peak_resident: u64,
    /// What was left out or changes nothing.
    pub warnings: Vec<String>,
}

/// Merges as a configuration says.
///
/// # Errors
/// What the configuration or the models do not allow, before anything is written; values that are not finite; disks that
/// are full. A killed or failed merge goes on, with the same options, at its first unfinished file.
pub fn run(options: &MergeOptions) -> Result<Report> {
    run_in(options, LARGEST_SPAN)
}

/// As [`run`], with spans of at most so many entries.
pub(super) fn run_in(options: &MergeOptions, largest_span: usize) -> Result<Report> {
    let started = Instant::now();
    let config = MergeConfig::read(&options.config)?;
    let models = config
        .models
        .iter()
        .map(Checkpoint::open)
        .collect::<Result<Vec<_>>>()?;
    check_names(&config, &models)?;
    side_files::check_vocabularies(&config)?;
    let plan = Plan::new(&config, &models)?;
    check_jobs(&config, &models, &plan)?;
    let work = Work {
        config: &config,
        models: &models,
        tensors: &plan.tensors,
        seed: options.seed,
        span: span(options.memory, &plan, &models)?.min(largest_span),
    };
    let inputs: Vec<&Path> = config.models.iter().map(PathBuf::as_path).collect();
    let fingerprint = fingerprint(&config, options, &models)?;
    let mut folder = WorkFolder::begin(&options.output, &inputs, &fingerprint, options.durability)?;
    let shards = shards(&plan, options.max_shard_bytes);
    let open: Vec<_> = shards
        .iter()
        .filter(|(name, specs)| !folder.is_finished(name, specs))
        .cloned()
        .collect();
    let effects = stream::write(&work, &open, &mut folder)?;
    write_index(&shards, &folder)?;
    side_files::write(&config, plan.layers, &folder)?;
    let mut report = report(&config, options, &plan, &models, &effects);
    report.files = shards.len();
    report.kept_files = shards.len() - open.len();
    folder.publish()?;
    report.seconds = started.elapsed().as_secs_f64();
    report.peak_resident = crate::peak_resident().unwrap_or(0);
    Ok(report)
}

/// Every tensor's parameters are there, before anything is written.
fn check_jobs(config: &MergeConfig, models: &[Checkpoint], plan: &Plan) -> Result<()> {
    if plan.tensors.is_empty() {
        return Err(Error::config("slices", "give a result without tensors"));
    }
    let merged = plan.tensors.values().filter(|planned| !planned.copied);
    merged
        .map(|planned| planned.job(config, models, 0))
        .try_for_each(|job| job.map(drop))
}

/// Entries that may be computed at once: inputs, and outputs that wait to be written.
fn span(memory: u64, plan: &Plan, models: &[Checkpoint]) -> Result<usize> {
    if memory < LEAST_MEMORY {
        return Err(Error::Usage(format!(
            "--memory: give at least {}MB",
            LEAST_MEMORY / 1_000_000
        )));
    }
    let an_entry = |planned: &Planned| -> Result<u64> {
        let read = planned
            .inputs
            .iter()
            .map(|(model, name)| Ok(models[*model].info(name)?.dtype.size() as u64));
        // One span being computed, one with the writer, the rest waiting; the next one's pages may be read ahead.
        Ok(2 * read.sum::<Result<u64>>()? + 4 * planned.spec.dtype.size() as u64)
    };
    let widest = plan
        .tensors
        .values()
        .map(an_entry)
        .try_fold(1, |most, one| one.map(|one| most.max(one)))?;
    let fitting = memory.saturating_sub(BESIDE) / widest;
    Ok(usize::try_from(fitting)
        .unwrap_or(usize::MAX)
        .clamp(super::source::PART, LARGEST_SPAN))
}

/// Hash of everything that the bytes of the result depend on.
fn fingerprint(
    config: &MergeConfig,
    options: &MergeOptions,
    models: &[Checkpoint],
) -> Result<String> {
    let mut stamps = Vec::new();
    for shard in models.iter().flat_map(Checkpoint::shards) {
        let io = |error| Error::io(shard.path(), error);
        let metadata = std::fs::metadata(shard.path()).map_err(io)?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map(|time| time.as_nanos().to_string());
        stamps.push(json!([shard.path(), metadata.len(), modified]));
    }
    let version = env!("CARGO_PKG_VERSION");
    let all = json!([
        version,
        config.text,
        options.seed,
        options.max_shard_bytes,
        stamps
    ]);
    Ok(blake3::hash(all.to_string().as_bytes())
        .to_hex()
        .to_string())
}

/// Weight files by name, their tensors in the order of the file.
fn shards(plan: &Plan, most_bytes: u64) -> Vec<(String, Vec<TensorSpec>)> {
    let specs: Vec<TensorSpec> = plan
        .tensors
        .values()
        .map(|planned| planned.spec.clone())
        .collect();
    let mut parts = share_out(&specs, most_bytes);
    parts.iter_mut().for_each(|part| in_file_order(part));
    let count = parts.len();
    let name = |number: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    parts
        .into_iter()
        .enumerate()
        .map(|(number, part)| (name(number), part))
        .collect()
}

fn write_index(shards: &[(String, Vec<TensorSpec>)], folder: &WorkFolder) -> Result<()> {
    if shards.len() == 1 {
        return Ok(());
    }
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (name, specs) in shards {
        for spec in specs {
            weight_map.insert(&spec.name, name);
            total_size += spec.byte_len().unwrap_or(0);
        }
    }
    let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    folder.json("model.safetensors.index.json", &index)
}

fn report(
    config: &MergeConfig,
    options: &MergeOptions,
    plan: &Plan,
    models: &[Checkpoint],
    effects: &BTreeMap<String, Effect>,
) -> Report {
    let sum = |of: fn(&Effect) -> f64| effects.values().map(of).sum::<f64>().sqrt();
    let mut warnings = plan.warnings.clone();
    let changed_numbers = effects.values().map(|effect| effect.changed).sum();
    if changed_numbers == 0 && !effects.is_empty() {
        warnings.push("nothing differs from the reference".to_owned());
    }
    Report {
        method: config.method.card.id,
        models: config.models.clone(),
        reference: config.models[config.reference()].clone(),
        output: options.output.clone(),
        tensors: plan.tensors.len(),
        changed_tensors: effects.values().filter(|effect| effect.changed > 0).count(),
        numbers: effects.values().map(|effect| effect.entries).sum(),
        changed_numbers,
        change_norm: sum(|effect| effect.change),
        reference_norm: sum(|effect| effect.size),
        files: 0,
        kept_files: 0,
        bytes: plan
            .tensors
            .values()
            .filter_map(|planned| planned.spec.byte_len())
            .map(|bytes| bytes as u64)
            .sum(),
        bytes_read: models.iter().map(Checkpoint::total_bytes).sum(),
        seconds: 0.0,
        peak_resident: 0,
        warnings,
    }
}
