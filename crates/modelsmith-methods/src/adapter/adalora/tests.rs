use super::allocator::{Allocator, Cut, Schedule};
use super::triplets::{Structure, Triplets, Values};
use super::{AdaLoraConfig, Score};
use crate::adapter::common::pair::Plan;
use crate::fake_host::{FakeHost, training};
use crate::from_peft;
use burn::tensor::{Device, Tensor};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, Parameters, to_vec};
use modelsmith_core::roles::{Adapt, Adapter, Progress};
use modelsmith_core::sites::{Site, SiteId, SiteKind, TargetModules};
use std::collections::BTreeMap;

fn plan(id: usize) -> Plan {
    Plan {
        site: Site {
            id: SiteId(id),
            path: format!("l{}", id + 1),
            kind: SiteKind::Linear,
            inputs: 2,
            outputs: 2,
            bias: false,
            fan_in_fan_out: false,
            head: false,
            tied_to: None,
        },
        rank: 2,
        scale: 2.0 / (2.0 + 1e-5),
        dropout: 0.0,
        shape: vec![2, 2],
    }
}

fn matrix(rows: [[f32; 2]; 2]) -> Tensor<2> {
    Tensor::from_floats(rows, &Device::flex())
}

/// The two layers of the card's case (a)1.
fn layers() -> [Triplets; 2] {
    let identity = [[1.0, 0.0], [0.0, 1.0]];
    let of = |id, a, e: [f32; 2]| {
        let values = Values {
            a: matrix(a),
            e: Tensor::from_floats([[e[0]], [e[1]]], &Device::flex()),
            b: matrix(identity),
        };
        Triplets::new(plan(id), Some(values), Structure::Triplets, true)
    };
    [
        of(0, identity, [0.5, 0.1]),
        of(1, [[1.0, 1.0], [0.0, 1.0]], [0.2, 0.3]),
    ]
}

fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let apart = (found - expected).abs();
        assert!(apart < 2e-6 * expected.abs().max(1.0), "{found} {expected}");
    }
}

/// Gradients of ½‖y‖² after both layers at x = [1, 2], under the names that training uses.
fn gradients(layers: &[Triplets]) -> (Vec<f32>, f32, BTreeMap<String, Flat>) {
    let mut x = Tensor::<3>::from_floats([[[1.0, 2.0]]], &Device::flex());
    for layer in layers {
        x = x.clone() + layer.low_rank(1.0).unwrap().dense(x);
    }
    let loss = x.clone().powi_scalar(2).sum() * 0.5;
    let value = loss.clone().into_scalar::<f32>();
    let mut taken = loss.backward();
    let mut found = BTreeMap::new();
    for (at, layer) in layers.iter().enumerate() {
        for (name, gradient) in layer.take_gradients(&mut taken) {
            found.insert(format!("attached.sites.{at}.{name}"), gradient);
        }
    }
    (to_vec(x), value, found)
}

#[test]
fn one_score_step_and_a_cut_give_the_cards_numbers() {
    let mut layers = layers();
    let (y, loss, gradients) = gradients(&layers);
    near(&y, &[2.239_993, 2.859_996]);
    near(&[loss], &[6.598_572]);
    let of = |name: &str| gradients[&format!("attached.sites.{name}")].to_vec();
    near(&of("0.factors.lora_e"), &[2.687_976, 8.331_931]);
    near(&of("1.factors.lora_e"), &[8.287_926, 6.291_956]);
    near(
        &of("0.factors.lora_a"),
        &[1.343_988, 2.687_976, 0.416_597, 0.833_193],
    );
    near(
        &of("1.factors.lora_b"),
        &[1.657_585, 1.478_387, 2.116_384, 1.887_587],
    );
    let norms = layers.iter().flat_map(Triplets::distances_from_orthogonal);
    let norms: Vec<f32> = norms.map(|norm| norm.into_scalar::<f32>()).collect();
    near(&[norms.iter().sum::<f32>() / 4.0], &[0.433_012_7]);
    for layer in &mut layers {
        layer.follow(&gradients, 1.0, (0.85, 0.85)).unwrap();
    }
    let averages = |at: usize, part: &str| -> Vec<f32> {
        let named = layers[at].parameters().into_iter();
        let mut found = named.filter(|named| named.name == format!("factors.history.{part}"));
        found.next().unwrap().value.to_vec()
    };
    near(&averages(0, "e.importance"), &[0.201_598, 0.124_979]);
    near(&averages(0, "e.uncertainty"), &[0.171_358, 0.106_232]);
    near(&averages(1, "e.importance"), &[0.248_638, 0.283_138]);
    for part in ["a", "e", "b"] {
        let (mean, apart) = (
            averages(1, &format!("{part}.importance")),
            averages(1, &format!("{part}.uncertainty")),
        );
        let expected: Vec<f32> = mean.iter().map(|value| value * 0.85).collect();
        near(&apart, &expected);
    }
    let allocator = Allocator::new(&AdaLoraConfig::default(), 0);
    allocator.cut(&mut layers.iter_mut().collect::<Vec<_>>(), 2);
    let kept: Vec<Vec<bool>> = layers.iter().map(Triplets::pattern).collect();
    assert_eq!(kept, [vec![false; 2], vec![true; 2]]);
}

#[test]
fn the_schedule_is_the_cards() {
    let config = AdaLoraConfig {
        init_r: 2,
        target_r: 1,
        tinit: Some(1),
        tfinal: Some(2),
        ..AdaLoraConfig::default()
    };
    let schedule = Schedule::new(&config, 2, 10).unwrap();
    let budgets: Vec<usize> = (1..=10).map(|t| schedule.budget(t)).collect();
    assert_eq!(budgets, [4, 3, 2, 2, 2, 2, 2, 2, 2, 2]);
    assert_eq!(schedule.cut(1), Cut::None);
    assert!((2..=8).all(|t| matches!(schedule.cut(t), Cut::To(_))));
    assert!((9..=10).all(|t| schedule.cut(t) == Cut::Again));
    let rare = AdaLoraConfig {
        delta_t: 3,
        ..config.clone()
    };
    let schedule = Schedule::new(&rare, 2, 10).unwrap();
    let cuts: Vec<u64> = (1..=10)
        .filter(|t| matches!(schedule.cut(*t), Cut::To(_)))
        .collect();
    assert_eq!(cuts, [3, 6, 8], "the last one is forced");
    let message = Schedule::new(&config, 2, 3).unwrap_err().to_string();
    assert!(message.contains("3 steps"), "{message}");
}

#[test]
fn a_budget_of_everything_cuts_nothing_and_ties_go_together() {
    let mut layers = layers();
    let allocator = Allocator::new(&AdaLoraConfig::default(), 0);
    let mut sites: Vec<&mut Triplets> = layers.iter_mut().collect();
    allocator.cut(&mut sites, 4);
    assert!(sites.iter().all(|site| site.kept() == 2));
    allocator.cut(&mut sites, 3);
    // All scores are 0 before the first step, so the threshold takes every triplet.
    assert!(sites.iter().all(|site| site.kept() == 0));
}

/// An adapter on the small host after `steps` plain gradient steps with all events.
fn run(config: &AdaLoraConfig, steps: u64, total_steps: u64) -> (FakeHost, Box<dyn Adapter>) {
    run_from(config, 3, steps, total_steps)
}

fn run_from(
    config: &AdaLoraConfig,
    seed: u64,
    steps: u64,
    total_steps: u64,
) -> (FakeHost, Box<dyn Adapter>) {
    let host = FakeHost::new();
    let mut adapter = config.attach(&host, seed).unwrap();
    for step in 0..steps {
        let progress = Progress {
            step,
            total_steps,
            epoch: 0,
        };
        adapter.before_step(progress).unwrap();
        let logits = host.forward(&[adapter.hooks()], &training());
        let loss = (logits - 0.5).powi_scalar(2).mean() + adapter.penalty().unwrap();
        let gradients = adapter.take_gradients(&mut loss.backward());
        adapter.replace(&mut |name, value| {
            let step = gradients.get(name)?.values.clone() * 0.5;
            Some(Flat {
                values: value.values.clone() - step,
                shape: value.shape.clone(),
            })
        });
        adapter.after_step(progress, &gradients, 1.0).unwrap();
    }
    (host, adapter)
}

fn small() -> AdaLoraConfig {
    AdaLoraConfig {
        init_r: 3,
        target_r: 1,
        ..AdaLoraConfig::default()
    }
}

fn ranks(adapter: &dyn Adapter) -> Vec<usize> {
    let map = adapter.maps().remove(0).values;
    map.into_iter().map(|(_, rank)| rank as usize).collect()
}

#[test]
fn every_score_and_structure_ends_at_the_budget_and_stays_there() {
    for score in [
        Score::Importance,
        Score::Sensitivity,
        Score::Raw,
        Score::Magnitude,
        Score::Random,
    ] {
        for structure in [Structure::Triplets, Structure::Doublets] {
            let config = AdaLoraConfig {
                score,
                structure,
                ..small()
            };
            let (_, before) = run(&config, 1, 20);
            assert_eq!(ranks(before.as_ref()), [3, 3], "{score:?}");
            let (_, at) = run(&config, 14, 20);
            let (host, after) = run(&config, 20, 20);
            assert_eq!(ranks(at.as_ref()).iter().sum::<usize>(), 2, "{score:?}");
            assert_eq!(ranks(after.as_ref()), ranks(at.as_ref()), "{score:?}");
            let files = after.files(&host).unwrap();
            let stored = |name: &str| {
                let key = format!("base_model.model.layers.0.{name}.lora_E");
                files.tensors.get(&key).map_or(0, |e| e.shape[0])
            };
            assert_eq!(stored("q_proj") + stored("v_proj"), 2);
        }
    }
}

#[test]
fn a_cut_triplet_may_return_until_the_pattern_stays() {
    let config = AdaLoraConfig {
        tinit: Some(0),
        delta_t: 2,
        ..small()
    };
    // After step 3, which does not cut, the triplets cut after step 2 have a value again.
    let (host, adapter) = run(&config, 3, 20);
    let cut = ranks(adapter.as_ref()).iter().sum::<usize>();
    assert!(cut < 6);
    let zeros = |adapter: &dyn Adapter| -> usize {
        let named = adapter.parameters().into_iter();
        let values = named.filter(|named| named.name.ends_with("lora_e"));
        values
            .flat_map(|named| named.value.to_vec())
            .filter(|value| *value == 0.0)
            .count()
    };
    assert_eq!(zeros(adapter.as_ref()), 0);
    // A file holds what counts now, grown again or not.
    assert!(adapter.files(&host).unwrap().config["rank_pattern"].is_null());
    let (_, last) = run(&config, 20, 20);
    assert_eq!(zeros(last.as_ref()), 4);
}

/// Both files as text and bits.
fn bytes(adapter: &dyn Adapter, host: &dyn Host) -> (String, Vec<(String, Vec<u32>)>) {
    let files = adapter.files(host).unwrap();
    let tensors = files.tensors.iter();
    let bits = |flat: &Flat| flat.to_vec().into_iter().map(f32::to_bits).collect();
    (
        serde_json::Value::Object(files.config.clone()).to_string(),
        tensors
            .map(|(name, flat)| (name.clone(), bits(flat)))
            .collect(),
    )
}

#[test]
fn a_site_without_rank_is_saved_restored_merged_and_left_out_of_plain_lora() {
    // Two random triplets of two sites: in two draws of five both are of one site.
    let found = (0..20).find_map(|seed| {
        let config = AdaLoraConfig {
            score: Score::Random,
            ..small()
        };
        let (host, adapter) = run_from(&config, seed, 20, 20);
        let zero = ranks(adapter.as_ref()).contains(&0);
        zero.then_some((host, adapter))
    });
    let (host, adapter) = found.expect("no seed left a site without rank");
    let files = adapter.files(&host).unwrap();
    let back = from_peft(&files.config)
        .unwrap()
        .restore(&host, &files)
        .unwrap();
    assert_eq!(bytes(back.as_ref(), &host), bytes(adapter.as_ref(), &host));
    let logits = host.logits(&[adapter.as_ref()]);
    near(&host.logits(&[back.as_ref()]), &logits);
    near(&host.with_merged(adapter.as_ref()).logits(&[]), &logits);
    let plain = adapter.portable(&host).unwrap();
    assert_eq!(plain.config["peft_type"], "LORA");
    assert_eq!(plain.config["target_modules"].as_array().unwrap().len(), 1);
    let lora = from_peft(&plain.config)
        .unwrap()
        .restore(&host, &plain)
        .unwrap();
    near(&host.logits(&[lora.as_ref()]), &logits);
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let host = FakeHost::new();
    let cases: [(AdaLoraConfig, &str); 7] = [
        (
            AdaLoraConfig {
                init_r: 0,
                ..small()
            },
            "init_r",
        ),
        (
            AdaLoraConfig {
                target_r: 4,
                ..small()
            },
            "target_r",
        ),
        (
            AdaLoraConfig {
                delta_t: 0,
                ..small()
            },
            "delta_t",
        ),
        (
            AdaLoraConfig {
                beta1: 1.0,
                ..small()
            },
            "beta1",
        ),
        (
            AdaLoraConfig {
                beta2: 0.0,
                ..small()
            },
            "beta2",
        ),
        (
            AdaLoraConfig {
                orth_reg_weight: -1.0,
                ..small()
            },
            "orth_reg_weight",
        ),
        (
            AdaLoraConfig {
                target_modules: Some(TargetModules::Suffixes(vec!["embed".into()])),
                ..small()
            },
            "target_modules",
        ),
    ];
    for (config, key) in cases {
        let Err(error) = config.attach(&host, 0) else {
            panic!("{key} was accepted");
        };
        assert!(
            error.to_string().contains(&format!("method.{key}")),
            "{error}"
        );
    }
    let long = AdaLoraConfig {
        tinit: Some(5),
        tfinal: Some(5),
        ..small()
    };
    let mut adapter = long.attach(&host, 0).unwrap();
    let start = Progress {
        step: 0,
        total_steps: 10,
        epoch: 0,
    };
    let message = adapter.before_step(start).unwrap_err().to_string();
    assert!(message.contains("method.tinit"), "{message}");
}
