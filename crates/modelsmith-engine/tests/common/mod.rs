//! A tiny model with data, and runs on it.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod claims;

use burn::tensor::Device;
use modelsmith_core::files::{DType, read_json};
use modelsmith_core::host::Host;
use modelsmith_data::house::HouseConfig;
use modelsmith_engine::train::{Event, Observer};
use modelsmith_engine::tune::{self, Summary};
use modelsmith_engine::{Recipe, Stop};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder with a random two-layer Llama, its tokenizer, and questions to train on.
pub struct World {
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        let config = HouseConfig {
            people: 6,
            biographies: 2,
            vocabulary: 320,
            max_length: 64,
            ..HouseConfig::default()
        };
        modelsmith_engine::house::make(&config, &model).unwrap();
        let mut json: Value = read_json(model.join("config.json")).unwrap();
        for (key, value) in [
            ("hidden_size", 16),
            ("intermediate_size", 24),
            ("num_hidden_layers", 2),
            ("num_attention_heads", 2),
            ("num_key_value_heads", 1),
            ("head_dim", 8),
        ] {
            json[key] = value.into();
        }
        json["initializer_range"] = 0.2.into();
        // Some methods train biases alone.
        json["attention_bias"] = true.into();
        let device = Device::flex();
        let origin = model.display().to_string();
        let host = modelsmith_hosts::random(&json, &origin, 3, &device).unwrap();
        let staged = folder.path().join("staged");
        let none = |_: &str| Ok(None);
        modelsmith_hosts::save(&host, &staged, DType::F32, u64::MAX, &none, &Map::new()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::rename(staged.join(file), model.join(file)).unwrap();
        }
        Self { folder }
    }

    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    pub fn runs(&self) -> PathBuf {
        self.folder.path().join("runs")
    }

    /// A short run: 12 steps in two epochs, with held-out rows.
    pub fn recipe(&self, name: &str, changes: &[&str]) -> Recipe {
        let base = json!({
            "host": {"path": self.model()},
            "data": {
                "path": self.model().join("questions.jsonl"),
                "limit": 48,
                "batch_size": 4,
                "held_out": 0.2
            },
            "method": {"name": "lora", "rank": 2},
            "train": {"max_steps": 12, "learning_rate": 0.01, "save_every": 3, "eval_every": 4},
            "output": {"dir": self.runs(), "name": name},
            "seed": 5
        });
        let changes: Vec<String> = changes.iter().map(|line| (*line).to_owned()).collect();
        Recipe::from_value(base, &changes).unwrap()
    }

    pub fn run(&self, name: &str, changes: &[&str]) -> Summary {
        tune::run(self.recipe(name, changes), &Stop::default(), &mut Silence).unwrap()
    }

    /// Runs until `step`, is stopped there as by SIGTERM, and resumes.
    pub fn run_in_two(&self, name: &str, changes: &[&str], step: u64) -> Summary {
        let stop = Stop::default();
        let mut at = StopAt {
            step,
            stop: stop.clone(),
        };
        let error = tune::run(self.recipe(name, changes), &stop, &mut at).unwrap_err();
        assert_eq!(error.exit_code(), 143, "{error}");
        tune::resume(&self.runs().join(name), &Stop::default(), &mut Silence).unwrap()
    }
}

pub struct Silence;

impl Observer for Silence {
    fn event(&mut self, _event: Event) {}
}

pub struct StopAt {
    pub step: u64,
    pub stop: Stop,
}

impl Observer for StopAt {
    fn event(&mut self, event: Event) {
        if matches!(event, Event::Step { step, .. } if step == self.step) {
            self.stop.request(15);
        }
    }
}

/// Bytes of all files of a folder, by name.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect()
}

/// The adapter's two PEFT files.
pub fn adapter_bytes(summary: &Summary) -> [Vec<u8>; 2] {
    ["adapter_model.safetensors", "adapter_config.json"]
        .map(|name| std::fs::read(summary.artifact.join(name)).unwrap())
}

/// Metrics without the figures of speed.
pub fn metrics(run: &Path) -> Vec<Value> {
    std::fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("tokens_per_second");
            value
        })
        .collect()
}

/// All weights of a host as bytes.
pub fn weights(host: &dyn Host) -> Vec<(String, Vec<f32>)> {
    host.weight_names()
        .into_iter()
        .map(|name| {
            let values = host.weight(&name).unwrap().to_vec();
            (name, values)
        })
        .collect()
}
