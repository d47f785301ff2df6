use super::contrast::{self, Origin};
use super::experts::{Experts, Routed};
use super::{MoeLoraConfig, Negatives, Positives, Routing, Similarity, Space};
use crate::adapter::LoraConfig;
use crate::adapter::common::attached::Attached;
use crate::adapter::common::copies::Copies;
use crate::adapter::common::pair::Plan;
use crate::fake_host::{FakeHost, training};
use crate::from_peft;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use modelsmith_core::hooks::{Around, Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::parameters::{Flat, Parameters, frozen, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, Progress};
use modelsmith_core::sites::{Site, SiteId, SiteKind};
use modelsmith_kernels::linear;

/// The card's case (a)1: four experts of rank 1 on an identity of width 2.
fn experts(config: &MoeLoraConfig) -> Experts {
    let site = Site {
        id: SiteId(0),
        path: "layer".into(),
        kind: SiteKind::Linear,
        inputs: 2,
        outputs: 2,
        bias: false,
        fan_in_fan_out: false,
        head: false,
        tied_to: None,
    };
    let plan = Plan {
        site,
        rank: 4,
        scale: 1.0,
        dropout: 0.0,
        shape: vec![2, 2],
    };
    let mut experts = Experts::fresh(config, plan, 1.0, &FakeHost::new(), 0);
    experts.replace(&mut |name, value| {
        let values = match name {
            "lora_a" => vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, -1.0],
            "lora_b" => vec![1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 0.5, -0.5],
            "lora_route" => vec![1.0, 0.0, 0.0, 1.0, 0.5, 0.5, -1.0, 0.0],
            _ => return None,
        };
        Some(Flat::from_vec(values, &value.shape, &Device::flex()))
    });
    experts
}

fn card() -> MoeLoraConfig {
    MoeLoraConfig {
        num_experts: 4,
        rank: 1,
        alpha: 1.0,
        temperature: 0.5,
        balance_weight: 1.0,
        contrast_weight: 1.0,
        ..MoeLoraConfig::default()
    }
}

fn tokens() -> Tensor<3> {
    Tensor::from_floats([[[1.0, 2.0], [2.0, -1.0], [0.0, 1.0]]], &Device::flex())
}

/// The output of an identity with these experts, and the experts after the pass.
fn run(experts: Experts, x: Tensor<3>, pass: &Pass) -> (Tensor<3>, Attached<Experts>) {
    let host = FakeHost::new();
    let layer = Linear {
        weight: frozen(Tensor::eye(2, &Device::flex())),
        bias: None,
        fan_in_fan_out: false,
    };
    let place = experts.plan().site.clone();
    let copies = Copies::of_host(&host, Vec::new()).unwrap();
    let attached = Attached::new(&host, vec![experts], copies);
    let hooks: &[&dyn Hooks] = &[&attached];
    let around = Around { hooks, pass };
    let y = around.linear(&place, &layer, x, &|x| {
        linear(x, layer.matrix(), None, None)
    });
    (y, attached)
}

fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < tolerance, "{found} {expected}");
    }
}

#[test]
fn routing_and_outputs_are_the_cards() {
    let Routed {
        probabilities,
        chosen,
        gates,
    } = experts(&card()).route(&Pass::default(), &tokens());
    near(
        &to_vec(probabilities),
        &[
            0.181_741, 0.494_023, 0.299_640, 0.024_596, 0.774_454, 0.038_558, 0.172_804, 0.014_185,
            0.157_060, 0.426_933, 0.258_948, 0.157_060,
        ],
        1e-6,
    );
    assert_eq!(
        to_vec(chosen),
        [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    );
    near(
        &to_vec(gates),
        &[
            0.0, 0.622_459, 0.377_541, 0.0, 0.817_575, 0.0, 0.182_426, 0.0, 0.0, 0.622_459,
            0.377_541, 0.0,
        ],
        1e-6,
    );
    let (y, _) = run(experts(&card()), tokens(), &Pass::default());
    near(
        &to_vec(y),
        &[
            1.566_311, 3.811_23, 3.726_362, -0.908_787, 0.188_770, 1.811_23,
        ],
        2e-6,
    );
}

/// Balance and contrast that a pass of training leaves, over the tokens that count.
fn left(config: &MoeLoraConfig, x: Tensor<3>, valid: Option<Vec<bool>>) -> (f64, Option<f64>, f32) {
    let shape = [x.dims()[0], x.dims()[1]];
    let pass = Pass {
        valid: valid.map(|valid| {
            Tensor::<2, Bool>::from_data(TensorData::new(valid, shape), &Device::flex())
        }),
        ..training()
    };
    let (_, attached) = run(experts(config), x, &pass);
    let state = attached.states().next().unwrap();
    let term = state.take_term().unwrap().into_scalar::<f32>();
    assert!(state.take_term().is_none(), "a term is taken once");
    let seen = state.seen().unwrap();
    (seen.balance, seen.contrast, term)
}

#[test]
fn balance_and_contrast_are_the_cards() {
    let (balance, contrast, term) = left(&card(), tokens(), None);
    assert!((balance - 1.161_435).abs() < 1e-6, "{balance}");
    let contrast = contrast.unwrap();
    assert!((contrast - 1.192_725).abs() < 2e-6, "{contrast}");
    assert!((f64::from(term) - balance - contrast).abs() < 1e-6);
}

#[test]
fn padding_counts_for_nothing() {
    let padded = Tensor::<3>::from_floats(
        [[[1.0, 2.0], [2.0, -1.0], [0.0, 1.0], [9.0, 9.0], [-3.0, 5.0]]],
        &Device::flex(),
    );
    let real = Some(vec![true, true, true, false, false]);
    let (balance, contrast, _) = left(&card(), padded, real);
    let (expected, of_contrast, _) = left(&card(), tokens(), None);
    assert!((balance - expected).abs() < 1e-6, "{balance} {expected}");
    assert!((contrast.unwrap() - of_contrast.unwrap()).abs() < 1e-6);
}

#[test]
fn an_even_router_has_the_least_balance() {
    let host = FakeHost::new();
    let adapter = MoeLoraConfig {
        num_experts: 4,
        routing: Routing::Random,
        ..MoeLoraConfig::default()
    }
    .attach(&host, 1)
    .unwrap();
    host.forward(&[adapter.hooks()], &training());
    let measures = adapter.measures();
    let of = |name| measures.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!((of("load_balance") - 1.0).abs() < 1e-6);
    assert!((of("routing_entropy") - 4f64.ln()).abs() < 1e-5);
}

#[test]
fn one_expert_is_lora() {
    let host = FakeHost::new();
    let one = MoeLoraConfig {
        num_experts: 1,
        top_k: 1,
        rank: 2,
        alpha: 4.0,
        ..MoeLoraConfig::default()
    };
    let lora = LoraConfig {
        rank: 2,
        alpha: 4.0,
        ..LoraConfig::default()
    };
    let mut values = Stream::new(3, "values");
    let mut adapter = one.attach(&host, 1).unwrap();
    let mut stored = std::collections::BTreeMap::new();
    adapter.replace(&mut |name, value| {
        let (at, part) = name.rsplit_once('.').unwrap();
        if !part.starts_with("lora_a") && !part.starts_with("lora_b") {
            return None;
        }
        let new = Flat::from_vec(
            values.normal(value.len(), 0.0, 0.3),
            &value.shape,
            &Device::flex(),
        );
        let number = at.rsplit('.').next().unwrap().to_owned();
        stored.insert((number, part.to_owned()), new.clone());
        Some(new)
    });
    let mut plain = lora.attach(&host, 1).unwrap();
    plain.replace(&mut |name, _| {
        let (at, part) = name.rsplit_once('.').unwrap();
        let number = at.rsplit('.').next().unwrap().to_owned();
        stored.get(&(number, part.to_owned())).cloned()
    });
    let expected = host.logits(&[plain.as_ref()]);
    assert_ne!(expected, host.logits(&[]));
    near(&host.logits(&[adapter.as_ref()]), &expected, 1e-5);
    assert!(adapter.is_mergeable());
    near(
        &host.with_merged(adapter.as_ref()).logits(&[]),
        &expected,
        1e-5,
    );
    let files = adapter.portable(&host).unwrap();
    let portable = from_peft(&files.config)
        .unwrap()
        .restore(&host, &files)
        .unwrap();
    near(&host.logits(&[portable.as_ref()]), &expected, 1e-5);
}

#[test]
fn the_stacked_products_are_the_loop_over_experts() {
    for (top_k, normalise) in [(2, None), (4, Some(false)), (1, None), (3, Some(true))] {
        let config = MoeLoraConfig {
            top_k,
            normalise,
            ..card()
        };
        let x = tokens();
        let state = experts(&config);
        let routed = state.route(&Pass::default(), &x);
        let (gates, xs) = (to_vec(routed.gates), to_vec(x.clone()));
        let a = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]];
        let b = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, -0.5]];
        let mut expected = xs.clone();
        for token in 0..3 {
            for expert in 0..4 {
                let [one, two] = [xs[token * 2], xs[token * 2 + 1]];
                let inner = a[expert][0] * one + a[expert][1] * two;
                for out in 0..2 {
                    expected[token * 2 + out] += gates[token * 4 + expert] * b[expert][out] * inner;
                }
            }
        }
        let (y, _) = run(state, x, &Pass::default());
        near(&to_vec(y), &expected, 1e-5);
    }
}

/// All losses together as a function of the experts' numbers.
fn total(config: &MoeLoraConfig, change: Option<(&str, usize, f32)>) -> (f32, Experts, Tensor<1>) {
    let mut state = experts(config);
    if let Some((name, at, by)) = change {
        state.replace(&mut |known, value| {
            (known == name).then(|| {
                let mut values = value.to_vec();
                values[at] += by;
                Flat::from_vec(values, &value.shape, &Device::flex())
            })
        });
    }
    let (y, attached) = run(state, tokens(), &training());
    let state = attached.states().next().unwrap();
    let loss = (y - 0.3).powi_scalar(2).mean() + state.take_term().unwrap();
    (loss.clone().into_scalar::<f32>(), state.clone(), loss)
}

#[test]
fn gradients_are_the_slopes_in_every_form_of_the_contrast() {
    for (similarity, negatives, contrast_space) in [
        (Similarity::Cosine, Negatives::Batch, Space::Output),
        (Similarity::Cosine, Negatives::Token, Space::Output),
        (Similarity::Dot, Negatives::Batch, Space::Output),
        (Similarity::Dot, Negatives::Token, Space::Rank),
    ] {
        let config = MoeLoraConfig {
            similarity,
            negatives,
            contrast_space,
            temperature: 2.0,
            ..card()
        };
        let (_, state, loss) = total(&config, None);
        let gradients = state.take_gradients(&mut loss.backward());
        assert_eq!(gradients.len(), 3);
        for (name, gradient) in &gradients {
            for (at, slope) in gradient.to_vec().into_iter().enumerate() {
                let value = |by| f64::from(total(&config, Some((name, at, by))).0);
                let expected = (value(2e-3) - value(-2e-3)) / 4e-3;
                let apart = (f64::from(slope) - expected).abs();
                assert!(apart < 2e-3, "{name}[{at}]: {slope} {expected} {config:?}");
            }
        }
    }
}

#[test]
fn fresh_experts_have_no_contrast_and_lone_outputs_no_positive() {
    let zeros = Tensor::<2>::zeros([3, 2], &Device::flex());
    assert!(contrast::comparable(&zeros).is_empty());
    let lone: Vec<Origin> = (0..3)
        .map(|at| Origin {
            token: at,
            expert: at,
        })
        .collect();
    let mut stream = Stream::new(0, "lone");
    let outputs = Tensor::<2>::ones([3, 2], &Device::flex());
    assert!(contrast::loss(&card(), outputs, &lone, &mut stream).is_none());
}

#[test]
fn a_single_positive_is_one_of_them_and_a_sample_is_no_larger_than_asked() {
    let origins: Vec<Origin> = (0..20)
        .map(|at| Origin {
            token: at,
            expert: at % 2,
        })
        .collect();
    let few = contrast::sample(origins.clone(), 5, &mut Stream::new(1, "few"));
    assert_eq!(few.len(), 5);
    assert!(few.windows(2).all(|pair| pair[0].token < pair[1].token));
    assert_eq!(
        contrast::sample(origins.clone(), 20, &mut Stream::new(1, "all")),
        origins
    );
    let config = MoeLoraConfig {
        positives: Positives::One,
        ..card()
    };
    // With equal outputs every positive has the same loss, the logarithm of the number of others.
    let outputs = Tensor::<2>::ones([20, 2], &Device::flex());
    let loss = contrast::loss(&config, outputs, &origins, &mut Stream::new(1, "one")).unwrap();
    near(&[loss.into_scalar::<f32>()], &[19f32.ln()], 1e-5);
}

#[test]
fn mean_gates_follow_and_likeness_is_one_for_equal_experts() {
    let host = FakeHost::new();
    let config = MoeLoraConfig {
        num_experts: 3,
        rank: 1,
        ..MoeLoraConfig::default()
    };
    let mut adapter = config.attach(&host, 1).unwrap();
    assert_eq!(
        adapter.maps()[0].values[0].1,
        0.0,
        "fresh experts change nothing"
    );
    adapter.replace(&mut |name, value| {
        let one = name.ends_with("lora_a") || name.ends_with("lora_b");
        one.then(|| Flat::from_vec(vec![0.5; value.len()], &value.shape, &Device::flex()))
    });
    assert!((adapter.maps()[0].values[0].1 - 1.0).abs() < 1e-6);
    host.forward(&[adapter.hooks()], &training());
    assert_eq!(adapter.maps().len(), 2, "the load of the pass is shown");
    let gates = |adapter: &dyn Adapter| {
        let named = adapter.parameters().into_iter();
        let found: Vec<Vec<f32>> = named
            .filter(|named| named.name.ends_with("mean_gate"))
            .map(|named| named.value.to_vec())
            .collect();
        found
    };
    let before = gates(adapter.as_ref());
    let progress = Progress {
        step: 0,
        total_steps: 1,
        epoch: 0,
    };
    adapter
        .after_step(progress, &Default::default(), 1.0)
        .unwrap();
    let after = gates(adapter.as_ref());
    assert_ne!(before, after);
    for gates in after {
        near(&[gates.iter().sum()], &[1.0], 1e-6);
    }
    let error = adapter.merged(&host, "layers.0.q_proj.weight").unwrap_err();
    assert!(error.to_string().contains("adapter convert"), "{error}");
    let portable = adapter.portable(&host).unwrap();
    assert_eq!(portable.config["r"], 3);
    from_peft(&portable.config)
        .unwrap()
        .restore(&host, &portable)
        .unwrap();
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let host = FakeHost::new();
    assert!(!host.sites().is_empty());
    for (config, key) in [
        (
            MoeLoraConfig {
                num_experts: 0,
                ..card()
            },
            "num_experts",
        ),
        (MoeLoraConfig { top_k: 5, ..card() }, "top_k"),
        (MoeLoraConfig { rank: 0, ..card() }, "rank"),
        (
            MoeLoraConfig {
                temperature: 0.0,
                ..card()
            },
            "temperature",
        ),
        (
            MoeLoraConfig {
                balance_weight: -1.0,
                ..card()
            },
            "balance_weight",
        ),
        (
            MoeLoraConfig {
                dropout: 1.0,
                ..card()
            },
            "dropout",
        ),
    ] {
        let Err(error) = config.attach(&host, 0) else {
            panic!("{key} was accepted");
        };
        assert!(
            error.to_string().contains(&format!("method.{key}")),
            "{error}"
        );
    }
}
