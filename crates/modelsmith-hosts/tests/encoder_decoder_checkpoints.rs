//! Checkpoints and configurations of an encoder with a decoder: in, out, fresh, and refused.

mod common;

use burn::tensor::Device;
use common::{Expected, answers, config, fixtures, host};
use modelsmith_core::files::{Checkpoint, DType};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_hosts::{TokenInput, Transformer, load, random, save};
use serde_json::{Map, Value};

const CASES: [&str; 3] = ["t5", "t5_gated", "mt5"];

fn logits(host: &Transformer, input: &TokenInput) -> Vec<f32> {
    to_vec(host.forward(input, &Pass::default(), &[]).unwrap())
}

#[test]
fn checkpoints_out_are_the_checkpoints_in() {
    for name in CASES {
        let folder = tempfile::tempdir().unwrap();
        let host = host(name);
        let unchanged = |_: &str| -> modelsmith_core::Result<Option<Flat>> { Ok(None) };
        let path = folder.path();
        save(&host, path, DType::F32, u64::MAX, &unchanged, &Map::new()).unwrap();
        let old = Checkpoint::open(fixtures().join(name)).unwrap();
        let new = Checkpoint::open(path).unwrap();
        let names: Vec<&str> = old.names().collect();
        assert_eq!(names, new.names().collect::<Vec<_>>(), "{name}");
        assert!(
            names
                .iter()
                .all(|key| old.bytes(key).unwrap() == new.bytes(key).unwrap())
        );
        let input = answers(&Expected::open(name));
        let again = load(path, &Device::flex()).unwrap();
        assert_eq!(logits(&again, &input), logits(&host, &input), "{name}");
        assert_eq!(names.contains(&"lm_head.weight"), name != "t5");
    }
}

/// Old checkpoints repeat the embedding, and keep a table that the class does not load.
#[test]
fn repeated_embeddings_and_the_idle_table_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let host = host("t5");
    let old = Checkpoint::open(fixtures().join("t5")).unwrap();
    let mut tensors: Vec<(String, Vec<u8>, Vec<usize>)> = Vec::new();
    for name in old.names() {
        let bytes = old.bytes(name).unwrap().to_vec();
        let shape = old.info(name).unwrap().shape.clone();
        if name == "shared.weight" {
            for copy in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
                tensors.push((copy.into(), bytes.clone(), shape.clone()));
            }
            tensors.push(("lm_head.weight".into(), bytes, shape));
        } else {
            tensors.push((name.into(), bytes, shape));
        }
    }
    let idle = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    tensors.push((idle.into(), vec![0; 8 * 4 * 4], vec![8, 4]));
    tensors.sort();
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, bytes, shape)| modelsmith_core::files::View {
            name,
            dtype: DType::F32,
            shape,
            bytes,
        })
        .collect();
    let file = folder.path().join("model.safetensors");
    let metadata = modelsmith_core::files::metadata_pt();
    modelsmith_core::files::write_safetensors(&file, &views, &metadata).unwrap();
    let json = fixtures().join("t5/config.json");
    std::fs::copy(json, folder.path().join("config.json")).unwrap();
    let found = load(folder.path(), &Device::flex()).unwrap();
    let input = answers(&Expected::open("t5"));
    assert_eq!(logits(&found, &input), logits(&host, &input));
    assert_eq!(found.skipped().len(), 3, "{:?}", found.skipped());
    assert_eq!(found.weight_names(), host.weight_names());
}

#[test]
fn configurations_that_would_compute_something_else_are_refused() {
    for (key, value, part) in [
        ("feed_forward_proj", Value::from("gated-tanh"), "tanh"),
        ("is_gated_act", true.into(), "is_gated_act"),
        ("dense_act_fn", "silu".into(), "dense_act_fn"),
        ("is_encoder_decoder", false.into(), "is_encoder_decoder"),
        (
            "relative_attention_num_buckets",
            2.into(),
            "4 buckets or more",
        ),
        (
            "relative_attention_max_distance",
            4.into(),
            "4 nearest places",
        ),
        (
            "decoder_start_token_id",
            80.into(),
            "outside the vocabulary",
        ),
        (
            "architectures",
            vec!["T5EncoderModel"].into(),
            "T5ForConditionalGeneration",
        ),
    ] {
        let mut json = config("t5");
        json[key] = value;
        let error = random(&json, "fresh", 1, &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(part), "{key}: {error}");
    }
}

/// Deviations of fresh weights are those of `transformers`' `_init_weights`.
#[test]
fn fresh_weights_start_as_the_class_starts_them() {
    let mut json = config("t5");
    for (key, value) in [
        ("d_model", 64),
        ("d_kv", 16),
        ("d_ff", 256),
        ("vocab_size", 400),
    ] {
        json[key] = value.into();
    }
    let host = random(&json, "fresh", 1, &Device::flex()).unwrap();
    for (name, deviation) in [
        ("shared.weight", 1.0),
        (
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            (64.0_f64 * 16.0).powf(-0.5),
        ),
        ("decoder.block.1.layer.1.EncDecAttention.k.weight", 0.125),
        ("decoder.block.1.layer.2.DenseReluDense.wo.weight", 0.0625),
    ] {
        let values = host.weight(name).unwrap().to_vec();
        let square: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
        let found = (square / values.len() as f64).sqrt();
        assert!((found / deviation - 1.0).abs() < 0.05, "{name}: {found}");
    }
}
