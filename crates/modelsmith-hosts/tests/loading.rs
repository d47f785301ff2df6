//! What is refused, and with which words; what is taken anyway.

mod common;

use burn::tensor::Device;
use common::{config, fixtures, host};
use modelsmith_core::Result;
use modelsmith_core::files::{Reader, View, atomic_json, metadata_pt, write_safetensors};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_hosts::{Head, LoadOptions, Task, TokenInput, Transformer, load, load_with, random};
use serde_json::{Value, json};
use std::path::Path;

fn message<T>(found: Result<T>) -> String {
    found.err().expect("an error").to_string()
}

fn refused(name: &str, key: &str, value: Value) -> String {
    let mut config = config(name);
    config[key] = value;
    message(random(&config, "test", 0, &Device::flex()))
}

#[test]
fn configurations_that_compute_something_else_are_refused_by_name() {
    let cases = [
        (
            "llama_mha_tied",
            "quantization_config",
            json!({"bits": 4}),
            "unquantised",
        ),
        (
            "llama_mha_tied",
            "num_local_experts",
            json!(8),
            "num_local_experts",
        ),
        (
            "llama_mha_tied",
            "attn_logit_softcapping",
            json!(50.0),
            "attn_logit_softcapping",
        ),
        (
            "llama_mha_tied",
            "hidden_act",
            json!("swiglu"),
            "`swiglu` is not implemented",
        ),
        (
            "llama_mha_tied",
            "model_type",
            json!("lama"),
            "did you mean llama",
        ),
        (
            "llama_mha_tied",
            "architectures",
            json!(["LlamaForQuestionAnswering"]),
            "is implemented",
        ),
        (
            "llama_mha_tied",
            "rope_scaling",
            json!({"type": "longrope", "factor": 2.0}),
            "longrope",
        ),
        (
            "llama_mha_tied",
            "rope_scaling",
            json!({"type": "linear"}),
            "factor",
        ),
        (
            "llama_mha_tied",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0, "mrope_section": [1]}),
            "rope_scaling.mrope_section",
        ),
        (
            "llama_mha_tied",
            "layer_types",
            json!(["full_attention", "linear_attention"]),
            "linear_attention",
        ),
        (
            "llama_mha_tied",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "no sliding window",
        ),
        (
            "mistral",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "a mix",
        ),
        (
            "llama_mha_tied",
            "num_key_value_heads",
            json!(3),
            "does not divide",
        ),
        ("llama_mha_tied", "hidden_size", json!(-16), "hidden_size"),
        (
            "llama_mha_tied",
            "hidden_size",
            json!("16"),
            "a whole number",
        ),
        (
            "llama_mha_tied",
            "num_hidden_layers",
            json!(100_000),
            "at most 4096",
        ),
        ("llama_mha_tied", "vocab_size", json!(0), "at least 1"),
        ("llama_mha_tied", "head_dim", json!(3), "even"),
        (
            "llama_mha_tied",
            "partial_rotary_factor",
            json!(0.5),
            "only 1.0 is",
        ),
        (
            "llama_mha_tied",
            "auto_map",
            json!({"AutoModel": "code.Model"}),
            "auto_map",
        ),
        ("bert_mlm", "is_decoder", json!(true), "is_decoder"),
        (
            "bert_mlm",
            "position_embedding_type",
            json!("relative_key"),
            "relative_key",
        ),
        ("opt", "layerdrop", json!(0.1), "layerdrop"),
        (
            "opt",
            "layer_norm_elementwise_affine",
            json!(false),
            "elementwise",
        ),
        (
            "gpt2",
            "add_cross_attention",
            json!(true),
            "add_cross_attention",
        ),
        ("gpt2", "attn_pdrop", json!(1.5), "no dropout rate"),
    ];
    for (name, key, value, expected) in cases {
        let found = refused(name, key, value.clone());
        assert!(found.contains(expected), "{key} = {value}: {found}");
    }
}

#[test]
fn harmless_and_empty_keys_pass() {
    let mut config = config("llama_mha_tied");
    for (key, value) in [
        ("quantization_config", json!(null)),
        ("attn_logit_softcapping", json!(null)),
        ("use_moe", json!(false)),
        ("pretraining_tp", json!(2)),
        ("_name_or_path", json!("somewhere")),
        ("temperature", json!(0.7)),
    ] {
        config[key] = value;
    }
    assert!(random(&config, "test", 0, &Device::flex()).is_ok());
}

/// A copy of a fixture with another configuration and other tensors.
fn copy(
    name: &str,
    change: impl Fn(&mut Value),
    rename: impl Fn(&str) -> Option<String>,
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(name);
    change(&mut config);
    atomic_json(dir.path().join("config.json"), &config).unwrap();
    let reader = Reader::open(fixtures().join(name).join("model.safetensors")).unwrap();
    let names: Vec<(String, String)> = reader
        .names()
        .filter_map(|name| Some((name.to_owned(), rename(name)?)))
        .collect();
    let views: Vec<View<'_>> = names
        .iter()
        .map(|(old, new)| View {
            name: new,
            ..reader.view(old).unwrap()
        })
        .collect();
    write_safetensors(dir.path().join("model.safetensors"), &views, &metadata_pt()).unwrap();
    dir
}

fn open(path: &Path) -> Result<Transformer> {
    load(path, &Device::flex())
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let keep = |name: &str| Some(name.to_owned());
    let lost = |name: &str| (name != "model.norm.weight").then(|| name.to_owned());
    let missing = copy("llama_mha_tied", |_| (), lost);
    let found = message(open(missing.path()));
    assert!(found.contains("missing: model.norm.weight"), "{found}");
    let renamed = copy(
        "llama_mha_tied",
        |_| (),
        |name| Some(name.replace("layers.0.mlp.up_proj", "layers.0.mlp.fc_up")),
    );
    let found = message(open(renamed.path()));
    assert!(
        found.contains("missing: model.layers.0.mlp.up_proj.weight"),
        "{found}"
    );
    assert!(
        found.contains("not known to this class: model.layers.0.mlp.fc_up.weight"),
        "{found}"
    );
    let wider = copy(
        "llama_mha_tied",
        |config| config["intermediate_size"] = json!(25),
        keep,
    );
    let found = message(open(wider.path()));
    assert!(
        found.contains("mlp.down_proj.weight [16, 24] where config.json makes it [16, 25]"),
        "{found}"
    );
    let huge = copy(
        "llama_mha_tied",
        |config| config["vocab_size"] = json!(2_000_000_000),
        keep,
    );
    let found = message(open(huge.path()));
    assert!(
        found.contains("model.embed_tokens.weight [80, 16]"),
        "{found}"
    );
}

#[test]
fn a_stored_copy_must_equal_the_weight_it_is_tied_to() {
    let tied = copy(
        "llama_gqa_untied",
        |config| config["tie_word_embeddings"] = json!(true),
        |name| Some(name.to_owned()),
    );
    let found = message(open(tied.path()));
    assert!(
        found.contains("lm_head.weight differs from model.embed_tokens.weight"),
        "{found}"
    );
    let skipped = host("bert_mlm_hub_names");
    let mut expected = vec![
        "bert.embeddings.position_ids",
        "cls.predictions.decoder.bias",
        "cls.predictions.decoder.weight",
    ];
    expected.sort_unstable();
    assert_eq!(skipped.skipped(), expected);
}

#[test]
fn a_missing_classifier_is_an_error_until_a_fresh_one_is_asked_for() {
    let folder = fixtures().join("llama_gqa_untied");
    let device = Device::flex();
    let task = LoadOptions {
        task: Some(Task::SequenceClassification),
        ..LoadOptions::default()
    };
    let found = message(load_with(&folder, task, &device));
    assert!(
        found.contains("missing: score.weight") && found.contains("labels"),
        "{found}"
    );
    let options = LoadOptions {
        new_head: Some(4),
        seed: 7,
        ..LoadOptions::default()
    };
    let host = load_with(&folder, options, &device).unwrap();
    assert_eq!(host.head(), Head::SequenceClasses(4));
    assert_eq!(host.fresh_weights(), ["score.weight"]);
    assert_eq!(host.info().architecture, "LlamaForSequenceClassification");
    assert_eq!(host.info().config["id2label"]["3"], "LABEL_3");
    assert_eq!(host.skipped(), ["lm_head.weight"]);
    let input = TokenInput::from_ids(&[vec![5, 6], vec![7]], 0, false, &device);
    let logits = host.forward(&input, &Default::default(), &[]).unwrap();
    assert_eq!(logits.dims(), [2, 1, 4]);
    let mlm = load_with(&fixtures().join("bert_mlm"), options, &device).unwrap();
    assert_eq!(
        mlm.fresh_weights(),
        [
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias"
        ]
    );
}

#[test]
fn the_bare_model_loads_from_any_class() {
    let device = Device::flex();
    for name in [
        "llama_gqa_untied",
        "gpt2",
        "gpt2_hub_names",
        "opt",
        "bert_mlm",
        "roberta_seqcls",
    ] {
        let options = LoadOptions {
            task: Some(Task::Base),
            ..LoadOptions::default()
        };
        let bare = load_with(&fixtures().join(name), options, &device).unwrap();
        let input = TokenInput::from_ids(&[vec![5, 9, 33]], 0, false, &device);
        let hidden = |host: &Transformer| {
            let hidden = host.hidden(&input, &Default::default(), &[], None).unwrap();
            modelsmith_core::parameters::to_vec(hidden)
        };
        assert_eq!(hidden(&bare), hidden(&host(name)), "{name}");
        assert_eq!(bare.head(), Head::Base, "{name}");
    }
}

#[test]
fn tied_weights_change_together() {
    let mut host = host("llama_mha_tied");
    assert!(host.weight("lm_head.weight").is_none());
    let name = "model.embed_tokens.weight";
    let count = host
        .weight_names()
        .iter()
        .filter(|weight| *weight == name)
        .count();
    assert_eq!(count, 1);
    let device = host.device();
    let zeros = Flat::from_vec(vec![0.0; 80 * 16], &[80, 16], &device);
    host.set_weight(name, &zeros).unwrap();
    let input = TokenInput::from_ids(&[vec![5, 9]], 0, false, &device);
    let logits = host.forward(&input, &Default::default(), &[]).unwrap();
    assert!(
        modelsmith_core::parameters::to_vec(logits)
            .iter()
            .all(|value| *value == 0.0)
    );
    let head = host
        .sites()
        .iter()
        .find(|site| site.path == "lm_head")
        .unwrap();
    assert!(head.head && head.tied_to.as_deref() == Some("model.embed_tokens"));
    let found = message(host.set_weight("model.embed_token.weight", &zeros));
    assert!(
        found.contains("did you mean model.embed_tokens.weight"),
        "{found}"
    );
    let found = message(host.set_weight("model.norm.weight", &zeros));
    assert!(
        found.contains("[16]") && found.contains("[80, 16]"),
        "{found}"
    );
}

#[test]
fn fresh_models_are_equal_for_equal_seeds() {
    let device = Device::flex();
    let names = [
        "llama_mha_tied",
        "qwen3",
        "gpt2",
        "opt_350m_style",
        "bert_pooler",
        "roberta_mlm",
    ];
    for name in names {
        let make = |seed| random(&config(name), "fresh", seed, &device).unwrap();
        let (a, b, c) = (make(1), make(1), make(2));
        let weight = |host: &Transformer, name: &str| host.weight(name).unwrap().to_vec();
        for key in a.weight_names() {
            assert_eq!(weight(&a, &key), weight(&b, &key), "{name} {key}");
        }
        let key = &a.weight_names()[0];
        assert_ne!(weight(&a, key), weight(&c, key), "{name}");
    }
    let gpt2 = random(&config("gpt2"), "fresh", 1, &device).unwrap();
    let spread = |name: &str| {
        let values = gpt2.weight(name).unwrap().to_vec();
        (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt()
    };
    assert!((spread("transformer.wte.weight") - 0.02).abs() < 2e-3);
    assert!((spread("transformer.h.1.mlp.c_proj.weight") - 0.01).abs() < 1e-3);
    let llama = random(&config("llama_mha_tied"), "fresh", 1, &device).unwrap();
    let table = llama.weight("model.embed_tokens.weight").unwrap().to_vec();
    assert!(
        table[..16].iter().all(|value| *value == 0.0),
        "the padding row"
    );
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name_and_place() {
    let keep = |name: &str| Some(name.to_owned());
    let folder = copy("llama_mha_tied", |_| (), keep);
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 8..end - 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = open(folder.path()).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let found = error.to_string();
    assert!(found.contains("holds NaN at element"), "{found}");
}
