//! Every adapter method on every kind of host: attached it is the identity, and full fine-tuning
//! reaches every weight.

use burn::tensor::{Device, Tensor};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_core::roles::Adapter;
use modelsmith_hosts::{TokenInput, Transformer, load};
use modelsmith_methods::adapter::TABLE;
use serde_json::{Map, Value, json};
use std::path::Path;

fn hosts() -> Vec<(String, Transformer)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/hosts"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.join("config.json").exists() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, load(&path, &Device::flex()).unwrap()));
        }
    }
    assert!(found.len() >= 25, "{}", found.len());
    found
}

fn logits(host: &Transformer, adapter: Option<&dyn Adapter>) -> Vec<f32> {
    let ids = Tensor::from_ints([[5, 9, 2, 7], [3, 3, 8, 1]], &Device::flex());
    let hooks: Vec<&dyn Hooks> = adapter.iter().map(|adapter| adapter.hooks()).collect();
    let rows = TokenInput::new(ids);
    let input = TokenInput {
        source: host.decoder_start().map(|_| Box::new(rows.clone())),
        ..rows
    };
    to_vec(host.forward(&input, &Pass::default(), &hooks).unwrap())
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter()
        .zip(b)
        .fold(0f32, |most, (x, y)| most.max((x - y).abs()))
        / largest
}

#[test]
fn every_method_attaches_to_every_host_as_the_identity() {
    for (name, host) in hosts() {
        let base = logits(&host, None);
        for entry in TABLE {
            let mut options = Map::new();
            if (entry.defaults)().get("rank").is_some() {
                options.insert("rank".into(), json!(2));
                options.insert("target_modules".into(), json!("all-linear"));
            }
            let method = entry.configure(&options).unwrap();
            let id = entry.card.id;
            match method.attach(&host, 1) {
                Ok(mut adapter) => {
                    let tracked = logits(&host, Some(adapter.as_ref()));
                    assert!(distance(&tracked, &base) < 1e-5, "{name} {id}");
                    // Recording gradients makes the backend compute softmax in other steps, so
                    // bits are compared without.
                    adapter.set_trainable(&|_| false);
                    let same = logits(&host, Some(adapter.as_ref())) == base;
                    assert_eq!(same, method.starts_as_identity(), "{name} {id}");
                }
                Err(problem) => {
                    let nothing_there = match id {
                        "linear_probe" => !host.sites().iter().any(|site| site.head),
                        "bitfit" => !host.weight_names().iter().any(|one| one.ends_with("bias")),
                        _ => false,
                    };
                    assert!(nothing_there, "{name} {id}: {problem}");
                }
            }
        }
    }
}

#[test]
fn full_fine_tuning_reaches_every_weight_and_every_bias() {
    for (name, host) in hosts() {
        let full = TABLE.iter().find(|entry| entry.card.id == "full").unwrap();
        let adapter = full
            .configure(&Map::new())
            .unwrap()
            .attach(&host, 1)
            .unwrap();
        let mut names = host.weight_names();
        names.sort();
        let files = adapter.files(&host).unwrap();
        let keys = files.tensors.keys();
        let trained: Vec<&str> = keys
            .map(|key| key.trim_start_matches("base_model.model."))
            .collect();
        let trained: Vec<String> = trained.into_iter().map(str::to_owned).collect();
        let missing: Vec<&String> = names
            .iter()
            .filter(|name| !trained.contains(name))
            .collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
        assert_eq!(trained, names, "{name}");
        assert_eq!(files.config["peft_type"], Value::from("FULL"));
    }
}
