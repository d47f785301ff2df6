//! A small model with a tokenizer, and the program to run on it.

#![allow(dead_code)]

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Words of the test tokenizer; with four special tokens they fill the model's vocabulary of 80.
const WORDS: usize = 76;

/// A temporary folder with a model in it.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// What a run of the program left.
pub(crate) struct Ran {
    /// Exit status.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Bench {
    /// A folder with the tiny tied Llama of the parity fixtures as `model`.
    pub(crate) fn new() -> Self {
        Self::with_host("llama_mha_tied")
    }

    /// A folder with another fixture as `model`.
    pub(crate) fn with_host(name: &str) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let model = bench.path("model");
        fs::create_dir(&model).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../parity/hosts")
            .join(name);
        for entry in fs::read_dir(fixtures).unwrap() {
            let source = entry.unwrap().path();
            let file = source.file_name().unwrap();
            if file != "expected.safetensors" {
                fs::copy(&source, model.join(file)).unwrap();
            }
        }
        fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"});
        fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
        bench
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Text of `rows` documents of ten words.
    pub(crate) fn text(&self, rows: usize) -> PathBuf {
        let row = |row: usize| {
            let word = |at: usize| format!("w{}", (row * 7 + at * at) % WORDS);
            (0..10).map(word).collect::<Vec<_>>().join(" ")
        };
        let text: Vec<String> = (0..rows).map(row).collect();
        self.write("text.txt", &text.join("\n\n"))
    }

    /// Changes a JSON file in the folder.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(name);
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Runs the program in the folder, with colours off.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        ran(self.command(words).output().unwrap())
    }

    /// The program, to be run in the folder.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelsmith"));
        command
            .current_dir(self.dir.path())
            .args(words)
            .env("NO_COLOR", "1");
        command
    }

    /// Runs the program, which must succeed, and returns its JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let ran = self.run(&[words, &["--json"]].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Runs the program, which must fail with `code`, and returns what it said, with the folder
    /// written as `DIR`.
    pub(crate) fn fails(&self, code: i32, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, code, "{words:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stdout, "", "{words:?}");
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        let dir = self.dir.path().display().to_string();
        ran.stderr.replace(&dir, "DIR").trim_end().to_owned()
    }

    /// Trains a small adapter as run `name` and returns its summary.
    pub(crate) fn tune(&self, name: &str, more: &[&str]) -> Value {
        self.text(12);
        let words = [
            "tune",
            "--host",
            "model",
            "--data",
            "text.txt",
            "--steps",
            "3",
            "--name",
            name,
            "--set",
            "method.rank=2",
        ];
        self.json(&[&words[..], more].concat())
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// One token a word: `<pad> <s> </s> <unk> w0 ... w75`.
fn tokenizer() -> Value {
    let special = ["<pad>", "<s>", "</s>", "<unk>"];
    let words = (0..WORDS).map(|word| format!("w{word}"));
    let all = special.iter().map(|name| (*name).to_owned()).chain(words);
    let vocabulary: serde_json::Map<String, Value> = all
        .enumerate()
        .map(|(id, word)| (word, id.into()))
        .collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, name)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    })
}
