//! A patch as a file: some hundred kilobytes instead of a checkpoint.
//!
//! safetensors with `direction` (f32, `[width]`) and `rows.NAME` for each changed weight (u32, the row
//! numbers); the header says the strength, how each weight lies, and what the patch comes from.

use crate::adapter_folder::base_hash;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, Reader, View, parse_json, write_safetensors};
use modelsmith_core::host::Host;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::{Patch, Rows, Surgery};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FORMAT: &str = "modelsmith-surgery-1";
const ROWS: &str = "rows.";

/// What a patch comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Blake3 of the base's weight files.
    pub base_hash: String,
    /// `architectures` of the base.
    pub architecture: String,
    /// Names of the probe's classes.
    pub classes: Vec<String>,
    /// The class whose direction it is.
    pub class: String,
    /// Share of held-out texts that the probe got right.
    pub accuracy: f64,
    /// Blake3 of the texts that the probe was trained on.
    pub data_hash: String,
    /// The options.
    pub options: Surgery,
}

/// The part of the header that is read back.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alpha: f64,
    weights: BTreeMap<String, Place>,
    origin: Origin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    block: usize,
    fan_in_fan_out: bool,
}

/// Writes a patch, atomically; the same patch gives the same bytes.
///
/// # Errors
/// The file cannot be written.
pub fn save(path: &Path, patch: &Patch, origin: &Origin) -> Result<()> {
    let places = patch.places.iter();
    let weights = places.map(|place| {
        let Rows {
            block,
            fan_in_fan_out,
            ..
        } = *place;
        let found = Place {
            block,
            fan_in_fan_out,
        };
        (place.weight.clone(), found)
    });
    let header = Header {
        alpha: patch.alpha,
        weights: weights.collect(),
        origin: origin.clone(),
    };
    let header = serde_json::to_string(&header)
        .map_err(|problem| Error::Failed(format!("the patch's header: {problem}")))?;
    let metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("patch".to_owned(), header),
    ]);
    let direction: Vec<u8> = patch
        .direction
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let width = [patch.direction.len()];
    let rows: Vec<(String, Vec<u8>, [usize; 1])> = patch
        .places
        .iter()
        .map(|place| {
            let bytes = place
                .rows
                .iter()
                .flat_map(|row| row.to_le_bytes())
                .collect();
            (format!("{ROWS}{}", place.weight), bytes, [place.rows.len()])
        })
        .collect();
    let mut tensors = vec![View {
        name: "direction",
        dtype: DType::F32,
        shape: &width,
        bytes: &direction,
    }];
    tensors.extend(rows.iter().map(|(name, bytes, shape)| View {
        name,
        dtype: DType::U32,
        shape,
        bytes,
    }));
    write_safetensors(path, &tensors, &metadata)
}

/// Reads a patch for a host.
///
/// # Errors
/// A file that is no patch, or one for another base unless `any_base`.
pub fn load(path: &Path, host: &Transformer, any_base: bool) -> Result<(Patch, Origin)> {
    let reader = Reader::open(path)?;
    let metadata = reader.metadata();
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(Error::file(
            path,
            format!("is no patch of Model Surgery; its header says no format {FORMAT}"),
        ));
    }
    let header = metadata.get("patch").map_or("", String::as_str);
    let header: Header = parse_json(path, header.as_bytes())?;
    check_base(path, &header.origin, host, any_base)?;
    let mut places = Vec::new();
    for (weight, place) in header.weights {
        places.push(Rows {
            rows: row_numbers(&reader, &format!("{ROWS}{weight}"))?,
            weight,
            block: place.block,
            fan_in_fan_out: place.fan_in_fan_out,
        });
    }
    places.sort_by(|a, b| (a.block, &a.weight).cmp(&(b.block, &b.weight)));
    let patch = Patch {
        direction: reader.f32("direction")?,
        alpha: header.alpha,
        places,
    };
    for place in &patch.places {
        let known = host.weight(&place.weight);
        let weight = known.ok_or_else(|| {
            Error::file(
                path,
                format!("changes {}, which the model does not have", place.weight),
            )
        })?;
        patch
            .apply(&place.weight, &weight)
            .map_err(|problem| Error::file(path, problem))?;
    }
    Ok((patch, header.origin))
}

fn row_numbers(reader: &Reader, name: &str) -> Result<Vec<u32>> {
    let view = reader.view(name)?;
    if view.dtype != DType::U32 {
        let problem = format!("tensor {name} is {}; expected U32", view.dtype.name());
        return Err(Error::file(reader.path(), problem));
    }
    let numbers = view.bytes.chunks_exact(4);
    let rows: Vec<u32> = numbers
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    match rows.windows(2).all(|pair| pair[0] < pair[1]) {
        true => Ok(rows),
        false => Err(Error::file(
            reader.path(),
            format!("tensor {name} does not list rows in ascending order, each once"),
        )),
    }
}

fn check_base(path: &Path, origin: &Origin, host: &Transformer, any_base: bool) -> Result<()> {
    let folder = Path::new(&host.info().origin);
    if any_base || origin.base_hash.is_empty() || !folder.exists() {
        return Ok(());
    }
    if base_hash(folder)? == origin.base_hash {
        return Ok(());
    }
    Err(Error::file(
        path,
        format!(
            "was made for other weights than those of {}; use its base, or say that any base will do",
            folder.display()
        ),
    ))
}
