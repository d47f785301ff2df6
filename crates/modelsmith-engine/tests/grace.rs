//! GRACE on the house model: facts one after the other, nothing else moved, and folders.

use burn::tensor::Device;
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
use modelsmith_methods::edit::grace::{Grace, GraceConfig, Replacement};
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
