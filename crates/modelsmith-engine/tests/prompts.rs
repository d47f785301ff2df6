//! Prompts in the engine: generation as PEFT's, starts from words, and what does not fit.

mod common;

use burn::tensor::Device;
use common::World;
use modelsmith_core::files::{Reader, read_json};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_data::{DataConfig, Tokenizer};
use modelsmith_engine::adapter_folder;
use modelsmith_engine::eval::{self, EvalOptions, Figures, Task};
use modelsmith_engine::generate::{GenerateOptions, generate};
use modelsmith_engine::merge::{self, MergeOptions};
use modelsmith_engine::model::{AdapterRef, Model, ModelOptions};
use modelsmith_engine::tune::Parts;
use modelsmith_hosts::Transformer;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn parity(part: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity")).join(part)
}

fn integers(reader: &Reader, name: &str) -> Vec<u32> {
    let words = reader.bytes(name).unwrap().as_chunks::<8>().0;
    let ids = words.iter().map(|word| i64::from_le_bytes(*word));
    ids.map(|id| u32::try_from(id).unwrap()).collect()
}

#[test]
fn greedy_texts_behind_a_prompt_are_those_of_peft() {
    for case in [
        "llama",
        "llama_yarn",
        "gpt2",
        "opt_projected",
        "sliding",
        "prefix_llama",
        "prefix_gpt2",
        "prefix_qwen3",
        "prefix_opt",
        "t5",
        "multitask_llama",
    ] {
        let folder = parity("prompt").join(case);
        let config: Value = read_json(folder.join("adapter_config.json")).unwrap();
        let base = folder.join(config["base_model_name_or_path"].as_str().unwrap());
        let host = modelsmith_hosts::load(&base, &Device::flex()).unwrap();
        let adapter = adapter_folder::read(&folder, &host, false).unwrap();
        let reader = Reader::open(folder.join("expected.safetensors")).unwrap();
        let width = *reader.info("input_ids").unwrap().shape.last().unwrap();
        let mask = integers(&reader, "attention_mask");
        let length = mask[..width].iter().filter(|real| **real == 1).count();
        let text = integers(&reader, "input_ids")[..length].to_vec();
        let expected = integers(&reader, "generated");
        let eos = host.info().config["eos_token_id"].as_u64();
        let options = GenerateOptions {
            max_new_tokens: expected.len(),
            min_new_tokens: expected.len(),
            eos: eos.into_iter().map(|id| id as u32).collect(),
            ..GenerateOptions::default()
        };
        let of = |rows: &[u32]| GenerateOptions {
            tasks: match case.starts_with("multitask") {
                true => rows.to_vec(),
                false => Vec::new(),
            },
            ..options.clone()
        };
        // The second row is padded on the left.
        let rows = [text.clone(), text[1..].to_vec()];
        let hooks = [adapter.hooks()];
        let found = generate(&host, &rows, &of(&[1, 0]), &hooks, &mut |_, _| true).unwrap();
        assert_eq!(found[0], expected, "{case}");
        let alone = generate(&host, &rows[1..], &of(&[0]), &hooks, &mut |_, _| true).unwrap();
        assert_eq!(found[1], alone[0], "{case}");
    }
}

#[test]
fn generation_ends_where_prompt_and_text_fill_the_positions() {
    let host = modelsmith_hosts::load(&parity("hosts/gpt2"), &Device::flex()).unwrap();
    let adapter = adapter_folder::read(&parity("prompt/gpt2"), &host, false).unwrap();
    let room = host.position_limit().unwrap() - 4;
    let options = GenerateOptions {
        max_new_tokens: 100,
        ..GenerateOptions::default()
    };
    let go = |length: usize| {
        let rows = [vec![5; length]];
        generate(&host, &rows, &options, &[adapter.hooks()], &mut |_, _| true)
    };
    assert_eq!(go(room - 3).unwrap()[0].len(), 3);
    let problem = go(room + 1).unwrap_err().to_string();
    let expected = format!("longer than the {room} positions");
    assert!(problem.contains(&expected), "{problem}");
}

/// The prompt of a recipe before training.
fn first_prompt(world: &World, changes: &[&str]) -> (Parts, Flat) {
    let mut all = vec![r#"method={name="prompt_tuning", virtual_tokens=5}"#];
    all.extend(changes);
    let parts = Parts::load(&world.recipe("start", &all)).unwrap();
    let prompt = parts.adapter.parameters().remove(0);
    assert_eq!(prompt.name, "prompt");
    (parts, prompt.value)
}

fn embedding(host: &Transformer, id: u32) -> Vec<f32> {
    let table = host.weight("model.embed_tokens.weight").unwrap();
    let width = table.shape[1];
    table.to_vec()[id as usize * width..][..width].to_vec()
}

#[test]
fn prompts_start_from_what_the_recipe_says() {
    let world = World::new();
    let tokenizer = Tokenizer::load(world.model()).unwrap();
    let rows = |prompt: &Flat| -> Vec<Vec<f32>> {
        let values = prompt.to_vec();
        values
            .chunks(prompt.shape[1])
            .map(<[f32]>::to_vec)
            .collect()
    };
    let text = ["method.init=\"text\"", "method.init_text=\"Where is it?\""];
    let (parts, prompt) = first_prompt(&world, &text);
    let ids = tokenizer.encode("Where is it?", true).unwrap();
    let expected = ids
        .iter()
        .cycle()
        .take(5)
        .map(|id| embedding(&parts.host, *id));
    assert_eq!(rows(&prompt), expected.collect::<Vec<_>>());

    let labels = [
        "method.init=\"labels\"",
        "method.init_labels=[\"good\", \"bad\"]",
    ];
    let (parts, prompt) = first_prompt(&world, &labels);
    for (row, label) in rows(&prompt).iter().zip(["good", "bad"]) {
        let ids = tokenizer.encode(label, false).unwrap();
        let mut mean = vec![0.0; row.len()];
        for id in &ids {
            let row = embedding(&parts.host, *id);
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let close = |(a, b): (&f32, &f32)| (a - b / ids.len() as f32).abs() < 1e-6;
        assert!(row.iter().zip(&mean).all(close), "{label}");
    }

    let (parts, prompt) = first_prompt(&world, &["method.init=\"vocabulary\""]);
    let drawn = rows(&prompt);
    let vocabulary = parts.host.vocab_size() as u32;
    let table: Vec<_> = (0..vocabulary)
        .map(|id| embedding(&parts.host, id))
        .collect();
    assert!(drawn.iter().all(|row| table.contains(row)));
    assert!((1..5).all(|at| drawn[..at].iter().all(|row| *row != drawn[at])));

    let (_, prompt) = first_prompt(&world, &["method.init=\"random\""]);
    let values = prompt.to_vec();
    assert!(values.iter().all(|x| x.abs() <= 0.5) && values.iter().any(|x| x.abs() > 0.25));
}

#[test]
fn words_and_lengths_that_do_not_fit_are_refused_by_their_keys() {
    let world = World::new();
    let cases: [(&[&str], &str); 7] = [
        (
            &["method.virtual_tokens=64"],
            "method.virtual_tokens: is 64",
        ),
        (
            &["method.virtual_tokens=0"],
            "method.virtual_tokens: 0 given",
        ),
        (&["data.max_length=60"], "reads at most 59 tokens"),
        (&["method.init=\"text\""], "method.init_text: is empty"),
        (
            &["method.init_text=\"x\""],
            "method.init_text: is read with",
        ),
        (
            &["method.init=\"labels\"", "method.init_labels=[\"\"]"],
            "method.init: the words",
        ),
        (
            &[
                "method.virtual_tokens=1",
                "method.init=\"labels\"",
                "method.init_labels=[\"a\", \"b\"]",
            ],
            "there are 2 labels",
        ),
    ];
    for (changes, expected) in cases {
        let mut all = vec![r#"method={name="prompt_tuning", virtual_tokens=5}"#];
        all.extend(changes);
        let found = Parts::load(&world.recipe("start", &all)).map(|_| ());
        let found = found.unwrap_err().to_string();
        assert!(found.contains(expected), "{changes:?}: {found}");
    }
}

#[test]
fn a_trained_prompt_lowers_the_loss_is_loaded_again_and_cannot_be_merged() {
    let world = World::new();
    let set = [
        r#"method={name="prompt_tuning", virtual_tokens=5}"#,
        "train.learning_rate=0.1",
        "train.gradient_checkpointing=true",
        "data.packing=\"pack\"",
    ];
    let summary = world.run("prompt", &set);
    assert!(summary.loss_after < summary.loss_before, "{summary:?}");
    assert_eq!(summary.trained_parameters, 5 * 16);
    let options = ModelOptions {
        adapters: vec![AdapterRef::parse(summary.artifact.to_str().unwrap()).unwrap()],
        device: "cpu".into(),
        ..ModelOptions::default()
    };
    let model = Model::load(&options).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(model.max_length(&tokenizer), 59);
    let options = MergeOptions {
        model: options,
        output: world.folder.path().join("merged"),
        dtype: None,
        max_shard_bytes: u64::MAX,
    };
    let problem = merge::run(&options).map(|_| ()).unwrap_err().to_string();
    assert!(problem.contains("cannot be merged"), "{problem}");
    assert!(!options.output.exists());
}

/// Rows of two tasks that answer the same prompts otherwise.
fn two_tasks(world: &World) -> PathBuf {
    let path = world.folder.path().join("tasks.jsonl");
    let row = |(number, task): (usize, &str)| {
        let completion = if task == "yes" { " Yes." } else { " No." };
        let prompt = format!("Where is {number}?");
        serde_json::json!({"prompt": prompt, "completion": completion, "task": task}).to_string()
    };
    let rows = (0..24).flat_map(|number| ["yes", "no"].map(|task| row((number, task))));
    std::fs::write(&path, rows.collect::<Vec<_>>().join("\n")).unwrap();
    path
}

/// The numbers of an adapter's file.
fn trained(folder: &Path) -> Vec<f32> {
    let file = folder.join("adapter_model.safetensors");
    let tensors = modelsmith_core::weights::load(&file, &Device::flex()).unwrap();
    tensors.values().flat_map(Flat::to_vec).collect()
}

#[test]
fn one_prompt_learns_two_tasks_and_resumes_to_the_same_bytes() {
    let world = World::new();
    let path = two_tasks(&world);
    let data = format!("data.path={:?}", path.display().to_string());
    let method = "method={name=\"multitask_prompt\", virtual_tokens=4, tasks=[\"yes\", \"no\"]}";
    let changes = [
        method,
        data.as_str(),
        "train.max_steps=60",
        "train.learning_rate=0.1",
    ];
    let whole = world.run("whole", &changes);
    let parted = world.run_in_two("parted", &changes, 7);
    assert_eq!(
        common::adapter_bytes(&whole),
        common::adapter_bytes(&parted)
    );
    // Blocks that run again in the backward pass are told the tasks too.
    let again = [&changes[..], &["train.gradient_checkpointing=true"]].concat();
    let again = world.run("again", &again);
    let (first, second) = (trained(&whole.artifact), trained(&again.artifact));
    let apart = first.iter().zip(&second).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f32::max) < 1e-3);
    // Its own factors make a task's answers likelier than the other's do.
    let loss = |task: &str, rows: &str| {
        let kept = std::fs::read_to_string(&path).unwrap();
        let kept = kept
            .lines()
            .filter(|line| line.contains(&format!("\"task\":\"{rows}\"")));
        let file = world.folder.path().join(format!("{rows}.jsonl"));
        std::fs::write(&file, kept.collect::<Vec<_>>().join("\n")).unwrap();
        let adapter = format!("{}#{task}", whole.artifact.display());
        let options = ModelOptions {
            adapters: vec![AdapterRef::parse(&adapter).unwrap()],
            device: "flex".into(),
            ..ModelOptions::default()
        };
        let options = EvalOptions {
            model: options,
            data: DataConfig {
                path: file,
                ..DataConfig::default()
            },
            seed: 0,
            mask_probability: 0.15,
            task: Some(Task::Perplexity),
            dump_logits: None,
            dump_rows: 0,
        };
        match eval::run(&options).unwrap().figures {
            Figures::Perplexity { loss, .. } => loss,
            other => panic!("{other:?}"),
        }
    };
    for (own, other) in [("yes", "no"), ("no", "yes")] {
        let (right, wrong) = (loss(own, own), loss(other, own));
        assert!(right < wrong, "{own}: {right} {wrong}");
    }
}

#[test]
fn rows_must_name_a_task_that_there_is() {
    let world = World::new();
    let path = two_tasks(&world);
    let data = format!("data.path={:?}", path.display().to_string());
    let refused = |method: &str, more: &[&str]| {
        let changes = [&[method, data.as_str()], more].concat();
        let recipe = world.recipe("refused", &changes);
        Parts::load(&recipe).err().unwrap().to_string()
    };
    let other = "method={name=\"multitask_prompt\", tasks=[\"yes\", \"maybe\"]}";
    let error = refused(other, &[]);
    assert!(
        error.contains("line 2") && error.contains("names task no"),
        "{error}"
    );
    let both = "method={name=\"multitask_prompt\", tasks=[\"yes\", \"no\"]}";
    let error = refused(both, &["data.columns={task=\"kind\"}"]);
    assert!(error.contains("\"kind\" is missing"), "{error}");
    let error = refused(both, &["data.packing=\"pack\""]);
    assert!(
        error.contains("data.packing") && error.contains("tasks"),
        "{error}"
    );
}
