//! The cases of card 26 (Razdaibiedina et al., Findings of ACL 2023).

use super::*;
use crate::fake_host::FakeHost;
use modelsmith_core::hooks::Hooks;
use modelsmith_core::parameters::{Parameters, to_vec};

fn flat(values: &[f32], shape: &[usize]) -> Flat {
    Flat::from_vec(values.to_vec(), shape, &Device::flex())
}

/// The card's hand case, with as many branches as rows or one.
fn hand(separate: bool) -> Residual {
    let config = ResidualPromptConfig {
        virtual_tokens: 2,
        bottleneck: 2,
        separate,
        ..ResidualPromptConfig::default()
    };
    let branches = config.branches();
    let many = |values: &[f32], shape: [usize; 2]| {
        flat(&values.repeat(branches), &[branches, shape[0], shape[1]])
    };
    let parts = [
        many(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], [2, 4]),
        many(&[0.0, -1.0], [1, 2]),
        many(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, -1.0], [4, 2]),
        many(&[0.0, 0.1, 0.0, 0.0], [1, 4]),
        many(&[1.0; 4], [1, 4]),
        many(&[0.0; 4], [1, 4]),
    ];
    let prompt = flat(&[1.0, -1.0, 2.0, 0.0, 0.5, 0.5, -0.5, 1.0], &[2, 4]);
    config.producer(&prompt, &parts).unwrap()
}

#[test]
fn the_vectors_are_those_of_the_card_whether_the_branch_is_shared_or_repeated() {
    let expected = [
        1.205_234_9,
        -0.703_549_6,
        3.117_389_7,
        -1.619_074_7,
        1.487_783_1,
        -0.268_275_8,
        0.487_783_07,
        -0.207_290_53,
    ];
    for separate in [false, true] {
        let found = to_vec(hand(separate).vectors(&Pass::default()).inner());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{separate}: {found:?}");
        }
    }
}

#[test]
fn a_branch_of_nothing_leaves_the_prompt_and_no_skip_leaves_the_branch() {
    let mut nothing = hand(false);
    nothing.up = trained(nothing.up.val().without_autodiff() * 0.0);
    nothing.up_bias = trained(nothing.up_bias.val().without_autodiff() * 0.0);
    nothing.gain = nothing
        .gain
        .map(|gain| trained(gain.val().without_autodiff() * 0.0));
    let plain = to_vec(nothing.prompt.val().inner());
    assert_eq!(to_vec(nothing.vectors(&Pass::default()).inner()), plain);
    let whole = to_vec(hand(false).vectors(&Pass::default()).inner());
    let mut branch = hand(false);
    branch.options.residual = false;
    let branch = to_vec(branch.vectors(&Pass::default()).inner());
    for at in 0..whole.len() {
        assert!((whole[at] - branch[at] - plain[at]).abs() < 1e-6);
    }
}

/// The gradients by the slope of `sum(outer · P')` in each parameter, in f64 differences.
#[test]
fn gradients_are_the_slopes() {
    let outer = flat(&[0.5, -1.0, 2.0, 0.25, 1.0, 0.75, -0.5, 1.5], &[2, 4]);
    let loss = |producer: &Residual| {
        (producer.vectors(&Pass::default()) * outer.tensor::<2>().unwrap()).sum()
    };
    let producer = hand(false);
    let gradients = producer.take_gradients(&mut loss(&producer).backward());
    assert_eq!(gradients.len(), 7);
    for (name, gradient) in gradients {
        for (at, slope) in gradient.to_vec().into_iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = producer.clone();
                moved.replace(&mut |other, value| {
                    (other == name).then(|| {
                        let mut values = value.to_vec();
                        values[at] += by;
                        flat(&values, &value.shape)
                    })
                });
                f64::from(loss(&moved).inner().into_scalar::<f32>())
            };
            // Both sides of a ReLU's corner have slopes of their own; the case has none nearby.
            let step = 1e-3;
            let found = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            assert!(
                (found - f64::from(slope)).abs() < 5e-3,
                "{name} {at}: {slope} {found}"
            );
        }
    }
}

/// Values and gradients of a random branch against torch (`parity/prompt/make.py`).
#[test]
fn a_branch_computes_what_torch_computes() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../parity/prompt/residual_branch/expected.safetensors"
    );
    let expected = modelsmith_core::weights::load(path.as_ref(), &Device::flex()).unwrap();
    let config = ResidualPromptConfig {
        virtual_tokens: 5,
        bottleneck: 4,
        ..ResidualPromptConfig::default()
    };
    let shaped = |name: &str, shape: [usize; 3]| flat(&expected[name].to_vec(), &shape);
    let parts = [
        shaped("down", [1, 4, 8]),
        shaped("down_bias", [1, 1, 4]),
        shaped("up", [1, 8, 4]),
        shaped("up_bias", [1, 1, 8]),
        shaped("gain", [1, 1, 8]),
        shaped("shift", [1, 1, 8]),
    ];
    let producer = config.producer(&expected["prompt"], &parts).unwrap();
    let vectors = producer.vectors(&Pass::default());
    let near = |name: &str, found: Vec<f32>, tolerance: f32| {
        for (a, b) in found.iter().zip(expected[name].to_vec()) {
            assert!(
                (a - b).abs() < tolerance * b.abs().max(1.0),
                "{name}: {a} {b}"
            );
        }
    };
    near("vectors", to_vec(vectors.clone().inner()), 1e-6);
    let loss = (vectors * expected["outer"].tensor::<2>().unwrap()).sum();
    let gradients = producer.take_gradients(&mut loss.backward());
    assert_eq!(gradients.len(), 7);
    for (name, gradient) in gradients {
        near(&format!("grad.{name}"), gradient.to_vec(), 1e-5);
    }
}

#[test]
fn trained_numbers_are_those_of_the_card() {
    for (bottleneck, expected) in [(400, 624_784), (800, 1_239_584)] {
        let config = ResidualPromptConfig {
            bottleneck,
            ..ResidualPromptConfig::default()
        };
        let parts = config.parts(768).into_iter();
        let branch: usize = parts.map(|part| part.shape.iter().product::<usize>()).sum();
        assert_eq!(10 * 768 + branch, expected);
    }
}

#[test]
fn the_finished_prompt_computes_what_the_branch_computed() {
    let host = FakeHost::new();
    for (separate, depth) in [(false, 1), (true, 2)] {
        let config = ResidualPromptConfig {
            virtual_tokens: 3,
            bottleneck: 5,
            separate,
            depth,
            dropout: 0.5,
            ..ResidualPromptConfig::default()
        };
        let adapter = config.attach(&host, 1).unwrap();
        let files = adapter.portable(&host).unwrap();
        assert_eq!(files.config["peft_type"], "PROMPT_TUNING");
        assert_eq!(files.tensors["prompt_embeddings"].shape, [3, 8]);
        let baked = crate::saved::from_peft(&files.config).unwrap();
        let baked = baked.restore(&host, &files).unwrap();
        let found = host.logits(&[baked.as_ref()]);
        let expected = host.logits(&[adapter.as_ref()]);
        // In training values are dropped, so that the branch and what it gives differ.
        let pass = crate::fake_host::training();
        let produced: &dyn Hooks = adapter.hooks();
        let trained = to_vec(produced.prompt(&pass).unwrap());
        assert_ne!(trained, to_vec(produced.prompt(&Pass::default()).unwrap()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5, "{separate} {depth}");
        }
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let host = FakeHost::new();
    let base = ResidualPromptConfig::default();
    let cases = [
        (
            ResidualPromptConfig {
                virtual_tokens: 0,
                ..base.clone()
            },
            "method.virtual_tokens",
        ),
        (
            ResidualPromptConfig {
                bottleneck: 0,
                ..base.clone()
            },
            "method.bottleneck",
        ),
        (
            ResidualPromptConfig {
                depth: 3,
                ..base.clone()
            },
            "method.depth",
        ),
        (
            ResidualPromptConfig {
                dropout: 1.0,
                ..base.clone()
            },
            "method.dropout",
        ),
        (
            ResidualPromptConfig {
                branch_gain: f64::NAN,
                ..base.clone()
            },
            "method.branch_gain",
        ),
        (
            ResidualPromptConfig {
                branch_gain: 0.1,
                layer_norm: false,
                ..base.clone()
            },
            "method.branch_gain",
        ),
        (
            ResidualPromptConfig {
                init_text: "x".into(),
                ..base
            },
            "method.init_text",
        ),
    ];
    for (config, key) in cases {
        let error = config
            .attach(&host, 0)
            .err()
            .expect("a refusal")
            .to_string();
        assert!(error.contains(key), "{error}");
    }
}
