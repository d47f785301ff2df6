//! What an adapter folder holds: method, options, tensors, norms and ranks by module, its base.

use crate::adapter_folder::{self, Provenance};
use crate::device::device;
use crate::model::{adapter_in, named_base};
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::roles::AdapterFiles;
use modelsmith_methods::adapter::common::combine::{Combination, combine};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What all keys of an adapter file begin with.
const PREFIX: &str = "base_model.model.";

/// An adapter folder as a table.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The folder.
    pub adapter: PathBuf,
    /// `peft_type` of the configuration.
    pub kind: String,
    /// What the program recorded, where it was the one that wrote it.
    pub provenance: Option<Provenance>,
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// Low-rank pairs by module.
    pub modules: Vec<Module>,
    /// Tensors that belong to no pair: trained modules, biases, magnitudes.
    pub others: Vec<Other>,
    /// Numbers in all tensors.
    pub numbers: u64,
    /// How it fits the base.
    pub base: Base,
}

/// The pair of one module.
#[derive(Clone, Debug, Serialize)]
pub struct Module {
    /// Module path.
    pub path: String,
    /// Rank of the pair.
    pub rank: usize,
    /// Input and output width.
    pub shape: [usize; 2],
    /// Frobenius norm of the scaled change.
    pub norm: f64,
}

/// A tensor beside the pairs.
#[derive(Clone, Debug, Serialize)]
pub struct Other {
    /// Key without the common beginning.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its Euclidean norm.
    pub norm: f64,
}

/// How an adapter fits its base.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Base {
    /// It loads onto the base, whose weights hash to what was recorded.
    Matches {
        /// The base.
        path: PathBuf,
    },
    /// It loads onto the base; which weights it was made for was not recorded.
    Fits {
        /// The base.
        path: PathBuf,
    },
    /// It does not belong to the base.
    Refused {
        /// The base.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The base it names is not here.
    Absent {
        /// What it names.
        name: String,
    },
}

/// Reads an adapter folder and checks it against `host`, or against the base that it names where
/// that is here.
///
/// # Errors
/// A folder that is no adapter, or that is malformed.
pub fn show(path: &Path, host: Option<&Path>, device_name: &str) -> Result<Shown> {
    let folder = adapter_in(path);
    let device = device(device_name)?;
    let files = adapter_folder::read_files(&folder, &device)?;
    let provenance = adapter_folder::provenance(&folder)?;
    let base = match host.map(Path::to_path_buf).or(named_base(&folder)?) {
        Some(base) => fit(&folder, base, provenance.as_ref(), &device),
        None => Base::Absent {
            name: text(&files.config, "base_model_name_or_path"),
        },
    };
    Ok(Shown {
        kind: text(&files.config, "peft_type"),
        modules: modules(&files),
        others: others(&files),
        numbers: files
            .tensors
            .values()
            .map(|tensor| tensor.len() as u64)
            .sum(),
        adapter: folder,
        provenance,
        config: files.config,
        base,
    })
}

fn text(config: &Map<String, Value>, key: &str) -> String {
    config
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned()
}

fn fit(
    folder: &Path,
    base: PathBuf,
    record: Option<&Provenance>,
    device: &burn::tensor::Device,
) -> Base {
    let options = crate::model::ModelOptions {
        host: Some(base.clone()),
        adapters: vec![crate::model::AdapterRef::new(folder)],
        ..crate::model::ModelOptions::default()
    };
    match crate::model::Model::load_on(&options, device) {
        Ok(_) if record.is_some_and(|record| !record.base_hash.is_empty()) => {
            Base::Matches { path: base }
        }
        Ok(_) => Base::Fits { path: base },
        Err(error) => Base::Refused {
            path: base,
            problem: error.to_string(),
        },
    }
}

/// Pairs with the norm of `s · B A`, from `trace((Bᵀ B)(A Aᵀ))` without forming the product.
fn modules(files: &AdapterFiles) -> Vec<Module> {
    // Laying one adapter beside nothing multiplies its scale into A, whatever the scale's rule.
    let plain = without_magnitudes(files);
    let Ok(scaled) = combine(&[(&plain, 1.0)], Combination::Cat) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, a) in &scaled.tensors {
        let Some((path, other)) = pair_of(key) else {
            continue;
        };
        let Some(b) = scaled.tensors.get(&other) else {
            continue;
        };
        let (a, b) = (matrix(a), matrix(b));
        let [rank, inputs] = a.dims();
        found.push(Module {
            path: path.strip_prefix(PREFIX).unwrap_or(path).to_owned(),
            rank,
            shape: [inputs, b.dims()[0]],
            norm: product_norm(a, b),
        });
    }
    found
}

/// The key's module and the key of the second factor, where it is a first one.
fn pair_of(key: &str) -> Option<(&str, String)> {
    for (first, second) in [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_embedding_A", ".lora_embedding_B"),
    ] {
        if let Some(path) = key.strip_suffix(first) {
            return Some((path, format!("{path}{second}")));
        }
    }
    None
}

/// DoRA's change of direction alone, whose pairs are plain LoRA.
fn without_magnitudes(files: &AdapterFiles) -> AdapterFiles {
    let mut plain = files.clone();
    plain.config.insert("use_dora".into(), false.into());
    plain
        .tensors
        .retain(|key, _| !key.contains("lora_magnitude_vector"));
    plain
}

fn others(files: &AdapterFiles) -> Vec<Other> {
    let beside = |key: &&String| {
        !key.contains(".lora_A.") && !key.contains(".lora_B.") && !key.contains("lora_embedding_")
    };
    files
        .tensors
        .keys()
        .filter(beside)
        .map(|key| {
            let tensor = &files.tensors[key];
            Other {
                name: key.strip_prefix(PREFIX).unwrap_or(key).to_owned(),
                shape: tensor.shape.clone(),
                norm: norm(&tensor.to_vec()),
            }
        })
        .collect()
}

fn matrix(flat: &Flat) -> Tensor<2> {
    let rows = flat.shape.first().copied().unwrap_or(1).max(1);
    flat.values.clone().reshape([rows, flat.len() / rows])
}

/// `‖b a‖_F` for `a` `[rank, in]`, `b` `[out, rank]`.
fn product_norm(a: Tensor<2>, b: Tensor<2>) -> f64 {
    let inner = a.clone().matmul(a.transpose());
    let outer = b.clone().transpose().matmul(b);
    let trace: f64 = to_vec(inner * outer)
        .iter()
        .map(|value| f64::from(*value))
        .sum();
    trace.max(0.0).sqrt()
}

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_norm_of_a_product_needs_no_product() {
        let device = Device::flex();
        let a = Tensor::<2>::from_floats([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], &device);
        let b = Tensor::<2>::from_floats([[1.0, 0.5], [-2.0, 3.0]], &device);
        let direct = norm(&to_vec(b.clone().matmul(a.clone())));
        assert!((product_norm(a, b) - direct).abs() < 1e-5);
    }
}
