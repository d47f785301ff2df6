//! Generation follows the greedy paths of `transformers` and repeats its draws.

use burn::tensor::Device;
use modelsmith_core::files::Reader;
use modelsmith_data::{StreamDecoder, Tokenizer};
use modelsmith_engine::generate::{GenerateOptions, generate};
use modelsmith_engine::{Sampler, TextStream};
use modelsmith_hosts::{Transformer, load};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../parity/hosts")
        .join(name)
}

fn host(name: &str) -> Transformer {
    load(&fixture(name), &Device::flex()).unwrap()
}

/// Rows of token ids in a fixture's expectations.
fn rows(name: &str, key: &str) -> Vec<Vec<u32>> {
    let reader = Reader::open(fixture(name).join("expected.safetensors")).unwrap();
    let width = *reader.info(key).unwrap().shape.last().unwrap();
    let ids: Vec<u32> = reader
        .bytes(key)
        .unwrap()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as u32)
        .collect();
    ids.chunks(width).map(<[u32]>::to_vec).collect()
}

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        ..GenerateOptions::default()
    }
}

fn run(host: &Transformer, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Vec<u32>> {
    generate(host, prompts, options, &[], &mut |_, _| true).unwrap()
}

#[test]
fn greedy_texts_equal_those_of_transformers() {
    let names = [
        "llama_gqa_untied",
        "mistral",
        "qwen2_sliding",
        "qwen3",
        "gpt2",
        "opt_350m_style",
    ];
    for name in names {
        let host = host(name);
        let found = run(&host, &rows(name, "prompt"), &options(64));
        assert_eq!(found, rows(name, "greedy"), "{name}");
        let ids = rows(name, "left_input_ids");
        let mask = rows(name, "left_attention_mask");
        let prompts: Vec<Vec<u32>> = ids
            .iter()
            .zip(&mask)
            .map(|(ids, mask)| {
                let real = ids.iter().zip(mask).filter(|(_, real)| **real == 1);
                real.map(|(id, _)| *id).collect()
            })
            .collect();
        assert_eq!(
            run(&host, &prompts, &options(16)),
            rows(name, "batch_greedy"),
            "{name}"
        );
    }
}

#[test]
fn greedy_answers_of_a_decoder_equal_those_of_transformers() {
    for name in ["t5", "t5_gated", "mt5"] {
        let host = host(name);
        let found = run(&host, &rows(name, "prompt"), &options(32));
        assert_eq!(found, rows(name, "greedy"), "{name}");
        let ids = rows(name, "input_ids");
        let texts = [ids[0].clone(), ids[1][..8].to_vec()];
        let found = run(&host, &texts, &options(16));
        assert_eq!(found, rows(name, "batch_greedy"), "{name}");
        // Rows that end leave the others their own text.
        let mut ended = options(16);
        ended.eos = vec![found[0][3]];
        let again = run(&host, &texts, &ended);
        for (again, whole) in again.iter().zip(&found) {
            let end = whole.iter().position(|token| *token == found[0][3]);
            assert_eq!(again, &whole[..end.unwrap_or(16)], "{name}");
        }
        let mut drawn = options(16);
        drawn.sampler.temperature = 1.0;
        assert_eq!(run(&host, &texts, &drawn), run(&host, &texts, &drawn));
    }
}

#[test]
fn rows_end_alone_and_the_others_go_on() {
    let host = host("llama_gqa_untied");
    let prompts = vec![vec![5, 9, 33, 7], vec![8, 21], vec![60, 61, 62]];
    let free = run(&host, &prompts, &options(20));
    let eos = free[1][6];
    let mut ended = options(20);
    ended.eos = vec![eos];
    let found = run(&host, &prompts, &ended);
    for (found, free) in found.iter().zip(&free) {
        let end = free.iter().position(|token| *token == eos).unwrap_or(20);
        assert_eq!(found, &free[..end]);
    }
    ended.min_new_tokens = 12;
    assert!(run(&host, &prompts, &ended)[1].len() >= 12);
    let mut seen = Vec::new();
    let cut = generate(&host, &prompts, &options(20), &[], &mut |row, token| {
        seen.push((row, token));
        row != 0 || seen.iter().filter(|(row, _)| *row == 0).count() < 3
    });
    let cut = cut.unwrap();
    assert_eq!(cut[0], free[0][..3]);
    assert_eq!(cut[1..], free[1..]);
    assert_eq!(seen.len(), 43);
}

#[test]
fn draws_repeat_whatever_the_batch() {
    let host = host("llama_mha_tied");
    let prompts = vec![vec![5, 9, 33, 7], vec![8, 21]];
    let mut drawn = options(24);
    drawn.sampler = Sampler {
        temperature: 1.0,
        top_k: 20,
        top_p: 0.9,
        seed: 3,
        ..Sampler::default()
    };
    let both = run(&host, &prompts, &drawn);
    assert_eq!(both, run(&host, &prompts, &drawn));
    assert_eq!(run(&host, &prompts[..1], &drawn)[0], both[0]);
    drawn.sampler.seed = 4;
    assert_ne!(both, run(&host, &prompts, &drawn));
}

#[test]
fn a_row_ends_where_the_model_has_no_further_position() {
    let host = host("gpt2_hub_names");
    assert_eq!(run(&host, &[vec![5; 30]], &options(64))[0].len(), 2);
    let fails = |prompts: &[Vec<u32>]| {
        let found = generate(&host, prompts, &options(4), &[], &mut |_, _| true);
        found.unwrap_err().to_string()
    };
    assert!(fails(&[vec![5; 33]]).contains("33 tokens"));
    assert!(fails(&[vec![5], vec![]]).contains("prompt 1"));
    assert!(fails(&[vec![80]]).contains("token id 80"));
    let bert = load(&fixture("bert_mlm"), &Device::flex()).unwrap();
    let found = generate(&bert, &[vec![5]], &options(4), &[], &mut |_, _| true);
    assert!(found.unwrap_err().to_string().contains("causal"));
}

#[test]
fn the_real_small_llama_tells_its_story() {
    let data = std::env::var("MODELSMITH_DATA").unwrap_or_default();
    let folder = Path::new(&data).join("lm/stories260k-hf");
    if data.is_empty() || !folder.is_dir() {
        eprintln!("skipped: no data");
        return;
    }
    let host = load(&folder, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let prompt = tokenizer.encode("Once upon a time", true).unwrap();
    let stops = vec![". One".to_owned()];
    let decoder = StreamDecoder::after(&tokenizer, &prompt, true);
    let mut stream = TextStream::new(decoder, &stops);
    let mut text = String::new();
    generate(
        &host,
        std::slice::from_ref(&prompt),
        &options(60),
        &[],
        &mut |_, token| {
            text += &stream.push(token).unwrap();
            !stream.ended()
        },
    )
    .unwrap();
    text += &stream.finish().unwrap();
    assert!(stream.ended());
    assert_eq!(
        text,
        ", there was a little girl named Lily. She loved to play outside in the park"
    );
}
