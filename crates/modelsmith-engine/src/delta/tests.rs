//! Whole merges of small folders: faults, kills, memory, and merges that must change nothing.

use super::merge::{MergeOptions, Report, run_in};
use super::source::PART;
use modelsmith_core::error::Result;
use modelsmith_core::files::{
    Checkpoint, DType, Durability, View, fault, metadata_pt, write_safetensors,
};
use modelsmith_core::random::Stream;
use modelsmith_methods::delta::merge::{Base, TABLE};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with models that are merged.
pub(super) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(
        &self,
        name: &str,
        tensors: &[(String, Vec<usize>, Vec<f32>)],
        dtype: DType,
    ) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, _, values)| dtype.encode(values).unwrap())
            .collect();
        let views: Vec<View<'_>> = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| View {
                name,
                dtype,
                shape,
                bytes,
            })
            .collect();
        write_safetensors(folder.join("model.safetensors"), &views, &metadata_pt()).unwrap();
        fs::write(
            folder.join("config.json"),
            r#"{"num_hidden_layers": 2, "torch_dtype": "float32", "layer_types": ["a", "b"]}"#,
        )
        .unwrap();
        fs::write(
            folder.join("tokenizer.json"),
            r#"{"model": {"vocab": {"a": 0}}}"#,
        )
        .unwrap();
    }

    /// A model of two layers, the larger tensors of more than one part.
    pub(super) fn random(&self, name: &str, seed: u64, dtype: DType) {
        let tensor = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            let values = Stream::new(seed, name).normal(count, 0.0, 0.02);
            (name.to_owned(), shape.to_vec(), values)
        };
        let mut tensors = vec![
            tensor("model.embed_tokens.weight", &[90, 200]),
            tensor("model.norm.weight", &[200]),
        ];
        for layer in 0..2 {
            tensors.push(tensor(
                &format!("model.layers.{layer}.mlp.up_proj.weight"),
                &[260, 200],
            ));
            tensors.push(tensor(&format!("model.layers.{layer}.norm.weight"), &[200]));
        }
        self.write(name, &tensors, dtype);
    }

    fn three(dtype: DType) -> Self {
        let bench = Self::new();
        for (seed, name) in ["base", "a", "b"].into_iter().enumerate() {
            bench.random(name, seed as u64, dtype);
        }
        bench
    }

    /// Options of a merge; `NAME/` in the configuration stands for the folder's models.
    pub(super) fn options(&self, text: &str, output: &str) -> MergeOptions {
        let text = text.replace('@', &format!("{}/", self.dir.path().display()));
        let config = self.path(&format!("{output}.yml"));
        fs::write(&config, text).unwrap();
        MergeOptions {
            config,
            output: self.path(output),
            memory: 1 << 30,
            seed: 7,
            max_shard_bytes: 1 << 40,
            durability: Durability::Unsynced,
        }
    }

    fn merge(&self, text: &str, output: &str) -> Result<Report> {
        run_in(&self.options(text, output), 1 << 22)
    }

    fn refusal(&self, text: &str) -> (u8, String) {
        let before = fs::read_dir(self.dir.path()).unwrap().count();
        let error = self.merge(text, "refused").unwrap_err();
        fs::remove_file(self.path("refused.yml")).unwrap();
        assert_eq!(
            fs::read_dir(self.dir.path()).unwrap().count(),
            before,
            "{error}"
        );
        (error.exit_code(), error.to_string())
    }
}

/// Every file of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect()
}

const TIES: &str = "merge_method: ties\nbase_model: @base\nmodels:\n  - {model: @a, parameters: {weight: 0.5, density: 0.3}}\n  \
                    - {model: @b, parameters: {weight: [0.2, 0.9], density: 0.4}}\n";

/// A configuration for a method over the models given.
fn config(id: &str, base: Option<&str>, models: &[&str]) -> String {
    let mut text = format!("merge_method: {id}\n");
    if let Some(base) = base {
        text += &format!("base_model: @{base}\n");
    }
    text += "models:\n";
    for model in models {
        text += &format!("  - {{model: @{model}, parameters: {{weight: 0.7, density: 0.4}}}}\n");
    }
    text
}

#[test]
fn a_model_merged_with_itself_is_itself_to_the_byte() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let bench = Bench::three(dtype);
        let original = fs::read(bench.path("a/model.safetensors")).unwrap();
        for method in TABLE {
            let id = method.card.id;
            let base = (method.base == Base::Needed).then_some("a");
            // The base is listed too, where an input must be another one: equal weights in another folder.
            bench.random("twin", 1, dtype);
            bench.random("third", 1, dtype);
            let models: &[&str] = if method.most == 1 {
                &["twin"]
            } else {
                &["twin", "third"]
            };
            let report = bench.merge(&config(id, base, models), id).unwrap();
            assert_eq!(
                fs::read(bench.path(id).join("model.safetensors")).unwrap(),
                original,
                "{id} {}",
                dtype.name()
            );
            assert_eq!(report.changed_numbers, 0);
            assert!(
                report
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("nothing differs"))
            );
        }
    }
}

#[test]
fn spans_of_any_length_give_the_same_bytes() {
    let bench = Bench::three(DType::BF16);
    for method in TABLE {
        let id = method.card.id;
        let base = (method.base == Base::Needed).then_some("base");
        let models: &[&str] = if method.most == 1 {
            &["a"]
        } else {
            &["a", "b"]
        };
        let text = config(id, base, models);
        let whole = bench.options(&text, &format!("{id}-whole"));
        let small = bench.options(&text, &format!("{id}-small"));
        run_in(&whole, 1 << 22).unwrap();
        run_in(&small, PART).unwrap();
        assert_eq!(files(&whole.output), files(&small.output), "{id}");
    }
}

#[test]
fn seeds_change_random_merges_and_nothing_else() {
    let bench = Bench::three(DType::F32);
    for (id, random) in [("dare_ties", true), ("della", true), ("ties", false)] {
        let text = config(id, Some("base"), &["a", "b"]);
        let first = bench.options(&text, &format!("{id}-1"));
        let mut second = bench.options(&text, &format!("{id}-2"));
        second.seed = 8;
        run_in(&first, 1 << 22).unwrap();
        run_in(&second, 1 << 22).unwrap();
        assert_eq!(
            files(&first.output) != files(&second.output),
            random,
            "{id}"
        );
    }
}

#[test]
fn a_merge_killed_at_any_write_goes_on_to_the_same_bytes() {
    let bench = Bench::three(DType::BF16);
    let mut options = bench.options(TIES, "whole");
    options.max_shard_bytes = 60_000;
    run_in(&options, PART).unwrap();
    let expected = files(&options.output);
    assert!(expected.len() > 5, "several weight files");
    let mut kept = 0;
    for n in 1.. {
        let mut options = bench.options(TIES, &format!("killed-{n}"));
        options.max_shard_bytes = 60_000;
        let armed = fault::die_at(n);
        let died = run_in(&options, PART).is_err();
        drop(armed);
        if died {
            assert!(!options.output.exists());
            kept = run_in(&options, PART).unwrap().kept_files.max(kept);
        }
        assert_eq!(files(&options.output), expected, "killed at write {n}");
        if !died {
            break;
        }
    }
    assert!(kept >= 3, "{kept} files were kept");
}

#[test]
fn what_another_merge_left_is_not_gone_on_with() {
    let bench = Bench::three(DType::BF16);
    let mut options = bench.options(TIES, "out");
    options.max_shard_bytes = 60_000;
    let armed = fault::die_at(20);
    assert!(run_in(&options, PART).is_err());
    drop(armed);
    options.seed += 1;
    assert_eq!(run_in(&options, PART).unwrap().kept_files, 0);
    let names = fs::read_dir(bench.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn the_index_and_the_files_beside_the_weights_are_written() {
    let bench = Bench::three(DType::BF16);
    let mut options = bench.options(
        &(TIES.to_owned() + "dtype: float16\ntokenizer_source: union\n"),
        "out",
    );
    options.max_shard_bytes = 60_000;
    let report = run_in(&options, 1 << 22).unwrap();
    let merged = Checkpoint::open(&options.output).unwrap();
    assert_eq!((merged.len(), merged.shards().len()), (6, report.files));
    assert_eq!(merged.info("model.norm.weight").unwrap().dtype, DType::F16);
    let config = fs::read_to_string(options.output.join("config.json")).unwrap();
    assert!(config.contains(r#""torch_dtype": "float16""#), "{config}");
    assert!(options.output.join("tokenizer.json").exists());
    assert!(report.changed_numbers > 0 && report.change_norm > 0.0);
}

#[test]
fn layers_are_stacked_and_renumbered() {
    let bench = Bench::three(DType::F32);
    let text = "merge_method: passthrough\nslices:\n  - sources: [{model: @a, layer_range: [0, 2]}]\n  \
                - sources: [{model: @b, layer_range: [1, 2]}]\n";
    bench.merge(text, "out").unwrap();
    let [a, b, out] = ["a", "b", "out"].map(|name| Checkpoint::open(bench.path(name)).unwrap());
    let up = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
    assert_eq!(out.bytes(&up(1)).unwrap(), a.bytes(&up(1)).unwrap());
    assert_eq!(out.bytes(&up(2)).unwrap(), b.bytes(&up(1)).unwrap());
    let of = |model: &Checkpoint, name| model.bytes(name).unwrap().to_vec();
    assert_eq!(
        of(&out, "model.embed_tokens.weight"),
        of(&a, "model.embed_tokens.weight")
    );
    assert_eq!(of(&out, "model.norm.weight"), of(&b, "model.norm.weight"));
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 3);
    assert_eq!(config["layer_types"], serde_json::json!(["a", "b", "b"]));
    let beyond = text.replace("[1, 2]", "[1, 3]");
    let (code, message) = bench.refusal(&beyond);
    assert!(code == 2 && message.contains("has 2 layers"), "{message}");
}

#[test]
fn faults_of_models_are_named_before_anything_is_written() {
    let bench = Bench::three(DType::F32);
    let text = config("linear", None, &["a", "broken"]);
    let tensor = |name: &str, shape: &[usize], value: f32| {
        (
            name.to_owned(),
            shape.to_vec(),
            vec![value; shape.iter().product()],
        )
    };
    bench.write(
        "broken",
        &[tensor("model.norm.weight", &[200], 1.0)],
        DType::F32,
    );
    let (code, message) = bench.refusal(&text);
    assert!(
        code == 3 && message.contains("lacks 5 tensors"),
        "{message}"
    );

    bench.random("broken", 9, DType::F32);
    let file = bench.path("broken/model.safetensors");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    let (code, message) = bench.refusal(&text);
    assert!(code == 3 && message.contains("broken"), "{message}");

    let mut spoiled = whole;
    let end = spoiled.len();
    spoiled[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, &spoiled).unwrap();
    let (code, message) = bench.refusal(&text);
    assert!(
        code == 4 && message.contains("holds NaN at entry 199"),
        "{message}"
    );

    let mut others = vec![
        tensor("model.embed_tokens.weight", &[91, 200], 1.0),
        tensor("model.norm.weight", &[200], 1.0),
    ];
    for layer in 0..2 {
        others.push(tensor(
            &format!("model.layers.{layer}.mlp.up_proj.weight"),
            &[260, 200],
            1.0,
        ));
        others.push(tensor(
            &format!("model.layers.{layer}.norm.weight"),
            &[200],
            1.0,
        ));
    }
    bench.write("broken", &others, DType::F32);
    let (code, message) = bench.refusal(&text);
    assert!(
        code == 3 && message.contains("[91, 200]") && message.contains("[90, 200]"),
        "{message}"
    );
}

#[test]
fn faults_of_configurations_and_outputs_are_named() {
    let bench = Bench::three(DType::F32);
    let linear = config("linear", None, &["a", "b"]);
    let (code, message) = bench.refusal(&(linear.clone() + "dtyp: float32\n"));
    assert!(
        code == 2 && message.contains("did you mean dtype"),
        "{message}"
    );
    let (code, message) =
        bench.refusal("merge_method: ties\nbase_model: @base\nmodels: [{model: @a}]\n");
    assert!(
        code == 2 && message.contains("parameters.weight") && message.contains("is missing for"),
        "{message}"
    );
    fs::write(
        bench.path("b/tokenizer.json"),
        r#"{"model": {"vocab": {"b": 0}}}"#,
    )
    .unwrap();
    let (code, message) = bench.refusal(&(linear.clone() + "tokenizer_source: union\n"));
    assert!(
        code == 2 && message.contains("different vocabularies"),
        "{message}"
    );
    for output in ["a", "full"] {
        fs::create_dir_all(bench.path("full/x")).unwrap();
        let mut options = bench.options(&linear, "unused");
        options.output = bench.path(output);
        let error = run_in(&options, 1 << 22).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    let report = bench
        .merge(&(linear + "parameters: {t: 0.5}\n"), "out")
        .unwrap();
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("parameter t has no effect")),
        "{:?}",
        report.warnings
    );
}
