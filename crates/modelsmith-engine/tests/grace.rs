//! GRACE on the house model: facts one after the other, nothing else moved, and folders.

use burn::tensor::{Device, Tensor};
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::parameters::to_vec;
use modelsmith_core::roles::Adapter;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_data::house::{HouseConfig, edits};
use modelsmith_engine::adapter_folder;
use modelsmith_engine::edit::measure::{MeasureOptions, Protocol, Scored, score};
use modelsmith_engine::edit::{GraceEditor, Statement};
use modelsmith_engine::generate::{GenerateOptions, generate};
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::grace::{Codebook, Entry, Grace, GraceConfig, Replacement};
use std::path::{Path, PathBuf};

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house")
}

fn host() -> Transformer {
    modelsmith_hosts::load(&house(), &Device::flex()).unwrap()
}

fn requests(count: usize) -> Vec<EditRequest> {
    edits(&HouseConfig::default(), count, 5).unwrap()
}

fn config(replacement: Replacement) -> GraceConfig {
    GraceConfig {
        module: "model.layers.2.mlp.down_proj".into(),
        replacement,
        ..GraceConfig::default()
    }
}

fn input(tokenizer: &Tokenizer, text: &str) -> TokenInput {
    let ids = tokenizer.encode(text, true).unwrap();
    TokenInput::from_ids(&[ids], 0, false, &Device::flex())
}

fn logits(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Vec<f32> {
    to_vec(host.forward(input, &Pass::default(), hooks).unwrap())
}

#[test]
fn facts_are_written_and_kept_while_others_stay() {
    let (host, tokenizer) = (host(), Tokenizer::load(house()).unwrap());
    let requests = requests(20);
    let mut editor =
        GraceEditor::new(&host, &tokenizer, config(Replacement::ReplaceLast), 0).unwrap();
    for request in &requests {
        editor.write(&Statement::from(request)).unwrap();
    }
    let hooks = [editor.grace.hooks()];
    let model = Scored {
        host: &host,
        tokenizer: &tokenizer,
        hooks: &hooks,
    };
    let (_, summary) = score(&model, &requests, &MeasureOptions::default()).unwrap();
    let figure = |name: &str| summary.figure(Protocol::ForcedSequence, name).unwrap().mean;
    assert!(figure("EAcc") >= 95.0, "{}", figure("EAcc"));
    assert!(figure("NAcc") >= 90.0, "{}", figure("NAcc"));

    // What hits nothing is as it was, to the bit; and so is all once the entries are gone.
    let other = input(&tokenizer, &requests[0].neighbours[0].prompt);
    assert!(logits(&host, &other, &hooks) == logits(&host, &other, &[]));
    let own = input(&tokenizer, &requests[0].filled());
    assert!(logits(&host, &own, &hooks) != logits(&host, &own, &[]));
    let mut empty = editor.grace.clone();
    for entry in editor.grace.book.entries() {
        empty.book.delete(&entry.id).unwrap();
    }
    assert!(logits(&host, &own, &[empty.hooks()]) == logits(&host, &own, &[]));

    let folder = tempfile::tempdir().unwrap();
    editor.save(folder.path()).unwrap();
    let loaded = adapter_folder::read(folder.path(), &host, false).unwrap();
    assert!(logits(&host, &own, &[loaded.hooks()]) == logits(&host, &own, &hooks));
}

/// Replaces as the codebook does, told for which columns, on the whole text each time.
fn by_hand(grace: &Grace, host: &Transformer, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..tokens {
        let input = TokenInput::from_ids(&[ids.clone()], 0, false, &Device::flex());
        grace.given(&[prompt.len()]);
        let all = logits(host, &input, &[grace]);
        let last = &all[all.len() - host.vocab_size()..];
        let best = last
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .unwrap()
            .0;
        ids.push(best as u32);
    }
    ids[prompt.len()..].to_vec()
}

#[test]
fn generation_with_a_cache_is_generation_anew() {
    let (host, tokenizer) = (host(), Tokenizer::load(house()).unwrap());
    for replacement in [Replacement::ReplaceLast, Replacement::ReplacePrompt] {
        let requests = requests(4);
        let mut editor = GraceEditor::new(&host, &tokenizer, config(replacement), 0).unwrap();
        for request in &requests {
            editor.write(&Statement::from(request)).unwrap();
        }
        let options = GenerateOptions {
            max_new_tokens: 12,
            ..GenerateOptions::default()
        };
        let prompts: Vec<Vec<u32>> = requests
            .iter()
            .map(|one| tokenizer.encode(&one.filled(), true).unwrap())
            .collect();
        for prompt in &prompts {
            let hooks = [editor.grace.hooks()];
            let rows = [prompt.clone()];
            let found = generate(&host, &rows, &options, &hooks, &mut |_, _| true).unwrap();
            assert_eq!(
                found[0],
                by_hand(&editor.grace, &host, prompt, 12),
                "{replacement:?}"
            );
        }
        // Rows of a batch are padded on the left and look for entries each by itself.
        let hooks = [editor.grace.hooks()];
        if replacement == Replacement::ReplaceLast {
            let together = generate(&host, &prompts, &options, &hooks, &mut |_, _| true).unwrap();
            for (prompt, found) in prompts.iter().zip(together) {
                assert_eq!(found, by_hand(&editor.grace, &host, prompt, 12));
            }
        }
    }
}

/// Time of a look-up among 10,000 keys over that of a pass; run by name.
#[test]
#[ignore = "a timing"]
fn a_look_up_among_ten_thousand_keys_is_cheap() {
    let (host, tokenizer) = (host(), Tokenizer::load(house()).unwrap());
    let (count, keys, values) = (10_000, 448, 160);
    let entry = |number: usize| Entry {
        id: number.to_string(),
        radius: 1.0,
        label: vec![1],
    };
    // Keys of the house's own prompts, alone and behind another statement.
    let facts = modelsmith_data::house::facts(&HouseConfig::default()).unwrap();
    let prompts: Vec<&String> = facts.iter().flat_map(|fact| &fact.prompts).collect();
    let behind = |number: usize| {
        let other = &facts[number * 7 % facts.len()];
        format!(
            "{} {}. {}",
            other.prompts[1],
            other.object,
            prompts[number * 3 % prompts.len()]
        )
    };
    let own = prompts.iter().map(|prompt| (*prompt).clone());
    let texts: Vec<String> = own.chain((0..).map(behind)).take(count).collect();
    let path = config(Replacement::ReplaceLast).module;
    let real: Vec<f32> = texts
        .iter()
        .flat_map(|text| {
            let capture = Capture::new([&path], Side::Input);
            let input = input(&tokenizer, text);
            host.hidden(&input, &Pass::default(), &[&capture], None)
                .unwrap();
            let seen: Tensor<3> = capture.take()[&path].tensor().unwrap();
            let last = seen.dims()[1] - 1;
            to_vec(seen.narrow(1, last, 1))
        })
        .collect();
    let (rows, requests) = (count, requests(200));
    let site = config(Replacement::ReplaceLast).site(&host).unwrap();
    let all = real.clone();
    let book = Codebook::from_parts(
        [keys, values],
        (0..count).map(entry).collect(),
        all,
        vec![0.0; count * values],
    )
    .unwrap();
    let full = Grace::new(book, config(Replacement::ReplaceLast), site);
    let texts: Vec<Vec<u32>> = requests
        .iter()
        .map(|one| tokenizer.encode(&one.neighbours[0].prompt, true).unwrap())
        .collect();
    let median = |hooks: &[&dyn Hooks], batch: usize| {
        let mut times: Vec<f64> = texts
            .chunks(batch)
            .cycle()
            .take(200)
            .map(|rows| {
                let input = TokenInput::from_ids(rows, 0, true, &Device::flex());
                let begun = std::time::Instant::now();
                let hidden: Tensor<3> = host.forward(&input, &Pass::default(), hooks).unwrap();
                drop(hidden);
                begun.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let shares: Vec<String> = [1, 8, 32]
        .iter()
        .map(|batch| {
            let (bare, with) = (median(&[], *batch), median(&[&full], *batch));
            format!(
                "batch {batch}: {:.3} ms, with 10,000 keys {:.3} ms ({:.1} %)",
                bare * 1e3,
                with * 1e3,
                (with / bare - 1.0) * 100.0
            )
        })
        .collect();
    let begun = std::time::Instant::now();
    for key in real.chunks_exact(keys) {
        let moved: Vec<f32> = key.iter().map(|value| value * 1.2).collect();
        std::hint::black_box(full.book.hit(&moved));
    }
    let each = begun.elapsed().as_secs_f64() / rows as f64;
    let hits: u64 = full.hits().iter().map(|(_, count)| count).sum();
    panic!(
        "{}; {hits} hits; {:.1} us a look-up",
        shares.join("; "),
        each * 1e6
    );
}
