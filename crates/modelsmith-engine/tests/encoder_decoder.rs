//! An encoder with a decoder in the engine: it is trained, resumed, evaluated, merged, and answers.

mod common;

use burn::tensor::Device;
use common::{Silence, World, adapter_bytes, metrics};
use modelsmith_core::files::{DType, read_json};
use modelsmith_data::{DataConfig, Tokenizer};
use modelsmith_engine::eval::{self, EvalOptions, Figures};
use modelsmith_engine::generation::{Finish, Prompt, TextOptions, complete};
use modelsmith_engine::merge::{self, MergeOptions};
use modelsmith_engine::model::{AdapterRef, Model, ModelOptions};
use modelsmith_engine::samples;
use modelsmith_engine::{Stop, tune};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The world of the other tests with a random T5 of two blocks a stack in place of the Llama.
fn world() -> World {
    let world = World::new();
    let model = world.model();
    let special = Tokenizer::load(&model).unwrap().special();
    let json = json!({
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": true,
        "vocab_size": 320,
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "dropout_rate": 0.1,
        "decoder_start_token_id": special.pad,
        "pad_token_id": special.pad,
        "eos_token_id": special.eos,
    });
    let origin = model.display().to_string();
    let host = modelsmith_hosts::random(&json, &origin, 3, &Device::flex()).unwrap();
    let staged = world.folder.path().join("t5");
    let none = |_: &str| Ok(None);
    modelsmith_hosts::save(&host, &staged, DType::F32, u64::MAX, &none, &Map::new()).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::rename(staged.join(file), model.join(file)).unwrap();
    }
    world
}

fn options(world: &World, adapter: Option<&Path>) -> ModelOptions {
    let reference = |path: &Path| AdapterRef::new(path);
    ModelOptions {
        host: Some(world.model()),
        adapters: adapter.map(reference).into_iter().collect(),
        device: "flex".to_owned(),
        ..ModelOptions::default()
    }
}

#[test]
fn training_lowers_the_loss_and_resumes_to_the_same_bytes() {
    let world = world();
    let changes = ["train.max_steps=40", "train.learning_rate=0.03"];
    let whole = world.run("whole", &changes);
    let again = world.run("again", &changes);
    let broken = world.run_in_two("broken", &changes, 17);
    assert_eq!(adapter_bytes(&whole), adapter_bytes(&again));
    assert_eq!(adapter_bytes(&whole), adapter_bytes(&broken));
    assert_eq!(metrics(&whole.run), metrics(&broken.run));
    let (before, after) = (whole.loss_before.unwrap(), whole.loss_after.unwrap());
    assert!(after < 0.9 * before, "{before} to {after}");
    let config: Value = read_json(whole.artifact.join("adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "SEQ_2_SEQ_LM");
    assert_eq!(config["target_modules"], json!(["q", "v"]));
    // Two factors at each of q and v in two encoder and four decoder attentions.
    assert_eq!(whole.adapter_tensors, 2 * 2 * 6);
    let taken = samples::read(&whole.run).unwrap().expect("samples.json");
    assert!(!taken.rows.is_empty());
    for row in &taken.rows {
        assert!(!row.prompt.is_empty() && !row.reference.is_empty());
        assert!(!row.prompt.contains(&row.reference), "{row:?}");
    }
}

/// With all its weights trained the model learns answers by heart, which its decoder can do only by
/// reading the question.
#[test]
fn full_fine_tuning_learns_answers_by_heart() {
    let world = world();
    let changes = [
        r#"method={name="full"}"#,
        "data.limit=8",
        "data.held_out=0",
        "train.eval_every=0",
        "train.max_steps=250",
        "train.learning_rate=0.01",
    ];
    let losses = world.run("full", &changes).losses;
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.3 * first, "{first} to {last}");
}

#[test]
fn other_methods_train_and_resume_to_the_same_bytes() {
    let world = world();
    for method in ["prompt_tuning", "adalora", "ia3", "houlsby", "full"] {
        let mut set = format!(r#"method={{name="{method}"}}"#);
        if method == "prompt_tuning" {
            set = r#"method={name="prompt_tuning", virtual_tokens=4}"#.to_owned();
        }
        let summary = world.run(method, &[&set]);
        assert!(summary.changed_parameters > 0, "{method}");
        let broken = world.run_in_two(&format!("{method}-broken"), &[&set], 5);
        assert_eq!(adapter_bytes(&summary), adapter_bytes(&broken), "{method}");
    }
}

#[test]
fn small_batches_gathered_equal_one_large_batch() {
    let world = world();
    let mut config: Value = read_json(world.model().join("config.json")).unwrap();
    config["dropout_rate"] = 0.0.into();
    std::fs::write(world.model().join("config.json"), config.to_string()).unwrap();
    let one = world.run("one", &["data.batch_size=12", "data.shuffle=false"]);
    let many = [
        "data.batch_size=4",
        "train.accumulation=3",
        "data.shuffle=false",
    ];
    let many = world.run("many", &many);
    for (a, b) in one.losses.iter().zip(&many.losses) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} {b}");
    }
    assert_eq!(one.losses.len(), 12);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let world = world();
    for (name, change, part) in [
        (
            "a",
            "train.gradient_checkpointing=true",
            "gradient_checkpointing",
        ),
        ("b", r#"data.packing="pack""#, "data.packing"),
        ("c", r#"data.train_on="all""#, "data.train_on"),
        ("d", r#"data.format="text""#, "prompt and completion"),
        (
            "e",
            r#"data.prompt_template="chat""#,
            "data.prompt_template",
        ),
        ("f", r#"method={name="prefix_tuning"}"#, "no prefix here"),
        ("g", "method.target_modules=[\"qproj\"]", "qproj"),
    ] {
        let recipe = world.recipe(name, &[change]);
        let error = tune::run(recipe, &Stop::default(), &mut Silence).unwrap_err();
        assert!(error.to_string().contains(part), "{change}: {error}");
        assert!(!world.runs().join(name).exists(), "{change} left a folder");
    }
}

fn perplexity(world: &World, adapter: Option<&Path>) -> (f64, u64) {
    let found = eval::run(&EvalOptions {
        model: options(world, adapter),
        data: DataConfig {
            path: world.model().join("questions.jsonl"),
            limit: 48,
            ..DataConfig::default()
        },
        seed: 5,
        mask_probability: 0.15,
        task: None,
        dump_logits: None,
        dump_rows: 4,
    });
    match found.unwrap().figures {
        Figures::Perplexity { loss, tokens, .. } => (loss, tokens),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_adapter_is_evaluated_and_answers() {
    let world = world();
    let changes = ["train.max_steps=60", "train.learning_rate=0.03"];
    let summary = world.run("a", &changes);
    let (before, tokens) = perplexity(&world, None);
    let (after, same) = perplexity(&world, Some(&summary.artifact));
    assert_eq!(tokens, same);
    assert!(after < 0.9 * before, "{before} to {after}");
    let model = Model::load(&options(&world, Some(&summary.artifact))).unwrap();
    let text = TextOptions {
        chat: false,
        chat_template: "model".into(),
        system: None,
        max_tokens: 6,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        seed: 0,
        batch_size: 2,
    };
    let prompts = ["Where was she born?", "Who?"].map(|text| Prompt::Text(text.to_owned()));
    let found = complete(&model, &prompts, &text, &mut |_| true).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].prompt, "Where was she born?");
    assert!(found.iter().all(|one| one.answers && one.tokens <= 6));
    assert!(found.iter().all(|one| one.finish != Finish::Stop));
    let alone = complete(&model, &prompts[1..], &text, &mut |_| true).unwrap();
    assert_eq!(alone[0].text, found[1].text);
}

#[test]
fn choices_are_told_apart_by_the_decoder() {
    let world = world();
    let rows = world.folder.path().join("choices.jsonl");
    let row = json!({"prompt": "Where?", "choices": ["Paris", "the village", "x"], "answer": 1});
    std::fs::write(&rows, format!("{row}\n{row}\n")).unwrap();
    let found = eval::run(&EvalOptions {
        model: options(&world, None),
        data: DataConfig {
            path: rows,
            ..DataConfig::default()
        },
        seed: 5,
        mask_probability: 0.15,
        task: None,
        dump_logits: None,
        dump_rows: 4,
    });
    match found.unwrap().figures {
        Figures::Choices(figures) => assert_eq!(figures.questions, 2),
        other => panic!("{other:?}"),
    }
}

/// A changed head is stored apart from the embedding, and goes on to read the scaled state.
#[test]
fn merged_adapters_compute_what_attached_ones_compute() {
    let world = world();
    for (name, targets) in [
        ("attention", r#"["q", "v"]"#),
        ("head", r#"["lm_head", "q"]"#),
    ] {
        let set = format!("method.target_modules={targets}");
        let summary = world.run(name, &[&set, "train.learning_rate=0.05"]);
        let output = world.folder.path().join(format!("merged-{name}"));
        let report = merge::run(&MergeOptions {
            model: options(&world, Some(&summary.artifact)),
            output: output.clone(),
            dtype: None,
            max_shard_bytes: u64::MAX,
        });
        let report = report.unwrap();
        assert_eq!(report.untied, name == "head");
        assert!(
            report.merged_difference < 1e-5,
            "{}",
            report.merged_difference
        );
        assert!(report.effect > 1e-3, "{}", report.effect);
        let merged = modelsmith_hosts::load(&output, &Device::flex()).unwrap();
        let head = merged.output_matrix(&[]).unwrap();
        assert_eq!(head.scale, 0.25);
    }
}

/// Both stacks look tokens up in one table, of which no file holds two changed copies.
#[test]
fn changed_lookups_are_attached_and_not_merged() {
    let world = world();
    let set = r#"method.target_modules=["embed_tokens"]"#;
    let summary = world.run("lookups", &[set]);
    // Two factors for each stack, and the table as each stack had it, which PEFT keeps beside them.
    assert_eq!(summary.adapter_tensors, 6);
    perplexity(&world, Some(&summary.artifact));
    let output = world.folder.path().join("merged");
    let merged = merge::run(&MergeOptions {
        model: options(&world, Some(&summary.artifact)),
        output: output.clone(),
        dtype: None,
        max_shard_bytes: u64::MAX,
    });
    let problem = merged.unwrap_err().to_string();
    assert!(
        problem.contains("cannot store apart from shared"),
        "{problem}"
    );
    assert!(!output.exists());
}
