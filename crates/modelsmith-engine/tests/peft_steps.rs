//! AdamW steps on a LoRA adapter (`parity/lora/make_train.py`), on AdaLoRA with its budget
//! (`parity/adapters/make.py`) and on a prompt (`parity/prompt/make.py`) against PEFT and torch.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use modelsmith_core::files::Reader;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapter, Progress};
use modelsmith_core::weights;
use modelsmith_engine::recipe::Named;
use modelsmith_engine::train::{Groups, Prepared, Schedule, Stepper, TrainConfig, loss_sum};
use modelsmith_engine::{adapter_folder, registry};
use modelsmith_hosts::TokenInput;
use serde_json::json;
use std::path::{Path, PathBuf};

fn parity(part: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity")).join(part)
}

fn integers(reader: &Reader, name: &str) -> Vec<i64> {
    let bytes = reader.bytes(name).unwrap();
    let words = bytes.as_chunks::<8>().0;
    words.iter().map(|word| i64::from_le_bytes(*word)).collect()
}

/// The fixture's rows, with each label predicted from the token before it.
fn batch(reader: &Reader, device: &Device) -> Prepared {
    let [rows, time] = [2, 12];
    let ids = integers(reader, "input_ids");
    let mask = integers(reader, "attention_mask");
    let labels = integers(reader, "labels");
    let labelled: Vec<usize> = (0..rows * time)
        .filter(|at| at % time > 0 && labels[*at] != -100)
        .collect();
    let mask: Vec<bool> = mask.iter().map(|m| *m == 1).collect();
    Prepared {
        input: TokenInput {
            mask: Some(Tensor::<2, Bool>::from_data(
                TensorData::new(mask, [rows, time]),
                device,
            )),
            ..TokenInput::new(Tensor::<2, Int>::from_data(
                TensorData::new(ids, [rows, time]),
                device,
            ))
        },
        places: labelled.iter().map(|at| *at as i64 - 1).collect(),
        targets: labelled.iter().map(|at| labels[*at]).collect(),
        rows: vec![0, 1],
        tokens: 24,
    }
}

#[test]
fn three_steps_of_lora_agree_with_peft_and_torch() {
    three_steps("lora/train", 1e-2);
}

#[test]
fn three_steps_of_a_prompt_agree_with_peft_and_torch() {
    three_steps("prompt/train", 1e-1);
}

/// The site's path and tensor in PEFT's file, for a parameter of AdaLoRA.
fn file_key(host: &dyn Host, name: &str) -> Option<String> {
    let (at, tensor) = name
        .strip_prefix("attached.sites.")?
        .split_once(".factors.lora_")?;
    let path = &host.sites()[at.parse::<usize>().ok()?].path;
    Some(format!(
        "base_model.model.{path}.lora_{}",
        tensor.to_uppercase()
    ))
}

#[test]
fn a_whole_training_of_adalora_agrees_with_peft_and_torch() {
    let device = Device::flex();
    let host = modelsmith_hosts::load(&parity("hosts/llama_gqa_untied"), &device).unwrap();
    let reader = Reader::open(parity("adapters/adalora_budget/expected.safetensors")).unwrap();
    let mut method = Named::new("adalora");
    for (key, value) in [
        ("init_r", json!(3)),
        ("target_r", json!(1)),
        ("alpha", json!(8.0)),
        ("tinit", json!(2)),
        ("tfinal", json!(4)),
        ("delta_t", json!(2)),
        ("target_modules", json!(["q_proj", "v_proj", "down_proj"])),
    ] {
        method.options.insert(key.into(), value);
    }
    let method = registry::adapter_method(&method).unwrap();
    let mut adapter = method.attach(&host, 0).unwrap();
    let stored = |prefix: &str, name: &str| {
        let key = file_key(&host, name)?;
        Some(reader.f32(&format!("{prefix}.{key}")).unwrap())
    };
    adapter.replace(&mut |name, value| {
        let values = stored("initial", name)?;
        Some(Flat::from_vec(values, &value.shape, &device))
    });
    let config = TrainConfig {
        learning_rate: 1e-2,
        weight_decay: 0.01,
        clip_norm: 0.0,
        schedule: Schedule::Constant,
        ..TrainConfig::default()
    };
    let stepper = Stepper {
        host: &host,
        config: &config,
        groups: Groups::new(&config).unwrap(),
        seed: 0,
    };
    let mut optimizer = registry::optimizer_method(&Named::new("adamw"))
        .unwrap()
        .optimizer()
        .unwrap();
    let window = [batch(&reader, &device)];
    let [losses, ranks] = ["losses", "ranks"].map(|name| reader.f32(name).unwrap());
    let nonzero = |adapter: &dyn Adapter| {
        let named = adapter.parameters().into_iter();
        let values = named.filter(|named| named.name.ends_with("lora_e"));
        let values = values.flat_map(|named| named.value.to_vec());
        values.filter(|value| *value != 0.0).count()
    };
    for step in 0..12 {
        let progress = Progress {
            step,
            total_steps: 12,
            epoch: 0,
        };
        let report = stepper
            .step(&mut *adapter, &mut *optimizer, &window, progress)
            .unwrap();
        let ours = report.loss + report.penalty.unwrap();
        let theirs = f64::from(losses[step as usize]);
        assert!(
            (ours - theirs).abs() < 2e-5 * theirs,
            "step {step}: {ours} {theirs}"
        );
        assert_eq!(
            nonzero(&*adapter) as f32,
            ranks[step as usize],
            "step {step}"
        );
    }
    let mut compared = 0;
    for named in adapter.parameters() {
        let Some(theirs) = stored("final", &named.name) else {
            continue;
        };
        let pairs = named.value.to_vec().into_iter().zip(theirs);
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{}: {far}", named.name);
        compared += 1;
    }
    assert_eq!(compared, 18);
}

fn three_steps(case: &str, learning_rate: f64) {
    let device = Device::flex();
    let host = modelsmith_hosts::load(&parity("hosts/llama_gqa_untied"), &device).unwrap();
    let folder = parity(case);
    let mut adapter = adapter_folder::read(&folder, &host, false).unwrap();
    adapter.set_trainable(&|_| true);
    let reader = Reader::open(folder.join("expected.safetensors")).unwrap();
    let expected = weights::load(&folder.join("adapter_model.safetensors"), &device).unwrap();
    let batch = batch(&reader, &device);
    let config = TrainConfig {
        learning_rate,
        weight_decay: 0.01,
        clip_norm: 0.0,
        schedule: Schedule::Constant,
        ..TrainConfig::default()
    };
    let stepper = Stepper {
        host: &host,
        config: &config,
        groups: Groups::new(&config).unwrap(),
        seed: 0,
    };
    let mut optimizer = registry::optimizer_method(&Named::new("adamw"))
        .unwrap()
        .optimizer()
        .unwrap();
    let losses = reader.f32("losses").unwrap();
    for step in 0..3 {
        let progress = Progress {
            step,
            total_steps: 3,
            epoch: 0,
        };
        let window = [batch.clone()];
        let report = stepper
            .step(&mut *adapter, &mut *optimizer, &window, progress)
            .unwrap();
        let theirs = f64::from(losses[step as usize]);
        assert!(
            (report.loss - theirs).abs() < 1e-5 * theirs,
            "step {step}: {} {theirs}",
            report.loss
        );
    }
    let files = adapter.files(&host).unwrap();
    assert_eq!(files.tensors.len(), expected.len());
    for (key, ours) in &files.tensors {
        let theirs = reader.f32(&format!("final.{key}")).unwrap();
        // Adam divides by the root of the second moment, so rounding of tiny gradients shows in
        // full in the step; the learning rate is the size of one.
        let far = ours
            .to_vec()
            .iter()
            .zip(theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(f64::from(far) < 2e-3 * learning_rate, "{key}: {far}");
    }
    let pass = modelsmith_core::hooks::Pass::default();
    let sum = loss_sum(&host, &batch, &pass, &[adapter.hooks()]).unwrap();
    let loss = f64::from(sum.into_scalar::<f32>()) / batch.targets.len() as f64;
    assert!(
        (loss - f64::from(losses[3])).abs() < 1e-4,
        "{loss} {}",
        losses[3]
    );
}
