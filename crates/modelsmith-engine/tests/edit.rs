//! Facts written into the house model, undone, and written on after a stop.

use burn::tensor::Device;
use modelsmith_core::host::Host;
use modelsmith_core::method::find;
use modelsmith_data::Tokenizer;
use modelsmith_engine::edit::measure::{Scored, perplexity_me};
use modelsmith_engine::edit::{
    Action, EditFolder, EditOptions, Editor, Guard, Statement, edited, read_texts, run,
};
use modelsmith_engine::generate::{GenerateOptions, generate};
use modelsmith_engine::recipe::Named;
use modelsmith_engine::{Error, Stop};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::TABLE;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house")
}

fn host() -> Transformer {
    modelsmith_hosts::load(&house(), &Device::flex()).unwrap()
}

/// Facts of the house, a person each, with another object than the true one.
fn statements(count: usize) -> Vec<Statement> {
    let config = modelsmith_data::house::HouseConfig::default();
    let facts = modelsmith_data::house::facts(&config).unwrap();
    let statement = |fact: modelsmith_data::house::Fact| Statement {
        id: fact.id.to_string(),
        prompt: fact.templates[0].clone(),
        subject: fact.subject.clone(),
        target: fact.target_new,
    };
    facts
        .into_iter()
        .step_by(7)
        .take(count)
        .map(statement)
        .collect()
}

/// Some of the text that the house model was trained on, as a file of rows.
fn corpus(folder: &Path) -> PathBuf {
    let config = modelsmith_data::house::HouseConfig::default();
    let texts = modelsmith_data::house::documents(&config).unwrap();
    let rows = texts
        .iter()
        .take(300)
        .map(|text| json!({ "text": text }).to_string() + "\n");
    let path = folder.join("corpus.jsonl");
    std::fs::write(&path, rows.collect::<String>()).unwrap();
    path
}

fn options(folder: &Path, method: &str, set: &Value) -> EditOptions {
    EditOptions {
        host: house(),
        method: Named {
            name: method.into(),
            options: set.as_object().cloned().unwrap(),
        },
        batch: 2,
        output: folder.join(format!("edits-{method}")),
        corpus: Some(corpus(folder)),
        corpus_limit: 0,
        guard: Guard::off(),
        guard_texts: None,
        seed: 0,
        device: "flex".into(),
    }
}

/// Share of statements whose target is the greedy answer.
fn known(host: &Transformer, statements: &[Statement]) -> f64 {
    let tokenizer = Tokenizer::load(house()).unwrap();
    let prompts: Vec<Vec<u32>> = statements
        .iter()
        .map(|one| {
            tokenizer
                .encode(&one.prompt.replace("{}", &one.subject), true)
                .unwrap()
        })
        .collect();
    let options = GenerateOptions {
        max_new_tokens: 8,
        ..GenerateOptions::default()
    };
    let answers = generate(host, &prompts, &options, &[], &mut |_, _| true).unwrap();
    let right = answers.iter().zip(statements).filter(|(answer, one)| {
        let text = tokenizer.decode(answer, true).unwrap();
        text.trim_start().starts_with(&one.target)
    });
    right.count() as f64 / statements.len() as f64
}

fn bits(host: &Transformer) -> BTreeMap<String, Vec<u32>> {
    let names = host.weight_names().into_iter();
    names
        .map(|name| {
            let values = host.weight(&name).unwrap().to_vec();
            (name, values.into_iter().map(f32::to_bits).collect())
        })
        .collect()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder.join("steps")).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn every_editor_writes_facts_and_undoing_them_gives_the_base_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let facts = statements(4);
    let base = bits(&host());
    assert_eq!(known(&host(), &facts), 0.0);
    let deep = json!({"layers": [2], "lookup": "prompt_last"});
    let wide = json!({"layers": [1, 2], "lookup": "prompt_last"});
    let cases = [
        ("rome", deep.clone(), 1),
        ("c_rome", deep.clone(), 1),
        ("r_rome", deep.clone(), 1),
        ("p_rome", deep.clone(), 1),
        ("emmet", deep, 2),
        ("memit", wide.clone(), 2),
        ("encore", wide.clone(), 2),
        (
            "alphaedit",
            json!({"layers": [1, 2], "lookup": "prompt_last", "threshold": 0.5}),
            2,
        ),
        ("pmet", wide, 2),
        ("ft", json!({"layers": [2], "learning_rate": 0.01}), 2),
        (
            "ft_l",
            json!({"layers": [2], "learning_rate": 0.01, "clamp": 0.05}),
            2,
        ),
        ("ft_ewc", json!({"layers": [2], "learning_rate": 0.01}), 2),
        (
            "ft_retrain",
            json!({"layers": [2], "learning_rate": 0.01, "retrain_every": 2}),
            2,
        ),
        ("lora_edit", json!({"layers": [2]}), 2),
    ];
    assert_eq!(cases.len(), TABLE.len());
    for (method, set, batch) in cases {
        let options = EditOptions {
            batch,
            ..options(folder.path(), method, &set)
        };
        let mut seen = 0;
        let report = run(&options, &facts, &Stop::default(), &mut |made| {
            seen += made.figures.facts;
        })
        .unwrap();
        assert_eq!(
            (report.facts, seen, report.batches),
            (4, 4, 4 / batch),
            "{method}"
        );
        let opened = EditFolder::open(&options.output).unwrap();
        let after = edited(&opened, None, None, &Device::flex()).unwrap();
        let share = known(&after, &facts);
        let least = if method == "alphaedit" || method == "pmet" {
            0.25
        } else {
            0.5
        };
        assert!(share >= least, "{method}: {share} of the facts are known");
        let changed = bits(&after);
        let touched = base
            .iter()
            .filter(|(name, value)| changed[*name] != **value);
        assert_eq!(touched.count(), opened.header.layers.len(), "{method}");
        for number in opened.steps().unwrap() {
            opened.undo(number).unwrap();
        }
        let undone = edited(&opened, None, None, &Device::flex()).unwrap();
        assert!(
            bits(&undone) == base,
            "{method}: undoing did not restore the base"
        );
    }
}

#[test]
fn a_stopped_sequence_goes_on_at_the_next_edit() {
    let folder = tempfile::tempdir().unwrap();
    let facts = statements(6);
    let set = json!({"layers": [1, 2], "lookup": "prompt_last"});
    let whole = options(folder.path(), "encore", &set);
    run(&whole, &facts, &Stop::default(), &mut |_| ()).unwrap();
    let parts = EditOptions {
        output: folder.path().join("parts"),
        ..whole.clone()
    };
    let stop = Stop::default();
    let stopped = run(&parts, &facts, &stop, &mut |_| stop.request(15));
    assert!(matches!(stopped, Err(Error::Interrupted { step: 1, .. })));
    // What a kill leaves of the file that was being written.
    let torn = parts.output.join("steps/.000002.safetensors.tmp-999999-0");
    std::fs::write(&torn, b"torn").unwrap();
    let report = run(&parts, &facts, &Stop::default(), &mut |_| ()).unwrap();
    assert_eq!((report.facts, report.skipped, report.batches), (4, 2, 3));
    assert!(!torn.exists());
    assert!(files(&whole.output) == files(&parts.output));

    let other = EditOptions {
        method: Named::new("memit"),
        ..parts
    };
    let error = run(&other, &facts, &Stop::default(), &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("edits of another method"),
        "{error}"
    );
}

#[test]
fn fine_tuning_that_looks_back_holds_earlier_facts_and_goes_on_as_if_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let statements = statements(4);
    let all = |method: &str, set: Value| -> (EditFolder, Transformer) {
        let mut options = options(folder.path(), method, &set);
        options.batch = 1;
        let whole = folder
            .path()
            .join(format!("{method}-{}", set.to_string().len()));
        options.output.clone_from(&whole);
        run(&options, &statements, &Stop::default(), &mut |_| {}).unwrap();
        let parts = folder.path().join("parts");
        options.output.clone_from(&parts);
        run(&options, &statements[..3], &Stop::default(), &mut |_| {}).unwrap();
        run(&options, &statements, &Stop::default(), &mut |_| {}).unwrap();
        let opened = |path: &Path| EditFolder::open(path).unwrap();
        let host = |path: &Path| edited(&opened(path), None, None, &Device::flex()).unwrap();
        assert!(bits(&host(&whole)) == bits(&host(&parts)), "{method}");
        std::fs::remove_dir_all(parts).unwrap();
        let host = host(&whole);
        (opened(&whole), host)
    };
    let rate = json!({"layers": [2], "learning_rate": 0.005});
    let (_, plain) = all("ft", rate.clone());
    // Every second fact, all facts so far are trained on again: in the second and fourth step there are two changes.
    let mut often = rate.clone();
    (often["retrain_every"], often["retrain_passes"]) = (2.into(), 20.into());
    let (steps, rehearsed) = all("ft_retrain", often);
    let counts: Vec<usize> = (1..=4)
        .map(|number| steps.entry(number).unwrap().figures.norms.len())
        .collect();
    assert_eq!(counts, [1, 2, 1, 2]);
    let (known_plain, known_after) = (known(&plain, &statements), known(&rehearsed, &statements));
    assert!(known_after >= known_plain, "{known_after} {known_plain}");
    assert_eq!(known_after, 1.0);
    // Held so fast that nothing moves that earlier facts depend on, the first fact's change is all there is of it.
    let mut stiff = rate;
    stiff["elastic"] = 1e4.into();
    let (steps, stiff) = all("ft_ewc", stiff);
    let norm = |folder: &EditFolder, number: u64| folder.entry(number).unwrap().figures.norms[0].1;
    let (free, _) = all(
        "ft",
        json!({"layers": [2], "learning_rate": 0.005, "loss_stop": 0.01}),
    );
    assert_eq!(norm(&steps, 1), norm(&free, 1));
    assert_ne!(norm(&steps, 2), norm(&free, 2));
    assert!(known(&stiff, &statements[..1]) >= known(&plain, &statements[..1]));
}

#[test]
fn batches_can_be_left_out_and_made_in_another_order() {
    let folder = tempfile::tempdir().unwrap();
    let facts = statements(4);
    let set = json!({"layers": [2], "lookup": "prompt_last"});
    let options = EditOptions {
        batch: 1,
        ..options(folder.path(), "r_rome", &set)
    };
    run(&options, &facts, &Stop::default(), &mut |_| ()).unwrap();
    let opened = EditFolder::open(&options.output).unwrap();
    let device = Device::flex();
    let some = edited(&opened, None, Some(&[1, 3]), &device).unwrap();
    opened.undo(2).unwrap();
    opened.undo(4).unwrap();
    let left = edited(&opened, None, None, &device).unwrap();
    assert!(bits(&left) == bits(&some));
    let error = opened.undo(2).unwrap_err().to_string();
    assert!(error.contains("there is no batch 2"), "{error}");
    // The other order rounds otherwise, and no more than that.
    let turned = edited(&opened, None, Some(&[3, 1]), &device).unwrap();
    let weight = &opened.entry(1).unwrap().figures.norms[0].0;
    let values = |host: &Transformer| host.weight(weight).unwrap().to_vec();
    let pairs = values(&left).into_iter().zip(values(&turned));
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
}

#[test]
fn a_refused_change_leaves_the_model_as_it_was() {
    let facts = statements(1);
    let method = find(TABLE, "ft")
        .unwrap()
        .configure(&Map::from_iter([("learning_rate".into(), json!(1.0))]))
        .unwrap();
    let tokenizer = Tokenizer::load(house()).unwrap();
    let mut editor = Editor::new(host(), tokenizer, method, None, 0).unwrap();
    editor.guard = Guard {
        action: Action::Refuse,
        norm: 0.01,
        ..Guard::default()
    };
    let error = editor.edit(&facts).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(
        error.to_string().contains("times as large as the weight"),
        "{error}"
    );
    assert!(bits(&editor.host) == bits(&host()));
}

#[test]
fn a_batch_that_hurts_ordinary_text_is_refused_and_those_before_it_stay() {
    let folder = tempfile::tempdir().unwrap();
    let texts = corpus(folder.path());
    let guarded = EditOptions {
        batch: 1,
        guard: Guard {
            norm: 1e9,
            perplexity: 1.05,
            ..Guard::default()
        },
        guard_texts: Some(texts.clone()),
        ..options(
            folder.path(),
            "ft",
            &json!({"layers": [2], "learning_rate": 0.02}),
        )
    };
    let error = run(&guarded, &statements(3), &Stop::default(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("perplexity"), "{error}");
    let opened = EditFolder::open(&guarded.output).unwrap();
    let after = edited(&opened, None, None, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(house()).unwrap();
    let texts = read_texts(&texts, 0).unwrap();
    let perplexity = |host: &Transformer| {
        let model = Scored {
            host,
            tokenizer: &tokenizer,
            hooks: &[],
        };
        perplexity_me(&model, &texts).unwrap()
    };
    let (before, now) = (perplexity(&host()), perplexity(&after));
    assert!(now <= 1.05 * before, "{before} to {now}");
}

#[test]
fn what_cannot_be_edited_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let facts = statements(2);
    let fails = |options: &EditOptions, facts: &[Statement]| {
        run(options, facts, &Stop::default(), &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let no_corpus = EditOptions {
        corpus: None,
        ..options(folder.path(), "memit", &json!({}))
    };
    assert!(fails(&no_corpus, &facts).contains("give --corpus FILE"));
    let layer = options(folder.path(), "memit", &json!({"layers": [9]}));
    assert!(fails(&layer, &facts).contains("names block 9; the model has blocks 0 to 3"));
    let many = options(folder.path(), "rome", &json!({}));
    assert!(fails(&many, &facts).contains("writes one fact at a time"));
    let mut broken = facts;
    broken[0].prompt = "no place for a subject".into();
    let ft = options(folder.path(), "ft", &json!({}));
    assert!(fails(&ft, &broken).contains("has no {}"));
    let unknown = options(folder.path(), "roem", &json!({}));
    assert!(fails(&unknown, &broken).contains("did you mean"));
}
