//! Does a safetensors header tell the truth about its file?
//!
//! ```text
//! u64 LE length N | N bytes of JSON, first byte `{` | data, covered by the tensors without gap
//! ```
//! The format's own reader is the reference; this one also bounds the number of tensors, their
//! rank and the length of their names, and refuses the array form of a tensor's description.

use std::collections::BTreeMap;
use std::path::Path;

use super::dtype::DType;
use super::header_json::{RawHeader, RawTensor};
use super::kind::{refused_by_content, shown};
use crate::error::{Error, Result};

/// Longest header accepted, in bytes: the format's own bound.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors, and most metadata entries, accepted in one file.
pub const MAX_TENSORS: usize = 100_000;
/// Most dimensions of one tensor.
pub const MAX_RANK: usize = 16;
/// Longest tensor name, in bytes.
pub const MAX_NAME_BYTES: usize = 4096;

/// Name of the header entry that holds free text instead of a tensor.
pub(super) const METADATA: &str = "__metadata__";

/// Where one tensor lies and how its bytes are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte and end, counted from the start of the data section.
    pub offsets: (usize, usize),
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.byte_len() / self.dtype.size()
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.offsets.1 - self.offsets.0
    }
}

/// A checked header: every offset lies in the file and agrees with its shape and dtype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The file's free text, for instance `format: pt`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data section begins in the file.
    pub data_start: usize,
}

/// Checks the header of a whole safetensors file given as bytes.
///
/// Uses memory in proportion to the header, whatever the header claims. The error names
/// `<bytes>` as its file.
pub fn parse_header(bytes: &[u8]) -> Result<Header> {
    parse(bytes).map_err(|problem| Error::file(Path::new("<bytes>"), problem))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
    if let Some(reason) = refused_by_content(bytes) {
        return Err(reason);
    }
    let json = header_text(bytes)?;
    let data_start = 8 + json.len();
    let raw: RawHeader = serde_json::from_str(json)
        .map_err(|problem| format!("the header is not as safetensors defines it: {problem}"))?;
    let mut tensors = BTreeMap::new();
    for (name, raw) in raw.tensors {
        let info = raw
            .check()
            .map_err(|problem| format!("tensor {}: {problem}", shown(&name)))?;
        tensors.insert(name, info);
    }
    check_cover(&tensors, bytes.len() - data_start)?;
    Ok(Header {
        tensors,
        metadata: raw.metadata,
        data_start,
    })
}

/// The JSON part, once its length and encoding are known to be right.
fn header_text(bytes: &[u8]) -> Result<&str, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = bytes.len();
        return Err(format!(
            "the file has {found} bytes; safetensors begins with an 8-byte length: {AGAIN}"
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "the header claims {length} bytes, more than the limit of {MAX_HEADER_BYTES}: this is \
             not a safetensors file, or it is damaged"
        ));
    }
    let header = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length));
    let Some(header) = header else {
        return Err(format!(
            "the header claims {length} bytes, but only {} follow: {AGAIN}",
            rest.len()
        ));
    };
    match header.first() {
        None => return Err("the header is empty; expected JSON that begins with `{`".into()),
        Some(b'{') => {}
        Some(other) => {
            return Err(format!(
                "the header begins with byte 0x{other:02x}; expected `{{`: this is not a \
                 safetensors file, or it is damaged"
            ));
        }
    }
    std::str::from_utf8(header).map_err(|problem| {
        let at = problem.valid_up_to();
        format!("the header is not valid UTF-8 at its byte {at}: the file is damaged")
    })
}

const AGAIN: &str = "the file is cut short; download or write it again";

/// Tensors must lie end to end from the first data byte to the last.
fn check_cover(tensors: &BTreeMap<String, TensorInfo>, data_len: usize) -> Result<(), String> {
    let mut spans: Vec<(usize, usize, &str)> = tensors
        .iter()
        .map(|(name, info)| (info.offsets.0, info.offsets.1, name.as_str()))
        .collect();
    spans.sort_unstable();
    let mut covered = 0;
    let mut before = "";
    for (begin, end, name) in spans {
        let name_shown = shown(name);
        if end > data_len {
            return Err(format!(
                "tensor {name_shown} ends at data byte {end}, but the file holds {data_len} data \
                 bytes: {AGAIN}"
            ));
        }
        if begin < covered {
            return Err(format!(
                "tensor {name_shown} begins at data byte {begin}, inside tensor {}, which ends at \
                 {covered}: the offsets overlap",
                shown(before)
            ));
        }
        if begin > covered {
            return Err(format!(
                "{} data bytes before tensor {name_shown} belong to no tensor: the offsets leave a \
                 hole at {covered}",
                begin - covered
            ));
        }
        covered = end;
        before = name;
    }
    if covered != data_len {
        return Err(format!(
            "{} bytes follow the last tensor: the file has trailing data that no tensor describes",
            data_len - covered
        ));
    }
    Ok(())
}

impl RawTensor {
    fn check(self) -> Result<TensorInfo, String> {
        let dtype = DType::parse(&self.dtype)?;
        let [begin, end] = self.offsets;
        if begin > end {
            return Err(format!("data_offsets [{begin}, {end}] run backwards"));
        }
        let bytes = self
            .shape
            .iter()
            .try_fold(1_u64, |product, &size| product.checked_mul(size))
            .and_then(|elements| elements.checked_mul(dtype.size() as u64));
        let Some(bytes) = bytes else {
            return Err(format!("shape {:?} overflows a 64-bit size", self.shape));
        };
        if bytes != end - begin {
            return Err(format!(
                "shape {:?} of {} takes {bytes} bytes, but data_offsets [{begin}, {end}] hold {}",
                self.shape,
                dtype.name(),
                end - begin
            ));
        }
        let fits = |value: u64| {
            usize::try_from(value)
                .map_err(|_| format!("{value} does not fit this machine's memory"))
        };
        Ok(TensorInfo {
            dtype,
            shape: self.shape.into_iter().map(fits).collect::<Result<_, _>>()?,
            offsets: (fits(begin)?, fits(end)?),
        })
    }
}
