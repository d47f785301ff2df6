//! Adapters folded into a checkpoint, with a proof that it computes what they did.
//!
//! ```text
//! W' = W + Σ (mergedᵢ(W) − W)        each weight, over the adapters
//! ```
//!
//! Two checks stand between the sum and the finished folder: the merged weights give the logits
//! that the attached adapters give (within 1e-4 of the largest), and what is read back from the
//! files is bit for bit what was to be written.

use crate::model::{Model, ModelOptions};
use crate::probe;
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, TensorSpec};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::weights::encode;
use modelsmith_hosts::{OutputMatrix, Transformer};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use modelsmith_core::files::DType;

/// Largest difference of logits, relative to the largest logit, between adapters and merged f32
/// weights: rounding of the two orders of computation stays below a tenth of it.
const TOLERANCE: f64 = 1e-4;

/// What is asked of a merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Base and adapters.
    pub model: ModelOptions,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// Type of the written weights; `None` keeps the base's (the widest, where they differ).
    pub dtype: Option<DType>,
    /// Largest weight file in bytes.
    pub max_shard_bytes: u64,
}

/// The proof of a merge.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The base.
    pub host: PathBuf,
    /// The adapters.
    pub adapters: Vec<PathBuf>,
    /// The folder written.
    pub output: PathBuf,
    /// Type of the written weights.
    pub dtype: &'static str,
    /// Weight tensors written.
    pub tensors: usize,
    /// Those that differ from the base.
    pub changed: usize,
    /// Euclidean norm of the change.
    pub change_norm: f64,
    /// Euclidean norm of the base's changed weights.
    pub base_norm: f64,
    /// Effect of the adapters on the probe's logits, relative to the largest.
    pub effect: f64,
    /// Difference between attached adapters and merged weights, relative to the largest logit.
    pub merged_difference: f64,
    /// The same for the weights as read back, rounding to their type included.
    pub written_difference: f64,
    /// Whether a shared input and output embedding had to be stored apart.
    pub untied: bool,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Weight files.
    pub files: usize,
}

/// Merges, verifies, and only then puts the folder in place.
///
/// # Errors
/// No adapter, an output that is an input or not empty, weights that are not finite, and
/// ([`Error::Verification`]) a merge that changes nothing or computes something else.
pub fn run(options: &MergeOptions) -> Result<Report> {
    let (model, folders, fresh) = Model::for_writing(&options.model, &options.output, "merge")?;
    let merged = Merged::new(&model)?;
    let dtype = options.dtype.unwrap_or_else(|| widest(&model.host));
    merged.check_range(dtype)?;
    let patch = merged.config_patch();
    let files = modelsmith_hosts::save(
        &merged.host,
        fresh.path(),
        dtype,
        options.max_shard_bytes,
        &|_| Ok(None),
        &patch,
    )?;
    let proof = verify(&model, &merged, fresh.path(), dtype)?;
    let bytes = files
        .iter()
        .map(|file| file_size(file))
        .sum::<Result<u64>>()?;
    fresh.publish()?;
    Ok(Report {
        host: model.folder,
        adapters: folders,
        output: options.output.clone(),
        dtype: dtype.name(),
        tensors: merged.host.weight_names().len(),
        changed: merged.changed.len(),
        change_norm: merged.change_norm,
        base_norm: merged.base_norm,
        effect: proof.effect,
        merged_difference: proof.merged,
        written_difference: proof.written,
        untied: merged.untied,
        bytes,
        files: files.len(),
    })
}

/// The base with the adapters folded in.
struct Merged {
    host: Transformer,
    changed: BTreeSet<String>,
    untied: bool,
    change_norm: f64,
    base_norm: f64,
}

impl Merged {
    fn new(model: &Model) -> Result<Self> {
        let tied: Vec<(String, String)> = tied_weights(model);
        let mut apart = false;
        for (name, _) in &tied {
            apart = apart || merged_weight(model, name, name)?.is_some();
        }
        let mut host = if apart {
            untied(model, &tied)?
        } else {
            model.host.clone()
        };
        let (mut change, mut base) = (0.0, 0.0);
        let mut changed = BTreeSet::new();
        for name in host.weight_names() {
            let owner = tied.iter().find(|(tied, _)| *tied == name);
            let owner = owner.map_or(name.as_str(), |(_, owner)| owner);
            let Some(value) = merged_weight(model, &name, owner)? else {
                continue;
            };
            let before = weight(&model.host, owner)?;
            let (moved, size) = (norm_square(&before, &value), norm_square_of(&before));
            if !moved.is_finite() {
                return Err(Error::Numeric(format!(
                    "merging makes {name} hold values that are not finite; the adapter or the base is broken"
                )));
            }
            if moved > 0.0 {
                change += moved;
                base += size;
                changed.insert(name.clone());
            }
            host.set_weight(&name, &value)?;
        }
        if changed.is_empty() {
            return Err(Error::Verification(
                "the adapters change no weight: merged would equal the base; nothing was written"
                    .into(),
            ));
        }
        Ok(Self {
            host,
            changed,
            untied: apart,
            change_norm: change.sqrt(),
            base_norm: base.sqrt(),
        })
    }

    /// A 16-bit type must hold every value.
    fn check_range(&self, dtype: DType) -> Result<()> {
        if dtype != DType::F16 {
            return Ok(());
        }
        const LARGEST: f32 = 65504.0;
        for name in &self.changed {
            let values = weight(&self.host, name)?.to_vec();
            if let Some(value) = values.iter().find(|value| value.abs() > LARGEST) {
                return Err(Error::Numeric(format!(
                    "{name} holds {value}, beyond the largest f16 ({LARGEST}); use --dtype bf16 or f32"
                )));
            }
        }
        Ok(())
    }

    fn config_patch(&self) -> Map<String, Value> {
        match self.untied {
            true => untying(&self.host),
            false => Map::new(),
        }
    }
}

/// `(name a tied site's weight would have, name of the weight it shares)`.
fn tied_weights(model: &Model) -> Vec<(String, String)> {
    let sites = model.host.sites().iter();
    sites
        .filter_map(|site| {
            let owner = site.tied_to.as_ref()?;
            Some((format!("{}.weight", site.path), format!("{owner}.weight")))
        })
        .collect()
}

/// A weight with the changes of all adapters, or `None` where none changes it. `owner` is the
/// name under which the base stores it.
fn merged_weight(model: &Model, name: &str, owner: &str) -> Result<Option<Flat>> {
    let mut all: Option<Flat> = None;
    for (_, adapter) in &model.adapters {
        let Some(own) = adapter.merged(&model.host, name)? else {
            continue;
        };
        all = Some(match all {
            None => own,
            Some(sum) => {
                let base = model.host.weight(name).or_else(|| model.host.weight(owner));
                let base = base.ok_or_else(|| Error::Failed(format!("no weight {owner}")))?;
                Flat {
                    shape: sum.shape,
                    values: sum.values + own.values - base.values,
                }
            }
        });
    }
    Ok(all)
}

/// What `config.json` says of weights that are stored apart from now on. Whether a T5 scales the
/// decoder's state before the head, older configurations tell by the tying alone.
fn untying(host: &Transformer) -> Map<String, Value> {
    let mut patch = Map::from_iter([("tie_word_embeddings".to_owned(), false.into())]);
    let head = host.decoder_start().and_then(|_| host.output_matrix(&[]));
    if let Some(OutputMatrix { scale, .. }) = head {
        patch.insert("scale_decoder_outputs".into(), (scale != 1.0).into());
    }
    patch
}

/// The same host with tied weights stored apart.
fn untied(model: &Model, tied: &[(String, String)]) -> Result<Transformer> {
    let info = model.host.info();
    let mut config = info.config.clone();
    if let Some(map) = config.as_object_mut() {
        map.extend(untying(&model.host));
    }
    let mut host = modelsmith_hosts::random(&config, &info.origin, 0, &model.device)?;
    for (name, owner) in tied {
        if host.weight(name).is_none() && merged_weight(model, name, name)?.is_some() {
            return Err(Error::Usage(format!(
                "the adapters change {name}, which {} cannot store apart from {owner}; use them \
                 attached, or train adapters of its other layers",
                info.architecture
            )));
        }
    }
    let owners: BTreeMap<&str, &str> = tied
        .iter()
        .map(|(name, owner)| (name.as_str(), owner.as_str()))
        .collect();
    for name in host.weight_names() {
        let source = if model.host.weight(&name).is_some() {
            name.as_str()
        } else {
            owners.get(name.as_str()).copied().unwrap_or(&name)
        };
        host.set_weight(&name, &weight(&model.host, source)?)?;
    }
    Ok(host)
}

fn weight(host: &Transformer, name: &str) -> Result<Flat> {
    host.weight(name)
        .ok_or_else(|| Error::Failed(format!("the host lacks the weight {name} that it lists")))
}

fn norm_square(before: &Flat, after: &Flat) -> f64 {
    sum_square(after.values.clone() - before.values.clone())
}

fn norm_square_of(value: &Flat) -> f64 {
    sum_square(value.values.clone())
}

fn sum_square(values: Tensor<1>) -> f64 {
    f64::from(values.powi_scalar(2).sum().into_scalar::<f32>())
}

/// The widest type among the stored weights.
pub(crate) fn widest(host: &Transformer) -> DType {
    let names = host.weight_names();
    let found: Vec<DType> = names
        .iter()
        .filter_map(|name| host.stored_dtype(name))
        .collect();
    let all = |dtype| !found.is_empty() && found.iter().all(|one| *one == dtype);
    match () {
        () if all(DType::F16) => DType::F16,
        () if all(DType::BF16) => DType::BF16,
        () => DType::F32,
    }
}

struct Proof {
    effect: f64,
    merged: f64,
    written: f64,
}

fn verify(model: &Model, merged: &Merged, folder: &Path, dtype: DType) -> Result<Proof> {
    let base = probe::logits(&model.host, &[], &model.device)?;
    let adapted = probe::logits(&model.host, &model.hooks(), &model.device)?;
    let folded = probe::logits(&merged.host, &[], &model.device)?;
    check_bytes(merged, folder, dtype)?;
    let written = modelsmith_hosts::load(folder, &model.device)?;
    let read = probe::logits(&written, &[], &model.device)?;
    let proof = Proof {
        effect: probe::difference(&adapted, &base),
        merged: probe::difference(&adapted, &folded),
        written: probe::difference(&adapted, &read),
    };
    if proof.merged > TOLERANCE {
        return Err(Error::Verification(format!(
            "merged weights give other logits than the adapters: {:.2e} of the largest, at most {TOLERANCE:.0e} is rounding; nothing was written (adapters that replace the same module cannot be merged together)",
            proof.merged
        )));
    }
    Ok(proof)
}

/// What lies in the files must be what was to be written, and must differ from the base.
fn check_bytes(merged: &Merged, folder: &Path, dtype: DType) -> Result<()> {
    let checkpoint = Checkpoint::open(folder)?;
    for name in merged.host.weight_names() {
        let value = weight(&merged.host, &name)?;
        let spec = TensorSpec::new(&name, dtype, value.shape.clone());
        if checkpoint.view(&name)?.bytes != encode(&spec, &value.to_vec())?.as_ref() {
            return Err(Error::Verification(format!(
                "{name} was read back with other bytes than were written; the disk may be failing"
            )));
        }
    }
    let base = Checkpoint::open(&merged.host.info().origin)?;
    let moved = |name: &String| match base.f32(name) {
        Ok(before) => checkpoint.f32(name).is_ok_and(|after| after != before),
        // A name of another spelling cannot be compared; its change was measured in memory.
        Err(_) => true,
    };
    if merged.changed.iter().any(moved) {
        return Ok(());
    }
    Err(Error::Verification(format!(
        "the change is lost in rounding to {}: merged would equal the base; use --dtype f32",
        dtype.name()
    )))
}

fn file_size(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    Ok(metadata.len())
}
