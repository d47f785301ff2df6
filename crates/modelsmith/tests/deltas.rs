//! Deltas at the command line: merges that are killed, bounded, and refused; differences there and back.

#![allow(missing_docs)]

mod common;

use common::Bench;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MERGE: &str = "merge_method: dare_ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 0.6, density: 0.5}}\n  \
                     - {model: b, parameters: {weight: [0.2, 0.9], density: 0.4}}\ndtype: bfloat16\n";

/// Values that depend on place and seed alone, about as large as weights.
fn value(seed: u64, index: u64) -> f32 {
    let mixed =
        (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    ((mixed >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
}

/// A model of `layers` square matrices of `width` and a few vectors, in bf16.
fn model(bench: &Bench, name: &str, seed: u64, layers: usize, width: usize) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let tensors = (0..layers).flat_map(|layer| {
        let at = format!("model.layers.{layer}.");
        [
            (format!("{at}mlp.up_proj.weight"), vec![width, width]),
            (format!("{at}norm.weight"), vec![width]),
        ]
    });
    for (name, shape) in tensors {
        let begin = data.len();
        for index in 0..shape.iter().product::<usize>() as u64 {
            let base = value(name.len() as u64, index + begin as u64);
            let moved = if seed == 0 {
                0.0
            } else {
                value(seed, index) * 0.05
            };
            data.extend_from_slice(&((base + moved).to_bits() >> 16).to_le_bytes()[..2]);
        }
        header.insert(
            name,
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::create_dir_all(bench.path(name)).unwrap();
    fs::write(bench.path(name).join("model.safetensors"), file).unwrap();
    fs::write(
        bench.path(name).join("config.json"),
        json!({"num_hidden_layers": layers, "torch_dtype": "bfloat16"}).to_string(),
    )
    .unwrap();
}

fn three(layers: usize, width: usize) -> Bench {
    let bench = Bench::new();
    for (seed, name) in ["base", "a", "b"].into_iter().enumerate() {
        model(&bench, name, seed as u64, layers, width);
    }
    bench.write("merge.yml", MERGE);
    bench
}

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

#[test]
fn a_merge_killed_again_and_again_ends_with_the_same_bytes() {
    let bench = three(24, 256);
    let merge = |output| {
        [
            "delta",
            "merge",
            "merge.yml",
            "--output",
            output,
            "--max-shard",
            "200KB",
            "--json",
        ]
    };
    let whole = bench.json(&merge("whole")[..7]);
    assert_eq!(whole["kept_files"], 0);
    let expected = files(&bench.path("whole"));
    assert!(expected.len() > 20);
    // Each attempt is killed once it has finished one file more, so the last one has few left.
    let progress = bench.path(".killed.merging/progress.json");
    let finished =
        || fs::read_to_string(&progress).map_or(0, |text| text.matches("model-").count());
    let mut kills = 0;
    while kills < 5 && !bench.path("killed").exists() {
        let before = finished();
        let mut child = bench
            .command(&merge("killed"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while finished() == before
            && child.try_wait().unwrap().is_none()
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    if !bench.path("killed").exists() {
        let last = bench.json(&merge("killed")[..7]);
        assert!(last["kept_files"].as_u64().unwrap() > 0, "{last}");
    }
    assert_eq!(files(&bench.path("killed")), expected);
    assert!(!bench.path(".killed.merging").exists());
}

#[test]
fn threads_and_memory_do_not_change_the_bytes_and_memory_is_kept() {
    let bench = three(2, 2048);
    let merge = |output, more: &[&str], threads| {
        let words = [
            &["delta", "merge", "merge.yml", "--output", output, "--json"],
            more,
        ]
        .concat();
        let ran = bench
            .command(&words)
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        serde_json::from_slice::<serde_json::Value>(&ran.stdout).unwrap()
    };
    merge("one", &[], "1");
    let small = merge("two", &["--memory", "128MB"], "2");
    assert_eq!(files(&bench.path("one")), files(&bench.path("two")));
    if cfg!(target_os = "linux") {
        let peak = small["peak_resident"].as_u64().unwrap();
        assert!(peak > 0 && peak < 128_000_000, "{peak}");
    }
}

#[test]
fn faults_have_their_exit_codes_and_leave_nothing() {
    let bench = three(1, 16);
    let merge = |config| ["delta", "merge", config, "--output", "out"];
    for (name, text, code, expected) in [
        (
            "key.yml",
            MERGE.replace("dtype", "dtpe"),
            2,
            "did you mean dtype",
        ),
        (
            "method.yml",
            MERGE.replace("dare_ties", "dare_tie"),
            2,
            "did you mean dare_ties",
        ),
        (
            "model.yml",
            MERGE.replace("model: b", "model: no/such"),
            2,
            "nothing is downloaded",
        ),
        (
            "density.yml",
            MERGE.replace("0.4", "-0.4"),
            2,
            "parameters.density",
        ),
    ] {
        bench.write(name, &text);
        let message = bench.fails(code, &merge(name));
        assert!(message.contains(expected), "{message}");
    }
    assert!(bench.fails(3, &merge("absent.yml")).contains("absent.yml"));
    let message = bench.fails(2, &["delta", "merge", "merge.yml", "--output", "a"]);
    assert!(message.contains("one of the inputs"), "{message}");
    let message = bench.fails(
        2,
        &[
            "delta",
            "merge",
            "merge.yml",
            "--output",
            "out",
            "--memory",
            "1MB",
        ],
    );
    assert!(message.contains("at least 128MB"), "{message}");
    assert!(!bench.path("out").exists() && !bench.path(".out.merging").exists());
}

fn apply(bench: &Bench, file: &str, output: &str) {
    bench.json(&["delta", "apply", file, "--base", "base", "--output", output]);
}

#[test]
fn a_difference_goes_there_and_back() {
    let bench = three(2, 64);
    let extract = |more: &[&str], file| {
        let words = [
            "delta", "extract", "--base", "base", "--model", "a", "--output", file,
        ];
        bench.json(&[&words[..], more].concat())
    };
    let weights = |folder: &str| bench.path(folder).join("model.safetensors");

    let whole = extract(&[], "whole.safetensors");
    assert_eq!(
        (whole["changed"].as_u64(), whole["edited"].as_u64()),
        (Some(4), Some(0))
    );
    apply(&bench, "whole.safetensors", "again");
    let diff = bench.json(&["delta", "diff", "a", "again"]);
    assert_eq!(diff["norm"], 0.0, "bf16 weights come back as they were");
    assert!(weights("again").exists());

    let bits = extract(&["--operator", "bitdelta"], "bits.safetensors");
    assert!(bits["bytes"].as_u64().unwrap() * 10 < whole["bytes"].as_u64().unwrap());
    let more = extract(&["--operator", "bitdelta:blocks=16"], "more.safetensors");
    let off = |report: &serde_json::Value| report["relative_change"].as_f64().unwrap();
    assert!(
        off(&more) < 0.3 * off(&bits),
        "{} {}",
        off(&more),
        off(&bits)
    );
    apply(&bench, "more.safetensors", "quantised");
    let far = bench.json(&["delta", "diff", "a", "quantised"]);
    let moved = bench.json(&["delta", "diff", "a", "base"]);
    assert!(far["norm"].as_f64().unwrap() < 0.5 * moved["norm"].as_f64().unwrap());

    for (operator, file) in [
        ("low_rank:density=0.5", "svd.safetensors"),
        ("magnitude:density=0.1", "sparse.safetensors"),
    ] {
        extract(&["--operator", operator], file);
        let form = if file.starts_with("svd") {
            "low_rank"
        } else {
            "sparse"
        };
        let shown = bench.json(&["delta", "show", file]);
        let entry = &shown["record"]["tensors"]["model.layers.0.mlp.up_proj.weight"];
        assert_eq!(entry["form"], form);
        apply(&bench, file, &file.replace(".safetensors", "-out"));
    }
}

#[test]
fn deltas_are_checked_against_their_base() {
    let bench = three(1, 32);
    bench.json(&[
        "delta",
        "extract",
        "--base",
        "base",
        "--model",
        "a",
        "--output",
        "d.safetensors",
    ]);
    let apply = [
        "delta",
        "apply",
        "d.safetensors",
        "--base",
        "b",
        "--output",
        "out",
    ];
    let message = bench.fails(3, &apply);
    assert!(
        message.contains("hashes to") && message.contains("--any-base"),
        "{message}"
    );
    bench.json(&[&apply[..], &["--any-base"]].concat());
    let message = bench.fails(3, &["delta", "show", "base/model.safetensors"]);
    assert!(message.contains("is no delta file"), "{message}");
    let words = [
        "delta",
        "extract",
        "--base",
        "base",
        "--model",
        "a",
        "--output",
        "e.safetensors",
    ];
    let message = bench.fails(2, &[&words[..], &["--operator", "bitdelt"]].concat());
    assert!(message.contains("did you mean bitdelta"), "{message}");
    let message = bench.fails(
        2,
        &[&words[..], &["--operator", "dare", "--only", "nothing"]].concat(),
    );
    assert!(
        message.contains("no tensor that differs is edited"),
        "{message}"
    );
    let same = [
        "delta",
        "extract",
        "--base",
        "a",
        "--model",
        "a",
        "--output",
        "e.safetensors",
    ];
    assert!(bench.fails(5, &same).contains("same weights"));
    let mut damaged = fs::read(bench.path("d.safetensors")).unwrap();
    damaged.truncate(damaged.len() - 8);
    fs::write(bench.path("d.safetensors"), damaged).unwrap();
    bench.fails(3, &["delta", "show", "d.safetensors"]);
}
