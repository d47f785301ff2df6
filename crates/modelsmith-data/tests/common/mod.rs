//! A small tokenizer and files for tests.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use modelsmith_data::house::{self, HouseConfig};
use modelsmith_data::{DataConfig, Tokenizer};
use tempfile::TempDir;

/// Special tokens that chat templates use, added to the house tokenizer.
const ADDED: [&str; 9] = [
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "[/INST]",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<unk>",
];

/// A folder with a tokenizer, made once for all tests of a binary.
pub(crate) fn tokenizer_folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let config = HouseConfig { people: 30, biographies: 2, ..HouseConfig::default() };
            let files = house::write(&config, folder.path()).unwrap();
            house::write_tokenizer(&files.corpus, folder.path(), 500, 512).unwrap();
            let path = folder.path().join("tokenizer.json");
            let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let list = json["added_tokens"].as_array_mut().unwrap();
            for (at, token) in ADDED.iter().enumerate() {
                list.push(serde_json::json!({
                    "id": 500 + at, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true,
                }));
            }
            // What the loader must turn off.
            json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
            json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>"});
            std::fs::write(&path, json.to_string()).unwrap();
            folder
        })
        .path()
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::load(tokenizer_folder()).unwrap()
}

/// A file with a configuration that reads it.
pub(crate) fn file(folder: &TempDir, name: &str, contents: impl AsRef<[u8]>) -> DataConfig {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).unwrap();
    config(path)
}

pub(crate) fn config(path: PathBuf) -> DataConfig {
    DataConfig {
        path,
        max_length: 64,
        batch_size: 2,
        shuffle: false,
        ..DataConfig::default()
    }
}
