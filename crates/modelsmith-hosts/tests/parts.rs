//! Which layers of a block do what, for every family.

mod common;

use common::host;
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::sites::SiteKind;

#[test]
fn the_layer_in_front_of_the_activation_is_the_gate_or_the_first_of_the_mlp() {
    let cases = [
        ("llama_gqa_untied", "model.layers.0.mlp.gate_proj"),
        ("mistral", "model.layers.0.mlp.gate_proj"),
        ("qwen2", "model.layers.0.mlp.gate_proj"),
        ("qwen3", "model.layers.0.mlp.gate_proj"),
        ("gpt2", "transformer.h.0.mlp.c_fc"),
        ("opt", "model.decoder.layers.0.fc1"),
        ("bert_mlm", "bert.encoder.layer.0.intermediate.dense"),
        ("roberta_mlm", "roberta.encoder.layer.0.intermediate.dense"),
        ("t5", "encoder.block.0.layer.1.DenseReluDense.wi"),
        ("t5_gated", "encoder.block.0.layer.1.DenseReluDense.wi_0"),
    ];
    for (name, first) in cases {
        let host = host(name);
        let parts = &host.info().block;
        let gates = part_paths(&host, &parts.mlp_gate);
        assert_eq!(gates[0], first, "{name}");
        let sites = host.sites().iter();
        let blocks = sites.filter(|site| site.kind == SiteKind::Residual).count();
        let last = part_paths(&host, &parts.mlp_out);
        assert_eq!((gates.len(), last.len()), (blocks, blocks), "{name}");
        let up = part_paths(&host, &parts.mlp_up);
        let gated = first.contains("gate") || first.contains("wi_0");
        assert_eq!(up.len(), if gated { blocks } else { 0 }, "{name}");
        let site = |path: &String| host.sites().iter().find(|site| site.path == *path);
        for (gate, out) in gates.iter().zip(&last) {
            let (gate, out) = (site(gate).unwrap(), site(out).unwrap());
            assert_eq!(gate.outputs, out.inputs, "{name}");
            assert_eq!(gate.inputs, out.outputs, "{name}");
        }
    }
}
