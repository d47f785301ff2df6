//! Which tensors does a model folder hold, and in which file does each lie?
//!
//! `model.safetensors` alone, or shards listed by `model.safetensors.index.json`. When both are
//! there the single file counts, as it does for `transformers`; [`super::write_sharded`] relies on
//! that order to replace one form by the other without a moment in which neither is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::header::MAX_TENSORS;
use super::json::{UniqueMap, read_json};
use super::kind::{CONVERT, refused_by_name, shown};
use super::safetensors::{Reader, TensorInfo, View};
use crate::error::{Error, Result, suggest};

/// Most tensors an index may list: ten full files.
const MAX_LISTED: usize = 10 * MAX_TENSORS;

/// The weights of a model, from one file or many, checked against their index.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    shards: Vec<Reader>,
    /// Shard number of every tensor.
    owner: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    metadata: Option<IndexMetadata>,
    weight_map: UniqueMap<MAX_LISTED>,
}

#[derive(Deserialize)]
struct IndexMetadata {
    total_size: Option<serde_json::Number>,
}

impl Checkpoint {
    /// Opens a model folder, a `.safetensors` file, or a `.safetensors.index.json` file.
    ///
    /// Every shard's header is checked, and the index against the shards: absent shards, names
    /// that leave the folder, tensors that lie elsewhere, twice or unlisted, and a wrong total
    /// size are errors. Pickled weights are refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if !metadata.is_dir() {
            return Self::open_file(path);
        }
        for name in ["model.safetensors", "model.safetensors.index.json"] {
            let file = path.join(name);
            if std::fs::symlink_metadata(&file).is_ok() {
                return Self::open_file(&file);
            }
        }
        Err(Error::file(path, no_weights(path)))
    }

    fn open_file(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|ending| ending == "json") {
            return Self::open_sharded(path);
        }
        let reader = Reader::open(path)?;
        Ok(Self {
            root: path.to_path_buf(),
            owner: reader.names().map(|name| (name.to_string(), 0)).collect(),
            shards: vec![reader],
        })
    }

    fn open_sharded(index_path: &Path) -> Result<Self> {
        let index: Index = read_json(index_path)?;
        let fail = |problem: String| Error::file(index_path, problem);
        let map = index.weight_map.0;
        if map.is_empty() {
            return Err(fail("weight_map lists no tensor".into()));
        }
        let files: BTreeSet<&str> = map.values().map(String::as_str).collect();
        for file in &files {
            check_shard_name(file).map_err(fail)?;
        }
        let folder = index_path.parent().unwrap_or(Path::new(""));
        let mut shards = Vec::new();
        let mut owner = BTreeMap::new();
        for file in files {
            let reader = open_shard(index_path, &folder.join(file))?;
            claim(&reader, file, &map, &mut owner, shards.len()).map_err(fail)?;
            shards.push(reader);
        }
        if let Some((name, file)) = map.iter().find(|(name, _)| !owner.contains_key(*name)) {
            return Err(fail(format!(
                "weight_map places tensor {} in {}, which does not hold it",
                shown(name),
                shown(file)
            )));
        }
        let checkpoint = Self {
            root: index_path.to_path_buf(),
            shards,
            owner,
        };
        check_total(index.metadata, checkpoint.total_bytes()).map_err(fail)?;
        Ok(checkpoint)
    }

    /// The file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.owner.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.owner.contains_key(name)
    }

    /// The files, in the order of their names.
    pub fn shards(&self) -> &[Reader] {
        &self.shards
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(Reader::data_bytes).sum()
    }

    /// Type, shape and place of a tensor; an unknown name is an error with near names.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.shard_of(name)?.info(name)
    }

    /// A tensor's bytes as stored.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.shard_of(name)?.bytes(name)
    }

    /// A tensor with its description, as stored.
    pub fn view<'a>(&'a self, name: &str) -> Result<View<'a>> {
        self.shard_of(name)?.view(name)
    }

    /// A tensor's elements as `f32`, row-major; see [`Reader::f32`].
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        self.shard_of(name)?.f32(name)
    }

    /// The file that holds a tensor; an unknown name is an error with near names.
    pub fn shard_of(&self, name: &str) -> Result<&Reader> {
        let shard = self.owner.get(name).ok_or_else(|| {
            let near = suggest(name, self.names());
            Error::file(&self.root, format!("no tensor {}; {near}", shown(name)))
        })?;
        Ok(&self.shards[*shard])
    }
}

/// Opens a shard and says, when it is absent, who asked for it.
fn open_shard(index_path: &Path, path: &Path) -> Result<Reader> {
    match std::fs::metadata(path) {
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Err(Error::file(
            index_path,
            format!("the shard {} is missing; download it again", path.display()),
        )),
        _ => Reader::open(path),
    }
}

/// Enters a shard's tensors under its number; each must be listed, and listed here.
fn claim(
    reader: &Reader,
    file: &str,
    map: &BTreeMap<String, String>,
    owner: &mut BTreeMap<String, usize>,
    number: usize,
) -> Result<(), String> {
    for name in reader.names() {
        let (name_shown, file_shown) = (shown(name), shown(file));
        match map.get(name) {
            None => {
                return Err(format!(
                    "shard {file_shown} holds tensor {name_shown}, which weight_map does not list"
                ));
            }
            Some(listed) if listed != file => {
                return Err(format!(
                    "tensor {name_shown} is in shard {file_shown}, but weight_map places it in {}: \
                     it lies in two shards or the index is wrong",
                    shown(listed)
                ));
            }
            Some(_) => owner.insert(name.to_string(), number),
        };
    }
    Ok(())
}

fn check_shard_name(name: &str) -> Result<(), String> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\', ':', '\0'])
        && name.len() <= 255;
    if !plain {
        return Err(format!(
            "weight_map names the shard {}; expected a plain file name in the same folder",
            shown(name)
        ));
    }
    if let Some(reason) = refused_by_name(Path::new(name)) {
        return Err(format!(
            "weight_map names the shard {}: {reason}",
            shown(name)
        ));
    }
    Ok(())
}

/// Compares `metadata.total_size`, where given, with the bytes found.
fn check_total(metadata: Option<IndexMetadata>, found: u64) -> Result<(), String> {
    let Some(total) = metadata.and_then(|metadata| metadata.total_size) else {
        return Ok(());
    };
    // Some writers give the sum as a float; 2^53 bytes are more than any checkpoint has.
    let equal = total.as_u64() == Some(found) || total.as_f64() == Some(found as f64);
    if equal {
        return Ok(());
    }
    Err(format!(
        "metadata.total_size is {total}, but the shards hold {found} bytes: a shard belongs to \
         another version; download the folder again"
    ))
}

/// Why a folder has no readable weights, by what lies in it.
fn no_weights(folder: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = "expected model.safetensors or model.safetensors.index.json";
    let with = |wanted: &dyn Fn(&str) -> bool| names.iter().find(|name| wanted(name));
    if with(&|name| name == "adapter_model.safetensors").is_some() {
        return format!("this folder holds a PEFT adapter, not a model; {expected}");
    }
    if let Some(other) = with(&|name| name.ends_with(".safetensors")) {
        return format!("{expected}; found {}: give that file itself", shown(other));
    }
    let pickled = |name: &str| {
        let endings = [".bin", ".bin.index.json", ".pt", ".pth", ".pkl", ".ckpt"];
        endings.iter().any(|ending| name.ends_with(ending)) && name != "training_args.bin"
    };
    if let Some(pickle) = with(&pickled) {
        return format!(
            "the only weights here are pickled ({}), and loading a pickle can run any code; {CONVERT}",
            shown(pickle)
        );
    }
    format!("no model weights; {expected}")
}
