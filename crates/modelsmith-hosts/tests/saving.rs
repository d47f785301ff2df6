//! Checkpoints out are the checkpoints in.

mod common;

use burn::tensor::Device;
use common::{fixtures, host};
use modelsmith_core::files::{Checkpoint, DType, read_json};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_hosts::{describe, load, save};
use serde_json::{Map, Value, json};

fn unchanged(_: &str) -> modelsmith_core::Result<Option<Flat>> {
    Ok(None)
}

#[test]
fn unchanged_weights_keep_their_bytes() {
    for (name, dtype, shard) in [
        ("llama_bf16", DType::BF16, u64::MAX),
        ("llama_f16", DType::F16, u64::MAX),
        ("llama_sharded", DType::F32, 8_000),
        ("opt_350m_style", DType::F32, u64::MAX),
        ("bert_seqcls", DType::F32, 4_000),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let host = host(name);
        let files = save(&host, dir.path(), dtype, shard, &unchanged, &Map::new()).unwrap();
        assert_eq!(files.len() > 1, shard != u64::MAX, "{name}: {files:?}");
        let (old, new) = (
            Checkpoint::open(fixtures().join(name)).unwrap(),
            Checkpoint::open(dir.path()).unwrap(),
        );
        assert_eq!(
            old.names().collect::<Vec<_>>(),
            new.names().collect::<Vec<_>>(),
            "{name}"
        );
        for key in old.names() {
            assert!(
                old.bytes(key).unwrap() == new.bytes(key).unwrap(),
                "{name} {key}"
            );
        }
        let again = load(dir.path(), &Device::flex()).unwrap();
        assert_eq!(again.weight_names(), host.weight_names());
        let side = "generation_config.json";
        assert_eq!(
            dir.path().join(side).exists(),
            fixtures().join(name).join(side).exists()
        );
    }
}

#[test]
fn changes_and_the_patch_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let host = host("llama_gqa_untied");
    let device = host.device();
    let name = "model.norm.weight";
    let changed = |key: &str| {
        let value = || Flat::from_vec(vec![0.5; 16], &[16], &device);
        Ok((key == name).then(value))
    };
    let patch = json!({"pad_token_id": 3, "use_cache": null});
    let patch = patch.as_object().unwrap();
    save(&host, dir.path(), DType::BF16, u64::MAX, &changed, patch).unwrap();
    let config: Value = read_json(dir.path().join("config.json")).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
    assert_eq!(config["pad_token_id"], 3);
    assert!(config.get("use_cache").is_none());
    let again = load(dir.path(), &device).unwrap();
    assert_eq!(again.weight(name).unwrap().to_vec(), [0.5; 16]);
    assert_eq!(again.stored_dtype(name), Some(DType::BF16));
    let wrong = |_: &str| Ok(Some(Flat::from_vec(vec![0.5; 3], &[3], &device)));
    let found = save(&host, dir.path(), DType::F32, u64::MAX, &wrong, &Map::new());
    assert!(found.unwrap_err().to_string().contains("[3]"));
    let whole = save(
        &host,
        dir.path(),
        DType::I64,
        u64::MAX,
        &unchanged,
        &Map::new(),
    );
    assert!(whole.unwrap_err().to_string().contains("I64"));
    let own = save(
        &again,
        dir.path(),
        DType::F32,
        u64::MAX,
        &unchanged,
        &Map::new(),
    );
    assert!(own.unwrap_err().to_string().contains("loaded from"));
}

#[test]
fn a_host_is_described_site_by_site() {
    let host = host("llama_mha_tied");
    let found = describe(&host);
    assert_eq!(found.parameters, host.parameter_count());
    assert_eq!(found.sites.len(), host.sites().len());
    let counted: usize = found.sites.iter().map(|site| site.parameters).sum();
    assert_eq!(counted, found.parameters);
    let head = found
        .sites
        .iter()
        .find(|site| site.path == "lm_head")
        .unwrap();
    assert_eq!(
        (head.parameters, head.tied_to.as_deref()),
        (0, Some("model.embed_tokens"))
    );
    let query = found
        .sites
        .iter()
        .find(|site| site.path.ends_with("0.self_attn.q_proj"))
        .unwrap();
    assert_eq!(
        (query.shape.as_slice(), query.dtype),
        ([16, 16].as_slice(), Some("F32"))
    );
    let half = describe(&common::host("llama_bf16"));
    assert_eq!(half.memory.stored * 2, half.memory.weights);
    assert!(
        serde_json::to_string(&found)
            .unwrap()
            .contains("model.layers.0.self_attn.q_proj")
    );
}
