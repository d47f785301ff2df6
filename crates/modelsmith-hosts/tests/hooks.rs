//! Every computation passes the hooks of its site.

mod common;

use burn::tensor::{Device, Int, Tensor};
use common::{Expected, batch, host};
use modelsmith_core::capture::{Capture, Noise, Restore, Side};
use modelsmith_core::hooks::{
    AttentionCall, DrawKey, EmbeddingCall, Hooks, LinearCall, NormCall, OutputCall, Pass,
    ProbabilitiesCall, Qkv, ResidualCall,
};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{OutputMatrix, TokenInput, Transformer};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Counts the visits of each site, and changes nothing.
#[derive(Default)]
struct Counter {
    visits: Mutex<BTreeMap<String, usize>>,
    probabilities: bool,
}

impl Counter {
    fn count(&self, path: &str) {
        *self
            .visits
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_default() += 1;
    }
}

impl Hooks for Counter {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.count(&call.site.path);
        call.run(ids)
    }
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.count(&call.site.path);
        call.run(x)
    }
    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.count(&call.site.path);
        call.run(x)
    }
    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        self.count(&call.site.path);
        call.run(qkv)
    }
    fn probabilities(&self, call: ProbabilitiesCall<'_>, p: Tensor<4>) -> Tensor<4> {
        self.count(&format!("{}.probabilities", call.site.path));
        call.run(p)
    }
    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.count(&call.site.path);
        call.run(x)
    }
    fn output(&self, call: OutputCall<'_>, hidden: Tensor<3>) -> Tensor<3> {
        self.count(&call.site.path);
        call.run(hidden)
    }
    fn needs_probabilities(&self) -> bool {
        self.probabilities
    }
}

/// The batch of a fixture; with the decoder's tokens where there is an encoder to read it.
fn input(host: &Transformer, expected: &Expected) -> TokenInput {
    match host.decoder_start() {
        Some(_) => common::answers(expected),
        None => batch(expected, ""),
    }
}

fn logits(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Vec<f32> {
    to_vec(host.forward(input, &Pass::default(), hooks).unwrap())
}

#[test]
fn every_site_is_visited_once_and_watching_changes_no_bit() {
    let names = [
        "llama_gqa_untied",
        "llama_mha_tied",
        "qwen3",
        "gpt2",
        "opt_350m_style",
        "bert_mlm",
        "bert_seqcls",
        "roberta_seqcls",
        "roberta_mlm",
        "llama_seqcls",
        "t5",
        "t5_gated",
    ];
    for name in names {
        let host = host(name);
        let input = input(&host, &Expected::open(name));
        let counter = Counter::default();
        let watched = logits(&host, &input, &[&counter, &counter]);
        assert_eq!(watched, logits(&host, &input, &[]), "{name}");
        let visits = counter.visits.into_inner().unwrap();
        let paths: Vec<&String> = visits.keys().collect();
        let mut sites: Vec<&String> = host.sites().iter().map(|site| &site.path).collect();
        sites.sort();
        assert_eq!(paths, sites, "{name}");
        assert!(
            visits.values().all(|count| *count == 2),
            "{name}: {visits:?}"
        );
    }
}

#[test]
fn probabilities_are_opened_on_request_and_sum_to_one() {
    let host = host("mistral");
    let input = batch(&Expected::open("mistral"), "");
    let counter = Counter {
        probabilities: true,
        ..Counter::default()
    };
    logits(&host, &input, &[&counter]);
    let visits = counter.visits.into_inner().unwrap();
    assert_eq!(visits["model.layers.0.self_attn.probabilities"], 1);
    let path = "model.layers.1.self_attn";
    let capture = Capture::new([path], Side::Output).with_probabilities();
    logits(&host, &input, &[&capture]);
    let kept = capture.take();
    let p = &kept[&format!("{path}.probabilities")];
    assert_eq!(p.shape, [2, 4, 12, 12]);
    for row in p.to_vec().chunks(12) {
        let sum: f32 = row.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
    // A window of 4: the last query sees 4 keys.
    let last = &p.to_vec()[11 * 12..12 * 12];
    assert_eq!(last.iter().filter(|p| **p > 0.0).count(), 4);
}

/// Adds a constant to what a linear site returns.
struct Add(&'static str, f32);

impl Hooks for Add {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.0;
        let y = call.run(x);
        if here { y + self.1 } else { y }
    }
}

#[test]
fn hooks_add_and_stack() {
    let host = host("llama_gqa_untied");
    let input = batch(&Expected::open("llama_gqa_untied"), "");
    let plain = logits(&host, &input, &[]);
    let (first, second) = (Add("lm_head", 1.0), Add("lm_head", 2.0));
    let moved = logits(&host, &input, &[&first, &second]);
    let gaps = moved.iter().zip(&plain).map(|(a, b)| a - b - 3.0);
    assert!(gaps.into_iter().all(|gap| gap.abs() < 1e-5));
    let inside = logits(&host, &input, &[&Add("model.layers.0.mlp.up_proj", 0.5)]);
    assert_ne!(inside, plain);
}

/// `sum(weights * logits)` with fixed weights.
fn loss(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Tensor<1> {
    let logits = host.forward(input, &Pass::default(), hooks).unwrap();
    let shape = logits.dims();
    let count = shape.iter().product::<usize>();
    let weights = (0..count)
        .map(|i| (i as f32 * 0.37).sin())
        .collect::<Vec<f32>>();
    let data = burn::tensor::TensorData::new(weights, shape);
    (logits * Tensor::from_data(data, &Device::flex())).sum()
}

#[test]
fn captured_gradients_agree_with_finite_differences() {
    for (name, path) in [
        ("llama_gqa_untied", "model.layers.0.self_attn.q_proj"),
        ("qwen3", "model.layers.0"),
        ("gpt2", "transformer.h.0.attn.c_attn"),
        ("bert_mlm", "bert.encoder.layer.0.intermediate.dense"),
    ] {
        let host = host(name);
        let input = TokenInput::from_ids(&[vec![5, 9, 33, 7]], 0, false, &Device::flex());
        let capture = Capture::new([path], Side::Output).with_gradients();
        let gradients = loss(&host, &input, &[&capture]).backward();
        let found = capture.gradients(&gradients)[path].clone();
        let values = found.to_vec();
        let shape = [found.shape[0], found.shape[1], found.shape[2]];
        let most = values.iter().fold(0_f32, |most, g| most.max(g.abs()));
        for place in [0, shape[2] + 3, 2 * shape[2] + 7] {
            let bent = |step: f32| {
                let mut noise = vec![0.0; values.len()];
                noise[place] = step;
                let data = burn::tensor::TensorData::new(noise, shape);
                let noise = Tensor::from_data(data, &Device::flex());
                let noise = Noise {
                    path: path.into(),
                    noise,
                };
                to_vec(loss(&host, &input, &[&noise]))[0]
            };
            let slope = (bent(1e-2) - bent(-1e-2)) / 2e-2;
            let gap = (slope - values[place]).abs();
            assert!(
                gap < 2e-2 * most.max(1.0),
                "{name} {path} {place}: {slope} {}",
                values[place]
            );
        }
    }
}

#[test]
fn restoring_a_block_undoes_the_noise_before_it() {
    let host = host("llama_gqa_untied");
    let device = Device::flex();
    let input = TokenInput::from_ids(&[vec![5, 9, 33, 7]], 0, false, &device);
    let clean = logits(&host, &input, &[]);
    let block = "model.layers.0";
    let capture = Capture::new([block], Side::Output);
    logits(&host, &input, &[&capture]);
    let value: Tensor<3> = capture.take()[block].tensor().unwrap();
    let noise = Noise {
        path: "model.embed_tokens".into(),
        noise: Tensor::ones([1, 4, 16], &device),
    };
    assert_ne!(logits(&host, &input, &[&noise]), clean);
    let mask = Tensor::ones([1, 4, 1], &device);
    let restore = Restore {
        path: block.into(),
        value,
        mask,
    };
    let restored = logits(&host, &input, &[&noise, &restore]);
    let gap = restored
        .iter()
        .zip(&clean)
        .map(|(a, b)| (a - b).abs())
        .fold(0_f32, f32::max);
    assert!(gap < 1e-4, "{gap}");
}

#[test]
fn dropout_is_drawn_while_training_only_and_repeats() {
    let mut config = common::config("gpt2");
    config["resid_pdrop"] = 0.5.into();
    config["attn_pdrop"] = 0.5.into();
    let host = modelsmith_hosts::random(&config, "dropout", 3, &Device::flex()).unwrap();
    let input = TokenInput::from_ids(&[vec![5, 9, 33, 7]], 0, false, &Device::flex());
    let key = |step| Pass {
        training: Some(DrawKey {
            seed: 1,
            step,
            micro: 0,
        }),
        ..Pass::default()
    };
    let run = |pass: &Pass| to_vec(host.forward(&input, pass, &[]).unwrap());
    assert_eq!(run(&key(1)), run(&key(1)));
    assert_ne!(run(&key(1)), run(&key(2)));
    assert_ne!(run(&key(1)), run(&Pass::default()));
}

#[test]
fn the_matrix_of_a_plain_head_gives_its_logits() {
    for name in ["llama_gqa_untied", "llama_mha_tied", "qwen3", "gpt2", "t5"] {
        let host = host(name);
        let input = input(&host, &Expected::open(name));
        let pass = Pass::default();
        let hidden = host.hidden(&input, &pass, &[], None).unwrap();
        let expected = to_vec(host.logits(hidden.clone(), &input, &pass, &[]));
        let OutputMatrix { matrix, scale } = host.output_matrix(&[]).unwrap();
        let [rows, time, width] = hidden.dims();
        let logits = (hidden * scale)
            .reshape([rows * time, width])
            .matmul(matrix.transpose());
        assert_eq!(to_vec(logits), expected, "{name}");
    }
}

#[test]
fn a_head_that_is_more_than_one_product_has_no_matrix() {
    let counter = Counter::default();
    let watched: &[&dyn Hooks] = &[&counter];
    assert!(host("llama_mha_tied").output_matrix(watched).is_none());
    assert!(host("bert_mlm").output_matrix(&[]).is_none());
}
