//! Logits, hidden states and greedy paths equal those of `transformers`, for every fixture.

mod common;

use burn::tensor::Device;
use common::{Expected, batch, close, config, fixtures, greedy, host, ints, spellings};
use modelsmith_core::hooks::Pass;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{TokenInput, Transformer, load};
use std::path::Path;

/// Fixture folders that carry a checkpoint of one stack; `encoder_decoder.rs` reads the others.
fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("config.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| config(name)["is_encoder_decoder"] != true)
        .collect();
    names.sort();
    names
}

#[test]
fn every_fixture_is_found() {
    assert_eq!(cases().len(), 30, "{:?}", cases());
}

#[test]
fn logits_and_hidden_states_agree() {
    for name in cases() {
        let expected = Expected::open(&name);
        for host in spellings(&name) {
            check_states(&name, &host, &expected);
        }
    }
}

fn check_states(name: &str, host: &Transformer, expected: &Expected) {
    let input = batch(expected, "");
    let mask = expected.rows("attention_mask");
    let pass = Pass::default();
    let states = host.hidden_states(&input, &pass, &[]).unwrap();
    let count = (0..)
        .take_while(|i| expected.has(&format!("hidden_states.{i}")))
        .count();
    assert_eq!(states.len(), count, "{name}: number of hidden states");
    for (i, state) in states.iter().enumerate() {
        let key = format!("hidden_states.{i}");
        let (wanted, _) = expected.floats(&key);
        close(
            &format!("{name} {key}"),
            &to_vec(state.clone()),
            &wanted,
            Some(&mask),
        );
    }
    let last = states.last().unwrap().clone();
    if expected.has("logits") {
        let (wanted, shape) = expected.floats("logits");
        let logits = host.logits(last.clone(), &input, &pass, &[]);
        let by_token = (shape.len() == 3).then_some(mask.as_slice());
        close(
            &format!("{name} logits"),
            &to_vec(logits),
            &wanted,
            by_token,
        );
    }
    if expected.has("pooler_output") {
        let pooled = host.pooled(last, &pass, &[]).unwrap();
        let (wanted, _) = expected.floats("pooler_output");
        close(&format!("{name} pooler"), &to_vec(pooled), &wanted, None);
    }
}

#[test]
fn padding_on_the_left_changes_nothing() {
    let mut found = 0;
    for name in cases() {
        let expected = Expected::open(&name);
        if !expected.has("left_logits") {
            continue;
        }
        found += 1;
        let host = host(&name);
        let mask = expected.rows("left_attention_mask");
        let mut input = batch(&expected, "left_");
        let (wanted, _) = expected.floats("left_logits");
        let implied = to_vec(host.forward(&input, &Pass::default(), &[]).unwrap());
        close(&format!("{name} left"), &implied, &wanted, Some(&mask));
        input.positions = Some(ints(&expected.rows("left_position_ids")));
        let given = to_vec(host.forward(&input, &Pass::default(), &[]).unwrap());
        close(
            &format!("{name} left, positions given"),
            &given,
            &wanted,
            Some(&mask),
        );
    }
    assert_eq!(found, 18);
}

#[test]
fn greedy_paths_are_identical() {
    let mut found = 0;
    for name in cases() {
        let expected = Expected::open(&name);
        if !expected.has("greedy") {
            continue;
        }
        found += 1;
        let host = host(&name);
        let prompt = tokens(&expected.rows("prompt")[0]);
        let wanted = vec![tokens(&expected.rows("greedy")[0])];
        let cached = greedy(&host, std::slice::from_ref(&prompt), 64, true);
        assert_eq!(cached, wanted, "{name}, with a cache");
        let uncached = greedy(&host, &[prompt], 64, false);
        let wanted = match expected.has("greedy_uncached") {
            true => vec![tokens(&expected.rows("greedy_uncached")[0])],
            false => wanted,
        };
        assert_eq!(uncached, wanted, "{name}, without a cache");
    }
    assert_eq!(found, 18);
}

#[test]
fn greedy_batches_padded_on_the_left_are_identical() {
    for name in cases() {
        let expected = Expected::open(&name);
        if !expected.has("batch_greedy") {
            continue;
        }
        let host = host(&name);
        let ids = expected.rows("left_input_ids");
        let mask = expected.rows("left_attention_mask");
        let prompts: Vec<Vec<u32>> = ids
            .iter()
            .zip(&mask)
            .map(|(ids, mask)| {
                let real = ids.iter().zip(mask).filter(|(_, real)| **real == 1);
                real.map(|(id, _)| *id as u32).collect()
            })
            .collect();
        let wanted: Vec<Vec<u32>> = expected
            .rows("batch_greedy")
            .iter()
            .map(|row| tokens(row))
            .collect();
        assert_eq!(greedy(&host, &prompts, 16, true), wanted, "{name}");
    }
}

#[test]
fn scaled_rotations_agree_beyond_the_original_length() {
    let mut found = 0;
    for name in cases() {
        let expected = Expected::open(&name);
        if !expected.has("long_logits") {
            continue;
        }
        found += 1;
        for host in spellings(&name) {
            let input = TokenInput::new(ints(&expected.rows("long_input_ids")));
            let logits = host.forward(&input, &Pass::default(), &[]).unwrap();
            let (wanted, _) = expected.floats("long_logits");
            close(&format!("{name} long"), &to_vec(logits), &wanted, None);
        }
    }
    assert_eq!(found, 4);
}

#[test]
fn sentence_embeddings_agree() {
    let expected = Expected::open("bert_embedding");
    let host = host("bert_embedding");
    let input = batch(&expected, "");
    for (key, normalise) in [("embedding", false), ("embedding_normalised", true)] {
        let (wanted, _) = expected.floats(key);
        close(
            key,
            &to_vec(host.embed(&input, normalise, &[]).unwrap()),
            &wanted,
            None,
        );
    }
}

#[test]
fn the_real_small_llama_agrees() {
    let data = std::env::var("MODELSMITH_DATA").unwrap_or_default();
    let folder = Path::new(&data).join("lm/stories260k-hf");
    if data.is_empty() || !folder.is_dir() {
        eprintln!("skipped: no data");
        return;
    }
    let expected = Expected::open("stories260k");
    let host = load(&folder, &Device::flex()).unwrap();
    assert_eq!(host.parameter_count(), 260_032);
    for text in 0..2 {
        let ids = expected.rows(&format!("{text}.input_ids"));
        let logits = host
            .forward(&TokenInput::new(ints(&ids)), &Pass::default(), &[])
            .unwrap();
        let (wanted, _) = expected.floats(&format!("{text}.logits"));
        close("stories260k", &to_vec(logits), &wanted, None);
        let wanted = vec![tokens(&expected.rows(&format!("{text}.greedy"))[0])];
        assert_eq!(greedy(&host, &[tokens(&ids[0])], 64, true), wanted);
    }
}

fn tokens(row: &[i64]) -> Vec<u32> {
    row.iter().map(|id| *id as u32).collect()
}
