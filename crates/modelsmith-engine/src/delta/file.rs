//! Delta files: one safetensors file with the edited differences in their small forms, and a record of how they were made.
//!
//! ```text
//! NAME              dense, f32                      NAME.new        a tensor that the base lacks or has otherwise, whole
//! NAME.idx .val     sparse: u32 places, f32 values  NAME.U .S .V    low rank, f32
//! NAME.sign .scale  signs: bit b of word w (u32) is entry 32 w + b, set where negative; f32 magnitudes
//! NAME.level        which magnitude, packed from the lowest bit, where there are several
//! ```

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, Reader, TensorSpec};
use modelsmith_methods::delta::Encoded;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the metadata calls the format.
const FORMAT: &str = "modelsmith-delta-1";

/// How a delta was made, and what it says of every tensor that differs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Folder of the base when the delta was made.
    pub base: PathBuf,
    /// Hash of the base's weight files.
    pub base_hash: String,
    /// Folder of the model that the delta leads to.
    pub model: PathBuf,
    /// Operators in order, each with its options.
    pub operators: Vec<Value>,
    /// Pattern of the tensors that were edited.
    pub only: Option<String>,
    /// Seed of the masks.
    pub seed: u64,
    /// Tensors that differ.
    pub tensors: BTreeMap<String, Entry>,
    /// Tensors of the base that the model has not.
    pub dropped: Vec<String>,
}

/// What a delta says of a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `dense`, `sparse`, `signs`, `low_rank`, or `new` for a whole tensor.
    pub form: String,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// Type of the tensor in the model.
    pub dtype: String,
    /// Names of operators that changed it.
    pub edited: bool,
    /// Norm of the difference before it was edited.
    pub norm: f64,
    /// Norm of what editing changed, relative to `norm`.
    pub relative_change: f64,
    /// Bits an entry.
    pub bits: f64,
}

/// A stored tensor: what is appended to the name, its type and shape, its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) suffix: &'static str,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Part {
    fn f32(suffix: &'static str, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            suffix,
            dtype: DType::F32,
            shape,
            bytes,
        }
    }

    fn u32(suffix: &'static str, values: &[u32]) -> Self {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            suffix,
            dtype: DType::U32,
            shape: vec![values.len()],
            bytes,
        }
    }

    /// Its place in the file.
    pub(crate) fn spec(&self, name: &str) -> TensorSpec {
        TensorSpec::new(
            format!("{name}{}", self.suffix),
            self.dtype,
            self.shape.clone(),
        )
    }
}

/// The stored tensors of a difference.
pub(crate) fn parts(encoded: &Encoded, shape: &[usize]) -> Vec<Part> {
    match encoded {
        Encoded::Dense(values) => vec![Part::f32("", shape.to_vec(), values)],
        Encoded::Sparse {
            indices, values, ..
        } => {
            vec![
                Part::u32(".idx", indices),
                Part::f32(".val", vec![values.len()], values),
            ]
        }
        Encoded::Signs {
            words,
            scales,
            levels,
            ..
        } => {
            let mut parts = vec![
                Part::u32(".sign", words),
                Part::f32(".scale", vec![scales.len()], scales),
            ];
            if !levels.is_empty() {
                let bytes = pack(levels, level_bits(scales.len()));
                parts.push(Part {
                    suffix: ".level",
                    dtype: DType::U8,
                    shape: vec![bytes.len()],
                    bytes,
                });
            }
            parts
        }
        Encoded::LowRank {
            rows,
            columns,
            u,
            s,
            v,
        } => vec![
            Part::f32(".U", vec![*rows, s.len()], u),
            Part::f32(".S", vec![s.len()], s),
            Part::f32(".V", vec![*columns, s.len()], v),
        ],
    }
}

/// Bits that tell so many magnitudes apart.
fn level_bits(count: usize) -> usize {
    count.max(2).next_power_of_two().trailing_zeros() as usize
}

fn pack(levels: &[u8], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; (levels.len() * bits).div_ceil(8)];
    for (index, level) in levels.iter().enumerate() {
        for bit in 0..bits {
            let place = index * bits + bit;
            bytes[place / 8] |= (level >> bit & 1) << (place % 8);
        }
    }
    bytes
}

fn unpack(bytes: &[u8], bits: usize, count: usize) -> Vec<u8> {
    let bit = |place: usize| {
        bytes
            .get(place / 8)
            .map_or(0, |byte| byte >> (place % 8) & 1)
    };
    let level = |index: usize| {
        (0..bits).fold(0, |level, number| {
            level | bit(index * bits + number) << number
        })
    };
    (0..count).map(level).collect()
}

/// A delta file, checked.
pub(crate) struct DeltaFile {
    reader: Reader,
    /// How it was made.
    pub(crate) record: Record,
}

impl DeltaFile {
    /// The metadata of a file.
    pub(crate) fn metadata(record: &Record) -> Result<BTreeMap<String, String>> {
        let text =
            serde_json::to_string(record).map_err(|error| Error::Failed(error.to_string()))?;
        let pairs = [("format", FORMAT.to_owned()), ("record", text)];
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Another kind of file, or a record that does not fit its tensors.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let reader = Reader::open(path)?;
        let wrong = |problem: String| Error::file(path, problem);
        let metadata = reader.metadata();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(wrong(format!(
                "is no delta file of ours: its metadata has no format {FORMAT}"
            )));
        }
        let text = metadata
            .get("record")
            .ok_or_else(|| wrong("has no record in its metadata".into()))?;
        let record =
            serde_json::from_str(text).map_err(|error| wrong(format!("record: {error}")))?;
        Ok(Self { reader, record })
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.reader.data_bytes()
    }

    /// A whole tensor of the form `new`.
    ///
    /// # Errors
    /// It is absent or of another kind than recorded.
    pub(crate) fn whole(&self, name: &str, entry: &Entry) -> Result<&[u8]> {
        let name = format!("{name}.new");
        let info = self.reader.info(&name)?;
        if info.shape != entry.shape || info.dtype.name() != entry.dtype {
            return Err(self.wrong(&name, "is not what the record says"));
        }
        self.reader.bytes(&name)
    }

    /// The difference of a tensor.
    ///
    /// # Errors
    /// Stored tensors that are absent, of another type, or do not fit the tensor.
    pub(crate) fn difference(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        let size = |shape: &[usize]| {
            shape
                .iter()
                .try_fold(1_usize, |all, size| all.checked_mul(*size))
        };
        let length =
            size(&entry.shape).ok_or_else(|| self.wrong(name, "has a shape that overflows"))?;
        let values = |suffix: &str| self.reader.f32(&format!("{name}{suffix}"));
        let encoded = match entry.form.as_str() {
            "dense" => Encoded::Dense(values("")?),
            "sparse" => Encoded::Sparse {
                length,
                indices: self.words(&format!("{name}.idx"))?,
                values: values(".val")?,
            },
            "signs" => {
                let scales = values(".scale")?;
                let levels = match scales.len() {
                    1 => Vec::new(),
                    count => unpack(
                        self.typed(&format!("{name}.level"), DType::U8)?,
                        level_bits(count),
                        length,
                    ),
                };
                Encoded::Signs {
                    length,
                    words: self.words(&format!("{name}.sign"))?,
                    scales,
                    levels,
                }
            }
            "low_rank" => {
                let rows = entry.shape.first().copied().unwrap_or(1);
                let columns = length / rows.max(1);
                Encoded::LowRank {
                    rows,
                    columns,
                    u: values(".U")?,
                    s: values(".S")?,
                    v: values(".V")?,
                }
            }
            other => return Err(self.wrong(name, &format!("has the unknown form {other}"))),
        };
        if fits(&encoded, length) {
            return Ok(encoded.decode());
        }
        Err(self.wrong(
            name,
            &format!(
                "has stored tensors that do not fit its shape {:?}",
                entry.shape
            ),
        ))
    }

    fn words(&self, name: &str) -> Result<Vec<u32>> {
        let bytes = self.typed(name, DType::U32)?;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect())
    }

    fn typed(&self, name: &str, dtype: DType) -> Result<&[u8]> {
        match self.reader.info(name)?.dtype == dtype {
            true => self.reader.bytes(name),
            false => Err(self.wrong(name, &format!("is not {}", dtype.name()))),
        }
    }

    fn wrong(&self, name: &str, problem: &str) -> Error {
        Error::file(
            self.reader.path(),
            format!("{name} {problem}; the file is damaged, extract it again"),
        )
    }
}

/// Whether stored tensors have the sizes that a tensor of this length needs.
fn fits(encoded: &Encoded, length: usize) -> bool {
    match encoded {
        Encoded::Dense(values) => values.len() == length,
        Encoded::Sparse {
            indices, values, ..
        } => {
            indices.len() == values.len() && indices.iter().all(|index| (*index as usize) < length)
        }
        Encoded::Signs {
            words,
            scales,
            levels,
            ..
        } => {
            let in_range = |level: &u8| usize::from(*level) < scales.len();
            words.len() == length.div_ceil(32) && !scales.is_empty() && levels.iter().all(in_range)
        }
        Encoded::LowRank {
            rows,
            columns,
            u,
            s,
            v,
        } => {
            let rank = s.len();
            rows * columns == length && u.len() == rows * rank && v.len() == columns * rank
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_packed_and_unpacked() {
        for count in [2, 3, 16, 200] {
            let bits = level_bits(count);
            let levels: Vec<u8> = (0..77).map(|i| (i * 31 % count) as u8).collect();
            let packed = pack(&levels, bits);
            assert_eq!(packed.len(), (77 * bits).div_ceil(8));
            assert_eq!(unpack(&packed, bits, 77), levels);
        }
    }
}
