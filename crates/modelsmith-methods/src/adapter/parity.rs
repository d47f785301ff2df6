//! Adapters that PEFT 0.21.2 saved: read, merged, and written again with the same keys.
//!
//! The fixtures are in `parity/lora`, with the script that made them; merged weights agree within
//! 1e-5 of the largest value, the rounding of f32 sums in another order.

use super::LoraConfig;
use super::common::combine::{Combination, combine};
use crate::from_peft;
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, Reader, read_json};
use modelsmith_core::host::{BlockParts, Host, HostInfo};
use modelsmith_core::method::Method;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, AdapterFiles};
use modelsmith_core::sites::{Site, SiteId, SiteKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn parity(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity")).join(path)
}

fn tensors(path: &str) -> BTreeMap<String, Flat> {
    let reader = Reader::open(parity(path)).unwrap();
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

fn files(case: &str) -> AdapterFiles {
    AdapterFiles {
        config: read_json(parity(&format!("lora/{case}/adapter_config.json"))).unwrap(),
        tensors: tensors(&format!("lora/{case}/adapter_model.safetensors")),
    }
}

/// The weights of a checkpoint with the sites that their names tell of; it computes nothing.
struct Weights {
    info: HostInfo,
    sites: Vec<Site>,
    weights: BTreeMap<String, Flat>,
}

impl Weights {
    fn of(config: &serde_json::Map<String, Value>) -> Self {
        let origin = config["base_model_name_or_path"].as_str().unwrap();
        let name = origin.rsplit('/').next().unwrap();
        let weights = tensors(&format!("hosts/{name}/model.safetensors"));
        let classifier = config["task_type"] == json!("SEQ_CLS");
        let mut sites: Vec<Site> = Vec::new();
        for path in weights.keys().filter_map(|key| key.strip_suffix(".weight")) {
            let shape = &weights[&format!("{path}.weight")].shape;
            let bias = weights.contains_key(&format!("{path}.bias"));
            sites.push(site(sites.len(), path, shape, bias, name == "gpt2"));
        }
        if name == "llama_mha_tied" {
            let shape = weights["model.embed_tokens.weight"].shape.clone();
            let mut head = site(sites.len(), "lm_head", &shape, false, false);
            head.tied_to = Some("model.embed_tokens".into());
            sites.push(head);
        }
        let info = HostInfo {
            model_type: String::new(),
            architecture: String::new(),
            origin: origin.into(),
            task_type: Some(if classifier { "SEQ_CLS" } else { "CAUSAL_LM" }),
            default_targets: &[],
            head_modules: if classifier { &["classifier"] } else { &[] },
            pools_first: false,
            block: BlockParts::default(),
            config: json!({}),
        };
        Self {
            info,
            sites,
            weights,
        }
    }
}

fn site(id: usize, path: &str, shape: &[usize], bias: bool, gpt2: bool) -> Site {
    let last = path.rsplit('.').next().unwrap_or(path);
    let embeds = ["wte", "wpe"].contains(&last) || last.contains("embed");
    let fan_in_fan_out = gpt2 && last.starts_with("c_");
    let kind = match shape.len() {
        1 => SiteKind::Norm,
        _ if embeds => SiteKind::Embedding,
        _ => SiteKind::Linear,
    };
    let (rows, columns) = (shape[0], *shape.last().unwrap());
    let forward = fan_in_fan_out || kind == SiteKind::Embedding;
    let (inputs, outputs) = if forward {
        (rows, columns)
    } else {
        (columns, rows)
    };
    let head = ["lm_head", "classifier"].contains(&path);
    Site {
        id: SiteId(id),
        path: path.into(),
        kind,
        inputs,
        outputs,
        bias,
        fan_in_fan_out,
        head,
        tied_to: None,
    }
}

impl Host for Weights {
    fn info(&self) -> &HostInfo {
        &self.info
    }

    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn weight_names(&self) -> Vec<String> {
        self.weights.keys().cloned().collect()
    }

    fn weight(&self, name: &str) -> Option<Flat> {
        self.weights.get(name).cloned()
    }

    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()> {
        match self.weights.insert(name.into(), value.clone()) {
            Some(_) => Ok(()),
            None => Err(Error::Failed(format!("no weight {name}"))),
        }
    }

    fn device(&self) -> Device {
        Device::flex()
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter()
        .zip(b)
        .fold(0f32, |most, (x, y)| most.max((x - y).abs()))
        / largest
}

const CASES: [&str; 20] = [
    "all_linear",
    "bert_classifier",
    "bias_all",
    "bias_lora_only",
    "dora",
    "dora_gpt2",
    "embedding",
    "embedding_dora",
    "embedding_lean",
    "embedding_tied",
    "exclude",
    "gpt2",
    "layers",
    "olora",
    "patterns",
    "pissa",
    "plain",
    "regex",
    "rslora",
    "save_lm_head",
];

#[test]
fn merged_weights_are_those_of_peft() {
    for case in CASES {
        let files = files(case);
        let host = Weights::of(&files.config);
        let adapter = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        let expected = tensors(&format!("lora/{case}/expected.safetensors"));
        let mut compared = 0;
        for (key, weight) in &expected {
            let Some(name) = key.strip_prefix("merged.") else {
                continue;
            };
            let merged = adapter.merged(&host, name).unwrap().unwrap();
            assert_eq!(merged.shape, weight.shape, "{case} {name}");
            let apart = distance(&merged.to_vec(), &weight.to_vec());
            assert!(apart < 1e-5, "{case} {name}: {apart}");
            compared += 1;
        }
        assert!(compared > 0, "{case}");
    }
}

#[test]
fn adapters_are_written_as_they_were_read() {
    for case in CASES {
        let files = files(case);
        let host = Weights::of(&files.config);
        let adapter = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        let written = adapter.files(&host).unwrap();
        let keys: Vec<&String> = written.tensors.keys().collect();
        assert_eq!(keys, files.tensors.keys().collect::<Vec<_>>(), "{case}");
        if ["pissa", "olora"].contains(&case) {
            continue;
        }
        for (key, tensor) in &files.tensors {
            assert_eq!(written.tensors[key].shape, tensor.shape, "{case} {key}");
            assert_eq!(
                written.tensors[key].to_vec(),
                tensor.to_vec(),
                "{case} {key}"
            );
        }
        let mut expected = files.config.clone();
        if case == "bert_classifier" {
            // PEFT lists a user's and its own usual heads, one of them twice.
            expected.insert("modules_to_save".into(), json!(["classifier", "score"]));
        }
        assert_eq!(
            Value::Object(written.config),
            Value::Object(expected),
            "{case}"
        );
    }
}

#[test]
fn split_inits_take_out_what_peft_takes_out() {
    for case in ["pissa", "olora"] {
        let files = files(case);
        let host = Weights::of(&files.config);
        let options = json!({"rank": 4, "alpha": 8.0, "init": case, "target_modules": ["q_proj"]});
        let config: LoraConfig = serde_json::from_value(options).unwrap();
        let adapter = config.attach(&host, 0).unwrap();
        let path = "model.layers.0.self_attn.q_proj";
        let id = host
            .sites
            .iter()
            .position(|site| site.path == path)
            .unwrap();
        let named = adapter.parameters();
        let factor = |name: &str| {
            let name = format!("pairs.{id}.{name}");
            let found = named.iter().find(|named| named.name == name).unwrap();
            found.value.tensor::<2>().unwrap().without_autodiff()
        };
        let product = Flat::new(factor("lora_b").matmul(factor("lora_a")));
        let expected = tensors(&format!("lora/{case}/expected.safetensors"));
        let theirs = |name: &str| expected[name].tensor::<2>().unwrap();
        let theirs = Flat::new(theirs("init.lora_B").matmul(theirs("init.lora_A")));
        let apart = distance(&product.to_vec(), &theirs.to_vec());
        assert!(apart < 1e-5, "{case}: {apart}");
    }
}

#[test]
fn combinations_are_those_of_peft() {
    let (first, second) = (files("combined/first"), files("combined/second"));
    let host = Weights::of(&first.config);
    let expected = tensors("lora/combined/expected.safetensors");
    let path = "model.layers.0.self_attn.q_proj";
    for (name, how) in [
        ("linear", Combination::Linear),
        ("cat", Combination::Cat),
        ("svd", Combination::Svd { rank: 3 }),
    ] {
        let files = combine(&[(&first, 0.7), (&second, 0.4)], how).unwrap();
        let adapter = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        let weight = format!("{path}.weight");
        let merged = adapter.merged(&host, &weight).unwrap().unwrap().values;
        let delta = Flat::new(merged - host.weights[&weight].values.clone());
        let apart = distance(
            &delta.to_vec(),
            &expected[&format!("delta.{name}.{path}")].to_vec(),
        );
        assert!(apart < 1e-5, "{name}: {apart}");
    }
}

#[test]
fn a_configuration_that_would_compute_something_else_is_refused_by_name() {
    let plain = files("plain").config;
    for (key, value) in [
        ("use_qalora", json!(true)),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("trainable_token_indices", json!([3])),
        ("target_parameters", json!(["mlp.experts"])),
        ("megatron_config", json!({"tensor": 2})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("some_later_feature", json!("on")),
    ] {
        let mut config = plain.clone();
        config.insert(key.into(), value);
        let message = from_peft(&config).err().expect(key).to_string();
        assert!(message.contains(key), "{message}");
    }
    let config = json!({"peft_type": "LORA", "r": "four"});
    let message = from_peft(config.as_object().unwrap())
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("adapter_config.json: r"), "{message}");
    assert_eq!(LoraConfig::CARD.id, "lora");
}
