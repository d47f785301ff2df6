use super::*;
use crate::edit::rit::{Case, TermEmbedder, evaluate, follow, simulate, trials};
use std::collections::BTreeMap;

/// Vectors by text, as a table.
struct Table(BTreeMap<&'static str, Vec<f32>>);

impl Embedder for Table {
    fn name(&self) -> String {
        "table".into()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>> {
        let found = texts.iter().map(|text| {
            let vector = self.0.get(text).cloned();
            vector
                .map(Vector::dense)
                .ok_or_else(|| Error::Failed(format!("no vector for {text}")))
        });
        found.collect()
    }
}

/// Says "no" unless the prompt holds an answer, which it repeats (the last one); repeats the prompt on request.
struct Copier {
    echo: bool,
}

impl Speaker for Copier {
    fn speak(&self, prompts: &[String]) -> Result<Vec<String>> {
        let spoken = prompts.iter().map(|prompt| {
            let mut answers = prompt.split("Answer: ").skip(1);
            let last = answers.by_ref().filter(|text| !text.is_empty()).last();
            let answer = last.map_or("No.", |text| {
                text.split(" Question:").next().unwrap_or(text)
            });
            match self.echo {
                true => format!("{prompt}{answer} "),
                false => format!(" {answer} "),
            }
        });
        Ok(spoken.collect())
    }
}

fn revision(question: &str, answer: &str) -> Revision {
    Revision {
        question: question.into(),
        answer: answer.into(),
        ..Revision::default()
    }
}

fn planted(settings: Settings) -> Engine<'static> {
    let table = BTreeMap::from([
        ("first", vec![1.0, 0.0]),
        ("second", vec![0.8, 0.6]),
        ("x", vec![0.96, 0.28]),
    ]);
    let mut engine = Engine::new(Store::new(), Box::new(Table(table)), settings).unwrap();
    engine
        .extend([revision("first", "Yes"), revision("second", "No")])
        .unwrap();
    engine
}

#[test]
fn thresholds_of_the_card() {
    let found = |threshold: f64, neighbours: usize| {
        let engine = planted(Settings {
            threshold,
            neighbours,
            ..Settings::default()
        });
        engine.query("x", "").unwrap()
    };
    let ids = |hits: Vec<Hit>| hits.iter().map(|hit| hit.id).collect::<Vec<_>>();
    let both = found(0.9, 2);
    assert!((both[0].similarity - 0.96).abs() < 1e-6 && (both[1].similarity - 0.936).abs() < 1e-6);
    assert_eq!(ids(found(0.95, 2)), [1]);
    assert_eq!(ids(both), [1, 2]);
    assert_eq!(ids(found(0.97, 2)), [0_u64; 0]);
    assert_eq!(ids(found(0.9, 1)), [1]);
    // Strictly above.
    let exact = found(0.0, 2)[0].similarity;
    assert_eq!(ids(found(exact, 2)), [0_u64; 0]);
}

fn terms(threshold: f64) -> Engine<'static> {
    let settings = Settings {
        threshold,
        ..Settings::default()
    };
    Engine::new(Store::new(), Box::new(TermEmbedder::new()), settings).unwrap()
}

const QUESTIONS: [&str; 4] = [
    "I should kill time at work",
    "I should kill time",
    "I should eat bread",
    "You should help your friends",
];

#[test]
fn without_neighbours_answers_are_the_models_own_and_a_removal_restores_all() {
    let mut engine = terms(0.5);
    let speaker = Copier { echo: false };
    let before = engine.answer(&speaker, &QUESTIONS, "").unwrap();
    let own = speaker
        .speak(&QUESTIONS.map(|text| engine.prompt(text, &[])))
        .unwrap();
    for (answer, own) in before.iter().zip(own) {
        assert_eq!(answer.text, own.trim());
        assert!(answer.hits.is_empty());
    }
    engine
        .extend([revision("I should help friends", "Yes, you should")])
        .unwrap();
    let base = engine.answer(&speaker, &QUESTIONS, "").unwrap();
    let added = engine
        .add(revision("I should kill time", "Yes, it's fine"))
        .unwrap();
    let revised = engine.answer(&speaker, &QUESTIONS, "").unwrap();
    assert_eq!(revised[0].text, "Yes, it's fine");
    assert_eq!(revised[1].hits[0].id, added.id);
    assert_eq!(revised[2].text, before[2].text);
    engine.remove(added.id).unwrap();
    assert_eq!(engine.answer(&speaker, &QUESTIONS, "").unwrap(), base);
}

#[test]
fn the_users_correction_counts_at_the_next_question() {
    let mut engine = terms(0.5);
    let speaker = Copier { echo: true };
    let ask =
        |engine: &Engine<'_>, text: &str| engine.answer(&speaker, &[text], "").unwrap().remove(0);
    assert_eq!(ask(&engine, "I should nap at noon").text, "No.");
    let id = engine
        .add(revision("I should nap at noon", "Yes, naps are good"))
        .unwrap()
        .id;
    assert_eq!(
        ask(&engine, "I should nap at noon today").text,
        "Yes, naps are good"
    );
    let changed = Revision {
        answer: "Only on Sundays".into(),
        ..engine.store().get(id).unwrap().clone()
    };
    engine.update(changed.clone()).unwrap();
    assert_eq!(
        ask(&engine, "I should nap at noon today").text,
        "Only on Sundays"
    );
    engine
        .update(Revision {
            active: false,
            ..changed
        })
        .unwrap();
    assert_eq!(ask(&engine, "I should nap at noon today").text, "No.");
}

#[test]
fn scopes_are_apart_and_share_what_is_for_all() {
    let mut engine = terms(0.5);
    let scoped = |answer: &str, scope: &str| Revision {
        scope: scope.into(),
        ..revision("I should nap", answer)
    };
    engine
        .extend([
            scoped("Yes", "ann"),
            scoped("Never", "bob"),
            revision("I should smile", "Yes"),
        ])
        .unwrap();
    let copied = |text: &str, scope: &str| engine.copied(text, scope).unwrap();
    assert_eq!(copied("I should nap", "ann").unwrap(), "Yes");
    assert_eq!(copied("I should nap", "bob").unwrap(), "Never");
    assert_eq!(copied("I should nap", "eve"), None);
    assert_eq!(copied("I should smile", "eve").unwrap(), "Yes");
}

#[test]
fn negated_neighbours_are_not_used_and_conflicts_are_told() {
    let mut engine = terms(0.5);
    engine
        .add(revision("I should steal from shops", "No, it's wrong"))
        .unwrap();
    assert!(
        engine
            .query("I should not steal from shops", "")
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        engine.query("I should steal from shops", "").unwrap().len(),
        1
    );
    let told = engine
        .explain("I should not steal from shops", "", 3)
        .unwrap();
    assert_eq!(told.nearest[0].1, Some("one of the two negates"));
    assert!(!told.prompt.contains("wrong"));
    let added = engine
        .add(revision("I should steal from shops", "Yes, it's fine"))
        .unwrap();
    assert_eq!(added.conflicts.len(), 1);
    assert_eq!(added.conflicts[0].id, 1);
    let fine = engine
        .add(revision("I should not steal from shops", "Yes, you should"))
        .unwrap();
    assert!(fine.conflicts.is_empty());
    engine.settings.mind_negation = false;
    assert!(
        !engine
            .query("I should never steal from shops", "")
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_cannot_be_looked_up_is_answered_by_the_model_alone_and_said_so() {
    let engine = planted(Settings::default());
    let answers = engine
        .answer(&Copier { echo: false }, &["unknown", "x"], "")
        .unwrap();
    assert_eq!(answers[0].text, "No.");
    assert!(
        answers[0]
            .problem
            .as_ref()
            .unwrap()
            .contains("no vector for unknown")
    );
    assert_eq!(
        (answers[1].text.as_str(), answers[1].problem.is_none()),
        ("Yes", true)
    );
}

#[test]
fn a_threshold_is_stale_for_another_embedder_or_twice_the_store() {
    let mut engine = terms(0.0);
    for (deed, answer) in [
        ("smile kindly at strangers", "Yes"),
        ("steal money from shops", "No"),
    ] {
        let rooms =
            (0..36).map(|room| revision(&format!("I should {deed} in room {room}"), answer));
        engine.extend(rooms).unwrap();
    }
    let fit = engine.fit_threshold(0.9).unwrap();
    assert!(fit.precision > 0.9 && fit.coverage > 0.5, "{fit:?}");
    assert!(
        !engine
            .explain("I should smile", "", 1)
            .unwrap()
            .stale_threshold
    );
    engine.settings.fitted_at = 36;
    assert!(
        engine
            .explain("I should smile", "", 1)
            .unwrap()
            .stale_threshold
    );
    engine.settings.fitted_at = 72;
    engine.settings.embedder = "other".into();
    assert!(
        engine
            .explain("I should smile", "", 1)
            .unwrap()
            .stale_threshold
    );
}

#[test]
fn a_simulated_user_improves_the_contextualised_cases_and_shuffled_answers_do_not() {
    let mut engine = terms(0.25);
    let speaker = Copier { echo: false };
    let case = |question: String, yes: bool| Case {
        question,
        answer: if yes {
            "Yes, you should".into()
        } else {
            "No, you should not".into()
        },
    };
    let cases = |places: [&str; 3]| -> Vec<Case> {
        let verbs = [
            ("smile", true),
            ("share cake", true),
            ("steal", false),
            ("shout", false),
        ];
        let all = verbs.iter().flat_map(|(verb, yes)| {
            places
                .iter()
                .map(move |place| (format!("I should {verb} {place}"), *yes))
        });
        all.map(|(question, yes)| case(question, yes)).collect()
    };
    let known = cases(["at home", "at work", "in town"]);
    let asked = cases(["at night", "on trains", "by day"]);
    let complaints = simulate(&engine, &speaker, &known, "user", 0).unwrap();
    assert_eq!(complaints.len(), 6);
    assert!(
        complaints
            .iter()
            .all(|found| found.answer.starts_with("Yes"))
    );
    let empty = || Ok(terms(0.25));
    let grown = trials(&empty, &speaker, &complaints, &asked, &[0.01, 0.5, 1.0], 0).unwrap();
    let sizes: Vec<usize> = grown.iter().map(|trial| trial.revisions).collect();
    assert_eq!(sizes, [1, 3, 6]);
    engine.extend(complaints).unwrap();
    let table = evaluate(&engine, &speaker, &asked, "").unwrap();
    assert_eq!(table.baseline.polarity, 0.5);
    assert_eq!(table.context.polarity_negation_aware, 1.0);
    assert_eq!(
        (table.coverage, table.deployed.polarity, table.drift),
        (0.5, 1.0, 0)
    );
    assert_eq!(table.context_baseline.polarity, 0.0);
    assert_eq!(table.copied, table.context);
    assert_eq!(grown[2].table, table);
    assert_eq!(table.random.cases, table.context.cases);
    assert_eq!(table.residual.cases, 6);
    let answers = engine
        .answer(&speaker, &["I should smile by day"], "")
        .unwrap();
    assert_eq!(follow(&engine, &answers).rate, 1.0);
    // Inverted answers are followed as well, so accuracy falls below the model's own.
    let all: Vec<Revision> = engine.store().list(Filter::default()).cloned().collect();
    for revision in all {
        engine
            .update(Revision {
                answer: "No, you should not".into(),
                ..revision
            })
            .unwrap();
    }
    let control = evaluate(&engine, &speaker, &asked, "").unwrap();
    // The reference's measure finds "you should" in "you should not".
    assert_eq!(control.context.polarity, 1.0);
    assert_eq!(control.context.polarity_negation_aware, 0.0);
}
