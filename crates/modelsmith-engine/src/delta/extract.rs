//! The difference of two checkpoints as a delta file.

use super::file::{DeltaFile, Entry, Part, Record, parts};
use crate::adapter_folder::base_hash;
use crate::recipe::Named;
use crate::registry;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, DType, Durability, TensorSpec, write_in_parts};
use modelsmith_methods::delta::{Encoded, Operator, Place, chain};
use rayon::prelude::*;
use regex::Regex;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Edited differences that are kept between laying out the file and writing it; beyond, they are computed twice.
const KEPT_BYTES: usize = 1 << 30;

/// What is asked of an extraction.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// Model that was started from.
    pub base: PathBuf,
    /// Model that came of it.
    pub model: PathBuf,
    /// Operators as `NAME` or `NAME:KEY=VALUE,KEY=VALUE`, in order.
    pub operators: Vec<String>,
    /// Pattern of the tensors that are edited; `None` for all.
    pub only: Option<String>,
    /// Seed of random masks.
    pub seed: u64,
    /// File to write.
    pub output: PathBuf,
}

/// The proof of an extraction.
#[derive(Clone, Debug, Serialize)]
pub struct Extracted {
    /// The file written.
    pub output: PathBuf,
    /// Operators with their options.
    pub operators: Vec<Value>,
    /// Tensors of the model.
    pub tensors: usize,
    /// Those that differ from the base.
    pub changed: usize,
    /// Those whose difference was edited.
    pub edited: usize,
    /// Norm of the difference.
    pub norm: f64,
    /// Norm of what editing changed, relative to that of the difference.
    pub relative_change: f64,
    /// Bytes of the file's tensors.
    pub bytes: u64,
    /// Bytes of the model's tensors.
    pub model_bytes: u64,
}

/// Extracts, edits and writes a difference. One tensor at a time is in memory, beside up to a gigabyte of finished ones.
///
/// # Errors
/// Unknown operators or options, a pattern that matches nothing, models without any common tensor or any difference, values
/// that are not finite.
pub fn extract(options: &ExtractOptions) -> Result<Extracted> {
    let editor = Editor::new(options)?;
    let base = Checkpoint::open(&options.base)?;
    let model = Checkpoint::open(&options.model)?;
    let mut made = Made::default();
    for name in model.names() {
        if let Some((entry, parts)) = editor.tensor(&base, &model, name)? {
            made.enter(name, entry, parts);
        }
    }
    editor.check_only(&made)?;
    if made.entries.is_empty() {
        let problem = format!(
            "{} and {} have the same weights; there is nothing to extract",
            options.base.display(),
            options.model.display()
        );
        return Err(Error::Verification(problem));
    }
    let record = editor.record(options, &base, &model, &made)?;
    let specs = std::mem::take(&mut made.specs);
    let metadata = DeltaFile::metadata(&record)?;
    write_in_parts(
        &options.output,
        Durability::Synced,
        &specs,
        &metadata,
        &mut |spec, put| {
            let bytes = made.take(&spec.name, |name| {
                Ok(editor.tensor(&base, &model, name)?.map(|(_, parts)| parts))
            })?;
            put(&bytes)
        },
    )?;
    Ok(report(options, record, &model, &made))
}

/// Laid out tensors of the file, with the bytes of those that are kept.
#[derive(Default)]
struct Made {
    entries: BTreeMap<String, Entry>,
    specs: Vec<TensorSpec>,
    owners: BTreeMap<String, String>,
    kept: BTreeMap<String, Vec<u8>>,
    kept_bytes: usize,
    bytes: u64,
}

impl Made {
    fn enter(&mut self, name: &str, entry: Entry, parts: Vec<Part>) {
        let size: usize = parts.iter().map(|part| part.bytes.len()).sum();
        self.bytes += size as u64;
        let keep = self.kept_bytes + size <= KEPT_BYTES;
        self.kept_bytes += if keep { size } else { 0 };
        for part in parts {
            let spec = part.spec(name);
            self.owners.insert(spec.name.clone(), name.to_owned());
            if keep {
                self.kept.insert(spec.name.clone(), part.bytes);
            }
            self.specs.push(spec);
        }
        self.entries.insert(name.to_owned(), entry);
    }

    /// The bytes of a stored tensor, computed again where they were not kept.
    fn take(
        &mut self,
        stored: &str,
        again: impl FnOnce(&str) -> Result<Option<Vec<Part>>>,
    ) -> Result<Vec<u8>> {
        if let Some(bytes) = self.kept.remove(stored) {
            return Ok(bytes);
        }
        let owner = &self.owners[stored];
        for part in again(owner)?.into_iter().flatten() {
            self.kept.insert(part.spec(owner).name, part.bytes);
        }
        let lost = || {
            Error::Failed(format!(
                "{owner} came out otherwise the second time; was a model changed?"
            ))
        };
        self.kept.remove(stored).ok_or_else(lost)
    }
}

/// The operators, and which tensors they are for.
struct Editor {
    operators: Vec<(String, Box<dyn Operator>)>,
    only: Option<Regex>,
    seed: u64,
}

impl Editor {
    fn new(options: &ExtractOptions) -> Result<Self> {
        let operator = |text: &String| -> Result<(String, Box<dyn Operator>)> {
            let named = named(text)?;
            Ok((named.name.clone(), registry::delta_operator(&named)?))
        };
        let only = options.only.as_deref().map(Regex::new).transpose();
        Ok(Self {
            operators: options
                .operators
                .iter()
                .map(operator)
                .collect::<Result<_>>()?,
            only: only.map_err(|error| Error::Usage(format!("--only: {error}")))?,
            seed: options.seed,
        })
    }

    /// The entry and stored tensors of one tensor; `None` where it does not differ.
    fn tensor(
        &self,
        base: &Checkpoint,
        model: &Checkpoint,
        name: &str,
    ) -> Result<Option<(Entry, Vec<Part>)>> {
        let after = model.view(name)?;
        let float = |dtype: DType| dtype.is_readable_as_f32();
        let partner = base.contains(name).then(|| base.view(name)).transpose()?;
        let partner = partner.filter(|before| {
            before.shape == after.shape && float(before.dtype) && float(after.dtype)
        });
        let mut entry = Entry {
            form: "new".to_owned(),
            shape: after.shape.to_vec(),
            dtype: after.dtype.name().to_owned(),
            edited: false,
            norm: 0.0,
            relative_change: 0.0,
            bits: 8.0 * after.dtype.size() as f64,
        };
        if partner.is_none() {
            let same = base.contains(name) && base.view(name)? == after;
            let whole = Part {
                suffix: ".new",
                dtype: after.dtype,
                shape: after.shape.to_vec(),
                bytes: after.bytes.to_vec(),
            };
            return Ok((!same).then(|| (entry, vec![whole])));
        }
        let delta = difference(base, model, name)?;
        entry.norm = norm(&delta);
        if entry.norm == 0.0 {
            return Ok(None);
        }
        let place = Place::new(name, after.shape, self.seed);
        let encoded = self.edit(&place, delta, &mut entry)?;
        entry.form = encoded.form().to_owned();
        entry.bits = encoded.bits(32) as f64 / after.shape.iter().product::<usize>().max(1) as f64;
        Ok(Some((entry, parts(&encoded, after.shape))))
    }

    /// The operators that want the tensor, one after the other; the last one stores.
    fn edit(&self, place: &Place<'_>, delta: Vec<f32>, entry: &mut Entry) -> Result<Encoded> {
        let wanted = self
            .only
            .as_ref()
            .is_none_or(|only| only.is_match(place.name));
        let operators = self.operators.iter().map(|(_, operator)| &**operator);
        let operators: Vec<&dyn Operator> = operators.filter(|_| wanted).collect();
        let Some(encoded) = chain(&operators, place, &delta)? else {
            return Ok(Encoded::dense_or_sparse(delta));
        };
        let change: Vec<f32> = encoded
            .decode()
            .iter()
            .zip(&delta)
            .map(|(a, b)| a - b)
            .collect();
        entry.edited = true;
        entry.relative_change = norm(&change) / entry.norm;
        Ok(encoded)
    }

    fn check_only(&self, made: &Made) -> Result<()> {
        let edited = made.entries.values().any(|entry| entry.edited);
        if edited || self.operators.is_empty() || made.entries.is_empty() {
            return Ok(());
        }
        Err(Error::Usage("no tensor that differs is edited: --only and the operators (some take matrices of blocks only) leave nothing".into()))
    }

    fn record(
        &self,
        options: &ExtractOptions,
        base: &Checkpoint,
        model: &Checkpoint,
        made: &Made,
    ) -> Result<Record> {
        let shown = |(name, operator): &(String, Box<dyn Operator>)| json!({"name": name, "options": operator.options()});
        Ok(Record {
            base: options.base.clone(),
            base_hash: base_hash(&options.base)?,
            model: options.model.clone(),
            operators: self.operators.iter().map(shown).collect(),
            only: options.only.clone(),
            seed: self.seed,
            tensors: made.entries.clone(),
            dropped: base
                .names()
                .filter(|name| !model.contains(name))
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// `NAME:KEY=VALUE,KEY=VALUE`; values are numbers, true, false or words.
fn named(text: &str) -> Result<Named> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let mut named = Named::new(name);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            Error::Usage(format!(
                "--operator {text}: expected NAME:KEY=VALUE,KEY=VALUE"
            ))
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        named.options.insert(key.to_owned(), value);
    }
    Ok(named)
}

/// `W_model - W_base` in f32.
///
/// # Errors
/// A tensor of another type, values that are not finite.
pub(crate) fn difference(base: &Checkpoint, model: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    let before = base.f32(name)?;
    let mut delta = model.f32(name)?;
    delta
        .par_iter_mut()
        .zip(&before)
        .for_each(|(value, before)| *value -= before);
    for checkpoint in [base, model] {
        let shard = checkpoint.shard_of(name)?;
        shard.release(name, 0..shard.bytes(name)?.len());
    }
    match delta.iter().position(|value| !value.is_finite()) {
        None => Ok(delta),
        Some(index) => Err(Error::Numeric(format!(
            "{name}: the difference of {} and {} at entry {index} is not finite",
            model.path().display(),
            base.path().display()
        ))),
    }
}

/// Euclidean norm.
pub(crate) fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn report(options: &ExtractOptions, record: Record, model: &Checkpoint, made: &Made) -> Extracted {
    let entries = made.entries.values();
    let square: f64 = entries.clone().map(|entry| entry.norm.powi(2)).sum();
    let lost: f64 = entries
        .clone()
        .map(|entry| (entry.norm * entry.relative_change).powi(2))
        .sum();
    Extracted {
        output: options.output.clone(),
        operators: record.operators,
        tensors: model.len(),
        changed: made.entries.len(),
        edited: entries.filter(|entry| entry.edited).count(),
        norm: square.sqrt(),
        relative_change: if square > 0.0 {
            (lost / square).sqrt()
        } else {
            0.0
        },
        bytes: made.bytes,
        model_bytes: model.total_bytes(),
    }
}
