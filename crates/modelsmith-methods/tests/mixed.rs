//! Rows of one batch under different adapters compute what each computes alone, whatever the methods.

mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::parity;
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::mixed::Mixed;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter};
use modelsmith_hosts::{KvCache, TokenInput, Transformer, load};
use modelsmith_methods::{adapter, attachable, prompt};
use serde_json::{Map, json};

/// Every method of a table on the host, moved away from its start.
fn adapters(host: &Transformer, prompts: bool) -> Vec<(String, Box<dyn Adapter>)> {
    let table = if prompts {
        prompt::TABLE
    } else {
        adapter::TABLE
    };
    let mut found = Vec::new();
    for entry in table {
        let known = (entry.defaults)();
        let mut options = Map::new();
        for (key, value) in [
            ("rank", json!(2)),
            ("init_r", json!(2)),
            ("target_r", json!(2)),
            ("bottleneck_size", json!(3)),
            ("virtual_tokens", json!(3)),
            ("criterion", json!("magnitude")),
        ] {
            if known.get(key).is_some() {
                options.insert(key.into(), value);
            }
        }
        let method: Box<dyn Adapt> = entry.configure(&options).unwrap();
        let Ok(mut adapter) = method.attach(host, 1) else {
            let mut idle = vec!["linear_probe", "bitfit"];
            if host.decoder_start().is_some() {
                idle.extend(["prefix_tuning", "p_tuning_v2"]);
            }
            assert!(idle.contains(&entry.card.id), "{}", entry.card.id);
            continue;
        };
        let mut noise = Stream::new(7, entry.card.id);
        adapter.replace(&mut |name, value| {
            let moves = !name.contains("history") && !name.ends_with("mean_gate");
            let by = Tensor::from_floats(&*noise.normal(value.len(), 0.0, 0.1), &Device::flex());
            moves.then(|| Flat {
                values: value.values.clone() + by,
                shape: value.shape.clone(),
            })
        });
        adapter.set_trainable(&|_| false);
        found.push((entry.card.id.to_owned(), adapter));
    }
    found
}

fn ids(row: usize, time: usize) -> Vec<u32> {
    (0..time)
        .map(|at| ((row * 7 + at * 5) % 40) as u32 + 3)
        .collect()
}

fn logits(host: &Transformer, rows: &[Vec<u32>], hooks: &dyn Hooks) -> Vec<f32> {
    let rows = TokenInput::from_ids(rows, 0, true, &Device::flex());
    let input = TokenInput {
        source: host.decoder_start().map(|_| Box::new(rows.clone())),
        ..rows
    };
    to_vec(host.forward(&input, &Pass::default(), &[hooks]).unwrap())
}

fn near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let apart = pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart <= 1e-5 * largest, "{what}: {apart} of {largest}");
}

#[test]
fn sixteen_rows_of_different_adapters_compute_what_single_calls_compute() {
    let mut compared = 0;
    for name in [
        "llama_gqa_untied",
        "gpt2",
        "bert_mlm",
        "opt",
        "qwen3",
        "bert_seqcls",
        "t5",
    ] {
        let host = load(&parity("hosts").join(name), &Device::flex()).unwrap();
        for prompts in [false, true] {
            let adapters = adapters(&host, prompts);
            let mut of_rows: Vec<(String, Option<&dyn Hooks>)> = Vec::new();
            for (id, adapter) in
                adapters
                    .iter()
                    .cycle()
                    .take(if prompts { adapters.len() } else { 15 })
            {
                of_rows.push((id.clone(), Some(adapter.hooks())));
            }
            if !prompts {
                of_rows.insert(4, ("none".into(), None));
            }
            // Keys in front and vectors in front are different fronts.
            let fronts = |hooks: &Option<&dyn Hooks>| hooks.map_or(0, |hooks| hooks.prefix());
            for front in [0, 3] {
                let rows: Vec<_> = of_rows
                    .iter()
                    .filter(|(_, hooks)| fronts(hooks) == front)
                    .collect();
                if rows.is_empty() {
                    continue;
                }
                let hooks: Vec<Option<&dyn Hooks>> = rows.iter().map(|(_, hooks)| *hooks).collect();
                let mixed = Mixed::new(&hooks).unwrap();
                let texts: Vec<Vec<u32>> = (0..rows.len()).map(|row| ids(row, 6)).collect();
                let together = logits(&host, &texts, &mixed);
                let width = together.len() / rows.len();
                for (row, (id, hooks)) in rows.iter().enumerate() {
                    let alone = Mixed::new(&[*hooks]).unwrap();
                    let single = match hooks {
                        Some(hooks) => logits(&host, &texts[row..=row], *hooks),
                        None => logits(&host, &texts[row..=row], &alone),
                    };
                    let found = &together[row * width..][..width];
                    near(found, &single, &format!("{name}: {id} in row {row}"));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 6 * 16, "{compared}");
    assert!(attachable().count() > 20);
}

#[test]
fn rows_that_end_leave_the_others_their_adapters() {
    let host = load(&parity("hosts/llama_gqa_untied"), &Device::flex()).unwrap();
    let adapters = adapters(&host, false);
    let hooks: Vec<Option<&dyn Hooks>> =
        adapters.iter().map(|(_, one)| Some(one.hooks())).collect();
    let mixed = Mixed::new(&hooks).unwrap();
    let texts: Vec<Vec<u32>> = (0..hooks.len()).map(|row| ids(row, 4)).collect();
    let next = |rows: &[Vec<u32>], hooks: &dyn Hooks, cache: &mut KvCache| {
        let input = TokenInput::from_ids(rows, 0, true, &Device::flex());
        let pass = Pass {
            offset: cache.len(),
            ..Pass::default()
        };
        let hidden = host.hidden(&input, &pass, &[hooks], Some(cache)).unwrap();
        to_vec(host.logits(hidden, &input, &pass, &[hooks]))
    };
    let mut cache = KvCache::new();
    next(&texts, &mixed, &mut cache);
    let kept = [5, 1, 3];
    cache.select(&kept).unwrap();
    mixed.keep_rows(&kept);
    let more: Vec<Vec<u32>> = kept.iter().map(|row| ids(*row + 9, 1)).collect();
    let found = next(&more, &mixed, &mut cache);
    let width = found.len() / kept.len();
    for (at, row) in kept.into_iter().enumerate() {
        let mut cache = KvCache::new();
        let alone = adapters[row].1.hooks();
        next(&texts[row..=row], alone, &mut cache);
        let expected = next(&more[at..=at], alone, &mut cache);
        near(&found[at * width..][..width], &expected, &adapters[row].0);
    }
}

#[test]
fn adapters_with_different_fronts_share_no_batch() {
    let host = load(&parity("hosts/llama_gqa_untied"), &Device::flex()).unwrap();
    let prompts = adapters(&host, true);
    let hooks = [Some(prompts[0].1.hooks()), None];
    let error = Mixed::new(&hooks)
        .err()
        .expect("one row has virtual tokens");
    assert!(error.to_string().contains("share no batch"), "{error}");
}
