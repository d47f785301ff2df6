//! Virtual tokens: vectors that a hook puts in front of every row.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{close, fixtures, host, ints, mask};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_hosts::{KvCache, TokenInput, Transformer};

/// A hook that does nothing but give a prompt `[rows, count, width]`.
struct Front(Tensor<3>);

impl Hooks for Front {
    fn prompt(&self, _: &Pass) -> Option<Tensor<3>> {
        Some(self.0.clone())
    }
}

/// A hook that claims positions for keys in front.
struct Shifted(usize);

impl Hooks for Shifted {
    fn prefix(&self) -> usize {
        self.0
    }
}

/// The host's own embeddings of tokens, as a prompt.
fn embedded(host: &Transformer, tokens: &[i64]) -> Front {
    let table = host.sites()[0].path.clone();
    let table = host.weight(&format!("{table}.weight")).unwrap();
    let device = Device::flex();
    let ids = TensorData::new(tokens.to_vec(), [tokens.len()]);
    let table = table.tensor::<2>().unwrap();
    Front(table.select(0, Tensor::from_data(ids, &device)).unsqueeze())
}

fn random(rows: usize, count: usize, width: usize) -> Front {
    let values = Stream::new(1, "front").normal(rows * count * width, 0.0, 0.5);
    let data = TensorData::new(values, [rows, count, width]);
    Front(Tensor::from_data(data, &Device::flex()))
}

fn logits(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Tensor<3> {
    host.forward(input, &Pass::default(), hooks).unwrap()
}

/// The logits of each column from `first` on.
fn from(first: usize, logits: Tensor<3>) -> Vec<f32> {
    let time = logits.dims()[1];
    to_vec(logits.narrow(1, first, time - first))
}

fn causal_hosts() -> Vec<(String, Transformer)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if fixtures().join(&name).join("config.json").exists() {
            let host = host(&name);
            if host.head() == modelsmith_hosts::Head::CausalLm {
                found.push((name, host));
            }
        }
    }
    assert!(found.len() >= 15, "{}", found.len());
    found
}

#[test]
fn embeddings_of_tokens_as_a_prompt_compute_what_the_tokens_compute() {
    for (name, host) in causal_hosts() {
        let (front, text) = (vec![7, 21, 9], vec![vec![3, 30, 12, 5], vec![8, 8, 2, 6]]);
        let plain = text.iter().map(|row| [front.clone(), row.clone()].concat());
        let plain = TokenInput::new(ints(&plain.collect::<Vec<_>>()));
        let expected = from(3, logits(&host, &plain, &[]));
        let prompt = embedded(&host, &front);
        let found = logits(&host, &TokenInput::new(ints(&text)), &[&prompt]);
        assert_eq!(found.dims()[..2], [2, 4], "{name}");
        close(&name, &to_vec(found), &expected, None);
    }
}

#[test]
fn prompts_of_several_hooks_stand_in_the_order_of_the_onion() {
    let host = host("gpt2");
    let text = TokenInput::new(ints(&[vec![3, 30, 12]]));
    let [first, second, both] = [vec![7], vec![21, 9], vec![7, 21, 9]].map(|t| embedded(&host, &t));
    let together = to_vec(logits(&host, &text, &[&both]));
    let one_by_one = to_vec(logits(&host, &text, &[&first, &second]));
    assert_eq!(one_by_one, together);
    let turned = to_vec(logits(&host, &text, &[&second, &first]));
    assert_ne!(turned, together);
}

#[test]
fn padding_on_either_side_changes_nothing() {
    for name in ["gpt2", "llama_gqa_untied", "bert_mlm", "roberta_mlm"] {
        let host = host(name);
        let prompt = random(1, 4, 16);
        let alone = TokenInput::new(ints(&[vec![3, 30, 12]]));
        let expected = to_vec(logits(&host, &alone, &[&prompt]));
        let right = TokenInput {
            mask: Some(mask(&[vec![1, 1, 1, 0, 0]])),
            ..TokenInput::new(ints(&[vec![3, 30, 12, 1, 1]]))
        };
        let found = logits(&host, &right, &[&prompt]);
        close(name, &to_vec(found.narrow(1, 0, 3)), &expected, None);
        // BERT counts every column, padding too.
        if name != "bert_mlm" {
            let left = TokenInput {
                mask: Some(mask(&[vec![0, 0, 1, 1, 1]])),
                ..TokenInput::new(ints(&[vec![1, 1, 3, 30, 12]]))
            };
            let found = from(2, logits(&host, &left, &[&prompt]));
            close(name, &found, &expected, None);
        }
    }
}

#[test]
fn a_cache_holds_the_prompt_from_the_first_pass_on() {
    for name in ["llama_gqa_untied", "mistral", "gpt2", "opt_350m_style"] {
        let host = host(name);
        let width = if name == "opt_350m_style" { 12 } else { 16 };
        // One prompt a row: what serving several prompts in a batch does.
        let prompt = random(2, 5, width);
        let hooks: &[&dyn Hooks] = &[&prompt];
        let rows: Vec<Vec<i64>> = vec![(3..33).collect(), (20..50).collect()];
        let whole = TokenInput::new(ints(&rows));
        let pass = Pass::default();
        let expected = to_vec(host.hidden(&whole, &pass, hooks, None).unwrap());
        let mut cache = KvCache::new();
        let mut pieces = Vec::new();
        for columns in [0..4, 4..5, 5..30] {
            let piece = rows.iter().map(|row| row[columns.clone()].to_vec());
            let mut input = TokenInput::new(ints(&piece.collect::<Vec<_>>()));
            if columns.start == 4 {
                input.positions = Some(ints(&[vec![4]]));
            }
            pieces.push(host.hidden(&input, &pass, hooks, Some(&mut cache)).unwrap());
        }
        assert_eq!(cache.len(), 35);
        close(name, &to_vec(Tensor::cat(pieces, 1)), &expected, None);
    }
}

#[test]
fn packed_texts_see_the_prompt_as_texts_apart_do() {
    for name in ["gpt2", "llama_gqa_untied"] {
        let host = host(name);
        let prompt = random(1, 3, 16);
        let apart = [vec![3, 30, 12], vec![8, 5]].map(|row| {
            let input = TokenInput::new(ints(&[row]));
            to_vec(logits(&host, &input, &[&prompt]))
        });
        for positions in [None, Some(ints(&[vec![0, 1, 2, 0, 1]]))] {
            let packed = TokenInput {
                segments: Some(ints(&[vec![0, 0, 0, 1, 1]])),
                positions,
                ..TokenInput::new(ints(&[vec![3, 30, 12, 8, 5]]))
            };
            let found = to_vec(logits(&host, &packed, &[&prompt]));
            close(name, &found, &apart.concat(), None);
        }
    }
    let packed = TokenInput {
        segments: Some(ints(&[vec![0, 1]])),
        ..TokenInput::new(ints(&[vec![3, 30]]))
    };
    let found = host("bert_mlm").forward(&packed, &Pass::default(), &[&random(1, 3, 16)]);
    let found = found.unwrap_err().to_string();
    assert!(found.contains("both directions"), "{found}");
}

#[test]
fn a_network_in_pieces_computes_the_same() {
    let host = host("llama_gqa_untied");
    let prompt = random(1, 3, 16);
    let hooks: &[&dyn Hooks] = &[&prompt];
    let (input, pass) = (TokenInput::new(ints(&[vec![3, 30, 12]])), Pass::default());
    let stages = host.stages(&input, &pass, hooks).unwrap();
    let mut x = stages.embed();
    assert_eq!(x.dims()[1], 6);
    for layer in 0..host.num_layers() {
        x = stages.block(layer, x);
    }
    let expected = to_vec(host.hidden(&input, &pass, hooks, None).unwrap());
    assert_eq!(to_vec(stages.top(x)), expected);
    let states = host.hidden_states(&input, &pass, hooks).unwrap();
    assert!(states.iter().all(|state| state.dims() == [1, 3, 16]));
}

#[test]
fn positions_begin_behind_the_keys_that_hooks_put_in_front() {
    for name in ["gpt2", "llama_gqa_untied", "bert_mlm", "roberta_mlm"] {
        let host = host(name);
        let rows = ints(&[vec![3, 30, 12]]);
        let shifted = to_vec(logits(
            &host,
            &TokenInput::new(rows.clone()),
            &[&Shifted(4)],
        ));
        let given = TokenInput {
            positions: Some(ints(&[vec![4, 5, 6]])),
            ..TokenInput::new(rows.clone())
        };
        let expected = to_vec(logits(&host, &given, &[]));
        close(name, &shifted, &expected, None);
        // So does a prompt.
        let plain = TokenInput {
            positions: Some(ints(&[vec![4, 5, 6, 7, 8]])),
            ..TokenInput::new(ints(&[vec![7, 21, 3, 30, 12]]))
        };
        let expected = from(2, logits(&host, &plain, &[]));
        let hooks: &[&dyn Hooks] = &[&Shifted(4), &embedded(&host, &[7, 21])];
        let found = to_vec(logits(&host, &TokenInput::new(rows), hooks));
        close(name, &found, &expected, None);
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let gpt2 = host("gpt2_hub_names");
    let input = TokenInput::new(ints(&[vec![5; 30]]));
    let refused = |host: &Transformer, input: &TokenInput, hook: &dyn Hooks| {
        let found = host.forward(input, &Pass::default(), &[hook]);
        found.map(|_| ()).unwrap_err().to_string()
    };
    let found = refused(&gpt2, &input, &random(1, 3, 16));
    let expected = "33 tokens, 3 virtual ones among them, is longer than the 32 positions";
    assert!(found.contains(expected), "{found}");
    let found = refused(&gpt2, &input, &Shifted(3));
    assert!(found.contains(expected), "{found}");
    let short = TokenInput::new(ints(&[vec![5; 3]]));
    let found = refused(&gpt2, &short, &random(1, 3, 15));
    assert!(found.contains("take [1 or 1, count, 16]"), "{found}");
    let found = refused(&gpt2, &short, &random(2, 3, 16));
    assert!(found.contains("[2, 3, 16]"), "{found}");
}
