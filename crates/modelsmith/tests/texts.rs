//! Texts that people read first: help, lists, usage errors.

mod common;

use common::Bench;

fn help(words: &[&str]) -> String {
    let ran = Bench::new().run(&[words, &["--help"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    ran.stdout
}

#[test]
fn help_of_the_program() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn help_of_tune() {
    insta::assert_snapshot!(help(&["tune"]));
}

#[test]
fn help_of_generate() {
    insta::assert_snapshot!(help(&["generate"]));
}

#[test]
fn help_of_eval() {
    insta::assert_snapshot!(help(&["eval"]));
}

#[test]
fn help_of_merge() {
    insta::assert_snapshot!(help(&["adapter", "merge"]));
}

#[test]
fn every_command_explains_itself_and_shows_an_example() {
    let commands: [&[&str]; 17] = [
        &["quickstart"],
        &["run"],
        &["pretrain"],
        &["adapter"],
        &["adapter", "convert"],
        &["adapter", "show"],
        &["inspect"],
        &["bench"],
        &["bench", "roofline"],
        &["bench", "grace"],
        &["methods"],
        &["schema"],
        &["data"],
        &["data", "edits"],
        &["completions"],
        &["tune"],
        &["generate"],
    ];
    for command in commands {
        let text = help(command);
        assert!(
            text.contains("Usage:") && text.contains("Example"),
            "{text}"
        );
        assert!(
            text.contains(&format!("modelsmith {}", command.join(" "))),
            "{text}"
        );
    }
}

#[test]
fn the_table_of_methods_has_every_row_of_the_registry() {
    let bench = Bench::new();
    let text = bench.run(&["methods"]).stdout;
    let listed = bench.json(&["methods"]);
    assert_eq!(listed["schema"], "modelsmith.methods/1");
    let methods = listed["methods"].as_array().unwrap();
    assert_eq!(text.lines().count(), methods.len() + 1);
    for (line, method) in text.lines().skip(1).zip(methods) {
        assert!(line.starts_with(method["id"].as_str().unwrap()), "{line}");
        assert!(method["schema"]["properties"].is_object());
        assert!(method["defaults"].is_object());
    }
    assert!(text.contains("lora ") && text.contains("adamw "));
}

#[test]
fn one_method_shows_its_options() {
    let text = Bench::new().run(&["methods", "lora"]).stdout;
    assert!(
        text.starts_with("lora  LoRA: low-rank adaptation\n"),
        "{text}"
    );
    assert!(
        text.contains("  rank = 8  (whole number)\n      Rank of the change"),
        "{text}"
    );
    assert!(
        text.contains("target_modules = absent  (list of texts or text)"),
        "{text}"
    );
}

#[test]
fn usage_errors() {
    let bench = Bench::new();
    insta::assert_snapshot!("unknown_command", bench.fails(2, &["tunee"]));
    insta::assert_snapshot!("unknown_flag", bench.fails(2, &["tune", "--rank", "8"]));
    insta::assert_snapshot!("unknown_method", bench.fails(2, &["methods", "loar"]));
    insta::assert_snapshot!("no_model", bench.fails(2, &["generate", "--prompt", "w1"]));
    insta::assert_snapshot!(
        "unknown_device",
        bench.fails(2, &["inspect", "model", "--device", "gpu"])
    );
}

#[test]
fn the_schema_describes_every_table_and_completions_name_every_command() {
    let bench = Bench::new();
    let schema = bench.json(&["schema"]);
    for table in [
        "host", "data", "method", "train", "output", "seed", "device",
    ] {
        assert!(schema["recipe"]["properties"][table].is_object(), "{table}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = bench.run(&["completions", shell]);
        assert_eq!(ran.code, 0);
        for command in ["quickstart", "adapter", "completions"] {
            assert!(ran.stdout.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn colours_follow_the_environment() {
    let bench = Bench::new();
    let error = |variable: &str| {
        let mut command = bench.command(&["methods", "loar"]);
        command.env_remove("NO_COLOR").env(variable, "1");
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(error("NO_COLOR").starts_with("error: "));
    assert!(error("CLICOLOR_FORCE").starts_with("\x1b[1;31merror:"));
}

#[test]
fn the_roofline_measures_what_it_was_asked_for() {
    let bench = Bench::new();
    let words = ["bench", "roofline", "--only", "rotate", "--seconds", "0"];
    let found = bench.json(&words);
    assert_eq!(found["schema"], "modelsmith.bench.roofline/1");
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "forward, and forward and backward");
    for row in rows {
        assert_eq!(row["operation"], "rotate");
        assert!(row["share"].as_f64().unwrap() > 0.0);
    }
    let unknown = bench.fails(2, &["bench", "roofline", "--only", "rotatee"]);
    assert!(unknown.contains("rms norm; rotate;"), "{unknown}");
}

#[test]
fn a_codebook_is_timed_at_three_batch_sizes() {
    let bench = Bench::new();
    let house = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/house");
    let words = [
        "bench",
        "grace",
        "--host",
        house,
        "--seconds",
        "0",
        "--keys",
    ];
    let found = bench.json(&[&words[..], &["50"]].concat());
    assert_eq!(found["schema"], "modelsmith.bench.grace/1");
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(
        names,
        ["grace_lookup_b1", "grace_lookup_b8", "grace_lookup_b32"]
    );
    assert!(rows.iter().all(|row| row["ratio"].as_f64().unwrap() > 0.0));
    let none = bench.fails(2, &[&words[..], &["0"]].concat());
    assert!(none.contains("a codebook of 0 keys"), "{none}");
}
