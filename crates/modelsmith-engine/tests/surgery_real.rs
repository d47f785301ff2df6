//! Model Surgery on real weights and real text: the scale-down of card 02.

use burn::tensor::Device;
use modelsmith_data::Tokenizer;
use modelsmith_engine::edit::surgery::{
    Length, Operation, Preference, Region, Surgery, SweepOptions, Texts, Windows, edited, examples,
    interference, mechanism, operate, sweep,
};
use modelsmith_hosts::Transformer;
use std::path::PathBuf;

const HAPPY: [&str; 8] = [
    "happy", "glad", "excited", "proud", "smiled", "laughed", "joy", "fun",
];
const SAD: [&str; 8] = [
    "sad", "cried", "scared", "upset", "angry", "hurt", "afraid", "lonely",
];

/// The folder of real data, where there is one.
fn data() -> Option<PathBuf> {
    std::env::var_os("MODELSMITH_DATA").map(PathBuf::from)
}

struct Stories {
    host: Transformer,
    tokenizer: Tokenizer,
    /// Sentences with words of one mood; class 0 is sad, 1 happy.
    moods: Texts,
    /// Whole stories of which no sentence is among them.
    unread: Vec<String>,
}

impl Stories {
    fn read() -> Option<Self> {
        let data = data()?;
        let folder = data.join("lm/stories260k-hf");
        let text = std::fs::read_to_string(data.join("lm/corpora/tinystories_sample.txt")).ok()?;
        let stories: Vec<&str> = text.split("<|endoftext|>").map(str::trim).collect();
        let (read, unread) = stories.split_at(400);
        let mut moods = Texts {
            names: vec!["sad".into(), "happy".into()],
            ..Texts::default()
        };
        for story in read {
            for sentence in story.split_inclusive(['.', '!', '?']) {
                if let Some(mood) = mood(sentence) {
                    moods.texts.push(sentence.trim().to_owned());
                    moods.classes.push(mood);
                }
            }
        }
        Some(Self {
            host: modelsmith_hosts::load(&folder, &Device::flex()).unwrap(),
            tokenizer: Tokenizer::load(&folder).unwrap(),
            moods: moods.balanced(usize::MAX, 0),
            unread: unread[..60]
                .iter()
                .map(|story| (*story).to_owned())
                .collect(),
        })
    }

    /// How much likelier happy words are than sad ones.
    fn preference(&self) -> Preference {
        let names = [
            "Lily", "Tom", "Ben", "Sara", "Max", "Anna", "The dog", "The bird",
        ];
        let parts = [
            "was very",
            "felt so",
            "was so",
            "felt very",
            "is very",
            "looked very",
        ];
        let prompts: Vec<String> = names
            .iter()
            .flat_map(|name| parts.iter().map(move |part| format!("{name} {part}")))
            .collect();
        Preference::new(
            &self.tokenizer,
            &prompts,
            &["happy", "excited", "proud", "glad"],
            &["sad", "scared", "upset", "angry"],
        )
        .unwrap()
    }

    fn operate(&self, class: usize, options: &Surgery) -> Operation {
        let examples = examples(&self.host, &self.tokenizer, &self.moods, 100).unwrap();
        operate(&self.host, &examples, class, options).unwrap()
    }
}

/// The mood that a sentence's words show, if it is one only.
fn mood(sentence: &str) -> Option<usize> {
    let lower = sentence.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphabetic()).collect();
    let has = |mood: &[&str]| mood.iter().any(|word| words.contains(word));
    match (has(&SAD), has(&HAPPY)) {
        (true, false) => Some(0),
        (false, true) => Some(1),
        _ => None,
    }
}

fn options() -> Surgery {
    let mut options = Surgery {
        rows: 40,
        length: Length::MeanRow,
        ..Surgery::default()
    };
    // The paper's rate is for states of 4096 numbers; with 64 the probe would stay at its start.
    options.probe.learning_rate = 1e-3;
    options
}

#[test]
fn a_mood_moves_both_ways_at_little_cost_and_against_the_papers_sign() {
    let Some(stories) = Stories::read() else {
        eprintln!("skipped: no data");
        return;
    };
    let (preference, options) = (stories.preference(), options());
    let operation = stories.operate(1, &options);
    assert!(
        operation.probe.accuracy >= 0.75,
        "{}",
        operation.probe.accuracy
    );
    assert!(operation.opposition[0] < -0.5, "{:?}", operation.opposition);
    let random = Surgery {
        region: Region::Random,
        ..options
    };
    let random = stories.operate(1, &random);
    let windows = Windows::new(&stories.tokenizer, &stories.unread, 256).unwrap();
    let tried = SweepOptions {
        alphas: vec![-1.0, -0.5, -0.25, 0.25, 0.5],
        ..SweepOptions::default()
    };
    let found = sweep(
        &stories.host,
        &[],
        &operation,
        Some(&random),
        &preference,
        &windows,
        &tried,
    )
    .unwrap();
    let mut scores: Vec<f64> = found.points.iter().map(|point| point.behaviour).collect();
    scores.insert(3, found.base.behaviour);
    assert!(
        scores.windows(2).all(|pair| pair[0] < pair[1]),
        "{scores:?}"
    );
    // Adding the direction of happy sentences makes happy words likelier, not rarer.
    assert!(scores[5] - scores[1] > 0.5, "{scores:?}");
    for point in &found.points[1..] {
        assert!(point.perplexity < found.choice.budget, "{point:?}");
    }
    assert_eq!(found.choice.point.alpha, -0.5);
    assert!(found.choice.relative_reduction.unwrap() > 0.2);
    assert!(
        found.choice.warnings.is_empty(),
        "{:?}",
        found.choice.warnings
    );
}

#[test]
fn the_account_of_an_operation_and_of_two() {
    let Some(stories) = Stories::read() else {
        eprintln!("skipped: no data");
        return;
    };
    let operation = stories.operate(1, &options());
    let after = edited(&stories.host, &[operation.patch.at(0.5)]).unwrap();
    let of = |class: usize| -> Vec<String> {
        let all = stories.moods.texts.iter().zip(&stories.moods.classes);
        let kept = all.filter(|(_, found)| **found == class);
        kept.map(|(text, _)| text.clone()).take(50).collect()
    };
    let seen = mechanism(
        [&stories.host, &after],
        &operation,
        &stories.tokenizer,
        &of(1),
        &of(0),
    )
    .unwrap();
    assert_eq!(seen.rows.values().sum::<usize>(), 40);
    assert!(seen.scores[0] > seen.scores[1] && seen.scores[1] > 0.0);
    // The paper's account: what goes into the changed rows rises, more so on texts of the behaviour.
    let rise = |inputs: [f64; 2]| inputs[1] - inputs[0];
    assert!(
        rise(seen.behaviour.inputs) > rise(seen.others.inputs) + 0.05,
        "{seen:?}"
    );
    assert!(seen.behaviour.flipped > 0.05);
    let none = mechanism(
        [&stories.host; 2],
        &operation,
        &stories.tokenizer,
        &of(1),
        &of(0),
    )
    .unwrap();
    assert_eq!(none.behaviour.flipped, 0.0);
    assert_eq!(rise(none.others.silu), 0.0);
    let sad = stories.operate(0, &options()).patch.at(0.25);
    let both = [operation.patch.at(0.25), sad];
    let preference = stories.preference();
    let found = interference(&stories.host, &both, &[&preference]).unwrap();
    assert_eq!(found.shared_rows[0][0], 40);
    assert_eq!(found.shared_rows[0][1], found.shared_rows[1][0]);
    assert!(found.alone[0][0] > found.base[0]);
    assert!(found.together[0].is_finite());
}
