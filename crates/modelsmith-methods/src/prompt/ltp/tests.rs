use super::ticket::{Scope, Scored, Size, packed, select, unpacked};
use super::{Criterion, Layers, LtpConfig};
use crate::adapter::FullConfig;
use crate::fake_host::{FakeHost, training};
use crate::from_peft;
use crate::optimize::AdamW;
use burn::tensor::Device;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, Optimize, Update};
use std::collections::BTreeMap;
use std::path::Path;

fn scored(name: &str, layer: usize, scores: &[f32]) -> Scored {
    Scored {
        name: name.into(),
        layer: Some(layer),
        scores: scores.to_vec(),
    }
}

#[test]
fn the_ticket_of_the_card_is_chosen() {
    let all = [
        scored("W", 0, &[0.05, 0.30, 0.10, 0.02, 0.25, 0.01]),
        scored("b", 0, &[0.12, 0.0]),
    ];
    let winners = select(&all, Size::Share(0.375), Scope::Global, 0.0).unwrap();
    assert_eq!(winners, [vec![1, 4], vec![0]]);
    let each = select(&all, Size::Share(0.5), Scope::Tensor, 0.0).unwrap();
    assert_eq!(each, [vec![1, 2, 4], vec![0]]);
    assert_eq!(
        select(&all, Size::Count(2), Scope::Global, 0.0).unwrap(),
        [vec![1, 4], vec![]]
    );
}

#[test]
fn layers_are_thirds_ties_are_broken_by_place_and_what_never_moved_is_refused() {
    let all = [
        scored("a", 0, &[1.0, 1.0, 1.0]),
        scored("b", 1, &[1.0, 2.0]),
    ];
    let winners = select(&all, Size::Count(3), Scope::Global, 0.0).unwrap();
    assert_eq!(winners, [vec![0, 1], vec![1]]);
    let layers = select(&all, Size::Share(0.5), Scope::Layer, 0.0).unwrap();
    assert_eq!(layers, [vec![0], vec![1]]);
    let still = [scored("a", 0, &[0.0, 0.0, 1.0, 0.0])];
    let error = select(&still, Size::Share(0.5), Scope::Global, 0.0).unwrap_err();
    assert!(error.to_string().contains("only 1 have moved"), "{error}");
    let error = select(&still, Size::Share(0.1), Scope::Global, 0.0).unwrap_err();
    assert!(error.to_string().contains("no winner"), "{error}");
    let of = |layers: Layers| {
        (0..7)
            .filter(|layer| layers.admit(*layer, 7))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Layers::Lower), [0, 1]);
    assert_eq!(of(Layers::Middle), [2, 3]);
    assert_eq!(of(Layers::Upper), [4, 5, 6]);
}

#[test]
fn tickets_survive_packing_and_damage_is_seen() {
    for weights in [1, 15, 16, 17, 100] {
        let winners: Vec<u32> = (0..weights as u32).filter(|at| at % 3 != 1).collect();
        let words = packed(&winners, weights);
        assert_eq!(words.len(), weights.div_ceil(16));
        assert_eq!(unpacked("t", &words, weights).unwrap(), winners);
    }
    for words in [[0.5], [-1.0], [65536.0], [32768.0]] {
        assert!(unpacked("t", &words, 15).is_err(), "{words:?}");
    }
}

/// The card's case (a)2, and gathered updates against those of a whole tensor with a mask.
#[test]
fn the_optimizer_touches_the_ticket_alone() {
    let device = Device::flex();
    let step = |values: &[f32], gradient: &[f32], steps: usize| {
        let mut optimizer = AdamW::default().optimizer().unwrap();
        let mut value = Flat::from_vec(values.to_vec(), &[values.len()], &device);
        for _ in 0..steps {
            let gradient = Flat::from_vec(gradient.to_vec(), &[gradient.len()], &device);
            let update = Update {
                name: "values",
                value: &mut value,
                gradient: gradient.values,
                scale: 1.0,
                learning_rate: 0.1,
                weight_decay: 0.1,
            };
            optimizer.update(update).unwrap();
        }
        value.to_vec()
    };
    let card = step(&[1.0], &[0.1], 1);
    assert!((card[0] - 0.89).abs() < 1e-6, "{card:?}");
    let whole = step(&[1.0, -0.5, 0.25, 2.0], &[0.1, 0.3, -0.2, 0.01], 5);
    let gathered = step(&[1.0, 0.25], &[0.1, -0.2], 5);
    assert!((whole[0] - gathered[0]).abs() < 1e-7);
    assert!((whole[2] - gathered[1]).abs() < 1e-7);
}

fn magnitude() -> LtpConfig {
    LtpConfig {
        criterion: Criterion::Magnitude,
        virtual_tokens: 0,
        ..LtpConfig::default()
    }
}

/// Takes plain gradient steps.
fn descend(host: &FakeHost, adapter: &mut dyn Adapter, steps: usize) {
    for _ in 0..steps {
        let logits = host.forward(&[adapter.hooks()], &training());
        let loss = (logits - 0.5).powi_scalar(2).mean();
        let gradients = adapter.take_gradients(&mut loss.backward());
        adapter.replace(&mut |name, value| {
            let step = gradients.get(name)?.values.clone() * 0.05;
            Some(Flat {
                values: value.values.clone() - step,
                shape: value.shape.clone(),
            })
        });
    }
}

/// Weights of the host with the adapter in it, and how many differ.
fn changed(host: &FakeHost, adapter: &dyn Adapter) -> (FakeHost, usize) {
    let merged = host.with_merged(adapter);
    let pairs = host.fingerprint().into_iter().zip(merged.fingerprint());
    let count =
        pairs.map(|((_, old), (_, new))| old.iter().zip(&new).filter(|(a, b)| a != b).count());
    let count = count.sum();
    (merged, count)
}

#[test]
fn nothing_but_the_ticket_changes_and_the_gradient_is_that_of_the_weights() {
    for (include, expected) in [(false, 20), (true, 20)] {
        let host = FakeHost::new();
        let config = LtpConfig {
            count: 20,
            include_embeddings: include,
            include_norms: include,
            ..magnitude()
        };
        let mut adapter = config.attach(&host, 1).unwrap();
        assert_eq!(host.logits(&[adapter.as_ref()]), host.logits(&[]));
        descend(&host, adapter.as_mut(), 3);
        let (merged, count) = changed(&host, adapter.as_ref());
        assert!(count <= expected && count > expected / 2, "{count}");
        let apart = host
            .logits(&[adapter.as_ref()])
            .into_iter()
            .zip(merged.logits(&[]));
        assert!(apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
        // Full fine-tuning of the same host moves the same weights by the same first step.
        let mut full = FullConfig::default().attach(&host, 1).unwrap();
        let mut one = config.attach(&host, 1).unwrap();
        descend(&host, full.as_mut(), 1);
        descend(&host, one.as_mut(), 1);
        let (full, one) = (
            host.with_merged(full.as_ref()),
            host.with_merged(one.as_ref()),
        );
        for name in host.weight_names() {
            let of = |host: &FakeHost| host.weight(&name).unwrap().to_vec();
            for ((old, all), few) in of(&host).iter().zip(of(&full)).zip(of(&one)) {
                assert!(
                    few == *old || (few - all).abs() < 1e-6,
                    "{name}: {old} {all} {few}"
                );
            }
        }
    }
}

#[test]
fn two_tickets_add_up() {
    let host = FakeHost::new();
    let random = LtpConfig {
        criterion: Criterion::Random,
        proportion: 0.3,
        ..magnitude()
    };
    let mut tickets = [1, 2].map(|seed| random.attach(&host, seed).unwrap());
    for ticket in &mut tickets {
        descend(&host, ticket.as_mut(), 2);
    }
    let [first, second] = &tickets;
    let both = host.logits(&[first.as_ref(), second.as_ref()]);
    let merged = host
        .with_merged(first.as_ref())
        .with_merged(second.as_ref());
    let apart = both.into_iter().zip(merged.logits(&[]));
    assert!(apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
    // Each difference is in the sum.
    let of = |host: &FakeHost| host.weight("layers.0.q_proj.weight").unwrap().to_vec();
    let alone = tickets
        .each_ref()
        .map(|ticket| of(&host.with_merged(ticket.as_ref())));
    for (at, sum) in of(&merged).into_iter().enumerate() {
        let base = of(&host)[at];
        let expected = base + (alone[0][at] - base) + (alone[1][at] - base);
        assert!((sum - expected).abs() < 1e-6);
    }
    for name in ["layers.0.q_proj.weight", "layers.0.conv.bias"] {
        let one = host.with_merged(first.as_ref());
        let back = first.unmerged(&one, name).unwrap();
        if let Some(back) = back {
            assert_eq!(back.to_vec(), host.weight(name).unwrap().to_vec());
        }
    }
}

fn write(folder: &Path, adapter: &dyn Adapter, host: &FakeHost) {
    let files = adapter.files(host).unwrap();
    let path = folder.join("adapter_model.safetensors");
    modelsmith_core::weights::save(&path, &files.tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn a_ticket_comes_from_full_fine_tuning_and_from_an_earlier_ticket() {
    let host = FakeHost::new();
    let folder = tempfile::tempdir().unwrap();
    let mut full = FullConfig::default().attach(&host, 1).unwrap();
    descend(&host, full.as_mut(), 2);
    write(folder.path(), full.as_ref(), &host);
    let config = LtpConfig {
        criterion: Criterion::Change,
        ticket_from: Some(folder.path().to_path_buf()),
        proportion: 0.1,
        ..magnitude()
    };
    let adapter = config.attach(&host, 1).unwrap();
    let tickets = |adapter: &dyn Adapter| {
        let tensors = adapter.files(&host).unwrap().tensors.into_iter();
        let found = tensors.filter(|(name, _)| name.ends_with(".ticket"));
        found
            .map(|(name, flat)| (name, flat.to_vec()))
            .collect::<Vec<_>>()
    };
    // The rule again, written out: the largest changes of the block's weights and biases.
    let trained = host.with_merged(full.as_ref());
    let mut deltas = Vec::new();
    for name in host
        .weight_names()
        .iter()
        .filter(|name| name.starts_with("layers."))
    {
        let of = |host: &FakeHost| host.weight(name).unwrap().to_vec();
        deltas.extend(
            of(&host)
                .iter()
                .zip(of(&trained))
                .map(|(a, b)| (a - b).abs()),
        );
    }
    let count = (deltas.len() as f64 * 0.1) as usize;
    deltas.sort_by(|a, b| b.total_cmp(a));
    let threshold = deltas[count - 1];
    let mut won = 0;
    for (name, words) in tickets(adapter.as_ref()) {
        let name = name
            .trim_start_matches("base_model.model.")
            .trim_end_matches(".ticket");
        let of = |host: &FakeHost| host.weight(name).unwrap().to_vec();
        let old = of(&host);
        let new = of(&trained);
        let winners = unpacked(name, &words, old.len()).unwrap();
        for at in 0..old.len() {
            let moved = (new[at] - old[at]).abs();
            assert_eq!(
                winners.contains(&(at as u32)),
                moved >= threshold,
                "{name}[{at}]"
            );
        }
        won += winners.len();
    }
    assert_eq!(won, count);
    // Used again, whatever the proportion says now; and the draw of the same sizes.
    let again = tempfile::tempdir().unwrap();
    write(again.path(), adapter.as_ref(), &host);
    let reused = LtpConfig {
        ticket_from: Some(again.path().to_path_buf()),
        proportion: 0.5,
        ..config.clone()
    };
    let reused = reused.attach(&host, 9).unwrap();
    assert_eq!(tickets(reused.as_ref()), tickets(adapter.as_ref()));
    let random = LtpConfig {
        criterion: Criterion::Random,
        ..config.clone()
    };
    let random = random.attach(&host, 1).unwrap();
    let sizes = |adapter: &dyn Adapter| {
        let tensors = adapter.files(&host).unwrap().tensors.into_iter();
        let values = tensors.filter(|(name, _)| name.ends_with(".values"));
        values
            .map(|(name, flat)| (name, flat.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(random.as_ref()), sizes(adapter.as_ref()));
    assert_ne!(tickets(random.as_ref()), tickets(adapter.as_ref()));
    let files = adapter.files(&host).unwrap();
    let back = from_peft(&files.config)
        .unwrap()
        .restore(&host, &files)
        .unwrap();
    assert_eq!(tickets(back.as_ref()), tickets(adapter.as_ref()));
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let host = FakeHost::new();
    let missing = Some(Path::new("/no/such/folder").to_path_buf());
    for (config, key) in [
        (LtpConfig::default(), "ticket_from"),
        (
            LtpConfig {
                ticket_from: missing,
                ..LtpConfig::default()
            },
            "ticket_from",
        ),
        (
            LtpConfig {
                proportion: 0.0,
                ..magnitude()
            },
            "proportion",
        ),
        (
            LtpConfig {
                proportion: 1.5,
                ..magnitude()
            },
            "proportion",
        ),
        (
            LtpConfig {
                layers: Layers::Lower,
                ..magnitude()
            },
            "layers",
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
