//! Model folders: single, sharded, and with an index that lies.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::files::{
    Checkpoint, DType, TensorSpec, View, metadata_pt, write_safetensors, write_sharded,
};

/// Writes one shard of byte tensors.
fn shard(dir: &Path, file: &str, names: &[&str]) {
    let views: Vec<View<'_>> = names
        .iter()
        .map(|name| View {
            name,
            dtype: DType::U8,
            shape: &[3],
            bytes: &[1, 2, 3],
        })
        .collect();
    write_safetensors(dir.join(file), &views, &metadata_pt()).unwrap();
}

fn index(dir: &Path, index: &Value) {
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A folder with `a` in shard x and `b` in shard y, and this index.
fn opened(index_json: &Value) -> Result<Checkpoint, String> {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path(), "x.safetensors", &["a"]);
    shard(dir.path(), "y.safetensors", &["b"]);
    index(dir.path(), index_json);
    let result = Checkpoint::open(dir.path());
    result.map_err(|problem| {
        assert_eq!(problem.exit_code(), 3);
        problem.to_string()
    })
}

#[test]
fn a_sharded_folder_opens_with_its_sizes_checked() {
    let map = json!({"a": "x.safetensors", "b": "y.safetensors"});
    for metadata in [
        json!({"total_size": 6}),
        json!({"total_size": 6.0}),
        json!({}),
        Value::Null,
    ] {
        let checkpoint = opened(&json!({"metadata": metadata, "weight_map": map})).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.bytes("b").unwrap(), [1, 2, 3]);
        assert_eq!(
            (checkpoint.shards().len(), checkpoint.total_bytes()),
            (2, 6)
        );
        assert!(checkpoint.contains("a") && !checkpoint.contains("c"));
        assert!(checkpoint.info("c").is_err());
    }
    opened(&json!({"weight_map": map})).unwrap();
}

#[test]
fn an_index_that_lies_is_refused() {
    let cases = [
        (
            json!({"a": "x.safetensors", "b": "absent.safetensors"}),
            "absent.safetensors is missing",
        ),
        (
            json!({"a": "x.safetensors", "b": "../y.safetensors"}),
            "plain file name",
        ),
        (json!({"a": "/x.safetensors"}), "plain file name"),
        (json!({"a": "sub\\x.safetensors"}), "plain file name"),
        (json!({"a": ".."}), "plain file name"),
        (json!({"a": ""}), "plain file name"),
        (json!({"a": "x\0.safetensors"}), "plain file name"),
        (json!({"a": "pytorch_model.bin"}), "pickle"),
        (
            json!({"a": "x.safetensors", "b": "x.safetensors"}),
            "does not hold it",
        ),
        (
            json!({"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"}),
            "`c` in `y.safetensors`, which does not",
        ),
        (
            json!({"b": "x.safetensors", "a": "y.safetensors"}),
            "weight_map places it in",
        ),
        (
            json!({"z": "y.safetensors"}),
            "`b`, which weight_map does not list",
        ),
        (json!({}), "lists no tensor"),
        (json!({"a": 1}), "in `weight_map"),
    ];
    for (map, cause) in cases {
        let problem = opened(&json!({"weight_map": map})).unwrap_err();
        assert!(problem.contains(cause), "{problem}\nlacks {cause:?}");
    }
    let map = json!({"a": "x.safetensors", "b": "y.safetensors"});
    let wrong = json!({"metadata": {"total_size": 7}, "weight_map": map});
    assert!(
        opened(&wrong)
            .unwrap_err()
            .contains("total_size is 7, but the shards hold 6")
    );
    assert!(opened(&json!({})).unwrap_err().contains("weight_map"));
}

#[test]
fn a_tensor_listed_or_stored_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path(), "x.safetensors", &["a"]);
    shard(dir.path(), "y.safetensors", &["a", "b"]);
    index(
        dir.path(),
        &json!({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}),
    );
    let problem = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(problem.contains("two shards"), "{problem}");
    let text = r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#;
    fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    let problem = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(problem.contains("`a` is given twice"), "{problem}");
}

#[test]
fn a_folder_without_readable_weights_says_what_it_has() {
    let cases: [(&str, &str); 5] = [
        ("pytorch_model.bin", "pickled (`pytorch_model.bin`)"),
        ("pytorch_model.bin.index.json", "pickled"),
        ("adapter_model.safetensors", "PEFT adapter"),
        ("other.safetensors", "found `other.safetensors`"),
        ("config.json", "no model weights"),
    ];
    for (file, cause) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file), b"").unwrap();
        let problem = Checkpoint::open(dir.path()).unwrap_err();
        assert!(problem.to_string().contains(cause), "{problem}");
        assert_eq!(problem.exit_code(), 3);
    }
}

#[test]
fn writing_shards_and_reading_them_gives_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let specs: Vec<TensorSpec> = (0..7)
        .map(|i| TensorSpec::new(format!("layer.{i}"), DType::F32, [i, 2]))
        .collect();
    let content = |spec: &TensorSpec| vec![spec.shape[0] as u8; spec.byte_len().unwrap()];
    let limits = [
        (u64::MAX, 1),
        (168, 1),
        (167, 2),
        (64, 4),
        (1, 7),
        (64, 4),
        (1000, 1),
    ];
    for (limit, files) in limits {
        let written = write_sharded(
            dir.path(),
            "model",
            &specs,
            &metadata_pt(),
            limit,
            &mut |spec| Ok(Cow::Owned(content(spec))),
        )
        .unwrap();
        let index = usize::from(files > 1);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            written.len() + index
        );
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.shards().len(), written.len());
        assert_eq!(checkpoint.len(), specs.len());
        assert_eq!(written.len(), files, "{limit}");
        for spec in &specs {
            assert_eq!(checkpoint.bytes(&spec.name).unwrap(), content(spec));
        }
    }
}
