//! Searches and edits against the same written out in PyTorch (`parity/editors`).

use super::batch::{self, Known, remember};
use super::facts::{Fact, Prompt};
use super::grace::trained_value;
use super::guard::Guard;
use super::mlps::mlps;
use super::search::targets;
use burn::tensor::Device;
use faer::Mat;
use modelsmith_core::files::read_json;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::grace::GraceConfig;
use modelsmith_methods::edit::{
    CRome, ClosedForm, Encore, Layers, Memit, Moment, Pmet, Reference, Rome, Search, Units,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const HOSTS: [&str; 2] = ["gpt2", "llama_gqa_untied"];

fn parity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

fn host(name: &str) -> Transformer {
    modelsmith_hosts::load(&parity().join("hosts").join(name), &Device::flex()).unwrap()
}

fn fixture(name: &str) -> Value {
    read_json(parity().join(format!("editors/{name}.json"))).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

fn facts(fixture: &Value, key: &str) -> Vec<Fact> {
    let prompt = |value: &Value| Prompt {
        ids: ids(&value["ids"]),
        lookup: value["lookup"].as_u64().unwrap() as usize,
    };
    let fact = |value: &Value| {
        let prompts = value["prompts"].as_array().unwrap();
        Fact {
            bare: prompt(&prompts[0]),
            prefixed: prompts[1..].iter().map(prompt).collect(),
            essence: prompt(&value["essence"]),
            target: ids(&value["target"]),
        }
    };
    fixture[key].as_array().unwrap().iter().map(fact).collect()
}

fn search(options: &Value) -> Search {
    serde_json::from_value(options.clone()).unwrap()
}

fn moment(width: usize) -> Moment {
    let value = |row: usize, column: usize| match row.abs_diff(column) {
        0 => 1.0 + row as f64 / width as f64,
        1 => 0.25,
        _ => 0.0,
    };
    Moment::new(Mat::from_fn(width, width, value), 1)
}

/// The largest difference, relative to the largest number expected.
fn difference(found: impl Iterator<Item = f64>, expected: &[f64]) -> f64 {
    let largest = expected
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let pairs = found.zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn searches_agree_side_by_side_and_alone() {
    for name in HOSTS {
        let (host, fixture) = (host(name), fixture(name));
        let (mlps, facts) = (mlps(&host).unwrap(), facts(&fixture, "facts"));
        let cases = [
            ("block", "options", Reference::Block),
            ("mlp", "options", Reference::Mlp),
            ("attention_and_mlp", "options", Reference::AttentionAndMlp),
            ("patient", "patient", Reference::Block),
        ];
        for (case, options, reference) in cases {
            let options = search(&fixture[options]);
            let all = targets(&host, &mlps, &facts, 0, reference, &options).unwrap();
            for (number, row) in fixture["searches"][case]
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
            {
                let what = format!("{name} {case} {number}");
                let one = &facts[number..=number];
                let alone = targets(&host, &mlps, one, 0, reference, &options).unwrap();
                for (found, column) in [(&all, number), (&alone, 0)] {
                    assert_eq!(
                        found.steps[column] as u64,
                        row["steps"].as_u64().unwrap(),
                        "{what}"
                    );
                    let loss = row["loss"].as_f64().unwrap();
                    let gap = (found.losses[column] - loss).abs();
                    assert!(
                        gap < 1e-3 * loss.max(0.1),
                        "{what}: {} {loss}",
                        found.losses[column]
                    );
                    let values = found.values.col(column).iter().copied();
                    let gap = difference(values, &numbers(&row["value"]));
                    assert!(gap < 1e-3, "{what}: {gap}");
                }
            }
        }
    }
}

/// The host after batches of `size` of the facts, by a method.
fn edited(
    name: &str,
    method: &dyn ClosedForm,
    layers: &[usize],
    batches: &[&[Fact]],
) -> Transformer {
    let mut host = host(name);
    let mlps = mlps(&host).unwrap();
    let width = mlps[0].site.inputs;
    let moments: BTreeMap<usize, Moment> =
        layers.iter().map(|layer| (*layer, moment(width))).collect();
    let mut memory = BTreeMap::new();
    for batch in batches {
        let known = Known {
            mlps: &mlps,
            layers,
            moments: &moments,
            memory: &memory,
            guard: &Guard::off(),
        };
        let step = batch::edit(&mut host, &known, method, batch).unwrap();
        remember(&mut memory, &step.keys);
    }
    host
}

fn check(name: &str, case: &str, after: &Transformer) {
    let (before, fixture) = (host(name), fixture(name));
    for (layer, expected) in fixture["edits"][case].as_object().unwrap() {
        let mlp = &mlps(&before).unwrap()[layer.parse::<usize>().unwrap()];
        let change = mlp.matrix(after).unwrap() - mlp.matrix(&before).unwrap();
        let expected = numbers(expected);
        let (rows, columns) = (change.nrows(), change.ncols());
        let found = (0..rows * columns).map(|at| change[(at / columns, at % columns)]);
        let gap = difference(found, &expected);
        assert!(gap < 2e-3, "{name} {case} {layer}: {gap}");
    }
}

#[test]
fn edits_agree() {
    for name in HOSTS {
        let fixture = fixture(name);
        let (facts, search) = (facts(&fixture, "ends"), search(&fixture["options"]));
        let one = [&facts[1..2]];
        let rome = Rome {
            search: search.clone(),
            ..Rome::default()
        };
        check(name, "rome", &edited(name, &rome, &[0], &one));
        let c_rome = CRome {
            search: search.clone(),
            ..CRome::default()
        };
        check(name, "c_rome", &edited(name, &c_rome, &[0], &one));
        let batches = [&facts[..2], &facts[2..]];
        let memit = Memit {
            layers: Layers::default(),
            search: search.clone(),
            moment_weight: 0.7,
            norm_weight: 0.0,
            units: Units::Absolute,
            memory: true,
            ..Memit::default()
        };
        check(name, "memit", &edited(name, &memit, &[0, 1], &batches));
        let encore = Encore {
            search: search.clone(),
            moment_weight: 0.7,
            norm_weight: 1.5,
            units: Units::Absolute,
            ..Encore::default()
        };
        check(name, "encore", &edited(name, &encore, &[0, 1], &batches));
        let pmet = Pmet {
            search,
            moment_weight: 0.7,
            units: Units::Absolute,
            memory: true,
            ..Pmet::default()
        };
        check(name, "pmet", &edited(name, &pmet, &[0, 1], &batches));
    }
}

#[test]
fn values_of_a_codebook_agree() {
    for name in HOSTS {
        let (host, fixture) = (host(name), fixture(name));
        let fact = facts(&fixture, "facts").remove(0);
        let module = mlps(&host).unwrap()[0].site.path.clone();
        let width = mlps(&host).unwrap()[0].site.outputs;
        let begun: Vec<f32> = (0..width)
            .map(|place| place as f32 / (width - 1) as f32)
            .collect();
        let config = GraceConfig {
            module,
            loss_stop: 0.0,
            ..GraceConfig::default()
        };
        let (value, losses) = trained_value(&host, config, &fact, &begun).unwrap();
        let expected = numbers(&fixture["grace"]["losses"]);
        for (found, expected) in losses.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-4,
                "{name}: {found} {expected}"
            );
        }
        let gap = difference(
            value.iter().copied().map(f64::from),
            &numbers(&fixture["grace"]["value"]),
        );
        assert!(gap < 1e-3, "{name}: {gap}");
    }
}
