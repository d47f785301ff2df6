//! Adapters to one PEFT folder: as plain LoRA or a plain prompt, scaled, or several combined.

use crate::adapter_folder::{self, Provenance};
use crate::model::{Model, ModelOptions};
use crate::probe;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::roles::AdapterFiles;
use modelsmith_methods::adapter::common::combine::{Combination, combine};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Largest difference of logits, relative to the largest, where the conversion is exact.
const TOLERANCE: f64 = 1e-4;

/// How several adapters become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Factors side by side: exact.
    Cat,
    /// Factors averaged: rough.
    Linear,
    /// The best change of a rank.
    Svd,
}

impl Combine {
    fn name(self) -> &'static str {
        match self {
            Self::Cat => "cat",
            Self::Linear => "linear",
            Self::Svd => "svd",
        }
    }
}

/// What is asked of a conversion.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Base and adapters with their weights.
    pub model: ModelOptions,
    /// Folder to write; new or empty.
    pub output: PathBuf,
    /// How several adapters become one.
    pub combine: Combine,
    /// Rank of the result, for [`Combine::Svd`].
    pub rank: Option<usize>,
}

/// The proof of a conversion.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The base.
    pub host: PathBuf,
    /// The adapters with their weights.
    pub adapters: Vec<(PathBuf, f64)>,
    /// The folder written.
    pub output: PathBuf,
    /// `rewrite` for one adapter at full weight, else the combination.
    pub how: &'static str,
    /// Tensors written.
    pub tensors: usize,
    /// Numbers in them.
    pub numbers: u64,
    /// Effect of the adapters on the probe's logits, relative to the largest.
    pub effect: f64,
    /// Difference between the adapters together and the one written, relative to the largest
    /// logit; rounding for exact conversions, what was lost for the others.
    pub difference: f64,
}

/// Converts, reads the result back, and only then puts the folder in place.
///
/// # Errors
/// No adapter, a rank without svd or svd without a rank, adapters that the combination does not
/// cover, and ([`Error::Verification`]) an exact conversion that computes something else.
pub fn run(options: &ConvertOptions) -> Result<Report> {
    let how = combination(options)?;
    let (model, folders, fresh) = Model::for_writing(&options.model, &options.output, "convert")?;
    let single = match model.adapters.as_slice() {
        [(reference, _)] => reference.weight == 1.0 && options.combine != Combine::Svd,
        _ => false,
    };
    let files = if single {
        model.adapters[0].1.portable(&model.host)?
    } else {
        together(&model, how)?
    };
    let record = provenance(&model, options, &folders, single)?;
    adapter_folder::write(fresh.path(), &files, &record)?;
    let (effect, difference) = proof(&model, fresh.path())?;
    let exact = single || options.combine == Combine::Cat;
    if exact && difference > TOLERANCE {
        return Err(Error::Verification(format!(
            "the converted adapter gives other logits: {difference:.2e} of the largest, at most {TOLERANCE:.0e} is rounding; nothing was written"
        )));
    }
    fresh.publish()?;
    let weights = model.adapters.iter().map(|(reference, _)| reference.weight);
    Ok(Report {
        host: model.folder.clone(),
        adapters: folders.iter().cloned().zip(weights).collect(),
        output: options.output.clone(),
        how: if single {
            "rewrite"
        } else {
            options.combine.name()
        },
        tensors: files.tensors.len(),
        numbers: files
            .tensors
            .values()
            .map(|tensor| tensor.len() as u64)
            .sum(),
        effect,
        difference,
    })
}

fn combination(options: &ConvertOptions) -> Result<Combination> {
    match (options.combine, options.rank) {
        (Combine::Cat, None) => Ok(Combination::Cat),
        (Combine::Linear, None) => Ok(Combination::Linear),
        (Combine::Svd, Some(rank)) => Ok(Combination::Svd { rank }),
        (Combine::Svd, None) => Err(Error::Usage("--combine svd needs --rank N".into())),
        (_, Some(_)) => Err(Error::Usage("--rank goes with --combine svd only".into())),
    }
}

/// All adapters as one, by their files at full strength and their weights.
fn together(model: &Model, how: Combination) -> Result<AdapterFiles> {
    let mut all = Vec::new();
    for (reference, adapter) in &model.adapters {
        let mut full = adapter.boxed();
        full.set_scale(1.0)?;
        all.push((full.files(&model.host)?, reference.weight));
    }
    let weighted: Vec<(&AdapterFiles, f64)> =
        all.iter().map(|(files, weight)| (files, *weight)).collect();
    combine(&weighted, how)
}

fn provenance(
    model: &Model,
    options: &ConvertOptions,
    folders: &[PathBuf],
    single: bool,
) -> Result<Provenance> {
    // A combination is plain LoRA, whatever it was made of.
    let record = match folders {
        [folder] if single => adapter_folder::provenance(folder)?,
        _ => None,
    };
    let weights: Vec<f64> = model.adapters.iter().map(|(one, _)| one.weight).collect();
    let method = record.map(|record| record.method);
    Ok(Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        method: method.unwrap_or_else(|| "lora".to_owned()),
        options: json!({
            "converted_from": folders,
            "weights": weights,
            "combine": options.combine.name(),
            "rank": options.rank,
        }),
        seed: 0,
        base_hash: adapter_folder::base_hash(Path::new(&model.host.info().origin))?,
        data_hash: String::new(),
    })
}

/// Effect of the adapters, and how far the written one is from them.
fn proof(model: &Model, written: &Path) -> Result<(f64, f64)> {
    let again = adapter_folder::read(written, &model.host, false)?;
    let base = probe::logits(&model.host, &[], &model.device)?;
    let wanted = probe::logits(&model.host, &model.hooks(), &model.device)?;
    let found = probe::logits(&model.host, &[again.hooks()], &model.device)?;
    Ok((
        probe::difference(&wanted, &base),
        probe::difference(&wanted, &found),
    ))
}
