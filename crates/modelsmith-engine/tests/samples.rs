//! Held-out rows before and after training, as a run records them.

mod common;

use common::{World, adapter_bytes};
use modelsmith_core::files::read_json;
use modelsmith_engine::generation::{Prompt, TextOptions, complete};
use modelsmith_engine::model::{AdapterRef, Model, ModelOptions};
use modelsmith_engine::record::Record;
use modelsmith_engine::samples::{self, Sample, Samples, Task};
use modelsmith_engine::tune::Summary;
use modelsmith_engine::{Stop, tune};
use serde_json::Value;
use std::path::Path;

fn taken(run: &Path) -> Samples {
    samples::read(run).unwrap().expect("samples.json")
}

/// What the model says when it is asked anew, from the files that the run left.
fn asked_anew(world: &World, prompt: &str, adapter: Option<&Path>) -> String {
    let model = Model::load(&ModelOptions {
        host: Some(world.model()),
        adapters: adapter.map(AdapterRef::new).into_iter().collect(),
        device: "flex".to_owned(),
        ..ModelOptions::default()
    })
    .unwrap();
    let options = TextOptions {
        chat: false,
        chat_template: "model".into(),
        system: None,
        max_tokens: 48,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        seed: 0,
        batch_size: 1,
    };
    let prompts = [Prompt::Text(prompt.to_owned())];
    let found = complete(&model, &prompts, &options, &mut |_| true).unwrap();
    found[0].text.trim().to_owned()
}

fn without_ellipsis(text: &str) -> &str {
    text.trim_end_matches(" …")
}

#[test]
fn a_run_records_what_host_and_adapter_answer() {
    let world = World::new();
    let summary: Summary = world.run("a", &["train.learning_rate=0.05"]);
    let found = taken(&summary.run);
    assert_eq!((found.task, found.rows.len()), (Task::Continue, 4));
    let mut changed = 0;
    for Sample {
        row,
        prompt,
        reference,
        before,
        after,
    } in &found.rows
    {
        let line = std::fs::read_to_string(world.model().join("questions.jsonl")).unwrap();
        let line: Value = serde_json::from_str(line.lines().nth(*row as usize).unwrap()).unwrap();
        assert_eq!(line["prompt"], prompt.as_str());
        assert_eq!(line["completion"].as_str().unwrap().trim(), reference);
        let before = before.as_deref().unwrap();
        assert_eq!(without_ellipsis(before), asked_anew(&world, prompt, None));
        let again = asked_anew(&world, prompt, Some(&summary.artifact));
        assert_eq!(without_ellipsis(after), again);
        changed += usize::from(before != after);
    }
    assert!(changed > 0, "{found:?}");
    let record = Record::read(&summary.run);
    let listed = record.artifacts.iter().any(|one| one.path == samples::FILE);
    assert!(listed && record.changed_files(&summary.run).is_empty());
    let page = std::fs::read_to_string(summary.run.join("report.html")).unwrap();
    assert!(page.contains("Before and after") && page.contains(&found.rows[0].reference));
}

#[test]
fn samples_touch_no_adapter_and_a_resumed_run_has_the_same() {
    let world = World::new();
    let whole = world.run("whole", &[]);
    let none = world.run("none", &["output.samples=0"]);
    assert_eq!(adapter_bytes(&whole), adapter_bytes(&none));
    assert!(!none.run.join(samples::FILE).exists());
    let broken = world.run_in_two("broken", &[], 5);
    assert_eq!(taken(&whole.run), taken(&broken.run));
    // The same data gives the same rows, whatever else differs.
    let other = world.run("other", &["method.rank=1", "output.samples=2"]);
    let rows = |run: &Path| -> Vec<u64> { taken(run).rows.iter().map(|one| one.row).collect() };
    let (all, two) = (rows(&whole.run), rows(&other.run));
    assert!(two.len() == 2 && two.iter().all(|row| all.contains(row)));
    let unmeasured = world.run("unmeasured", &["data.held_out=0"]);
    assert!(!unmeasured.run.join(samples::FILE).exists());
    let many = world.recipe("many", &["output.samples=65"]);
    let error = tune::run(many, &Stop::default(), &mut common::Silence).unwrap_err();
    assert!(
        error.to_string().starts_with("output.samples: is 65"),
        "{error}"
    );
}

#[test]
fn a_new_classifier_names_classes_after_training_only() {
    let world = World::new();
    let rows: String = (0..60)
        .map(|number| {
            let (word, label) = [("nurse", "care"), ("baker", "food")][number % 2];
            format!("{{\"text\": \"number {number} is a {word}\", \"label\": \"{label}\"}}\n")
        })
        .collect();
    let data = world.folder.path().join("classes.jsonl");
    std::fs::write(&data, rows).unwrap();
    let path = format!("data.path={:?}", data.display().to_string());
    let more = [
        "data.limit=60",
        "train.max_steps=60",
        "train.learning_rate=0.05",
    ];
    let summary = world.run("classes", &[&[path.as_str()], &more[..]].concat());
    let found = taken(&summary.run);
    assert_eq!(found.task, Task::Classify);
    let classes: Value = read_json(summary.run.join("data.json")).unwrap();
    for one in &found.rows {
        assert_eq!(one.before, None);
        assert!(
            classes["classes"]
                .as_array()
                .unwrap()
                .contains(&one.after.as_str().into())
        );
        let food = one.prompt.contains("baker");
        assert_eq!(one.reference, if food { "food" } else { "care" });
    }
    // The two classes are told apart by one word, and training finds it.
    assert_eq!(summary.accuracy_after, Some(1.0));
    assert!(found.rows.iter().all(|one| one.after == one.reference));
}

#[test]
fn a_method_without_a_penalty_records_none() {
    let world = World::new();
    let summary = world.run("a", &[]);
    let lines = common::metrics(&summary.run);
    let steps: Vec<_> = lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    assert_eq!(steps.len(), 12);
    assert!(steps.iter().all(|line| line.get("penalty").is_none()));
}
