//! Runs as records: listed, compared, reported, resumed after a kill, removed.

mod common;

use common::Bench;
use serde_json::Value;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn list(bench: &Bench, more: &[&str]) -> Vec<Value> {
    let listed = bench.json(&[&["runs", "list"], more].concat());
    assert_eq!(listed["schema"], "modelsmith.runs.list/1");
    listed["result"].as_array().unwrap().clone()
}

fn names(runs: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = runs
        .iter()
        .map(|run| run["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn tune_words<'a>(name: &'a str, steps: &'a str) -> Vec<&'a str> {
    vec![
        "tune",
        "--host",
        "model",
        "--data",
        "text.txt",
        "--steps",
        steps,
        "--name",
        name,
        "--set",
        "method.rank=2",
        "--set",
        "train.save_every=1",
    ]
}

#[test]
fn a_deleted_or_damaged_index_changes_no_list() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    bench.tune("second", &["--set", "seed=3"]);
    let before = list(&bench, &[]);
    assert_eq!(names(&before), ["a", "second"]);
    assert!(
        before
            .iter()
            .all(|run| run["state"] == "finished" && run["steps"] == 3)
    );
    assert!(bench.path("runs/index.sqlite").is_file());
    std::fs::remove_file(bench.path("runs/index.sqlite")).unwrap();
    assert_eq!(list(&bench, &[]), before);
    bench.write("runs/index.sqlite", "this is no database");
    assert_eq!(list(&bench, &[]), before);
    assert_eq!(names(&list(&bench, &["--search", "SECOND"])), ["second"]);
    assert!(list(&bench, &["--state", "failed"]).is_empty());
}

#[test]
fn two_processes_at_once_are_both_indexed() {
    let bench = Bench::new();
    bench.text(12);
    let spawn = |name| {
        let mut command = bench.command(&tune_words(name, "20"));
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children = ["a", "b"].map(spawn);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let runs = list(&bench, &[]);
    assert_eq!(names(&runs), ["a", "b"]);
    assert!(
        runs.iter().all(|run| run["state"] == "finished"),
        "{runs:?}"
    );
}

#[test]
fn a_killed_run_shows_as_interrupted_and_is_resumed() {
    let bench = Bench::new();
    bench.text(12);
    let mut command = bench.command(&tune_words("a", "400"));
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let checkpoints = bench.path("runs/a/checkpoints");
    while std::fs::read_dir(&checkpoints).map_or(0, Iterator::count) < 2 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "no checkpoint was written"
        );
        sleep(Duration::from_millis(5));
    }
    let running = list(&bench, &["--state", "running"]);
    bench.fails(7, &["runs", "rm", "a", "--yes"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&running), ["a"]);
    let killed = list(&bench, &[]);
    assert_eq!(killed[0]["state"], "interrupted");
    assert!(killed[0]["steps"].as_u64().unwrap() > 0, "{killed:?}");
    bench.json(&["runs", "report", "a"]);
    let page = std::fs::read_to_string(bench.path("runs/a/report.html")).unwrap();
    assert!(page.contains("badge interrupted") && page.contains("killed"));
    assert_eq!(bench.json(&["runs", "resume", "a"])["steps"], 400);
    let whole = &list(&bench, &[])[0];
    assert_eq!(
        (&whole["state"], &whole["steps"]),
        (&"finished".into(), &400.into())
    );
    let record = &bench.json(&["runs", "show", "a"])["record"];
    assert_eq!(record["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(record["attempts"][0]["outcome"], Value::Null);
}

#[test]
fn a_failed_run_says_why() {
    let bench = Bench::new();
    bench.text(12);
    let words = [
        tune_words("a", "20"),
        vec!["--set", "train.learning_rate=1e38"],
    ]
    .concat();
    let ran = bench.run(&words);
    assert_ne!(ran.code, 0);
    let runs = list(&bench, &["--state", "failed"]);
    assert_eq!(names(&runs), ["a"]);
    let error = runs[0]["error"].as_str().unwrap();
    assert!(ran.stderr.contains(error), "{error}: {}", ran.stderr);
}

#[test]
fn a_finished_run_has_a_record_and_a_report() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    let shown = bench.json(&["runs", "show", "a"]);
    let artifacts = shown["record"]["artifacts"].as_array().unwrap();
    let paths: Vec<&str> = artifacts
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    for path in [
        "adapter/adapter_model.safetensors",
        "recipe.toml",
        "sites.json",
        "summary.json",
    ] {
        assert!(paths.contains(&path), "{paths:?}");
    }
    assert_eq!(shown["changed_files"].as_array().unwrap().len(), 0);
    let page = std::fs::read_to_string(bench.path("runs/a/report.html")).unwrap();
    assert!(page.contains("q_proj") && page.contains("badge finished"));
    bench.write("runs/a/adapter/adapter_config.json", "{}");
    let text = bench.run(&["runs", "show", "a"]).stdout;
    assert!(
        text.contains("changed since: adapter/adapter_config.json"),
        "{text}"
    );
}

#[test]
fn runs_are_compared_and_removed() {
    let bench = Bench::new();
    bench.tune("a", &[]);
    bench.tune("b", &["--set", "method.rank=4"]);
    let compared = bench.json(&["runs", "compare", "a", "runs/b"]);
    assert_eq!(compared["runs"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(bench.path("runs/compare-a-b.html")).unwrap();
    assert!(page.contains("<code>method.rank</code></th><td>2</td><td>4</td>"));
    bench.json(&["runs", "compare", "a", "b", "--output", "here.html"]);
    assert!(bench.path("here.html").is_file());
    let asked = bench.fails(2, &["runs", "rm", "a"]);
    assert!(asked.contains("--yes"), "{asked}");
    assert!(bench.path("runs/a/summary.json").is_file());
    bench.json(&["runs", "rm", "a", "--yes"]);
    assert!(!bench.path("runs/a").exists());
    assert_eq!(names(&list(&bench, &[])), ["b"]);
    let unknown = bench.fails(2, &["runs", "show", "bb"]);
    assert!(unknown.contains("no run `bb`"), "{unknown}");
    bench.fails(2, &["runs", "list", "--state", "done"]);
}
