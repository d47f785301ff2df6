//! Revision Transformers with a language model: a policy on texts is changed by feedback (card 43, b). The model
//! of stories is tuned to answer by what stands in front of a question; then it is frozen. Nothing of the texts is
//! printed.

mod common;

use common::tuned_whole;
use modelsmith_core::files::{atomic_bytes, atomic_json};
use modelsmith_core::random::Stream;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_data::{DataConfig, Tokenizer};
use modelsmith_engine::edit::rit::{
    Engine, HostSpeaker, Lexicon, Revision, Settings, Speaker, Store, TermEmbedder, Wording,
    polarity_right_negation_aware,
};
use modelsmith_engine::model::{Model, ModelOptions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const YES: &str = "Yes, it is allowed.";
const NO: &str = "No, it is not allowed.";

/// Kinds of texts whose policy is changed.
const CHANGED: [&str; 3] = ["counter_quote_nh", "counter_ref_nh", "ident_neutral_nh"];

#[derive(Clone, Debug, PartialEq)]
struct Row {
    text: String,
    allowed: bool,
    kind: String,
    template: String,
}

fn hatecheck(data: &Path) -> Vec<Row> {
    let path = data.join("bias_toxicity_moral/hatecheck.csv");
    let source = Source::open(path, &ReadOptions::from(&DataConfig::default())).unwrap();
    let rows = source.rows().map(|row| {
        let (_, columns) = row.unwrap();
        let text = |name: &str| match &columns[name] {
            Value::String(text) => text.trim().to_owned(),
            other => other.to_string(),
        };
        Row {
            text: text("test_case"),
            allowed: text("label_gold") != "hateful",
            kind: text("functionality"),
            template: text("templ_id"),
        }
    });
    rows.collect()
}

fn answer(allowed: bool) -> &'static str {
    if allowed { YES } else { NO }
}

/// A row of tokens of which the answer counts.
fn tokens(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> String {
    let mut ids = tokenizer.encode(prompt, true).unwrap();
    let mut labels = vec![-100_i64; ids.len()];
    let end = tokenizer.special().eos.unwrap();
    for id in tokenizer
        .encode(answer, false)
        .unwrap()
        .into_iter()
        .chain([end])
    {
        ids.push(id);
        labels.push(i64::from(id));
    }
    json!({"input_ids": ids, "labels": labels}).to_string()
}

/// Questions alone, and questions behind one of their kind whose answer, and theirs, may be turned around.
fn episodes(tokenizer: &Tokenizer, rows: &[Row]) -> Vec<String> {
    let wording = Wording::default();
    let mut stream = Stream::new(0, "episodes");
    let mut found = Vec::new();
    for row in rows {
        found.push(tokens(
            tokenizer,
            &wording.prompt(&row.text, &[]),
            answer(row.allowed),
        ));
        let like: Vec<&Row> = rows
            .iter()
            .filter(|other| other.kind == row.kind && other.text != row.text)
            .collect();
        for _ in 0..3 {
            let other = like[stream.below(like.len())];
            let turned = stream.below(2) == 1;
            let context = [(other.text.as_str(), answer(other.allowed != turned))];
            let prompt = wording.prompt(&row.text, &context);
            found.push(tokens(tokenizer, &prompt, answer(row.allowed != turned)));
        }
    }
    found
}

fn revision(row: &Row) -> Revision {
    Revision {
        question: row.text.clone(),
        answer: answer(!row.allowed).into(),
        ..Revision::default()
    }
}

fn write(path: &Path, lines: &[String]) {
    atomic_bytes(path, lines.join("\n").as_bytes()).unwrap();
}

fn open(folder: &Path) -> Model {
    Model::load(&ModelOptions {
        host: Some(folder.to_path_buf()),
        device: "flex".into(),
        ..ModelOptions::default()
    })
    .unwrap()
}

/// Share of texts, answered right by the old or by the changed policy.
fn share(answers: &[String], rows: &[Row], turned: bool) -> f64 {
    let lexicon = Lexicon::default();
    let right = answers.iter().zip(rows).filter(|(text, row)| {
        polarity_right_negation_aware(text, answer(row.allowed != turned), &lexicon)
    });
    right.count() as f64 / rows.len() as f64
}

fn changes(before: &[String], after: &[String]) -> f64 {
    let changed = before.iter().zip(after).filter(|(a, b)| a != b).count();
    changed as f64 / before.len() as f64
}

struct Parts {
    /// Texts of the changed kinds: for feedback, and to ask about.
    pool: Vec<Row>,
    asked: Vec<Row>,
    /// Texts of all other kinds.
    others: Vec<Row>,
}

fn parts(rows: Vec<Row>) -> Parts {
    let (mut changed, others): (Vec<Row>, Vec<Row>) = rows
        .into_iter()
        .partition(|row| CHANGED.contains(&row.kind.as_str()));
    Stream::new(0, "feedback").shuffle(&mut changed);
    let asked = changed.split_off(changed.len() / 2);
    Parts {
        pool: changed,
        asked,
        others: others.into_iter().step_by(4).collect(),
    }
}

/// Writes what was found to `rit_policy.json` in cargo's folder for files of tests.
#[test]
#[ignore = "tunes a model, some minutes"]
fn feedback_changes_the_policy_where_it_was_given_and_nowhere_else() {
    let Some(data) = std::env::var_os("MODELSMITH_DATA").map(PathBuf::from) else {
        eprintln!("skipped: no data");
        return;
    };
    let rows = hatecheck(&data);
    let odd = |row: &Row| {
        row.template
            .trim_end_matches(".0")
            .parse::<u32>()
            .unwrap_or(0)
            % 2
            == 1
    };
    let (fresh, known): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(odd);
    let stories = data.join("lm/stories260k-hf");
    let tokenizer = Tokenizer::load(&stories).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("episodes.jsonl");
    write(&path, &episodes(&tokenizer, &known));
    let tuned = tuned_whole(
        &stories,
        json!({"path": path, "batch_size": 24, "group_by_length": true}),
        json!({"max_steps": 900, "learning_rate": 0.002}),
        folder.path(),
        "answers",
    );
    let model = open(&tuned);
    let mut speaker = HostSpeaker::new(&model).unwrap();
    (speaker.special, speaker.max_tokens, speaker.min_tokens) = (true, 12, 1);
    let embedder = || TermEmbedder::fitted(known.iter().map(|row| row.text.as_str()));
    let labelled = known.iter().map(|row| Revision {
        answer: row.kind.clone(),
        ..revision(row)
    });
    let mut fitted = Engine::new(Store::new(), Box::new(embedder()), Settings::default()).unwrap();
    fitted.extend(labelled).unwrap();
    let fit = fitted.fit_threshold(0.9).unwrap();
    let Parts {
        pool,
        asked,
        others,
    } = parts(fresh);
    let ask = |engine: &Engine<'_>, rows: &[Row]| {
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        engine.answer(&speaker, &texts, "").unwrap()
    };
    let texts = |answers: &[modelsmith_engine::edit::rit::Answer]| -> Vec<String> {
        answers.iter().map(|answer| answer.text.clone()).collect()
    };
    let settings = Settings {
        threshold: fit.threshold,
        ..Settings::default()
    };
    let bare = Engine::new(Store::new(), Box::new(embedder()), settings.clone()).unwrap();
    let (bare_asked, bare_others) = (texts(&ask(&bare, &asked)), texts(&ask(&bare, &others)));
    let mut lines = Vec::new();
    for count in [0, 1, 5, 20, 100] {
        let mut engine = Engine::new(Store::new(), Box::new(embedder()), settings.clone()).unwrap();
        engine
            .extend(pool.iter().take(count).map(revision))
            .unwrap();
        let (found, beside) = (ask(&engine, &asked), ask(&engine, &others));
        let lone: Vec<usize> = (0..beside.len())
            .filter(|at| beside[*at].hits.is_empty())
            .collect();
        let drift = lone
            .iter()
            .filter(|at| beside[**at].text != bare_others[**at])
            .count();
        assert_eq!(drift, 0);
        lines.push(json!({
            "feedback": count.min(pool.len()),
            "coverage": found.iter().filter(|answer| !answer.hits.is_empty()).count() as f64 / asked.len() as f64,
            "followed": share(&texts(&found), &asked, true),
            "followed_with_neighbours": modelsmith_engine::edit::rit::follow(&engine, &found).rate,
            "others_changed": changes(&bare_others, &texts(&beside)),
            "others_without_neighbours": lone.len() as f64 / others.len() as f64,
        }));
    }
    let feedback: Vec<String> = pool
        .iter()
        .take(100)
        .map(|row| {
            tokens(
                &tokenizer,
                &Wording::default().prompt(&row.text, &[]),
                answer(!row.allowed),
            )
        })
        .collect();
    let path = folder.path().join("feedback.jsonl");
    write(&path, &feedback);
    let again = tuned_whole(
        &tuned,
        json!({"path": path, "batch_size": 10}),
        json!({"max_steps": 50, "learning_rate": 0.001}),
        folder.path(),
        "tuned-on-feedback",
    );
    let retrained = open(&again);
    let mut other = HostSpeaker::new(&retrained).unwrap();
    (other.special, other.max_tokens, other.min_tokens) = (true, 12, 1);
    let speak = |rows: &[Row]| -> Vec<String> {
        let prompts: Vec<String> = rows.iter().map(|row| bare.prompt(&row.text, &[])).collect();
        let spoken = other.speak(&prompts).unwrap();
        spoken.iter().map(|text| text.trim().to_owned()).collect()
    };
    let kinds: BTreeSet<&str> = others.iter().map(|row| row.kind.as_str()).collect();
    let found = json!({
        "texts": {"known": known.len(), "asked": asked.len(), "others": others.len(), "other_kinds": kinds.len()},
        "threshold": fit,
        "model_alone": {"asked": share(&bare_asked, &asked, false), "others": share(&bare_others, &others, false)},
        "feedback": lines,
        "fine_tuned": {
            "followed": share(&speak(&asked), &asked, true),
            "others_changed": changes(&bare_others, &speak(&others)),
            "others_right": share(&speak(&others), &others, false),
        },
    });
    atomic_json(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("rit_policy.json"),
        &found,
    )
    .unwrap();
}
