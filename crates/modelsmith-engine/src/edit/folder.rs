//! Edits as files: what the base was, and every batch in a file of its own, whole or absent.
//!
//! ```text
//! EDITS/  edits.json   steps/000001.safetensors ...   undone/...   lock
//! ```
//!
//! The edited model is the base with the changes of `steps/` made in the order of their numbers; taking a
//! file away undoes its batch. The base is never written to.

use super::change::Change;
use super::editor::{Figures, Step};
use super::facts::Statement;
use super::guard::Guard;
use crate::lock;
use crate::recipe::Named;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{
    DType, Reader, TensorSpec, atomic_json, clean_stale, make_folder, parse_json, read_json,
    write_streamed,
};
use modelsmith_core::weights::encode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const HEADER: &str = "edits.json";
const STEPS: &str = "steps";
const UNDONE: &str = "undone";
const FORMAT: u32 = 1;

/// What all batches of a folder have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the layout.
    pub format: u32,
    /// Folder of the base.
    pub base: PathBuf,
    /// Hash of its weights.
    pub base_hash: String,
    /// The editor with its options.
    pub method: Named,
    /// Numbers of the edited blocks.
    pub layers: Vec<usize>,
    /// Texts in front of the prompts.
    pub contexts: Vec<String>,
    /// Seed under which they were drawn.
    pub seed: u64,
    /// Limits of the changes.
    pub guard: Guard,
    /// The text that the moments were collected from, and the hash of its file.
    pub corpus: Option<(PathBuf, String)>,
}

impl Header {
    /// The layout that is written.
    pub const FORMAT: u32 = FORMAT;
}

/// A batch as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What was written.
    pub statements: Vec<Statement>,
    /// What came of it.
    pub figures: Figures,
}

/// What a tensor pair of a step file is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    layer: usize,
    weight: String,
    fan_in_fan_out: bool,
    whole: bool,
    consistency: Option<f64>,
}

/// A folder of edits, held by this process.
#[derive(Debug)]
pub struct EditFolder {
    path: PathBuf,
    /// What all batches have in common.
    pub header: Header,
    _lock: File,
}

impl EditFolder {
    /// Whether a folder holds edits.
    pub fn is_one(path: &Path) -> bool {
        path.join(HEADER).is_file()
    }

    /// Makes a folder of edits.
    ///
    /// # Errors
    /// A folder that holds edits already, that another process holds, or that cannot be written.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        if Self::is_one(path) {
            let problem = "holds edits already; name a new folder";
            return Err(Error::file(path, problem));
        }
        let lock = lock::hold(path, "folder of edits")?;
        make_folder(path.join(STEPS))?;
        atomic_json(path.join(HEADER), &header)?;
        Ok(Self {
            path: path.to_path_buf(),
            header,
            _lock: lock,
        })
    }

    /// Opens one.
    ///
    /// # Errors
    /// A folder without edits, of another version, or that another process holds.
    pub fn open(path: &Path) -> Result<Self> {
        if !Self::is_one(path) {
            let problem =
                format!("is no folder of edits (no {HEADER}); `modelsmith edit` makes one");
            return Err(Error::file(path, problem));
        }
        let lock = lock::hold(path, "folder of edits")?;
        let header: Header = read_json(path.join(HEADER))?;
        if header.format != FORMAT {
            let problem = format!(
                "is of version {}; this program reads {FORMAT}",
                header.format
            );
            return Err(Error::file(path.join(HEADER), problem));
        }
        clean_stale(path.join(STEPS))?;
        Ok(Self {
            path: path.to_path_buf(),
            header,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Numbers of the batches that are made, in the order in which they are.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        numbers(&self.path.join(STEPS))
    }

    /// The number that the next batch gets: those of undone batches are not used again.
    pub(crate) fn next(&self) -> Result<u64> {
        let made = self.steps()?.into_iter();
        let undone = numbers(&self.path.join(UNDONE))?;
        Ok(made.chain(undone).max().unwrap_or(0) + 1)
    }

    /// Keeps a batch.
    ///
    /// # Errors
    /// A file that cannot be written; there is none then.
    pub(crate) fn write(&self, number: u64, statements: &[Statement], step: &Step) -> Result<()> {
        let mut tensors: BTreeMap<String, (Vec<usize>, &[f32])> = BTreeMap::new();
        let mut places = Vec::new();
        for (at, change) in step.changes.iter().enumerate() {
            let [outputs, rank, inputs] = change.sizes;
            if let Some(left) = &change.left {
                tensors.insert(format!("{at:03}.left"), (vec![outputs, rank], left));
            }
            tensors.insert(
                format!("{at:03}.right"),
                (vec![rank, inputs], &change.right),
            );
            places.push(Place {
                layer: change.layer,
                weight: change.weight.clone(),
                fan_in_fan_out: change.fan_in_fan_out,
                whole: change.left.is_none(),
                consistency: change.consistency,
            });
        }
        for (layer, (width, keys)) in &step.keys {
            let facts = keys.len() / (*width).max(1);
            tensors.insert(format!("keys.{layer}"), (vec![facts, *width], keys));
        }
        let entry = Entry {
            statements: statements.to_vec(),
            figures: step.figures.clone(),
        };
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| Error::Failed(format!("the record of a batch: {error}")))
        };
        let metadata = BTreeMap::from([
            ("entry".to_owned(), json(serde_json::to_string(&entry))?),
            ("changes".to_owned(), json(serde_json::to_string(&places))?),
        ]);
        let specs: Vec<TensorSpec> = tensors
            .iter()
            .map(|(name, (shape, _))| TensorSpec::new(name, DType::F32, shape.clone()))
            .collect();
        write_streamed(self.file(number), &specs, &metadata, &mut |spec| {
            encode(spec, tensors[&spec.name].1)
        })
    }

    /// A batch as lists show it.
    ///
    /// # Errors
    /// A damaged file.
    pub fn entry(&self, number: u64) -> Result<Entry> {
        let path = self.file(number);
        metadata(&Reader::open(&path)?, "entry")
    }

    /// A batch.
    ///
    /// # Errors
    /// A damaged file.
    pub(crate) fn read(&self, number: u64) -> Result<Step> {
        let path = self.file(number);
        let reader = Reader::open(&path)?;
        let entry: Entry = metadata(&reader, "entry")?;
        let places: Vec<Place> = metadata(&reader, "changes")?;
        let shape = |name: &str| match reader.info(name)?.shape[..] {
            [rows, columns] => Ok([rows, columns]),
            ref other => Err(Error::file(
                &path,
                format!("tensor {name} has shape {other:?}; two axes were expected"),
            )),
        };
        let mut changes = Vec::new();
        for (at, place) in places.into_iter().enumerate() {
            let (left, right) = (format!("{at:03}.left"), format!("{at:03}.right"));
            let [rank, inputs] = shape(&right)?;
            let outputs = if place.whole { rank } else { shape(&left)?[0] };
            if !place.whole && shape(&left)?[1] != rank {
                let problem = format!("tensors {left} and {right} do not belong together");
                return Err(Error::file(&path, problem));
            }
            changes.push(Change {
                layer: place.layer,
                weight: place.weight,
                fan_in_fan_out: place.fan_in_fan_out,
                sizes: [outputs, rank, inputs],
                left: if place.whole {
                    None
                } else {
                    Some(reader.f32(&left)?)
                },
                right: reader.f32(&right)?,
                consistency: place.consistency,
            });
        }
        let mut keys = BTreeMap::new();
        for name in reader.names() {
            let layer = name
                .strip_prefix("keys.")
                .and_then(|text| text.parse().ok());
            if let Some(layer) = layer {
                keys.insert(layer, (shape(name)?[1], reader.f32(name)?));
            }
        }
        Ok(Step {
            changes,
            keys,
            figures: entry.figures,
        })
    }

    /// Takes a batch out; its file is kept in `undone/`.
    ///
    /// # Errors
    /// A number that is not made, a file that cannot be moved.
    pub fn undo(&self, number: u64) -> Result<()> {
        let file = self.file(number);
        if !file.is_file() {
            let problem = format!("there is no batch {number}; `modelsmith edit show` lists them");
            return Err(Error::file(&self.path, problem));
        }
        let undone = self.path.join(UNDONE);
        make_folder(&undone)?;
        let target = undone.join(file_name(number));
        std::fs::rename(&file, target).map_err(|error| Error::io(&file, error))
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(STEPS).join(file_name(number))
    }
}

fn file_name(number: u64) -> String {
    format!("{number:06}.safetensors")
}

/// Numbers of the batches in a folder, rising.
fn numbers(folder: &Path) -> Result<Vec<u64>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |error| Error::io(folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".safetensors"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn metadata<T: serde::de::DeserializeOwned>(reader: &Reader, key: &str) -> Result<T> {
    match reader.metadata().get(key) {
        Some(text) => parse_json(reader.path(), text.as_bytes()),
        None => Err(Error::file(
            reader.path(),
            format!("has no `{key}` in its metadata; it is no batch of edits"),
        )),
    }
}
