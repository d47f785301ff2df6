//! How are tensors written to one safetensors file, the same bytes every time?
//!
//! Wider types come first and names are sorted within a type, so that every tensor is aligned to
//! its element size; the header is padded with spaces to a multiple of eight bytes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::atomic::{Durability, atomic_write_as};
use super::dtype::DType;
use super::header::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, METADATA};
use super::kind::shown;
use super::safetensors::View;
use crate::error::{Error, Result};

/// What a tensor to be written is, before its bytes are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, as in the checkpoint.
    pub name: String,
    /// Element type of the bytes.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
        }
    }

    /// Bytes of the whole tensor; `None` if the product overflows.
    pub fn byte_len(&self) -> Option<usize> {
        let product = |total: usize, size: &usize| total.checked_mul(*size);
        self.shape.iter().try_fold(self.dtype.size(), product)
    }
}

/// The metadata without which `transformers` refuses a file: `format: pt`.
pub fn metadata_pt() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_string(), "pt".to_string())])
}

/// Writes tensors that are in memory as one file, atomically.
///
/// Errors: names that repeat or are reserved, bytes that do not fit shape and dtype, and whatever
/// [`super::atomic_write`] refuses.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[View<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let by_name: BTreeMap<&str, &[u8]> = tensors.iter().map(|t| (t.name, t.bytes)).collect();
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|t| TensorSpec::new(t.name, t.dtype, t.shape))
        .collect();
    let mut bytes = |spec: &TensorSpec| Ok(Cow::Borrowed(by_name[spec.name.as_str()]));
    write_streamed(path, &specs, metadata, &mut bytes)
}

/// Writes tensors as one file, atomically, asking for the bytes of one tensor at a time.
///
/// `bytes` is called once per tensor, in the order of the file, and must return exactly the bytes
/// the specification promises.
pub fn write_streamed<'a>(
    path: impl AsRef<Path>,
    specs: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    bytes: &mut dyn FnMut(&TensorSpec) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let path = path.as_ref();
    write_in_parts(
        path,
        Durability::Synced,
        specs,
        metadata,
        &mut |spec, put| put(&bytes(spec)?),
    )
}

/// What writes the next bytes of a tensor.
pub type Put<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// As [`write_streamed`], for tensors that do not fit into memory: `fill` is called once per tensor, in the order
/// of [`in_file_order`], and hands over its bytes part by part.
pub fn write_in_parts(
    path: impl AsRef<Path>,
    durability: Durability,
    specs: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    fill: &mut dyn FnMut(&TensorSpec, Put<'_>) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let (order, header) = layout(specs, metadata).map_err(|problem| Error::file(path, problem))?;
    atomic_write_as(path, durability, |sink| {
        sink.put(&(header.len() as u64).to_le_bytes())?;
        sink.put(header.as_bytes())?;
        for spec in order {
            let mut found = 0;
            fill(spec, &mut |bytes| {
                found += bytes.len();
                sink.put(bytes)
            })?;
            let expected = spec.byte_len().unwrap_or(usize::MAX);
            if found != expected {
                return Err(Error::file(
                    path,
                    format!(
                        "tensor {} has {found} bytes to write; its shape {:?} of {} takes {expected}",
                        shown(&spec.name),
                        spec.shape,
                        spec.dtype.name()
                    ),
                ));
            }
        }
        Ok(())
    })
}

/// Sorts tensors as files hold them: wider types first, by name within a type.
pub fn in_file_order(specs: &mut [TensorSpec]) {
    specs.sort_by(file_order);
}

fn file_order(a: &TensorSpec, b: &TensorSpec) -> std::cmp::Ordering {
    let key = |spec: &TensorSpec| Reverse(spec.dtype.size());
    key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
}

/// Order of the tensors in the file, and the padded header.
fn layout<'a>(
    specs: &'a [TensorSpec],
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<&'a TensorSpec>, String), String> {
    check_specs(specs)?;
    let mut order: Vec<&TensorSpec> = specs.iter().collect();
    order.sort_by(|a, b| file_order(a, b));
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut entries = Vec::new();
    if !metadata.is_empty() {
        let texts: Vec<String> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
            .collect();
        entries.push(format!("\"{METADATA}\":{{{}}}", texts.join(",")));
    }
    let mut begin = 0_usize;
    for spec in &order {
        let end = spec.byte_len().and_then(|size| begin.checked_add(size));
        let end = end.ok_or_else(|| {
            format!(
                "tensor {}: shape {:?} overflows",
                shown(&spec.name),
                spec.shape
            )
        })?;
        let shape: Vec<String> = spec.shape.iter().map(usize::to_string).collect();
        entries.push(format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            quoted(&spec.name),
            spec.dtype.name(),
            shape.join(",")
        ));
        begin = end;
    }
    let mut header = format!("{{{}}}", entries.join(","));
    let padding = header.len().next_multiple_of(8) - header.len();
    let _ = write!(header, "{:padding$}", "");
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(format!(
            "the header would take {} bytes; split into shards",
            header.len()
        ));
    }
    Ok((order, header))
}

/// Refuses what [`super::Reader`] would refuse.
pub(super) fn check_specs(specs: &[TensorSpec]) -> Result<(), String> {
    if specs.len() > MAX_TENSORS {
        return Err(format!(
            "{} tensors; at most {MAX_TENSORS} fit one file",
            specs.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for spec in specs {
        let name = shown(&spec.name);
        if spec.name == METADATA || spec.name.len() > MAX_NAME_BYTES {
            return Err(format!("{name} cannot name a tensor: reserved or too long"));
        }
        if spec.shape.len() > MAX_RANK {
            return Err(format!("tensor {name} has more than {MAX_RANK} dimensions"));
        }
        if !seen.insert(&spec.name) {
            return Err(format!("tensor {name} is given twice"));
        }
    }
    Ok(())
}
