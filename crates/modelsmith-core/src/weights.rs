//! Between files and tensors: named tensors in and out of safetensors.

use crate::error::{Error, Result};
use crate::files::{Checkpoint, DType, Reader, TensorSpec, write_streamed};
use crate::parameters::Flat;
use burn::tensor::Device;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes tensors as f32 to one safetensors file, atomically; equal tensors give equal bytes.
///
/// # Errors
/// The file cannot be written.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Flat>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, flat)| TensorSpec::new(name, DType::F32, flat.shape.clone()))
        .collect();
    write_streamed(path, &specs, metadata, &mut |spec| {
        encode(spec, &tensors[&spec.name].to_vec())
    })
}

/// The bytes of values in the dtype that a specification promises.
///
/// # Errors
/// A dtype that cannot hold floats.
pub fn encode(spec: &TensorSpec, values: &[f32]) -> Result<Cow<'static, [u8]>> {
    spec.dtype
        .encode(values)
        .map(Cow::Owned)
        .map_err(|problem| Error::Failed(format!("tensor {}: {problem}", spec.name)))
}

/// Reads all tensors of a safetensors file as f32 onto a device.
///
/// # Errors
/// A malformed file, or a tensor that is not of a float dtype.
pub fn load(path: &Path, device: &Device) -> Result<BTreeMap<String, Flat>> {
    let reader = Reader::open(path)?;
    let names: Vec<String> = reader.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| {
            let shape = reader.info(&name)?.shape.clone();
            let flat = Flat::from_vec(reader.f32(&name)?, &shape, device);
            Ok((name, flat))
        })
        .collect()
}

/// A checkpoint's tensor as f32 on a device.
///
/// # Errors
/// A missing tensor, or one that is not of a float dtype.
pub fn tensor(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Flat> {
    let shape = checkpoint.info(name)?.shape.clone();
    Ok(Flat::from_vec(checkpoint.f32(name)?, &shape, device))
}
