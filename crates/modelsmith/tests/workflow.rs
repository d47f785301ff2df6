//! What the commands do together on a small model.

mod common;

use common::Bench;
use std::fs;
use std::io::Read;
use std::process::Stdio;

#[test]
fn a_plan_writes_nothing_and_shows_the_mask() {
    let bench = Bench::new();
    bench.text(12);
    let words = [
        "tune",
        "--host",
        "model",
        "--data",
        "text.txt",
        "--dry-run",
        "--epochs",
        "2",
    ];
    let plan = bench.json(&words);
    assert_eq!(plan["schema"], "modelsmith.plan/1");
    assert_eq!(plan["sites"].as_array().unwrap().len(), 4);
    // Four 16 x 16 matrices at rank 8.
    assert_eq!(plan["trained_parameters"], 4 * 2 * 8 * 16);
    assert_eq!(
        (&plan["steps"], &plan["data"]["total"]),
        (&4.into(), &12.into())
    );
    let text = bench.run(&words).stdout;
    assert!(
        text.contains("sites     4 matched: model.layers.0.self_attn.q_proj"),
        "{text}"
    );
    assert!(text.contains("[[<s>"), "{text}");
    assert!(!bench.path("runs").exists());
}

#[test]
fn only_the_response_counts_and_the_plan_shows_it() {
    let bench = Bench::new();
    bench.write(
        "pairs.jsonl",
        "{\"prompt\": \"w1 w2\", \"completion\": \" w3 w4\"}\n",
    );
    let words = [
        "tune",
        "--host",
        "model",
        "--data",
        "pairs.jsonl",
        "--dry-run",
    ];
    let text = bench.run(&words).stdout;
    assert!(text.contains("w1 w2"), "{text}");
    let marked = text.split("[[").nth(2).unwrap();
    assert!(!marked.contains("w1") && marked.contains("w3"), "{text}");
}

#[test]
fn tune_then_show_generate_and_merge() {
    let bench = Bench::new();
    let summary = bench.tune("a", &["--set", "data.held_out=0.2"]);
    assert_eq!(
        (&summary["schema"], &summary["steps"]),
        (&"modelsmith.tune/1".into(), &3.into())
    );
    assert_eq!(summary["losses"].as_array().unwrap().len(), 3);
    assert!(summary["loss_before"].is_f64() && summary["loss_after"].is_f64());

    let shown = bench.json(&["adapter", "show", "runs/a"]);
    assert_eq!(
        (&shown["kind"], &shown["base"]["state"]),
        (&"LORA".into(), &"matches".into())
    );
    let modules = shown["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 4);
    assert!(
        modules
            .iter()
            .all(|module| module["rank"] == 2 && module["norm"].as_f64() > Some(0.0))
    );

    let say = |model: &[&str]| {
        let words = ["generate", "--prompt", "w1 w2", "--max-tokens", "8"];
        bench.json(&[&words[..], model].concat())["completions"][0]["text"].clone()
    };
    let adapted = say(&["--adapter", "runs/a"]);
    let merge = [
        "adapter",
        "merge",
        "--adapter",
        "runs/a",
        "--output",
        "merged",
    ];
    let report = bench.json(&merge);
    assert_eq!(
        (&report["changed"], &report["untied"]),
        (&4.into(), &false.into())
    );
    assert!(
        report["effect"].as_f64().unwrap() > 10.0 * report["merged_difference"].as_f64().unwrap()
    );
    assert_eq!(say(&["--host", "merged"]), adapted);
    let base = fs::read(bench.path("model/model.safetensors")).unwrap();
    assert_eq!(
        base.len(),
        fs::read(bench.path("merged/model.safetensors"))
            .unwrap()
            .len()
    );
}

#[test]
fn an_adapted_tied_embedding_is_merged_apart_from_the_output() {
    let bench = Bench::new();
    bench.tune("e", &["--set", "method.target_modules=[\"embed_tokens\"]"]);
    let words = [
        "adapter",
        "merge",
        "--adapter",
        "runs/e",
        "--output",
        "merged",
        "--max-shard",
        "6kB",
    ];
    let report = bench.json(&words);
    assert_eq!(
        (&report["changed"], &report["untied"]),
        (&1.into(), &true.into())
    );
    assert!(report["files"].as_u64().unwrap() > 1);
    let config = fs::read_to_string(bench.path("merged/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    let sites = bench.json(&["inspect", "merged", "--sites", "lm_head"]);
    assert_eq!(sites["sites"][0]["shape"], serde_json::json!([80, 16]));
    assert!(sites["sites"][0]["tied_to"].is_null());
}

#[test]
fn a_change_that_rounding_swallows_is_not_called_merged() {
    let bench = Bench::with_host("llama_bf16");
    bench.tune("a", &["--lr", "1e-9"]);
    let merge = |adapter| {
        [
            "adapter",
            "merge",
            "--adapter",
            adapter,
            "--output",
            "merged",
        ]
    };
    let lost = bench.fails(5, &merge("runs/a"));
    assert!(lost.contains("lost in rounding to BF16"), "{lost}");
    let nothing = bench.fails(5, &merge("runs/a@0"));
    assert!(nothing.contains("would equal the base"), "{nothing}");
    assert!(!bench.path("merged").exists());
    let kept = bench.json(&[&merge("runs/a")[..], &["--dtype", "f32"]].concat());
    assert_eq!(kept["dtype"], "F32");
}

#[test]
fn adapters_that_exclude_each_other_are_not_merged_together() {
    let bench = Bench::new();
    bench.tune(
        "a",
        &["--method", "full", "--set", "method={name=\"full\"}"],
    );
    bench.tune("b", &["--set", "method={name=\"full\"}", "--seed", "2"]);
    let words = [
        "adapter",
        "merge",
        "--adapter",
        "runs/a",
        "--adapter",
        "runs/b",
        "--output",
        "m",
    ];
    let text = bench.fails(5, &words);
    assert!(text.contains("other logits than the adapters"), "{text}");
    assert!(!bench.path("m").exists());
}

#[test]
fn a_base_with_broken_numbers_is_found_before_anything_is_written() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let weights = bench.path("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let words = [
        "adapter",
        "merge",
        "--adapter",
        "runs/a",
        "--any-base",
        "--output",
        "m",
    ];
    bench.fails(4, &words);
    assert!(!bench.path("m").exists());
}

#[test]
fn an_encoder_with_a_decoder_is_tuned_measured_and_answers() {
    let bench = Bench::with_host("t5");
    bench.edit("model/config.json", |config| {
        config["eos_token_id"] = 2.into();
    });
    let row = |at: usize| format!("{{\"prompt\": \"w{at} w1 w2\", \"completion\": \"w{at}\"}}");
    let rows: Vec<String> = (3..15).map(row).collect();
    bench.write("pairs.jsonl", &rows.join("\n"));
    let tune = [
        "tune",
        "--host",
        "model",
        "--data",
        "pairs.jsonl",
        "--steps",
        "3",
        "--name",
        "a",
    ];
    let tuned = bench.json(&tune);
    assert_eq!(tuned["adapter_tensors"], 24);
    let eval = ["eval", "--adapter", "runs/a", "--data", "pairs.jsonl"];
    assert!(bench.json(&eval)["loss"].as_f64().unwrap() > 0.0);
    let words = [
        "--prompt",
        "w3 w1 w2",
        "--prompt",
        "w4",
        "--max-tokens",
        "4",
    ];
    let generate = [&["generate", "--adapter", "runs/a"][..], &words].concat();
    let answers = bench.json(&generate);
    assert_eq!(answers["completions"].as_array().unwrap().len(), 2);
    bench.json(&[
        "adapter",
        "merge",
        "--adapter",
        "runs/a",
        "--output",
        "merged",
    ]);
    let dump = [&eval[..], &["--dump-logits", "logits.safetensors"]].concat();
    let text = bench.fails(2, &dump);
    assert!(text.contains("reads two"), "{text}");
    bench.text(12);
    let text = bench.fails(2, &["tune", "--host", "model", "--data", "text.txt"]);
    assert!(text.contains("prompt and completion"), "{text}");
}

#[test]
fn adapters_combine_exactly_by_cat_and_nearly_by_svd() {
    let bench = Bench::new();
    bench.tune("a", &["--seed", "1"]);
    bench.tune(
        "b",
        &[
            "--seed",
            "2",
            "--set",
            "method.target_modules=\"all-linear\"",
        ],
    );
    let convert = |how: &[&str]| {
        let words = [
            "adapter",
            "convert",
            "--adapter",
            "runs/a",
            "--adapter",
            "runs/b@-0.5",
        ];
        bench.json(&[&words[..], how].concat())
    };
    let exact = convert(&["--output", "cat"]);
    assert!(exact["difference"].as_f64().unwrap() < 1e-5, "{exact}");
    let rough = convert(&["--combine", "svd", "--rank", "1", "--output", "svd"]);
    let full = convert(&["--combine", "svd", "--rank", "4", "--output", "full"]);
    assert!(full["difference"].as_f64().unwrap() < 1e-5, "{full}");
    assert!(rough["difference"].as_f64() > full["difference"].as_f64());
    let half = [
        "adapter",
        "convert",
        "--adapter",
        "runs/a@0.5",
        "--output",
        "half",
    ];
    bench.json(&half);
    let norm =
        |folder: &str| bench.json(&["adapter", "show", folder])["modules"][0]["norm"].as_f64();
    let (whole, halved) = (norm("runs/a").unwrap(), norm("half").unwrap());
    assert!((halved / whole - 0.5).abs() < 1e-5);
}

#[test]
fn evaluation_measures_what_the_rows_are() {
    let bench = Bench::new();
    bench.text(12);
    let text = bench.json(&[
        "eval",
        "--host",
        "model",
        "--data",
        "text.txt",
        "--dump-logits",
        "l.safetensors",
        "--dump-rows",
        "3",
    ]);
    assert_eq!(
        (&text["task"], &text["tokens"]),
        (&"perplexity".into(), &(12 * 11).into())
    );
    let found = text["perplexity"].as_f64().unwrap();
    assert!((found - text["loss"].as_f64().unwrap().exp()).abs() < 1e-9 * found);
    assert!(bench.path("l.safetensors").is_file());
    bench.write(
        "q.jsonl",
        "{\"prompt\": \"w1\", \"choices\": [\"w2\", \"w3 w4\"], \"answer\": \"B\"}\n{\"question\": \"w5\", \"choices\": [\"w6\", \"w7\", \"w8\"], \"answer\": 0}\n",
    );
    let choices = bench.json(&["eval", "--host", "model", "--data", "q.jsonl"]);
    assert_eq!(
        (&choices["task"], &choices["questions"]),
        (&"choices".into(), &2.into())
    );
    assert!((choices["chance"].as_f64().unwrap() - 5.0 / 12.0).abs() < 1e-12);
}

#[test]
fn a_classifier_is_tuned_and_measured() {
    let bench = Bench::new();
    let rows: Vec<String> = (0..40)
        .map(|row| {
            format!(
                "{},w{} w{}",
                ["good", "bad"][row % 2],
                row % 2 * 30 + row / 2,
                70 + row % 2
            )
        })
        .collect();
    bench.write("reviews.csv", &format!("label,text\n{}\n", rows.join("\n")));
    let tuned = [
        "tune",
        "--host",
        "model",
        "--data",
        "reviews.csv",
        "--name",
        "c",
        "--epochs",
        "12",
        "--lr",
        "0.02",
    ];
    bench.json(&tuned);
    let words = [
        "eval",
        "--host",
        "model",
        "--adapter",
        "runs/c",
        "--data",
        "reviews.csv",
    ];
    let report = bench.json(&words);
    assert_eq!(
        (&report["task"], &report["examples"]),
        (&"classes".into(), &40.into())
    );
    assert_eq!(report["classes"], serde_json::json!(["bad", "good"]));
    assert!(report["accuracy"].as_f64().unwrap() > 0.9, "{report}");
    let total: u64 = report["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|cell| cell.as_u64().unwrap())
        .sum();
    assert_eq!(total, 40);
    // Folded in, the new head is part of the checkpoint.
    bench.json(&[
        "adapter",
        "merge",
        "--adapter",
        "runs/c",
        "--output",
        "merged",
    ]);
    let merged = bench.json(&["eval", "--host", "merged", "--data", "reviews.csv"]);
    assert_eq!(merged["confusion"], report["confusion"]);
    let text = bench.fails(
        2,
        &[
            "eval",
            "--host",
            "merged",
            "--data",
            "reviews.csv",
            "--task",
            "choices",
        ],
    );
    assert!(text.contains("no causal language model"), "{text}");
}

#[test]
fn a_model_from_random_weights_is_a_checkpoint_like_any_other() {
    let bench = Bench::new();
    bench.text(12);
    let words = [
        "pretrain", "--fresh", "model", "--data", "text.txt", "--steps", "3", "--name", "p",
    ];
    let summary = bench.json(&words);
    assert_eq!(summary["method"], "full");
    assert_eq!(summary["artifact"], "runs/p/model");
    let found = bench.json(&["inspect", "runs/p/model"]);
    assert_eq!(
        (&found["parameters"], &found["architecture"]),
        (&5712.into(), &"LlamaForCausalLM".into())
    );
    let said = bench.run(&[
        "generate",
        "--host",
        "runs/p/model",
        "--prompt",
        "w1",
        "--max-tokens",
        "2",
    ]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let text = bench.fails(2, &["pretrain", "--data", "text.txt"]);
    assert!(text.starts_with("error: host.fresh: is not set"), "{text}");
}

#[test]
fn prompts_come_from_flags_files_and_the_standard_input() {
    let bench = Bench::new();
    bench.write(
        "p.jsonl",
        "{\"prompt\": \"w1\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"w2\"}]}\n",
    );
    let file = [
        "generate",
        "--host",
        "model",
        "--prompts",
        "p.jsonl",
        "--max-tokens",
        "3",
        "--chat-template",
        "chatml",
    ];
    let several = bench.json(&file);
    assert_eq!(several["completions"].as_array().unwrap().len(), 2);
    let text = bench.run(&file).stdout;
    assert!(text.starts_with("[1] w1"), "{text}");

    let stop = bench.json(&[
        "generate",
        "--host",
        "model",
        "--prompt",
        "w1 w2",
        "--max-tokens",
        "3",
    ]);
    let said = stop["completions"][0]["text"]
        .as_str()
        .unwrap()
        .trim()
        .to_owned();
    let last = said.split_whitespace().next_back().unwrap().to_owned();
    let stopped = bench.json(&[
        "generate",
        "--host",
        "model",
        "--prompt",
        "w1 w2",
        "--max-tokens",
        "3",
        "--stop",
        &last,
    ]);
    assert_eq!(stopped["completions"][0]["finish"], "stop");

    let input = fs::File::open(bench.write("in.txt", "w1 w2\n")).unwrap();
    let mut command = bench.command(&["generate", "--host", "model", "--max-tokens", "3"]);
    let output = command.stdin(input).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), said);
    let mut nothing = bench.command(&["generate", "--host", "model"]);
    let output = nothing.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let bench = Bench::new();
    for words in [
        &["schema"][..],
        &["inspect", "model"],
        &["completions", "bash"],
        &["methods"],
    ] {
        let mut child = bench
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), said.as_str()),
            (Some(0), ""),
            "{words:?}"
        );
    }
}

#[test]
fn progress_is_plain_lines_where_there_is_no_terminal() {
    let bench = Bench::new();
    bench.text(12);
    let words = [
        "tune", "--host", "model", "--data", "text.txt", "--steps", "3", "--name", "a",
    ];
    let ran = bench.run(&words);
    assert!(ran.stderr.contains("step 1/3  loss ") && ran.stderr.contains("step 3/3  loss "));
    assert!(
        !ran.stderr.contains('\r') && !ran.stderr.contains('\x1b'),
        "{:?}",
        ran.stderr
    );
    assert!(ran.stdout.contains("changed   "), "{}", ran.stdout);
    let quiet = [
        "tune", "--host", "model", "--data", "text.txt", "--steps", "3", "--name", "b", "-q",
    ];
    assert_eq!(bench.run(&quiet).stderr, "");
}

#[test]
fn a_recipe_file_and_the_same_flags_give_the_same_adapter() {
    let bench = Bench::new();
    bench.tune("flags", &["--seed", "5"]);
    let recipe = "seed = 5\n[host]\npath = \"model\"\n[data]\npath = \"text.txt\"\n[method]\nname = \"lora\"\nrank = 2\n[train]\nmax_steps = 3\n";
    bench.write("r.toml", recipe);
    bench.json(&["run", "r.toml", "--name", "file"]);
    let bytes = |run: &str| {
        fs::read(bench.path(&format!("runs/{run}/adapter/adapter_model.safetensors"))).unwrap()
    };
    assert_eq!(bytes("flags"), bytes("file"));
    bench.json(&["run", "r.toml", "--name", "other", "--set", "seed=6"]);
    assert_ne!(bytes("flags"), bytes("other"));
}

#[test]
fn many_adapters_are_served_line_by_line() {
    let bench = Bench::new();
    bench.tune("one", &["--set", "train.learning_rate=0.05"]);
    bench.tune(
        "two",
        &[
            "--set",
            "method={name=\"ia3\"}",
            "--set",
            "train.learning_rate=0.5",
        ],
    );
    let requests = [
        r#"{"id": 1, "prompt": "w1 w2", "adapter": "one"}"#,
        r#"{"id": 2, "prompt": "w1 w2"}"#,
        r#"{"load": "three", "folder": "runs/two"}"#,
        r#"{"id": 3, "prompt": "w1 w2", "adapter": "three"}"#,
        r#"{"id": 4, "prompt": "w1 w2", "adapter": "four"}"#,
        r#"{"costs": true}"#,
    ];
    bench.write("requests.jsonl", &requests.join("\n"));
    let words = [
        "serve",
        "--host",
        "model",
        "--adapter",
        "one=runs/one",
        "--requests",
        "requests.jsonl",
        "--max-tokens",
        "4",
    ];
    let ran = bench.run(&words);
    let answers = ran
        .stdout
        .lines()
        .map(serde_json::from_str::<serde_json::Value>);
    let answers: Vec<serde_json::Value> = answers.collect::<Result<_, _>>().unwrap();
    assert_eq!(answers.len(), 6, "{}", ran.stdout);
    assert_eq!(
        (&answers[0]["id"], &answers[0]["adapter"]),
        (&1.into(), &"one".into())
    );
    assert!(answers[1]["adapter"].is_null() && answers[1]["text"].is_string());
    assert_eq!(answers[2]["loaded"]["method"], "ia3");
    let error = answers[4]["error"].as_str().unwrap();
    assert!(error.contains("no adapter `four` is loaded"), "{error}");
    let costs = answers[5]["costs"].as_array().unwrap();
    assert_eq!(costs.len(), 2);
    assert!(answers[5]["resident_bytes"].as_u64().unwrap() > 0);
    assert!(ran.stderr.contains("ms a token"), "{}", ran.stderr);
    let refused = bench.fails(3, &["serve", "--host", "model", "--adapter", "x=nowhere"]);
    assert!(refused.contains("nowhere"), "{refused}");
}
