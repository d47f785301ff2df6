//! An encoder with a decoder computes what `transformers` computes, and what it refuses.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Expected, answers, batch, best, close, host, ints, mask, spellings};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::{Selection, SiteKind};
use modelsmith_hosts::{Head, KvCache, TokenInput, Transformer};

const CASES: [&str; 3] = ["t5", "t5_gated", "mt5"];

fn logits(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Vec<f32> {
    to_vec(host.forward(input, &Pass::default(), hooks).unwrap())
}

#[test]
fn logits_and_states_of_both_stacks_agree() {
    for name in CASES {
        let expected = Expected::open(name);
        let input = answers(&expected);
        let real = expected.rows("attention_mask");
        let pass = Pass::default();
        for host in spellings(name) {
            assert_eq!(host.head(), Head::Seq2SeqLm(0), "{name}");
            let decoder = host.hidden_states(&input, &pass, &[]).unwrap();
            let source = input.source.as_ref().unwrap();
            let encoder = host.encoder_states(source, &pass, &[]).unwrap();
            for (kind, states, mask) in [
                ("decoder_states", &decoder, None),
                ("encoder_states", &encoder, Some(real.as_slice())),
            ] {
                for (i, state) in states.iter().enumerate() {
                    let key = format!("{kind}.{i}");
                    let (wanted, _) = expected.floats(&key);
                    let what = format!("{name} {key}");
                    close(&what, &to_vec(state.clone()), &wanted, mask);
                }
                assert!(!expected.has(&format!("{kind}.{}", states.len())), "{name}");
            }
            let (wanted, _) = expected.floats("logits");
            let last = decoder.last().unwrap().clone();
            let found = to_vec(host.logits(last, &input, &pass, &[]));
            close(&format!("{name} logits"), &found, &wanted, None);
        }
    }
}

/// Greedy answers to the sources, without the token that they begin behind.
fn greedy_answers(
    host: &Transformer,
    source: &TokenInput,
    count: usize,
    cached: bool,
) -> Vec<Vec<u32>> {
    let start = host.decoder_start().unwrap();
    let mut rows = vec![vec![start]; source.dims()[0]];
    let mut cache = KvCache::new();
    for step in 0..count {
        let fresh: Vec<Vec<u32>> = match cached {
            true => rows.iter().map(|row| vec![*row.last().unwrap()]).collect(),
            false => rows.clone(),
        };
        let first = !cached || step == 0;
        let input = TokenInput {
            source: first.then(|| Box::new(source.clone())),
            ..TokenInput::from_ids(&fresh, 0, true, &Device::flex())
        };
        let cache = cached.then_some(&mut cache);
        let hidden = host.hidden(&input, &Pass::default(), &[], cache).unwrap();
        let tokens = best(host.logits(hidden, &input, &Pass::default(), &[]));
        for (row, token) in rows.iter_mut().zip(tokens) {
            row.push(token);
        }
    }
    rows.into_iter().map(|row| row[1..].to_vec()).collect()
}

#[test]
fn greedy_answers_are_identical_with_and_without_a_cache() {
    for name in CASES {
        let expected = Expected::open(name);
        let host = host(name);
        let tokens = |name: &str| -> Vec<Vec<u32>> {
            let rows = expected.rows(name).into_iter();
            rows.map(|row| row.into_iter().map(|id| id as u32).collect())
                .collect()
        };
        let prompt = TokenInput::new(ints(&expected.rows("prompt")));
        for cached in [true, false] {
            let found = greedy_answers(&host, &prompt, 32, cached);
            assert_eq!(found, tokens("greedy"), "{name}, cache {cached}");
            let found = greedy_answers(&host, &batch(&expected, ""), 16, cached);
            assert_eq!(
                found,
                tokens("batch_greedy"),
                "{name} batch, cache {cached}"
            );
        }
    }
}

#[test]
fn rows_that_stay_in_the_cache_keep_their_text() {
    let expected = Expected::open("t5");
    let host = host("t5");
    let pass = Pass::default();
    let mut cache = KvCache::new();
    let input = answers(&expected);
    host.hidden(&input, &pass, &[], Some(&mut cache)).unwrap();
    cache.select(&[1]).unwrap();
    let next = TokenInput::new(ints(&[vec![7]]));
    let found = host.hidden(&next, &pass, &[], Some(&mut cache)).unwrap();
    let whole = |rows: Vec<Vec<i64>>| vec![rows[1].clone()];
    let mut ids = whole(expected.rows("decoder_input_ids"));
    ids[0].push(7);
    let alone = TokenInput {
        source: Some(Box::new(TokenInput {
            mask: Some(mask(&whole(expected.rows("attention_mask")))),
            ..TokenInput::new(ints(&whole(expected.rows("input_ids"))))
        })),
        ..TokenInput::new(ints(&ids))
    };
    let wanted = host.hidden(&alone, &pass, &[], None).unwrap();
    let time = wanted.dims()[1];
    let wanted = to_vec(wanted.narrow(1, time - 1, 1));
    close("the row kept", &to_vec(found), &wanted, None);
}

#[test]
fn padding_of_the_text_changes_nothing_on_either_side() {
    let host = host("t5_gated");
    let answer = ints(&[vec![0, 5, 6]]);
    let read = |row: &[i64], real: &[i64]| {
        let source = TokenInput {
            mask: Some(mask(&[real.to_vec()])),
            ..TokenInput::new(ints(&[row.to_vec()]))
        };
        let input = TokenInput {
            source: Some(Box::new(source)),
            ..TokenInput::new(answer.clone())
        };
        logits(&host, &input, &[])
    };
    let plain = read(&[9, 33, 12], &[1, 1, 1]);
    close(
        "right",
        &read(&[9, 33, 12, 0, 0], &[1, 1, 1, 0, 0]),
        &plain,
        None,
    );
    close(
        "left",
        &read(&[0, 0, 9, 33, 12], &[0, 0, 1, 1, 1]),
        &plain,
        None,
    );
}

/// A hook that gives vectors in front of the text.
struct Front(Tensor<3>);

impl Hooks for Front {
    fn prompt(&self, _: &Pass) -> Option<Tensor<3>> {
        Some(self.0.clone())
    }
}

/// The decoder sees the vectors too, as it sees every token of the text.
#[test]
fn embeddings_of_tokens_as_a_prompt_compute_what_the_tokens_compute() {
    for name in CASES {
        let host = host(name);
        let table: Tensor<2> = host.weight("shared.weight").unwrap().tensor().unwrap();
        let ids = Tensor::from_data(TensorData::new(vec![7_i64, 21], [2]), &Device::flex());
        let front = Front(table.select(0, ids).unsqueeze());
        let with = |text: &[i64]| TokenInput {
            source: Some(Box::new(TokenInput::new(ints(&[text.to_vec()])))),
            ..TokenInput::new(ints(&[vec![0, 5, 6]]))
        };
        let wanted = logits(&host, &with(&[7, 21, 9, 33]), &[]);
        let found = logits(&host, &with(&[9, 33]), &[&front]);
        close(name, &found, &wanted, None);
    }
}

#[test]
fn sites_have_the_paths_of_the_modules() {
    let host = host("t5_gated");
    let linear = |site: &&modelsmith_core::sites::Site| site.kind == SiteKind::Linear;
    // Seven layers a block of the encoder, eleven of the decoder, and the head.
    assert_eq!(
        host.sites().iter().filter(linear).count(),
        3 * 7 + 2 * 11 + 1
    );
    for path in ["encoder.embed_tokens", "decoder.embed_tokens"] {
        let mut sites = host.sites().iter();
        let site = sites.find(|site| site.path == path).unwrap();
        assert_eq!(site.tied_to.as_deref(), Some("shared"));
        let (weight, _) = host.site_weights(site);
        assert_eq!(weight.as_deref(), Some("shared.weight"));
    }
    let info = host.info();
    assert_eq!(info.task_type, Some("SEQ_2_SEQ_LM"));
    let chosen = Selection::default();
    let chosen = chosen.select(host.sites(), info.default_targets).unwrap();
    let paths: Vec<&str> = chosen.iter().map(|site| site.path.as_str()).collect();
    assert_eq!(paths.len(), 2 * (3 + 2 + 2));
    assert!(paths.contains(&"encoder.block.2.layer.0.SelfAttention.q"));
    assert!(paths.contains(&"decoder.block.1.layer.1.EncDecAttention.v"));
    for site in host.sites() {
        let attention = site.kind == SiteKind::Attention;
        let shape = host.attention_shape(site);
        assert_eq!(shape.is_some(), attention, "{}", site.path);
        if let Some(shape) = shape {
            assert_eq!((shape.heads, shape.head_dim, shape.scale), (4, 6, 1.0));
        }
    }
    let parts = &info.block;
    assert_eq!(part_paths(&host, &parts.mlp_gate).len(), 5);
    assert_eq!(part_paths(&host, &parts.mlp_out).len(), 5);
    assert_eq!(part_paths(&host, &info.block.attention_out).len(), 7);
    assert_eq!(part_paths(&host, &info.block.keys_values).len(), 14);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let host = host("t5");
    let answer = || TokenInput::new(ints(&[vec![0, 5]]));
    let source = |rows: &[Vec<i64>]| Some(Box::new(TokenInput::new(ints(rows))));
    let refused = |input: &TokenInput| {
        let error = host.forward(input, &Pass::default(), &[]).unwrap_err();
        error.to_string()
    };
    assert!(refused(&answer()).contains("give its encoder a source"));
    let uneven = TokenInput {
        source: source(&[vec![5], vec![6]]),
        ..answer()
    };
    assert!(refused(&uneven).contains("2 texts"), "{}", refused(&uneven));
    let packed = TokenInput {
        source: source(&[vec![5, 6]]),
        segments: Some(ints(&[vec![1, 2]])),
        ..answer()
    };
    assert!(refused(&packed).contains("packing"), "{}", refused(&packed));
    let placed = TokenInput {
        source: source(&[vec![5, 6]]),
        positions: Some(ints(&[vec![0, 1]])),
        ..answer()
    };
    assert!(
        refused(&placed).contains("distances"),
        "{}",
        refused(&placed)
    );
    let pass = Pass::default();
    let stages = host.stages(&answer(), &pass, &[]);
    let error = stages.err().unwrap().to_string();
    assert!(error.contains("train.gradient_checkpointing"), "{error}");
    let llama = common::host("llama_mha_tied");
    let idle = TokenInput {
        source: source(&[vec![5]]),
        ..answer()
    };
    let error = llama.forward(&idle, &Pass::default(), &[]).unwrap_err();
    assert!(error.to_string().contains("no encoder"), "{error}");
}

/// Gradients reach both stacks: each agrees with finite differences of the loss.
#[test]
fn gradients_flow_through_both_stacks() {
    let host = host("t5_gated");
    let expected = Expected::open("t5_gated");
    let input = answers(&expected);
    for path in [
        "encoder.block.0.layer.0.SelfAttention.q",
        "encoder.block.2.layer.1.DenseReluDense.wi_0",
        "decoder.block.0.layer.1.EncDecAttention.k",
        "decoder.block.1.layer.0.SelfAttention.v",
    ] {
        let capture =
            modelsmith_core::capture::Capture::new([path], modelsmith_core::capture::Side::Output);
        let capture = capture.with_gradients();
        let weighted = |hooks: &[&dyn Hooks]| {
            let logits = host.forward(&input, &Pass::default(), hooks).unwrap();
            let shape = logits.dims();
            let weights = Stream::new(3, "loss").normal(shape.iter().product(), 0.0, 1.0);
            (logits * Tensor::from_data(TensorData::new(weights, shape), &Device::flex())).sum()
        };
        let gradients = weighted(&[&capture]).backward();
        let found = capture.gradients(&gradients)[path].clone();
        let values = found.to_vec();
        let shape = [found.shape[0], found.shape[1], found.shape[2]];
        let most = values.iter().fold(0_f32, |most, g| most.max(g.abs()));
        assert!(most > 0.0, "{path}");
        for place in [0, shape[2] + 3] {
            let bent = |step: f32| {
                let mut noise = vec![0.0; values.len()];
                noise[place] = step;
                let noise = Tensor::from_data(TensorData::new(noise, shape), &Device::flex());
                let noise = modelsmith_core::capture::Noise {
                    path: path.into(),
                    noise,
                };
                to_vec(weighted(&[&noise]))[0]
            };
            let slope = (bent(1e-2) - bent(-1e-2)) / 2e-2;
            let gap = (slope - values[place]).abs();
            assert!(
                gap < 2e-2 * most.max(1.0),
                "{path} {place}: {slope} {}",
                values[place]
            );
        }
    }
}
