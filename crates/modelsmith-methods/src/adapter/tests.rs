//! LoRA, full fine-tuning and the probe on a small host: what each option does, in numbers.

use super::TABLE;
use super::common::combine::{Combination, combine};
use crate::fake_host::{FakeHost, VOCABULARY, WIDTH, training};
use crate::from_peft;
use burn::tensor::Tensor;
use modelsmith_core::error::Result;
use modelsmith_core::host::Host;
use modelsmith_core::method::find;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use serde_json::{Value, json};

fn method(id: &str, options: Value) -> Result<Box<dyn Adapt>> {
    find(TABLE, id)?.configure(options.as_object().unwrap())
}

/// LoRA with these options, its parameters moved so that it does something.
fn lora(host: &FakeHost, options: Value) -> Box<dyn Adapter> {
    let mut adapter = method("lora", options).unwrap().attach(host, 7).unwrap();
    disturb(adapter.as_mut());
    adapter
}

fn disturb(adapter: &mut dyn Adapter) {
    let mut count = 0.0;
    adapter.replace(&mut |_, value| {
        count += 1.0;
        let ramp: Vec<f32> = (0..value.len())
            .map(|i| (i as f32 + count).sin() * 0.2)
            .collect();
        let ramp = Flat::from_vec(ramp, &value.shape, &burn::tensor::Device::flex());
        Some(Flat {
            values: value.values.clone() + ramp.values,
            shape: value.shape.clone(),
        })
    });
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter()
        .zip(b)
        .fold(0f32, |most, (x, y)| most.max((x - y).abs()))
        / largest
}

/// The logits with the adapter; it merges to the same, is saved and restored, and comes out again.
fn consistent(host: &FakeHost, adapter: &dyn Adapter) -> Vec<f32> {
    let logits = host.logits(&[adapter]);
    assert!(
        distance(&logits, &host.logits(&[])) > 1e-3,
        "the adapter does nothing"
    );
    let merged = host.with_merged(adapter);
    let apart = distance(&merged.logits(&[]), &logits);
    assert!(apart < 1e-5, "merged: {apart}");
    let restored = restored(host, adapter);
    let apart = distance(&host.logits(&[restored.as_ref()]), &logits);
    assert!(apart < 1e-5, "restored: {apart}");
    logits
}

fn restored(host: &FakeHost, adapter: &dyn Adapter) -> Box<dyn Adapter> {
    let files = adapter.files(host).unwrap();
    from_peft(&files.config)
        .unwrap()
        .restore(host, &files)
        .unwrap()
}

fn shapes(host: &FakeHost, adapter: &dyn Adapter) -> Vec<(String, Vec<usize>)> {
    let tensors = adapter.files(host).unwrap().tensors.into_iter();
    tensors
        .map(|(key, flat)| {
            (
                key.trim_start_matches("base_model.model.").to_owned(),
                flat.shape,
            )
        })
        .collect()
}

fn refused(host: &FakeHost, options: Value) -> String {
    let attached = method("lora", options).and_then(|method| method.attach(host, 0));
    attached
        .err()
        .expect("the options were accepted")
        .to_string()
}

#[test]
fn the_formula_holds_in_numbers() {
    let host = FakeHost::new();
    let adapter = lora(
        &host,
        json!({"rank": 2, "alpha": 3.0, "target_modules": ["q_proj"]}),
    );
    let files = adapter.files(&host).unwrap();
    let factor = |name: &str| {
        files.tensors[&format!("base_model.model.layers.0.q_proj.{name}.weight")].to_vec()
    };
    let (a, b) = (factor("lora_A"), factor("lora_B"));
    let base = host.weight("layers.0.q_proj.weight").unwrap().to_vec();
    let merged = adapter
        .merged(&host, "layers.0.q_proj.weight")
        .unwrap()
        .unwrap()
        .to_vec();
    for out in 0..WIDTH {
        for input in 0..WIDTH {
            let product: f32 = (0..2).map(|k| b[out * 2 + k] * a[k * WIDTH + input]).sum();
            let expected = base[out * WIDTH + input] + 1.5 * product;
            assert!((merged[out * WIDTH + input] - expected).abs() < 1e-6);
        }
    }
    consistent(&host, adapter.as_ref());
}

#[test]
fn a_weight_stored_transposed_changes_transposed() {
    let host = FakeHost::new();
    let adapter = lora(&host, json!({"rank": 2, "target_modules": ["v_proj"]}));
    assert_eq!(
        adapter.files(&host).unwrap().config["fan_in_fan_out"],
        json!(true)
    );
    consistent(&host, adapter.as_ref());
}

#[test]
fn unmerging_restores_the_weight() {
    let host = FakeHost::new();
    let adapter = lora(
        &host,
        json!({"rank": 2, "target_modules": ["q_proj", "v_proj", "embed"]}),
    );
    let merged = host.with_merged(adapter.as_ref());
    for name in [
        "layers.0.q_proj.weight",
        "layers.0.v_proj.weight",
        "embed.weight",
    ] {
        let back = adapter.unmerged(&merged, name).unwrap().unwrap().to_vec();
        let base = host.weight(name).unwrap().to_vec();
        assert!(distance(&back, &base) < 1e-6, "{name}");
    }
    assert!(adapter.unmerged(&merged, "norm.weight").unwrap().is_none());
    let dora = lora(&host, json!({"rank": 2, "dora": true}));
    assert!(dora.unmerged(&host, "layers.0.q_proj.weight").is_err());
}

#[test]
fn embeddings_and_convolutions_keep_their_own_shapes() {
    let host = FakeHost::new();
    let options = json!({"rank": 2, "target_modules": ["embed", "conv"], "save_embedding": false});
    let adapter = lora(&host, options);
    let expected = [
        ("embed.lora_embedding_A", vec![2, VOCABULARY]),
        ("embed.lora_embedding_B", vec![WIDTH, 2]),
        ("layers.0.conv.lora_A.weight", vec![2, 4, 3, 3]),
        ("layers.0.conv.lora_B.weight", vec![4, 2, 1, 1]),
    ];
    let expected: Vec<_> = expected.map(|(key, shape)| (key.to_owned(), shape)).into();
    assert_eq!(shapes(&host, adapter.as_ref()), expected);
    consistent(&host, adapter.as_ref());
}

#[test]
fn a_saved_embedding_must_be_the_hosts() {
    let host = FakeHost::new();
    let adapter = lora(&host, json!({"rank": 2, "target_modules": ["embed"]}));
    let mut files = adapter.files(&host).unwrap();
    let key = "base_model.model.embed.base_layer.weight";
    assert_eq!(
        files.tensors[key].to_vec(),
        host.weight("embed.weight").unwrap().to_vec()
    );
    let method = from_peft(&files.config).unwrap();
    let again = method.restore(&host, &files).unwrap().files(&host).unwrap();
    assert!(again.tensors.contains_key(key));
    let other = Flat {
        values: files.tensors[key].values.clone() * 2.0,
        ..files.tensors[key].clone()
    };
    files.tensors.insert(key.into(), other);
    let message = method.restore(&host, &files).err().unwrap().to_string();
    assert!(message.contains("another base"), "{message}");
}

#[test]
fn an_adapted_tied_embedding_leaves_the_output_layer_alone() {
    let host = FakeHost::tied();
    let adapter = lora(&host, json!({"rank": 2, "target_modules": ["embed"]}));
    let head = adapter.merged(&host, "lm_head.weight").unwrap().unwrap();
    assert_eq!(head.to_vec(), host.weight("embed.weight").unwrap().to_vec());
    consistent(&host, adapter.as_ref());
    let head = lora(&host, json!({"rank": 2, "target_modules": ["lm_head"]}));
    assert!(head.merged(&host, "embed.weight").unwrap().is_none());
    consistent(&host, head.as_ref());
}

#[test]
fn full_fine_tuning_trains_a_tied_weight_once_and_the_probe_a_copy() {
    let host = FakeHost::tied();
    let mut full = method("full", json!({})).unwrap().attach(&host, 0).unwrap();
    assert_eq!(full.parameters().len(), host.weight_names().len());
    disturb(full.as_mut());
    assert!(full.merged(&host, "lm_head.weight").unwrap().is_none());
    consistent(&host, full.as_ref());
    let mut probe = method("linear_probe", json!({}))
        .unwrap()
        .attach(&host, 0)
        .unwrap();
    disturb(probe.as_mut());
    assert!(probe.merged(&host, "embed.weight").unwrap().is_none());
    assert_eq!(
        shapes(&host, probe.as_ref()),
        [("lm_head.weight".to_owned(), vec![11, 8])]
    );
    consistent(&host, probe.as_ref());
}

#[test]
fn full_fine_tuning_of_chosen_modules_leaves_the_others() {
    let host = FakeHost::new();
    let method = method("full", json!({"modules": ["q_proj", "norm"]})).unwrap();
    let mut adapter = method.attach(&host, 0).unwrap();
    disturb(adapter.as_mut());
    let keys: Vec<String> = shapes(&host, adapter.as_ref())
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(
        keys,
        [
            "layers.0.q_proj.bias",
            "layers.0.q_proj.weight",
            "norm.weight"
        ]
    );
    consistent(&host, adapter.as_ref());
}

#[test]
fn every_option_computes_what_it_merges_to() {
    let host = FakeHost::new();
    for options in [
        json!({"rank": 2, "rslora": true}),
        json!({"rank": 2, "dora": true}),
        json!({"rank": 2, "dora": true, "target_modules": ["embed", "v_proj"]}),
        json!({"rank": 2, "dora": true, "init": "pissa", "alpha": 4.0}),
        json!({"rank": 2, "init": "pissa", "target_modules": ["embed", "q_proj"]}),
        json!({"rank": 3, "init": "olora", "rslora": true}),
        json!({"rank": 2, "init": "gaussian"}),
        json!({"rank": 2, "init": "random", "target_modules": ["embed", "conv", "v_proj"]}),
        json!({"rank": 2, "bias": "lora_only"}),
        json!({"rank": 2, "bias": "all", "dora": true}),
        json!({"rank": 2, "lora_bias": true, "bias": "all", "target_modules": ["q_proj", "conv"]}),
        json!({"rank": 2, "modules_to_save": ["lm_head", "norm"], "bias": "all"}),
        json!({"rank": 2, "target_modules": "all-linear"}),
        json!({"rank": 2, "target_modules": r".*\.[qv]_proj", "exclude_modules": ["v_proj"]}),
        json!({"rank": 2, "layers_to_transform": [0], "layers_pattern": "layers"}),
        json!({"rank": 2, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 1.5}}),
    ] {
        let fresh = method("lora", options.clone()).unwrap();
        let same = host.logits(&[fresh.attach(&host, 7).unwrap().as_ref()]) == host.logits(&[]);
        assert_eq!(same, fresh.starts_as_identity(), "{options}");
        consistent(&host, lora(&host, options).as_ref());
    }
}

#[test]
fn biases_are_saved_under_peft_names() {
    let host = FakeHost::new();
    let keys = |bias: &str| -> Vec<String> {
        let adapter = lora(&host, json!({"rank": 2, "bias": bias}));
        let keys = shapes(&host, adapter.as_ref())
            .into_iter()
            .map(|(key, _)| key);
        keys.filter(|key| key.ends_with("bias")).collect()
    };
    assert!(keys("none").is_empty());
    assert_eq!(keys("lora_only"), ["layers.0.q_proj.base_layer.bias"]);
    assert_eq!(
        keys("all"),
        ["layers.0.conv.bias", "layers.0.q_proj.base_layer.bias"]
    );
}

#[test]
fn a_classifier_trains_its_head_along() {
    let host = FakeHost::classifier();
    let adapter = lora(&host, json!({"rank": 2}));
    let files = adapter.files(&host).unwrap();
    assert_eq!(files.config["modules_to_save"], json!(["lm_head"]));
    assert!(
        files
            .tensors
            .contains_key("base_model.model.lm_head.weight")
    );
    consistent(&host, adapter.as_ref());
}

#[test]
fn adapters_stack_and_their_effects_add() {
    let host = FakeHost::new();
    let one = lora(&host, json!({"rank": 2, "target_modules": ["lm_head"]}));
    let mut two = lora(
        &host,
        json!({"rank": 3, "alpha": 5.0, "target_modules": ["lm_head"]}),
    );
    two.set_scale(0.5).unwrap();
    let base = host.logits(&[]);
    let both = host.logits(&[one.as_ref(), two.as_ref()]);
    let (first, second) = (host.logits(&[one.as_ref()]), host.logits(&[two.as_ref()]));
    let sum: Vec<f32> = (0..base.len())
        .map(|i| first[i] + second[i] - base[i])
        .collect();
    assert!(distance(&both, &sum) < 1e-6);
}

#[test]
fn dropout_acts_on_the_adapters_input_alone() {
    let host = FakeHost::new();
    for options in [
        json!({"rank": 2, "dropout": 0.5}),
        json!({"rank": 2, "dropout": 0.5, "dora": true}),
    ] {
        let fresh = method("lora", options.clone())
            .unwrap()
            .attach(&host, 7)
            .unwrap();
        let run = |adapter: &dyn Adapter| to_vec(host.forward(&[adapter.hooks()], &training()));
        assert_eq!(
            run(fresh.as_ref()),
            host.logits(&[]),
            "an untrained adapter drops nothing"
        );
        let adapter = lora(&host, options);
        assert_eq!(run(adapter.as_ref()), run(adapter.as_ref()));
        assert_ne!(run(adapter.as_ref()), host.logits(&[adapter.as_ref()]));
    }
}

#[test]
fn the_norm_of_dora_carries_no_gradient() {
    let host = FakeHost::new();
    let adapter = lora(
        &host,
        json!({"rank": 1, "dora": true, "target_modules": ["lm_head"]}),
    );
    let loss: Tensor<1> = host.forward(&[adapter.hooks()], &training()).sum();
    let mut gradients = loss.backward();
    let gradients = adapter.take_gradients(&mut gradients);
    // With the norm detached the logits are linear in the magnitude, so m · dL/dm = L.
    let values = adapter.parameters();
    let magnitude = values
        .iter()
        .find(|named| named.name.ends_with("magnitude"))
        .unwrap();
    let slopes = gradients[&magnitude.name].to_vec();
    let product: f32 = slopes
        .iter()
        .zip(magnitude.value.to_vec())
        .map(|(g, m)| g * m)
        .sum();
    let sum: f32 = host.logits(&[adapter.as_ref()]).iter().sum();
    assert!(
        (product - sum).abs() < 1e-3 * sum.abs().max(1.0),
        "{product} against {sum}"
    );
}

#[test]
fn pissa_is_saved_as_plain_lora_of_twice_the_rank() {
    let host = FakeHost::new();
    let options = json!({"rank": 2, "alpha": 3.0, "init": "pissa", "rank_pattern": {"v_proj": 3}});
    let files = lora(&host, options).files(&host).unwrap();
    assert_eq!(files.config["r"], json!(4));
    assert_eq!(files.config["lora_alpha"], json!(6));
    assert_eq!(files.config["rank_pattern"], json!({"v_proj": 6}));
    assert_eq!(files.config["init_lora_weights"], json!(true));
    let b = &files.tensors["base_model.model.layers.0.v_proj.lora_B.weight"];
    assert_eq!(b.shape, [8, 6]);
}

#[test]
fn options_that_do_not_fit_are_refused_by_name() {
    let host = FakeHost::new();
    for (options, words) in [
        (
            json!({"rank": 0}),
            "method.rank: 0 given; must be 1 to 65536",
        ),
        (json!({"dropout": 1.0}), "method.dropout: 1 given"),
        (json!({"rank_pattern": {"q_proj": 0}}), "q_proj: 0 given"),
        (
            json!({"rank": 9, "init": "pissa"}),
            "must be 1 to 8 with this init",
        ),
        (
            json!({"alpha": 0.0, "init": "olora"}),
            "method.alpha: 0 given",
        ),
        (
            json!({"dora": true, "lora_bias": true}),
            "false together with dora",
        ),
        (
            json!({"lora_bias": true, "target_modules": ["embed"]}),
            "takes no bias",
        ),
        (
            json!({"dora": true, "target_modules": ["conv"]}),
            "not convolutions",
        ),
        (
            json!({"modules_to_save": ["lm_heat"]}),
            "did you mean lm_head",
        ),
        (
            json!({"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]}),
            "nothing is left",
        ),
        (json!({"rank": "eight"}), "method.rank"),
    ] {
        let message = refused(&host, options.clone());
        assert!(message.contains(words), "{options}: {message}");
    }
}

#[test]
fn a_bias_of_the_adapter_needs_one_of_the_host_to_merge() {
    let host = FakeHost::new();
    let adapter = lora(
        &host,
        json!({"rank": 2, "lora_bias": true, "target_modules": ["v_proj"]}),
    );
    let message = adapter
        .merged(&host, "layers.0.v_proj.weight")
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("lora_bias"), "{message}");
}

fn two_adapters(host: &FakeHost) -> (AdapterFiles, AdapterFiles) {
    let files = |options| lora(host, options).files(host).unwrap();
    (
        files(json!({"rank": 2, "alpha": 3.0})),
        files(json!({"rank": 2, "rslora": true, "target_modules": ["q_proj", "embed"]})),
    )
}

#[test]
fn laying_side_by_side_and_cutting_the_sum_are_exact() {
    let host = FakeHost::new();
    let (one, two) = two_adapters(&host);
    let change = |files: &AdapterFiles, name: &str| -> Vec<f32> {
        let adapter = from_peft(&files.config)
            .unwrap()
            .restore(&host, files)
            .unwrap();
        let base = host.weight(name).unwrap();
        let merged = adapter
            .merged(&host, name)
            .unwrap()
            .unwrap_or_else(|| base.clone());
        to_vec(merged.values - base.values)
    };
    for how in [Combination::Cat, Combination::Svd { rank: 4 }] {
        let mixed = combine(&[(&one, 0.7), (&two, -0.4)], how).unwrap();
        for name in [
            "layers.0.q_proj.weight",
            "layers.0.v_proj.weight",
            "embed.weight",
        ] {
            let (first, second) = (change(&one, name), change(&two, name));
            let sum: Vec<f32> = first
                .iter()
                .zip(second)
                .map(|(x, y)| 0.7 * x - 0.4 * y)
                .collect();
            let apart = distance(&change(&mixed, name), &sum);
            assert!(apart < 1e-4, "{name} {how:?}: {apart}");
        }
    }
}

#[test]
fn combining_refuses_what_is_no_plain_sum() {
    let host = FakeHost::new();
    let (one, _) = two_adapters(&host);
    let other = |options| lora(&host, options).files(&host).unwrap();
    let wide = other(json!({"rank": 3}));
    let dora = other(json!({"rank": 2, "dora": true}));
    let head = other(json!({"rank": 2, "modules_to_save": ["lm_head"]}));
    for (parts, words) in [
        (vec![(&one, 1.0), (&wide, 1.0)], "ranks 2 and 3"),
        (vec![(&dora, 1.0)], "use_dora"),
        (
            vec![(&head, 1.0), (&head, 1.0)],
            "more than one of the adapters",
        ),
        (vec![], "no adapters"),
    ] {
        let message = combine(&parts, Combination::Linear)
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains(words), "{message}");
    }
}
