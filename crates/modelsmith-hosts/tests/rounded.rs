//! Hosts whose matrices are `bf16`.

mod common;

use common::{Expected, batch, host};
use half::bf16;
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::Transformer;

#[test]
fn rounded_matrices_are_half_as_large_and_nearly_as_good() {
    for name in ["llama_gqa_untied", "gpt2", "bert_seqcls"] {
        let expected = Expected::open(name);
        let input = batch(&expected, "");
        let (whole, mut rounded) = (host(name), host(name));
        rounded.round_matrices().unwrap();
        let run = |host: &Transformer| to_vec(host.forward(&input, &Pass::default(), &[]).unwrap());
        let (exact, near) = (run(&whole), run(&rounded));
        let size = exact.iter().fold(0f32, |size, x| size.max(x.abs()));
        let far = exact.iter().zip(&near).map(|(a, b)| (a - b).abs());
        let far = far.fold(0.0, f32::max);
        assert!(far > 0.0 && far < 0.03 * size, "{name}: {far} of {size}");
        for weight in whole.weight_names() {
            let (before, after) = (
                whole.weight(&weight).unwrap(),
                rounded.weight(&weight).unwrap(),
            );
            let matrix = before.shape.len() == 2;
            for (a, b) in before.to_vec().into_iter().zip(after.to_vec()) {
                let nearest = bf16::from_f32(a).to_f32();
                assert_eq!(b, if matrix { nearest } else { a }, "{name} {weight}");
            }
        }
    }
}
