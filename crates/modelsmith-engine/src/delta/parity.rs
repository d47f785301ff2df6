//! Our merges of tiny checkpoints against mergekit's (`parity/deltas`).

use super::merge::run_in;
use super::tests::Bench;
use modelsmith_core::files::{Checkpoint, DType, Reader, read_json};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest difference from mergekit, relative to the tensor's largest entry. It computes these in `f32` too, in another
/// order: some units of the last place (6e-8), the arcs with an arccosine in between.
const TOLERANCE: f32 = 1e-6;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/deltas")
}

/// The tensors of one model of a file of several, by their own names.
fn tensors(file: &Reader, model: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let prefix = format!("{model}/");
    let own = file
        .names()
        .filter_map(|name| Some((name, name.strip_prefix(&prefix)?)));
    own.map(|(full, name)| {
        (
            name.to_owned(),
            file.info(full).unwrap().shape.clone(),
            file.f32(full).unwrap(),
        )
    })
    .collect()
}

#[test]
fn deterministic_methods_give_mergekits_numbers() {
    let models = Reader::open(fixtures().join("models.safetensors")).unwrap();
    let expected = Reader::open(fixtures().join("mergekit.safetensors")).unwrap();
    let listing: Value = read_json(fixtures().join("cases.json")).unwrap();
    let bench = Bench::new();
    for name in ["base", "a", "b", "c"] {
        bench.write(name, &tensors(&models, name), DType::F32);
    }
    let cases = listing["cases"].as_object().unwrap();
    for (name, text) in cases {
        let text = ["base", "a", "b", "c"].iter().fold(
            text.as_str().unwrap().to_owned(),
            |text, model| {
                let text =
                    text.replace(&format!("model: {model}\n"), &format!("model: @{model}\n"));
                let text = text.replace(&format!("model: {model},"), &format!("model: @{model},"));
                text.replace(&format!("model: {model}}}"), &format!("model: @{model}}}"))
            },
        );
        run_in(&bench.options(&text, name), 1 << 22)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = Checkpoint::open(bench.path(name)).unwrap();
        let wanted = tensors(&expected, name);
        assert_eq!(found.len(), wanted.len(), "{name}");
        for (tensor, shape, values) in wanted {
            assert_eq!(
                found.info(&tensor).unwrap().shape,
                shape,
                "{name}: {tensor}"
            );
            let ours = found.f32(&tensor).unwrap();
            let largest = values
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            let worst = ours
                .iter()
                .zip(&values)
                .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(
                worst <= TOLERANCE * largest,
                "{name}: {tensor} differs by {worst} of {largest}"
            );
        }
    }
    assert_eq!(cases.len(), 16);
}
