//! Training as a whole: equal bytes for equal seeds and after resuming, for every registered
//! method; accumulation; gradient checkpointing; numbers that are not finite.

mod common;

use common::{Silence, World, adapter_bytes, files, metrics};
use modelsmith_core::method::Family;
use modelsmith_engine::{Stop, registry, tune};

/// The recipe's method, with a prompt that leaves room for the texts here.
fn with_defaults(method: &str) -> String {
    let all = registry::all();
    let listed = all.iter().find(|listed| listed.card.id == method).unwrap();
    let known = |key: &str| listed.defaults.get(key).is_some();
    let mut set = format!(r#"method={{name="{method}""#);
    if known("virtual_tokens") {
        set.push_str(", virtual_tokens=4");
    }
    // The usual one reads an earlier run.
    if known("criterion") {
        set.push_str(r#", criterion="magnitude""#);
    }
    set + "}"
}

/// Every method of the tables that trains an adapter or a prompt, found there and not listed here.
fn methods() -> Vec<&'static str> {
    let all = registry::all();
    let trained = |family| matches!(family, Family::Adapter | Family::Prompt);
    let adapters = all.iter().filter(|m| trained(m.card.family));
    let ids: Vec<&str> = adapters.map(|m| m.card.id).collect();
    assert!(ids.len() >= 8, "{ids:?}");
    ids
}

#[test]
fn every_method_resumes_to_the_same_bytes_and_leaves_the_host_alone() {
    let world = World::new();
    let host = files(&world.model());
    for method in methods() {
        let set = with_defaults(method);
        let whole = world.run(&format!("{method}-whole"), &[&set]);
        let again = world.run(&format!("{method}-again"), &[&set]);
        let broken = world.run_in_two(&format!("{method}-broken"), &[&set], 5);
        assert_eq!(
            adapter_bytes(&whole),
            adapter_bytes(&again),
            "{method}: same seed"
        );
        assert_eq!(
            adapter_bytes(&whole),
            adapter_bytes(&broken),
            "{method}: resumed"
        );
        assert_eq!(
            metrics(&whole.run),
            metrics(&broken.run),
            "{method}: metrics"
        );
        assert!(whole.loss_before.is_some() && whole.loss_before == broken.loss_before);
        let other = world.run(&format!("{method}-other"), &[&set, "seed=6"]);
        assert_ne!(
            adapter_bytes(&whole)[0],
            adapter_bytes(&other)[0],
            "{method}: other seed"
        );
        assert!(
            whole.changed_parameters > 0 && whole.change_norm > 0.0,
            "{method}"
        );
        assert_eq!(host, files(&world.model()), "{method}: host files");
    }
}

/// The phases of twelve steps: nothing is cut up to 3, the pattern stays from 8 on.
#[test]
fn adalora_stopped_in_any_phase_resumes_to_the_same_bytes() {
    let world = World::new();
    let set = r#"method={name="adalora", init_r=3, target_r=1, tinit=3, tfinal=4, delta_t=2}"#;
    let whole = world.run("whole", &[set]);
    let pattern = &whole.artifact.join("adapter_config.json");
    let pattern: serde_json::Value = modelsmith_core::files::read_json(pattern).unwrap();
    assert!(pattern["rank_pattern"].is_object(), "{pattern}");
    for step in [2, 3, 5, 6, 8, 9, 11] {
        let broken = world.run_in_two(&format!("at-{step}"), &[set], step);
        assert_eq!(adapter_bytes(&whole), adapter_bytes(&broken), "{step}");
        assert_eq!(metrics(&whole.run), metrics(&broken.run), "{step}");
    }
}

#[test]
fn resuming_is_exact_wherever_the_run_stops() {
    let world = World::new();
    let cases: [(&str, &[&str]); 6] = [
        ("bf16", &[r#"train.dtype="bf16""#]),
        (
            "full-bf16",
            &[r#"train.dtype="bf16""#, r#"method={name="full"}"#],
        ),
        ("dropout", &["method.dropout=0.2"]),
        ("accumulation", &["train.accumulation=3"]),
        (
            "epochs",
            &[
                "train.max_steps=0",
                "train.epochs=2",
                "train.save_every=0",
                "train.eval_every=0",
            ],
        ),
        (
            "packed",
            &[
                r#"data.packing="pack""#,
                "train.gradient_checkpointing=true",
                "train.keep_best=true",
            ],
        ),
    ];
    for (name, changes) in cases {
        let whole = world.run(name, changes);
        for step in [1, whole.steps / 2, whole.steps] {
            let broken = world.run_in_two(&format!("{name}-{step}"), changes, step);
            assert_eq!(
                adapter_bytes(&whole),
                adapter_bytes(&broken),
                "{name} at {step}"
            );
            assert_eq!(
                metrics(&whole.run),
                metrics(&broken.run),
                "{name} at {step}"
            );
        }
    }
}

#[test]
fn small_batches_gathered_equal_one_large_batch() {
    let world = World::new();
    let one = world.run("one", &["data.batch_size=12", "data.shuffle=false"]);
    let many = world.run(
        "many",
        &[
            "data.batch_size=4",
            "train.accumulation=3",
            "data.shuffle=false",
        ],
    );
    for (a, b) in one.losses.iter().zip(&many.losses) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} {b}");
    }
    assert_eq!(one.losses.len(), 12);
}

#[test]
fn gradient_checkpointing_changes_no_result() {
    let world = World::new();
    for method in methods() {
        let set = with_defaults(method);
        let kept = world.run(&format!("{method}-kept"), &[&set]);
        let recomputed = world.run(
            &format!("{method}-recomputed"),
            &[&set, "train.gradient_checkpointing=true"],
        );
        for (a, b) in kept.losses.iter().zip(&recomputed.losses) {
            assert!((a - b).abs() < 2e-5 * a.abs(), "{method}: {a} {b}");
        }
    }
}

#[test]
fn a_number_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint() {
    let world = World::new();
    let changes = [
        "train.clip_norm=0",
        "train.learning_rate=3e38",
        "train.warmup_steps=4",
        "train.save_every=1",
    ];
    let recipe = world.recipe("wild", &changes);
    let error = tune::run(recipe, &Stop::default(), &mut Silence).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    let message = error.to_string();
    assert!(message.contains("step"), "{message}");
    let checkpoints = world.runs().join("wild/checkpoints/step-000001");
    assert!(checkpoints.join("trainer.json").is_file());
    assert!(!world.runs().join("wild/adapter").exists());
}

#[test]
fn a_changed_recipe_or_data_is_not_resumed() {
    let world = World::new();
    let stop = Stop::default();
    let mut at = common::StopAt {
        step: 4,
        stop: stop.clone(),
    };
    tune::run(world.recipe("changed", &[]), &stop, &mut at).unwrap_err();
    let run = world.runs().join("changed");
    let recipe = run.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(
        &recipe,
        text.replace("learning_rate = 0.01", "learning_rate = 0.02"),
    )
    .unwrap();
    let error = tune::resume(&run, &Stop::default(), &mut Silence).unwrap_err();
    assert!(error.to_string().contains("another recipe"), "{error}");
    std::fs::write(&recipe, text).unwrap();
    let data = world.model().join("questions.jsonl");
    let mut rows = std::fs::read(&data).unwrap();
    rows.extend(b"{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    std::fs::write(&data, rows).unwrap();
    let error = tune::resume(&run, &Stop::default(), &mut Silence).unwrap_err();
    assert!(error.to_string().contains("data has changed"), "{error}");
}

#[test]
fn early_stopping_ends_the_run_and_the_best_adapter_is_kept() {
    let world = World::new();
    let changes = [
        "train.max_steps=200",
        "train.learning_rate=0.3",
        "train.eval_every=2",
        "train.patience=3",
        "train.keep_best=true",
        r#"train.schedule="constant""#,
    ];
    let summary = world.run("early", &changes);
    assert!(
        summary.stopped_early && summary.steps < 200,
        "{} steps",
        summary.steps
    );
    let lowest = metrics(&summary.run)
        .iter()
        .filter(|line| line["kind"] == "eval" && line["step"] != 0)
        .map(|line| line["loss"].as_f64().unwrap())
        .fold(f64::INFINITY, f64::min);
    assert!((summary.loss_after.unwrap() - lowest).abs() < 1e-9);
}

#[test]
fn frozen_rates_and_idle_training_are_errors() {
    let world = World::new();
    let idle = world.recipe("idle", &["train.learning_rate=1e-300"]);
    let error = tune::run(idle, &Stop::default(), &mut Silence).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    for (name, change, part) in [
        (
            "a",
            "method.target_modules=[\"qproj\"]",
            "did you mean q_proj",
        ),
        ("b", "method.ranks=3", "did you mean rank"),
        ("c", "data.max_length=4000", "reads at most 64"),
        ("d", "train.accumulation=0", "at least 1"),
        ("e", "data.path=\"/nowhere/x.jsonl\"", "/nowhere/x.jsonl"),
    ] {
        let recipe = world.recipe(name, &[change]);
        let error = tune::run(recipe, &Stop::default(), &mut Silence)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{change}: {error}");
        assert!(!world.runs().join(name).exists(), "{change} left a folder");
    }
}
