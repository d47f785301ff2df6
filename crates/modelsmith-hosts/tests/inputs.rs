//! Padding, packing, caches, and inputs that are refused.

mod common;

use burn::tensor::{Device, Tensor};
use common::{host, ints};
use modelsmith_core::hooks::Pass;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{KvCache, TokenInput, Transformer};

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn refused(host: &Transformer, input: &TokenInput) -> String {
    host.forward(input, &Pass::default(), &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn packed_segments_equal_separate_runs() {
    for name in [
        "llama_gqa_untied",
        "mistral",
        "gpt2",
        "opt",
        "bert_mlm",
        "roberta_mlm",
    ] {
        let host = host(name);
        let device = Device::flex();
        let (a, b) = (vec![5_u32, 9, 33, 7, 12, 40], vec![8_u32, 21, 60]);
        let run = |input: &TokenInput| host.forward(input, &Pass::default(), &[]).unwrap();
        let alone = |row: &Vec<u32>| {
            run(&TokenInput::from_ids(
                std::slice::from_ref(row),
                0,
                false,
                &device,
            ))
        };
        let joined = [a.clone(), b.clone()].concat();
        let mut packed = TokenInput::from_ids(&[joined], 0, false, &device);
        packed.segments = Some(ints(&[vec![0, 0, 0, 0, 0, 0, 1, 1, 1]]));
        let found = to_vec(run(&packed));
        let wanted = [to_vec(alone(&a)), to_vec(alone(&b))].concat();
        assert!(
            gap(&found, &wanted) < 1e-4,
            "{name}: {}",
            gap(&found, &wanted)
        );
    }
}

#[test]
fn a_cache_filled_in_pieces_gives_the_same_logits() {
    for name in [
        "llama_gqa_untied",
        "mistral",
        "gpt2",
        "opt_350m_style",
        "qwen2_sliding",
    ] {
        let host = host(name);
        let device = Device::flex();
        let ids: Vec<u32> = (0..90).map(|i| 3 + (i * 7) % 70).collect();
        let pass = Pass::default();
        let whole = TokenInput::from_ids(std::slice::from_ref(&ids), 0, false, &device);
        let wanted = host.hidden(&whole, &pass, &[], None).unwrap();
        let mut cache = KvCache::new();
        let mut pieces = Vec::new();
        for piece in [&ids[..5], &ids[5..6], &ids[6..40], &ids[40..90]] {
            let input = TokenInput::from_ids(&[piece.to_vec()], 0, false, &device);
            pieces.push(host.hidden(&input, &pass, &[], Some(&mut cache)).unwrap());
        }
        assert_eq!(cache.len(), 90);
        let difference = gap(&to_vec(Tensor::cat(pieces, 1)), &to_vec(wanted));
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn caches_are_cut_and_their_rows_selected() {
    let host = host("llama_gqa_untied");
    let device = Device::flex();
    let pass = Pass::default();
    let rows = [vec![5, 9, 33, 7], vec![8, 21]];
    let input = TokenInput::from_ids(&rows, 0, true, &device);
    let mut cache = KvCache::new();
    host.hidden(&input, &pass, &[], Some(&mut cache)).unwrap();
    let next = |tokens: &[u32], cache: &mut KvCache| {
        let rows: Vec<Vec<u32>> = tokens.iter().map(|token| vec![*token]).collect();
        let input = TokenInput::from_ids(&rows, 0, true, &device);
        to_vec(host.hidden(&input, &pass, &[], Some(cache)).unwrap())
    };
    let both = next(&[40, 41], &mut cache);
    cache.truncate(4);
    assert_eq!(next(&[40, 41], &mut cache), both);
    cache.truncate(4);
    cache.select(&[1, 1]).unwrap();
    let swapped = next(&[41, 41], &mut cache);
    let width = both.len() / 2;
    assert!(gap(&swapped[..width], &both[width..]) < 1e-5);
    assert!(
        cache
            .select(&[2])
            .unwrap_err()
            .to_string()
            .contains("row 2")
    );
    let found = host.hidden(
        &TokenInput::from_ids(&[vec![1]], 0, true, &device),
        &pass,
        &[],
        Some(&mut cache),
    );
    assert!(found.unwrap_err().to_string().contains("2 rows"));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let gpt2 = host("gpt2_hub_names");
    let long = TokenInput::from_ids(&[vec![5; 33]], 0, false, &device);
    let found = refused(&gpt2, &long);
    assert!(
        found.contains("33 tokens is longer than the 32 positions"),
        "{found}"
    );
    let llama = host("llama_gqa_untied");
    let long = TokenInput::from_ids(&[vec![5; 129]], 0, false, &device);
    assert!(refused(&llama, &long).contains("128 positions"));
    let dynamic = host("llama_rope_dynamic");
    let long = TokenInput::from_ids(&[vec![5; 129]], 0, false, &device);
    assert!(dynamic.forward(&long, &Pass::default(), &[]).is_ok());
    let found = refused(
        &llama,
        &TokenInput::from_ids(&[vec![5, 80]], 0, false, &device),
    );
    assert!(
        found.contains("token id 80 is outside the vocabulary of 80"),
        "{found}"
    );
    let found = refused(&llama, &TokenInput::new(ints(&[vec![-1]])));
    assert!(found.contains("token id -1"), "{found}");
    let mut input = TokenInput::from_ids(&[vec![5, 6]], 0, false, &device);
    input.segments = Some(ints(&[vec![0]]));
    assert!(refused(&llama, &input).contains("[1, 1]"));
    let mut input = TokenInput::from_ids(&[vec![5, 6]], 0, false, &device);
    input.token_types = Some(ints(&[vec![0, 1]]));
    assert!(refused(&llama, &input).contains("has none"));
    input.token_types = Some(ints(&[vec![0, 2]]));
    assert!(refused(&host("bert_mlm"), &input).contains("token type 2"));
    let empty = TokenInput::from_ids(&[], 0, false, &device);
    assert!(refused(&llama, &empty).contains("no token"));
    let bert = host("bert_mlm");
    let input = TokenInput::from_ids(&[vec![5]], 0, false, &device);
    let found = bert.hidden(&input, &Pass::default(), &[], Some(&mut KvCache::new()));
    assert!(found.unwrap_err().to_string().contains("both directions"));
}
