//! What does the JSON of a safetensors header say, before any of it is believed?
//!
//! Keys may not repeat, fields may not be foreign, and counts are bounded while reading, so that
//! memory stays in proportion to the text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::header::{MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, METADATA};
use super::json::UniqueMap;
use super::kind::shown;

/// One tensor as written, before its numbers are believed.
pub(super) struct RawTensor {
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) offsets: [u64; 2],
}

/// A whole header as written: no name repeats, nothing else is known of it.
#[derive(Default)]
pub(super) struct RawHeader {
    pub(super) tensors: BTreeMap<String, RawTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl<'de> serde::Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                header.read_tensor(name, &mut map)?;
            } else if std::mem::replace(&mut has_metadata, true) {
                return Err(A::Error::custom("`__metadata__` is listed twice"));
            } else {
                header.metadata = map.next_value::<UniqueMap<MAX_TENSORS>>()?.0;
            }
        }
        Ok(header)
    }
}

impl RawHeader {
    fn read_tensor<'de, A: MapAccess<'de>>(
        &mut self,
        name: String,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let name_shown = shown(&name);
        let fail = |problem: String| Err(A::Error::custom(problem));
        if name.len() > MAX_NAME_BYTES {
            return fail(format!(
                "the tensor name {name_shown} is longer than {MAX_NAME_BYTES} bytes"
            ));
        }
        if self.tensors.len() == MAX_TENSORS {
            return fail(format!(
                "more than {MAX_TENSORS} tensors; split the file into shards"
            ));
        }
        let tensor = map
            .next_value_seed(TensorSeed)
            .map_err(|problem| A::Error::custom(format!("tensor {name_shown}: {problem}")))?;
        if self.tensors.insert(name, tensor).is_some() {
            return fail(format!("tensor {name_shown} is listed twice"));
        }
        Ok(())
    }
}

/// Reads `{"dtype", "shape", "data_offsets"}`, each exactly once.
struct TensorSeed;

impl<'de> DeserializeSeed<'de> for TensorSeed {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<RawTensor, D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed {
    type Value = RawTensor;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
        const FIELDS: &[&str] = &["dtype", "shape", "data_offsets"];
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            let twice = match field.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Dimensions)?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<[u64; 2]>()?).is_some(),
                other => return Err(A::Error::unknown_field(&shown(other), FIELDS)),
            };
            if twice {
                return Err(A::Error::custom(format!("`{field}` is given twice")));
            }
        }
        Ok(RawTensor {
            dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            offsets: offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
        })
    }
}

/// Reads a shape of at most [`MAX_RANK`] numbers.
struct Dimensions;

impl<'de> DeserializeSeed<'de> for Dimensions {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Vec<u64>, D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Dimensions {
    type Value = Vec<u64>;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "a list of at most {MAX_RANK} sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = sizes.next_element()? {
            if shape.len() == MAX_RANK {
                return Err(A::Error::custom(format!("more than {MAX_RANK} dimensions")));
            }
            shape.push(size);
        }
        Ok(shape)
    }
}
