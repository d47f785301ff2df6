//! How far two checkpoints are from each other, tensor by tensor.

use super::extract::{difference, norm};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::Checkpoint;
use serde::Serialize;
use std::path::Path;

/// Two checkpoints compared.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Tensors of both that are floats of equal shape, those that moved most first (relative to their norm).
    pub tensors: Vec<Moved>,
    /// Tensors that only the base has, or that the model has in another shape or no float type.
    pub only_base: Vec<String>,
    /// Tensors that only the model has, or has otherwise.
    pub only_model: Vec<String>,
    /// Norm of the whole difference.
    pub norm: f64,
    /// Norm of the base's compared tensors.
    pub base_norm: f64,
    /// Largest absolute entry of the difference.
    pub largest: f64,
    /// Mean absolute entry of the difference.
    pub mean: f64,
}

/// How a tensor moved.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Norm of the difference.
    pub norm: f64,
    /// Norm in the base.
    pub base_norm: f64,
    /// Largest absolute entry of the difference.
    pub largest: f64,
    /// Mean absolute entry of the difference.
    pub mean: f64,
    /// Entries that differ.
    pub changed: u64,
}

impl Moved {
    /// Norm of the difference over that of the base.
    pub fn relative(&self) -> f64 {
        self.norm / self.base_norm.max(f64::MIN_POSITIVE)
    }
}

/// Compares two checkpoints; one tensor at a time is in memory.
///
/// # Errors
/// A checkpoint that cannot be read, no tensor in common, values that are not finite.
pub fn diff(base: &Path, model: &Path) -> Result<Diff> {
    let (base, model) = (Checkpoint::open(base)?, Checkpoint::open(model)?);
    let mut tensors = Vec::new();
    for name in model.names().filter(|name| comparable(&base, &model, name)) {
        tensors.push(moved(&base, &model, name)?);
    }
    if tensors.is_empty() {
        let problem = format!(
            "{} and {} have no tensor of the same name and shape",
            base.path().display(),
            model.path().display()
        );
        return Err(Error::Verification(problem));
    }
    let entries: f64 = tensors
        .iter()
        .map(|one| one.shape.iter().product::<usize>() as f64)
        .sum();
    let sum = |of: fn(&Moved) -> f64| tensors.iter().map(of).sum::<f64>();
    let found = Diff {
        norm: sum(|one| one.norm.powi(2)).sqrt(),
        base_norm: sum(|one| one.base_norm.powi(2)).sqrt(),
        largest: tensors.iter().fold(0.0, |most, one| one.largest.max(most)),
        mean: sum(|one| one.mean * one.shape.iter().product::<usize>() as f64) / entries.max(1.0),
        only_base: others(&base, &model),
        only_model: others(&model, &base),
        tensors: Vec::new(),
    };
    tensors.sort_by(|a, b| {
        b.relative()
            .total_cmp(&a.relative())
            .then_with(|| a.name.cmp(&b.name))
    });
    Ok(Diff { tensors, ..found })
}

fn comparable(a: &Checkpoint, b: &Checkpoint, name: &str) -> bool {
    let (Ok(a), Ok(b)) = (a.info(name), b.info(name)) else {
        return false;
    };
    a.shape == b.shape && a.dtype.is_readable_as_f32() && b.dtype.is_readable_as_f32()
}

fn others(of: &Checkpoint, other: &Checkpoint) -> Vec<String> {
    let names = of.names().filter(|name| !comparable(of, other, name));
    names.map(str::to_owned).collect()
}

fn moved(base: &Checkpoint, model: &Checkpoint, name: &str) -> Result<Moved> {
    let delta = difference(base, model, name)?;
    let sum: f64 = delta.iter().map(|value| f64::from(value.abs())).sum();
    Ok(Moved {
        name: name.to_owned(),
        shape: base.info(name)?.shape.clone(),
        norm: norm(&delta),
        base_norm: norm(&base.f32(name)?),
        largest: delta
            .iter()
            .fold(0.0, |most, value| f64::from(value.abs()).max(most)),
        mean: sum / delta.len().max(1) as f64,
        changed: delta.iter().filter(|value| **value != 0.0).count() as u64,
    })
}
