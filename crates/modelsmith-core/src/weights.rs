//! Between files and tensors: named tensors in and out of safetensors.

use crate::error::{Error, Result};
use crate::files::{Checkpoint, DType, Reader, TensorSpec, write_streamed};
use crate::parameters::{Flat, is_for_use};
use burn::tensor::{Bytes, Device, TensorData};
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

/// Reads all tensors of a safetensors file as f32 onto a device. [For use](crate::parameters::for_use) they share one
/// allocation, as many small ones take more than their size.
///
/// # Errors
/// A malformed file, or a tensor that is not of a float dtype.
pub fn load(path: &Path, device: &Device) -> Result<BTreeMap<String, Flat>> {
    let reader = Reader::open(path)?;
    let names: Vec<String> = reader.names().map(str::to_owned).collect();
    if is_for_use() {
        return load_shared(&reader, names, device);
    }
    names
        .into_iter()
        .map(|name| {
            let shape = reader.info(&name)?.shape.clone();
            let flat = Flat::from_vec(reader.f32(&name)?, &shape, device);
            Ok((name, flat))
        })
        .collect()
}

fn load_shared(
    reader: &Reader,
    names: Vec<String>,
    device: &Device,
) -> Result<BTreeMap<String, Flat>> {
    let count = |name: &String| Ok(reader.info(name)?.shape.iter().product::<usize>());
    let counts: Vec<usize> = names.iter().map(count).collect::<Result<_>>()?;
    let mut values = Vec::with_capacity(counts.iter().sum());
    for name in &names {
        values.extend_from_slice(&reader.f32(name)?);
    }
    let shared = Bytes::from_elems(values).shared();
    let (mut found, mut begin) = (BTreeMap::new(), 0);
    for (name, count) in names.into_iter().zip(counts) {
        let end = begin + count * size_of::<f32>();
        let view = shared.view(begin, end);
        let bytes = view.map_err(|error| Error::Failed(format!("tensor {name}: {error:?}")))?;
        let shape = reader.info(&name)?.shape.clone();
        let data = TensorData::from_bytes(bytes, [count], burn::tensor::DType::F32);
        found.insert(name, Flat::from_data(data, &shape, device));
        begin = end;
    }
    Ok(found)
}

/// A checkpoint's tensor as f32, once every value of it is finite.
///
/// # Errors
/// A missing tensor, one that is not of a float dtype, or a value that is not finite, with its place.
pub fn finite(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    let values = checkpoint.f32(name)?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::Numeric(format!(
            "{}: tensor {name} holds {} at element {at}; the model is damaged, take another copy",
            checkpoint.path().display(),
            values[at]
        ))),
        None => Ok(values),
    }
}

/// A checkpoint's tensor as f32 on a device.
///
/// # Errors
/// A missing tensor, or one that is not of a float dtype.
pub fn tensor(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Flat> {
    let shape = checkpoint.info(name)?.shape.clone();
    Ok(Flat::from_vec(checkpoint.f32(name)?, &shape, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::for_use;

    #[test]
    fn what_shares_an_allocation_is_what_was_saved_and_changes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let device = Device::flex();
        let flat =
            |values: &[f32], shape: &[usize]| Flat::from_vec(values.to_vec(), shape, &device);
        let saved: BTreeMap<String, Flat> = [
            ("a".into(), flat(&[1.0, 2.0, 3.0], &[3])),
            ("b".into(), flat(&[], &[0, 2])),
            ("c".into(), flat(&[4.0, 5.0, 6.0, 7.0], &[2, 2])),
        ]
        .into();
        save(&path, &saved, &BTreeMap::new()).unwrap();
        let values = |some: &BTreeMap<String, Flat>| -> Vec<(Vec<usize>, Vec<f32>)> {
            let of = |flat: &Flat| (flat.shape.clone(), flat.to_vec());
            some.values().map(of).collect()
        };
        let mut shared = for_use(|| load(&path, &device)).unwrap();
        assert_eq!(values(&shared), values(&load(&path, &device).unwrap()));
        shared.get_mut("a").unwrap().change(|x| x.add_scalar(1.0));
        assert_eq!(shared["a"].to_vec(), [2.0, 3.0, 4.0]);
        assert_eq!(shared["c"].to_vec(), [4.0, 5.0, 6.0, 7.0]);
    }
}
