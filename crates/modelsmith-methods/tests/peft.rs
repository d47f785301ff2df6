//! Adapters that PEFT 0.21.2 saved compute on our hosts what they compute there.
//!
//! The fixtures are in `parity/lora` with the script that made them. Logits agree within 1e-5 of
//! the largest logit, the rounding of f32 sums in another order.

mod fixtures;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use fixtures::{files, host, input, integers, parity};
use modelsmith_core::files::{DType, Reader};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::adapter::common::combine::{Combination, combine};
use modelsmith_methods::from_peft;
use std::collections::BTreeMap;

const TOLERANCE: f32 = 1e-5;

fn reader(path: &str) -> Reader {
    Reader::open(parity(path)).unwrap()
}

fn floats(reader: &Reader) -> BTreeMap<String, Flat> {
    let mut found = BTreeMap::new();
    for name in reader.names() {
        let info = reader.info(name).unwrap();
        if info.dtype == DType::F32 {
            let values = reader.f32(name).unwrap();
            let flat = Flat::from_vec(values, &info.shape, &Device::flex());
            found.insert(name.to_owned(), flat);
        }
    }
    found
}

fn logits(host: &Transformer, input: &TokenInput, adapters: &[&dyn Adapter]) -> Vec<f32> {
    let hooks: Vec<&dyn Hooks> = adapters.iter().map(|adapter| adapter.hooks()).collect();
    to_vec(host.forward(input, &Pass::default(), &hooks).unwrap())
}

/// The largest difference at real tokens, relative to the largest expected logit.
fn distance(found: &[f32], expected: &[f32], mask: &[bool]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // A sequence classifier has one row of logits for each text.
    let per_token = !mask.is_empty() && found.len() >= 10 * mask.len();
    let width = found.len() / mask.len().max(1);
    let real = |at: usize| !per_token || mask[at / width];
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let pairs = found
        .iter()
        .zip(expected)
        .enumerate()
        .filter(|(at, _)| real(*at));
    pairs.fold(0f32, |most, (_, (x, y))| most.max((x - y).abs())) / largest
}

fn restore(host: &Transformer, files: &AdapterFiles) -> Box<dyn Adapter> {
    from_peft(&files.config)
        .unwrap()
        .restore(host, files)
        .unwrap()
}

fn merged(host: &Transformer, adapter: &dyn Adapter) -> Transformer {
    let mut merged = host.clone();
    for name in host.weight_names() {
        if let Some(weight) = adapter.merged(host, &name).unwrap() {
            merged.set_weight(&name, &weight).unwrap();
        }
    }
    merged
}

#[test]
fn every_saved_adapter_gives_pefts_logits_and_merges_to_them() {
    let mut cases = 0;
    for case in saved_cases() {
        let files = files(&case);
        let host = host(&files);
        let reader = reader(&format!("{case}/expected.safetensors"));
        let expected = floats(&reader);
        let (input, mask) = input(&reader);
        let adapter = restore(&host, &files);
        let found = logits(&host, &input, &[adapter.as_ref()]);
        let apart = distance(&found, &expected["logits"].to_vec(), &mask);
        assert!(apart < TOLERANCE, "{case}: {apart}");
        cases += 1;
        let Some(after) = expected.get("merged_logits") else {
            assert_eq!(case, "lora/t5_embedding");
            continue;
        };
        // The tied case too: setting a shared weight changes both layers, as merging in PEFT does.
        let found = logits(&merged(&host, adapter.as_ref()), &input, &[]);
        let apart = distance(&found, &after.to_vec(), &mask);
        assert!(apart < TOLERANCE, "{case} merged: {apart}");
    }
    assert_eq!(cases, 32);
}

/// Folders of adapters that PEFT saved with what it computed.
fn saved_cases() -> Vec<String> {
    let mut found = Vec::new();
    for kind in ["lora", "adapters"] {
        for entry in std::fs::read_dir(parity(kind)).unwrap() {
            let case = format!("{kind}/{}", entry.unwrap().file_name().to_string_lossy());
            let adapter = parity(&format!("{case}/adapter_config.json")).exists();
            if adapter && case != "lora/train" {
                found.push(case);
            }
        }
    }
    found
}

/// What is read is written again: the same tensors, and a configuration that means the same.
#[test]
fn adalora_and_ia3_are_written_as_they_were_read() {
    let mut cases = 0;
    for case in saved_cases()
        .iter()
        .filter(|case| case.starts_with("adapters/"))
    {
        let files = files(case);
        let host = host(&files);
        let again = restore(&host, &files).files(&host).unwrap();
        let filled = files.tensors.iter().filter(|(_, flat)| !flat.is_empty());
        let expected: BTreeMap<&String, Vec<f32>> =
            filled.map(|(key, flat)| (key, flat.to_vec())).collect();
        let found = again.tensors.iter();
        let found: BTreeMap<&String, Vec<f32>> =
            found.map(|(key, flat)| (key, flat.to_vec())).collect();
        assert_eq!(found, expected, "{case}");
        for key in [
            "peft_type",
            "rank_pattern",
            "total_step",
            "lora_alpha",
            "task_type",
        ] {
            assert_eq!(
                again.config.get(key),
                files.config.get(key),
                "{case}: {key}"
            );
        }
        cases += 1;
    }
    assert_eq!(cases, 10);
}

#[test]
fn two_adapters_at_once_and_mixed_give_pefts_logits() {
    let (first, second) = (files("lora/combined/first"), files("lora/combined/second"));
    let host = host(&first);
    let reader = reader("lora/combined/expected.safetensors");
    let expected = floats(&reader);
    let (input, mask) = input(&reader);
    let (one, two) = (restore(&host, &first), restore(&host, &second));
    let mixed = |how| {
        restore(
            &host,
            &combine(&[(&first, 0.7), (&second, 0.4)], how).unwrap(),
        )
    };
    let linear = mixed(Combination::Linear);
    let cat = mixed(Combination::Cat);
    let svd = mixed(Combination::Svd { rank: 3 });
    for (name, adapters) in [
        ("first", vec![one.as_ref()]),
        ("second", vec![two.as_ref()]),
        ("both", vec![one.as_ref(), two.as_ref()]),
        ("linear", vec![linear.as_ref()]),
        ("cat", vec![cat.as_ref()]),
        ("svd", vec![svd.as_ref()]),
    ] {
        let found = logits(&host, &input, &adapters);
        let apart = distance(&found, &expected[&format!("logits.{name}")].to_vec(), &mask);
        assert!(apart < TOLERANCE, "{name}: {apart}");
    }
    let mut weighted = [(one, 0.7), (two, 0.4)];
    for (adapter, weight) in &mut weighted {
        adapter.set_scale(*weight).unwrap();
    }
    let found = logits(
        &host,
        &input,
        &[weighted[0].0.as_ref(), weighted[1].0.as_ref()],
    );
    let apart = distance(&found, &expected["logits.cat"].to_vec(), &mask);
    assert!(apart < TOLERANCE, "scaled: {apart}");
}

/// Mean cross-entropy where a label is not -100, of the token `ahead` places on: 1 in a text, 0 where a
/// decoder reads the labels shifted.
fn loss(logits: Tensor<3>, labels: &[i64], shape: [usize; 2], ahead: usize) -> Tensor<1> {
    let [batch, time] = shape;
    let width = logits.dims()[2];
    let mut weight = vec![0f32; batch * time * width];
    let mut count = 0f32;
    for row in 0..batch {
        for at in ahead..time {
            let label = labels[row * time + at];
            if label >= 0 {
                weight[(row * time + at - ahead) * width + label as usize] = -1.0;
                count += 1.0;
            }
        }
    }
    let weight = TensorData::new(weight, [batch, time, width]);
    let weight = Tensor::<3>::from_data(weight, &Device::flex());
    (log_softmax(logits, 2) * weight).sum() / count
}

#[test]
fn loss_and_gradients_are_those_of_torch() {
    for (case, key, ahead, tensors) in [("train", "losses", 1, 8), ("t5", "loss", 0, 28)] {
        gradients_agree(case, key, ahead, tensors);
    }
}

fn gradients_agree(case: &str, key: &str, ahead: usize, tensors: usize) {
    let files = files(&format!("lora/{case}"));
    let host = host(&files);
    let reader = reader(&format!("lora/{case}/expected.safetensors"));
    let expected = floats(&reader);
    let (input, _) = input(&reader);
    let (labels, shape) = integers(&reader, "labels").unwrap();
    let adapter = restore(&host, &files);
    let logits = host
        .forward(&input, &Pass::default(), &[adapter.hooks()])
        .unwrap();
    let loss = loss(logits, &labels, shape, ahead);
    let first = expected[key].to_vec()[0];
    let found = to_vec(loss.clone())[0];
    assert!(
        (found - first).abs() < 1e-5 * first,
        "{found} against {first}"
    );
    let mut gradients = loss.backward();
    let mut gradients = adapter.take_gradients(&mut gradients);
    let mut compared = 0;
    for site in adapter.sites() {
        for (factor, key) in [("lora_a", "lora_A"), ("lora_b", "lora_B")] {
            let name = format!("pairs.{}.{factor}", site.id.0);
            let found = gradients.remove(&name).unwrap().to_vec();
            let key = format!("grad.base_model.model.{}.{key}.weight", site.path);
            let apart = distance(&found, &expected[&key].to_vec(), &[]);
            assert!(apart < 1e-4, "{key}: {apart}");
            compared += 1;
        }
    }
    assert_eq!(compared, tensors);
    assert!(gradients.is_empty());
}
