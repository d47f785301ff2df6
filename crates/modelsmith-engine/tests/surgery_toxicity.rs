//! Model Surgery on real toxic text: a small language model of tweets, a probe, a judge that was trained
//! on other tweets. Nothing of the texts is ever printed.

mod common;

use burn::tensor::Device;
use modelsmith_core::files::{atomic_bytes, atomic_json};
use modelsmith_data::{DataConfig, Tokenizer};
use modelsmith_engine::Sampler;
use modelsmith_engine::edit::surgery::{
    Behaviour, Continuations, Judge, Length, Region, Surgery, SweepOptions, Texts, Windows, edited,
    examples, operate, reduction, sweep,
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A tweet without names, addresses and marks.
fn plain(tweet: &str) -> Option<String> {
    let words = tweet
        .split_whitespace()
        .map(|word| word.trim_matches(|c| "\"!:.,".contains(c)));
    let kept = |word: &&str| {
        let marked = word.starts_with(['@', '#']) || word.starts_with("http");
        !word.is_empty() && !marked && !word.contains('&') && *word != "RT" && word.is_ascii()
    };
    let words: Vec<String> = words.filter(kept).map(str::to_lowercase).collect();
    (words.len() >= 6).then(|| words.join(" "))
}

/// Tweets: class 0 is neither hateful nor offensive, class 1 is.
fn tweets(data: &Path) -> Texts {
    let read = Texts::read(&DataConfig {
        path: data.join("bias_toxicity_moral/hate_offensive_labeled_data.csv"),
        columns: [
            ("text".into(), "tweet".into()),
            ("label".into(), "class".into()),
        ]
        .into(),
        ..DataConfig::default()
    });
    let read = read.unwrap();
    let mut found = Texts {
        names: vec!["plain".into(), "toxic".into()],
        ..Texts::default()
    };
    for (text, class) in read.texts.iter().zip(&read.classes) {
        if let Some(text) = plain(text) {
            found.texts.push(text);
            found.classes.push(usize::from(read.names[*class] != "2"));
        }
    }
    found
}

/// The language model of stories, tuned on tweets.
fn model(data: &Path, folder: &Path, texts: &Texts) -> PathBuf {
    let rows: Vec<String> = texts
        .texts
        .iter()
        .map(|text| json!({ "text": text }).to_string())
        .collect();
    let path = folder.join("tweets.jsonl");
    atomic_bytes(&path, rows.join("\n").as_bytes()).unwrap();
    common::tuned_whole(
        &data.join("lm/stories260k-hf"),
        json!({"path": path, "batch_size": 32}),
        json!({"max_steps": 600, "learning_rate": 0.002}),
        folder,
        "tweets",
    )
}

/// Some first words of texts, as tokens.
fn prompts(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Vec<u32>> {
    let start = |text: &String| text.split(' ').take(4).collect::<Vec<_>>().join(" ");
    let starts = texts.iter().map(start);
    starts
        .map(|text| tokenizer.encode(&text, true).unwrap())
        .collect()
}

/// Writes what was found to `surgery_toxicity.json` in cargo's folder for files of tests.
#[test]
#[ignore = "tunes a model, some minutes"]
fn toxic_continuations_before_and_after() {
    let Some(data) = std::env::var_os("MODELSMITH_DATA").map(PathBuf::from) else {
        eprintln!("skipped: no data");
        return;
    };
    let (for_judge, rest) = tweets(&data).split(0.5, 1);
    let (for_model, unread) = rest.split(0.7, 2);
    let for_model = for_model.balanced(usize::MAX, 0);
    let unread = unread.balanced(usize::MAX, 0);
    let judge = Judge::train(&for_judge, 1, 0).unwrap();
    let judged = judge.balanced_accuracy(&unread, 1);
    assert!(judged > 0.85, "{judged}");
    let folder = tempfile::tempdir().unwrap();
    let model = model(&data, folder.path(), &for_model);
    let host = modelsmith_hosts::load(&model, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(&model).unwrap();
    let (for_choice, for_test) = unread.split(0.4, 3);
    let behaviour = |texts: &Texts| Continuations {
        prompts: prompts(&tokenizer, &texts.texts),
        max_tokens: 24,
        stop_at_newline: true,
        sampler: Sampler::default(),
        judge: &judge,
        threshold: 0.5,
        tokenizer: &tokenizer,
    };
    let (choosing, testing) = (behaviour(&for_choice), behaviour(&for_test));
    let windows = Windows::new(&tokenizer, &unread.texts, 256).unwrap();
    let examples = examples(&host, &tokenizer, &for_model, 100).unwrap();
    let before = testing.measure(&host).unwrap();
    let mut rows = Vec::new();
    for class in [0, 1] {
        for region in [Region::AntiAligned, Region::Random] {
            let mut options = Surgery {
                region,
                length: Length::MeanRow,
                ..Surgery::default()
            };
            options.probe.learning_rate = 1e-3;
            let operation = operate(&host, &examples, class, &options).unwrap();
            let tried = SweepOptions::default();
            let found = sweep(&host, &[], &operation, None, &choosing, &windows, &tried).unwrap();
            let patch = operation.patch.at(found.choice.point.alpha);
            let after = testing.measure(&edited(&host, &[patch]).unwrap()).unwrap();
            rows.push(json!({
                "class": class,
                "region": region,
                "rows": operation.patch.count(),
                "probe_accuracy": operation.probe.accuracy,
                "choice": found.choice,
                "before": before.behaviour,
                "after": after,
                "reduction": reduction(&before.items, &after.items, 0),
            }));
            assert!(
                operation.probe.accuracy > 0.75,
                "{}",
                operation.probe.accuracy
            );
        }
    }
    let found = json!({
        "judge_balanced_accuracy": judged,
        "prompts": before.items.len(),
        "perplexity": windows.perplexity(&host).unwrap(),
        "rows": rows,
    });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("surgery_toxicity.json");
    atomic_json(path, &found).unwrap();
}
