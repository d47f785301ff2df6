//! Fixtures: what `transformers` computed on tiny checkpoints (`parity/hosts/make.py`).

#![allow(dead_code, reason = "each test binary uses its part")]

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use modelsmith_core::files::{Reader, read_json};
use modelsmith_core::hooks::Pass;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{KvCache, TokenInput, Transformer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Folder of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/hosts")
}

/// A fixture loaded on the CPU.
pub(crate) fn host(name: &str) -> Transformer {
    modelsmith_hosts::load(&fixtures().join(name), &Device::flex()).unwrap()
}

/// A fixture under each spelling of its configuration.
pub(crate) fn spellings(name: &str) -> Vec<Transformer> {
    let folder = fixtures().join(name);
    let mut hosts = vec![host(name)];
    if folder.join("config.new.json").is_file() {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let new = copy.path().join("config.new.json");
        std::fs::rename(new, copy.path().join("config.json")).unwrap();
        hosts.push(modelsmith_hosts::load(copy.path(), &Device::flex()).unwrap());
    }
    hosts
}

/// The configuration of a fixture.
pub(crate) fn config(name: &str) -> Value {
    read_json(fixtures().join(name).join("config.json")).unwrap()
}

/// What a fixture expects.
pub(crate) struct Expected(pub(crate) Reader);

impl Expected {
    pub(crate) fn open(name: &str) -> Self {
        let path = fixtures().join(name).join("expected.safetensors");
        Self(Reader::open(path).unwrap())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    pub(crate) fn floats(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        (
            self.0.f32(name).unwrap(),
            self.0.info(name).unwrap().shape.clone(),
        )
    }

    /// Rows of whole numbers; a vector is one row.
    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        let shape = self.0.info(name).unwrap().shape.clone();
        let bytes = self.0.bytes(name).unwrap();
        let values: Vec<i64> = bytes
            .chunks_exact(8)
            .map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap()))
            .collect();
        values
            .chunks(*shape.last().unwrap())
            .map(<[i64]>::to_vec)
            .collect()
    }
}

/// A tensor of whole numbers.
pub(crate) fn ints(rows: &[Vec<i64>]) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
}

/// A mask from zeros and ones.
pub(crate) fn mask(rows: &[Vec<i64>]) -> Tensor<2, Bool> {
    let values: Vec<bool> = rows.iter().flatten().map(|value| *value == 1).collect();
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Asserts `max |a - b| <= 1e-4 max |b|` over the positions where `mask` is 1.
pub(crate) fn close(what: &str, found: &[f32], expected: &[f32], mask: Option<&[Vec<i64>]>) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let columns = mask.map_or(1, |mask| mask.len() * mask[0].len());
    let width = expected.len() / columns;
    let counts = |i: usize| mask.is_none_or(|mask| mask.concat()[i / width] == 1);
    let kept: Vec<usize> = (0..columns).filter(|i| counts(i * width)).collect();
    let places = kept
        .iter()
        .flat_map(|column| column * width..(column + 1) * width);
    let (mut gap, mut most) = (0_f32, 0_f32);
    for i in places {
        let difference = (found[i] - expected[i]).abs();
        assert!(difference.is_finite(), "{what}: value {i} is {}", found[i]);
        gap = gap.max(difference);
        most = most.max(expected[i].abs());
    }
    assert!(
        gap <= 1e-4 * most,
        "{what}: difference {gap} with values up to {most}"
    );
}

/// The batch of a fixture under a prefix (`` or `left_`).
pub(crate) fn batch(expected: &Expected, prefix: &str) -> TokenInput {
    let mut input = TokenInput::new(ints(&expected.rows(&format!("{prefix}input_ids"))));
    let name = format!("{prefix}attention_mask");
    if expected.has(&name) {
        input.mask = Some(mask(&expected.rows(&name)));
    }
    if expected.has("token_type_ids") {
        input.token_types = Some(ints(&expected.rows("token_type_ids")));
    }
    input
}

/// The decoder's tokens of a fixture, and the texts that its encoder reads.
pub(crate) fn answers(expected: &Expected) -> TokenInput {
    TokenInput {
        source: Some(Box::new(batch(expected, ""))),
        ..TokenInput::new(ints(&expected.rows("decoder_input_ids")))
    }
}

/// The best token of the last column of each row.
pub(crate) fn best(logits: Tensor<3>) -> Vec<u32> {
    let [batch, time, classes] = logits.dims();
    let values = to_vec(logits);
    (0..batch)
        .map(|row| {
            let line = &values[(row * time + time - 1) * classes..][..classes];
            let best = (0..classes).max_by(|a, b| line[*a].total_cmp(&line[*b]));
            best.unwrap() as u32
        })
        .collect()
}

/// Greedy tokens of prompts padded on the left, with or without a cache.
pub(crate) fn greedy(
    host: &Transformer,
    prompts: &[Vec<u32>],
    count: usize,
    cached: bool,
) -> Vec<Vec<u32>> {
    let device = Device::flex();
    let pass = Pass::default();
    let mut rows = prompts.to_vec();
    let mut cache = KvCache::new();
    for step in 0..count {
        let fresh: Vec<Vec<u32>> = match cached && step > 0 {
            true => rows.iter().map(|row| vec![*row.last().unwrap()]).collect(),
            false => rows.clone(),
        };
        let input = TokenInput::from_ids(&fresh, 0, true, &device);
        let cache = cached.then_some(&mut cache);
        let hidden = host.hidden(&input, &pass, &[], cache).unwrap();
        let tokens = best(host.logits(hidden, &input, &pass, &[]));
        rows.iter_mut()
            .zip(tokens)
            .for_each(|(row, token)| row.push(token));
    }
    rows.iter()
        .zip(prompts)
        .map(|(row, prompt)| row[prompt.len()..].to_vec())
        .collect()
}
