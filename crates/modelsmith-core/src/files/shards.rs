//! How does a model's set of files change as one?
//!
//! The file that decides is written last: the index of a sharded set, or the single file. Shards
//! never take the name of an existing file; a set written over another is called
//! `model-r2-00001-of-00003.safetensors`, the next one plainly again. The old files go at the end.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::atomic::{atomic_json, make_folder, remove, sync_folder};
use super::names::safe_name;
use super::write::{TensorSpec, check_specs, write_streamed};
use crate::error::{Error, Result};

/// Writes a model's weights into a folder, in shards of at most `max_shard_bytes` of data.
///
/// What fits goes into `STEM.safetensors`; otherwise `STEM-00001-of-000NN.safetensors` and
/// `STEM.safetensors.index.json`. A larger tensor has a shard of its own. Tensors are shared out
/// in the order of their names; `bytes` is called once for each. A set already there is replaced
/// so that at every moment the old one or the new one is read. Returns the weight files.
pub fn write_sharded<'a>(
    dir: impl AsRef<Path>,
    stem: &str,
    specs: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    max_shard_bytes: u64,
    bytes: &mut dyn FnMut(&TensorSpec) -> Result<Cow<'a, [u8]>>,
) -> Result<Vec<PathBuf>> {
    let dir = dir.as_ref();
    safe_name("weight file", stem)?;
    check_specs(specs).map_err(|problem| Error::file(dir, problem))?;
    make_folder(dir)?;
    let single = dir.join(format!("{stem}.safetensors"));
    let index = dir.join(format!("{stem}.safetensors.index.json"));
    let shards = share_out(specs, max_shard_bytes);
    if shards.len() <= 1 {
        write_streamed(&single, specs, metadata, bytes)?;
        remove(&index)?;
        remove_shards(dir, stem, &BTreeSet::new())?;
        return Ok(vec![single]);
    }
    let names = free_names(dir, stem, shards.len());
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0_u64;
    for (name, shard) in names.iter().zip(&shards) {
        write_streamed(dir.join(name), shard, metadata, bytes)?;
        for spec in shard {
            weight_map.insert(spec.name.as_str(), name.as_str());
            total_size += spec.byte_len().unwrap_or(0) as u64;
        }
    }
    let listing = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    atomic_json(&index, &listing)?;
    // A single file takes precedence over an index, so the new set counts from this removal on.
    remove(&single)?;
    sync_folder(&single).map_err(|source| Error::io(&single, source))?;
    remove_shards(dir, stem, &names.iter().map(String::as_str).collect())?;
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

/// Shares tensors out to shards of at most `max_bytes`, greedily in the order of names; deterministic.
pub fn share_out(specs: &[TensorSpec], max_bytes: u64) -> Vec<Vec<TensorSpec>> {
    let mut sorted = specs.to_vec();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut shards: Vec<Vec<TensorSpec>> = Vec::new();
    let mut filled = 0_u64;
    for spec in sorted {
        let size = spec.byte_len().map_or(u64::MAX, |size| size as u64);
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(size) <= max_bytes => {
                filled = filled.saturating_add(size);
                shard.push(spec);
            }
            _ => {
                filled = size;
                shards.push(vec![spec]);
            }
        }
    }
    shards
}

/// Names for a set none of whose files exists yet.
fn free_names(dir: &Path, stem: &str, count: usize) -> Vec<String> {
    let mut round = 1;
    loop {
        let set = if round == 1 {
            stem.to_string()
        } else {
            format!("{stem}-r{round}")
        };
        let names: Vec<String> = (1..=count)
            .map(|number| format!("{set}-{number:05}-of-{count:05}.safetensors"))
            .collect();
        let taken = |name: &String| fs::symlink_metadata(dir.join(name)).is_ok();
        if !names.iter().any(taken) {
            return names;
        }
        round += 1;
    }
}

/// Removes the shards of this stem that do not belong to the set just written.
fn remove_shards(dir: &Path, stem: &str, keep: &BTreeSet<&str>) -> Result<()> {
    let io = |source| Error::io(dir, source);
    let mut old = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if let Some(name) = name.to_str()
            && is_shard(name, stem)
            && !keep.contains(name)
        {
            old.push(dir.join(name));
        }
    }
    old.sort();
    old.iter().try_for_each(|path| remove(path))
}

/// Whether a name is `STEM[-rN]-NNNNN-of-NNNNN.safetensors`.
fn is_shard(name: &str, stem: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = || {
        let rest = name.strip_prefix(stem)?.strip_prefix('-')?;
        let rest = rest.strip_suffix(".safetensors")?;
        let rest = match rest.strip_prefix('r').and_then(|rest| rest.split_once('-')) {
            Some((round, rest)) if digits(round) => rest,
            _ => rest,
        };
        rest.split_once("-of-")
    };
    numbers().is_some_and(|(number, count)| digits(number) && digits(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::DType;

    #[test]
    fn shards_are_told_from_other_files() {
        for name in [
            "m-00001-of-00002.safetensors",
            "m-r2-00001-of-00002.safetensors",
        ] {
            assert!(is_shard(name, "m"), "{name}");
        }
        for name in [
            "m.safetensors",
            "m-r2.safetensors",
            "mm-00001-of-00002.safetensors",
            "m-a-of-b.safetensors",
        ] {
            assert!(!is_shard(name, "m"), "{name}");
        }
    }

    #[test]
    fn tensors_are_shared_out_by_name_up_to_the_limit() {
        let spec = |name: &str, size: usize| TensorSpec::new(name, DType::U8, [size]);
        let specs = [
            spec("c", 3),
            spec("a", 2),
            spec("b", 2),
            spec("d", 9),
            spec("e", 0),
        ];
        let names: Vec<Vec<String>> = share_out(&specs, 4)
            .into_iter()
            .map(|shard| shard.into_iter().map(|spec| spec.name).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
    }
}
