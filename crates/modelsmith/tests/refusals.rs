//! Bad input: what it says, and the exit status, never a panic.

mod common;

use common::Bench;
use serde_json::json;
use std::fs;

/// `tune` on the small model with further words.
fn tune(bench: &Bench, code: i32, more: &[&str]) -> String {
    bench.text(12);
    let words = [
        "tune", "--host", "model", "--data", "text.txt", "--steps", "1",
    ];
    bench.fails(code, &[&words[..], more].concat())
}

#[test]
fn recipes() {
    let bench = Bench::new();
    let say = |more: &[&str]| tune(&bench, 2, more);
    insta::assert_snapshot!("unknown_key", say(&["--set", "train.learning_rat=1"]));
    insta::assert_snapshot!("unknown_option", say(&["--set", "method.rnk=1"]));
    insta::assert_snapshot!("unknown_recipe_method", say(&["--method", "loar"]));
    insta::assert_snapshot!("wrong_type", say(&["--set", "method.rank=\"two\""]));
    insta::assert_snapshot!("no_key_value", say(&["--set", "seed"]));
    let targets = ["--set", "method.target_modules=[\"q_prj\"]"];
    insta::assert_snapshot!("unmatched_targets", say(&targets));
    bench.write("bad.toml", "[train]\nepochs = = 2\n");
    let text = bench.fails(2, &["run", "bad.toml"]);
    assert!(
        text.contains("bad.toml") && text.contains("line 2"),
        "{text}"
    );
    assert!(
        !bench.path("runs").exists(),
        "nothing is written by a run that is refused"
    );
}

#[test]
fn models() {
    let bench = Bench::new();
    insta::assert_snapshot!("missing_model", bench.fails(3, &["inspect", "nowhere"]));
    let weights = bench.path("model/model.safetensors");
    let good = fs::read(&weights).unwrap();
    fs::write(&weights, &good[..good.len() / 2]).unwrap();
    let truncated = bench.fails(3, &["inspect", "model"]);
    assert!(
        truncated.starts_with("error: model/model.safetensors: "),
        "{truncated}"
    );
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&weights, lying).unwrap();
    let lying = bench.fails(3, &["inspect", "model"]);
    assert!(
        lying.starts_with("error: model/model.safetensors: "),
        "{lying}"
    );
    fs::remove_file(&weights).unwrap();
    bench.write("model/pytorch_model.bin", "\u{80}\u{2}");
    let pickle = bench.fails(3, &["inspect", "model"]);
    assert!(pickle.contains("pickle"), "{pickle}");
    fs::write(&weights, &good).unwrap();
    bench.edit("model/config.json", |config| {
        config["attention_chunk_size"] = json!(4);
    });
    let unknown = bench.fails(3, &["inspect", "model"]);
    assert!(
        unknown.contains("config.json") && unknown.contains("attention_chunk_size"),
        "{unknown}"
    );
}

#[test]
fn data() {
    let bench = Bench::new();
    bench.write("empty.txt", "");
    bench.write("broken.jsonl", "{\"text\": \"w1 w2\"}\n{\"text\": \n");
    bench.write(
        "choices.jsonl",
        "{\"prompt\": \"w1\", \"choices\": [\"w2\"], \"answer\": 0}\n",
    );
    let with =
        |data: &str| ["tune", "--host", "model", "--steps", "1", "--data", data].map(str::to_owned);
    let say = |code, data: &str| {
        let words = with(data);
        bench.fails(code, &words.each_ref().map(String::as_str))
    };
    insta::assert_snapshot!("empty_data", say(3, "empty.txt"));
    insta::assert_snapshot!("broken_line", say(3, "broken.jsonl"));
    let absent = say(3, "nowhere.txt");
    assert!(absent.contains("nowhere.txt"), "{absent}");
    let long = ["--set", "data.on_long=error", "--set", "data.max_length=4"];
    insta::assert_snapshot!("over_long", tune(&bench, 3, &long));
    let beyond = tune(&bench, 2, &["--set", "data.max_length=4096"]);
    assert!(
        beyond.contains("the model reads at most 128 tokens"),
        "{beyond}"
    );
    let one = bench.fails(3, &["eval", "--host", "model", "--data", "choices.jsonl"]);
    assert!(
        one.contains("choices must be a list of two texts or more"),
        "{one}"
    );
}

#[test]
fn run_names_cannot_leave_the_folder() {
    let bench = Bench::new();
    let long = "x".repeat(300);
    for name in [
        "../x",
        "/abs",
        "CON",
        "nul.txt",
        "a\u{7}b",
        "l\u{430}ma",
        "..",
        &long,
    ] {
        let text = tune(&bench, 2, &["--name", name]);
        assert!(text.starts_with("error: run name: "), "{text}");
    }
    assert!(!bench.path("runs").exists() && !bench.path("x").exists());
}

#[test]
fn a_run_that_another_process_writes_is_locked() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let lock = fs::File::open(bench.path("runs/a/lock")).unwrap();
    lock.lock().unwrap();
    let text = bench.fails(7, &["tune", "--resume", "runs/a"]);
    assert!(text.starts_with("error: runs/a: another process"), "{text}");
    drop(lock);
    let taken = tune(&bench, 2, &["--name", "a"]);
    assert!(taken.contains("already holds a run"), "{taken}");
    let none = bench.fails(2, &["tune", "--resume", "nowhere"]);
    assert!(none.contains("holds no run"), "{none}");
}

#[test]
fn adapters_of_another_base_are_refused() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let weights = bench.path("model/model.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut other = good.clone();
    let last = other.len() - 3;
    other[last] ^= 1;
    fs::write(&weights, &other).unwrap();
    let use_it = [
        "generate",
        "--adapter",
        "runs/a",
        "--prompt",
        "w1",
        "--max-tokens",
        "1",
    ];
    let wrong = bench.fails(3, &use_it);
    assert!(
        wrong.contains("was made for a base whose weights hash to"),
        "{wrong}"
    );
    assert_eq!(bench.run(&[&use_it[..], &["--any-base"]].concat()).code, 0);
    let shown = bench.json(&["adapter", "show", "runs/a"]);
    assert_eq!(shown["base"]["state"], "refused");
    fs::write(&weights, &good).unwrap();
    assert_eq!(
        bench.json(&["adapter", "show", "runs/a"])["base"]["state"],
        "matches"
    );
}

#[test]
fn incomplete_and_foreign_adapters_are_refused() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let adapter = "runs/a/adapter/adapter_config.json";
    let use_it = [
        "eval",
        "--host",
        "model",
        "--adapter",
        "runs/a",
        "--data",
        "text.txt",
    ];
    bench.edit(adapter, |config| {
        config["target_modules"] = json!(["q_proj", "k_proj", "v_proj"]);
    });
    let partial = bench.fails(3, &use_it);
    assert!(partial.contains("k_proj"), "{partial}");
    bench.edit(adapter, |config| {
        config["target_modules"] = json!(["q_proj"]);
    });
    let surplus = bench.fails(3, &use_it);
    assert!(surplus.contains("v_proj"), "{surplus}");
    bench.edit(adapter, |config| config["peft_type"] = json!("LOHA"));
    let kind = bench.fails(3, &use_it);
    assert!(
        kind.contains("adapters of type LOHA are not supported"),
        "{kind}"
    );
    fs::remove_file(bench.path("runs/a/adapter/adapter_model.safetensors")).unwrap();
    bench.write("runs/a/adapter/adapter_model.bin", "x");
    let pickle = bench.fails(3, &use_it);
    assert!(pickle.contains("a pickle"), "{pickle}");
    let none = bench.fails(3, &["adapter", "show", "nowhere"]);
    assert!(none.contains("there is no such adapter folder"), "{none}");
}

#[test]
fn inputs_are_never_written_to() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let merge = |output| {
        bench.fails(
            2,
            &[
                "adapter",
                "merge",
                "--adapter",
                "runs/a",
                "--output",
                output,
            ],
        )
    };
    assert!(merge("model").contains("one of the inputs"));
    assert!(merge("runs/a/adapter").contains("one of the inputs"));
    assert!(merge("runs").contains("is not empty"));
    let convert = bench.fails(
        2,
        &[
            "adapter",
            "convert",
            "--adapter",
            "runs/a",
            "--output",
            "model",
        ],
    );
    assert!(convert.contains("one of the inputs"), "{convert}");
    let names = fs::read_dir(bench.path("")).unwrap();
    let left = names.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".part")
    });
    assert_eq!(left.count(), 0);
}
