//! The measurement against PyTorch, NLTK and scikit-learn (`parity/edits`), and against editors whose
//! scores are known.

use super::*;
use crate::house::HouseConfig;
use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::capture::Noise;
use modelsmith_core::files::read_json;
use modelsmith_core::hooks::Hooks;
use modelsmith_core::random::Stream;
use modelsmith_data::edits::{EditRequest, Hop, HostChecks, Instance, OpenEdits, open};
use modelsmith_data::{Terms, Tfidf, Tokenizer};
use modelsmith_hosts::Transformer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture(key: &str) -> Value {
    let all: Value = read_json(root().join("parity/edits/measure.json")).unwrap();
    all[key].clone()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn near(found: f64, expected: &Value, bound: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= bound, "{found} {expected}");
}

/// The house model, which knows its facts.
struct House {
    host: Transformer,
    tokenizer: Tokenizer,
    edits: Vec<EditRequest>,
}

impl House {
    fn new(edits: usize) -> Self {
        let folder = root().join("assets/house");
        let config: HouseConfig = crate::house::config_of(&folder).unwrap();
        Self {
            host: modelsmith_hosts::load(&folder, &Device::flex()).unwrap(),
            tokenizer: Tokenizer::load(&folder).unwrap(),
            edits: crate::house::edits(&config, edits, 1).unwrap(),
        }
    }

    fn bare(&self) -> Scored<'_> {
        Scored {
            host: &self.host,
            tokenizer: &self.tokenizer,
            hooks: &[],
        }
    }
}

#[test]
fn words_are_those_of_nltk() {
    let sentences = fixture("words");
    assert_eq!(list(&sentences).len(), 50);
    for one in list(&sentences) {
        let expected: Vec<&str> = list(&one["words"]).iter().map(text).collect();
        assert_eq!(words(text(&one["text"])), expected, "{}", one["text"]);
    }
}

#[test]
fn cosines_are_those_of_scikit_learn() {
    let all = fixture("cosines");
    let weights = Tfidf::fit(&[Terms::Words], list(&all["texts"]).iter().map(text));
    for pair in list(&all["pairs"]) {
        let found = cosine(&weights, text(&pair["one"]), text(&pair["other"]));
        near(found, &pair["cosine"], 1e-6);
    }
}

#[test]
fn task_figures_are_those_of_scikit_learn() {
    for task in list(&fixture("tasks")) {
        let labels: Vec<usize> = list(&task["labels"])
            .iter()
            .map(|label| label.as_u64().unwrap() as usize)
            .collect();
        let predictions: Vec<Option<usize>> = list(&task["predictions"])
            .iter()
            .map(|class| usize::try_from(class.as_i64().unwrap()).ok())
            .collect();
        near(
            weighted_f1(&labels, &predictions),
            &task["weighted_f1"],
            1e-9,
        );
        near(matthews(&labels, &predictions), &task["matthews"], 1e-9);
    }
}

#[test]
fn losses_are_those_of_pytorch_however_they_are_batched() {
    let house = House::new(1);
    let pairs = fixture("losses");
    let ids = |value: &Value| -> Vec<u32> {
        let numbers = list(value).iter();
        numbers.map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let queries: Vec<Query> = list(&pairs)
        .iter()
        .map(|pair| {
            Query::new(
                &house.tokenizer,
                text(&pair["prompt"]),
                text(&pair["target"]),
            )
            .unwrap()
        })
        .collect();
    assert_eq!(queries.len(), 20);
    let found = forced(&house.bare(), &queries).unwrap();
    for ((pair, query), one) in list(&pairs).iter().zip(&queries).zip(&found) {
        assert_eq!(query.ids, ids(&pair["ids"]));
        assert_eq!(query.prefix as u64, pair["prefix"].as_u64().unwrap());
        assert_eq!(one.best, ids(&pair["best"]));
        for (log_prob, expected) in one.log_probs.iter().zip(list(&pair["log_probs"])) {
            near(f64::from(*log_prob), expected, 1e-4);
        }
        let outcome = Outcome::new(&one.log_probs, &one.best, query.target());
        near(outcome.loss, &pair["loss"], 1e-4);
        let alone = forced(&house.bare(), std::slice::from_ref(query)).unwrap();
        assert_eq!(alone[0].best, one.best);
        for (a, b) in alone[0].log_probs.iter().zip(&one.log_probs) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

/// Records of an imagined model: `losses` gives ℓ(new) and ℓ(true) of a prompt.
fn imagined(losses: impl Fn(Set, &mut Stream) -> (f64, f64)) -> Summary {
    let mut draw = Stream::new(1, "imagined");
    let mut outcome = |set| {
        let (new, truth) = losses(set, &mut draw);
        let of = |loss: f64| Outcome {
            loss,
            hits: vec![loss < 0.5],
        };
        Asked {
            set,
            kind: None,
            prompt: String::new(),
            new: Some(of(new)),
            truth: Some(of(truth)),
            answers: Vec::new(),
            agreement: None,
        }
    };
    let sets = [
        (Set::Rewrite, 1),
        (Set::Paraphrase, 2),
        (Set::Neighbour, 10),
    ];
    let mut record = |id: usize| {
        let asked = sets.iter().flat_map(|(set, count)| vec![*set; *count]);
        Record {
            id: id.to_string(),
            asked: asked.map(&mut outcome).collect(),
            ..Record::default()
        }
        .scored()
    };
    let records: Vec<Record> = (0..400).map(&mut record).collect();
    Summary::of(&records).unwrap()
}

/// ES, PS, NS, NM and S.
fn table(summary: &Summary) -> [f64; 5] {
    let mean = |name| summary.figure(Protocol::PairProb, name).unwrap().mean;
    let [es, ps, ns, nm] = ["ES", "PS", "NS", "NM"].map(mean);
    [es, ps, ns, nm, summary.harmonic.unwrap()]
}

/// Equal but for the last place of decimal numbers in JSON.
fn same(one: &Summary, other: &Summary) {
    let flat = |summary: &Summary| -> Vec<(Protocol, String, Figure)> {
        let all = summary.figures.iter();
        all.flat_map(|(protocol, figures)| {
            let own = figures.iter();
            own.map(|(name, figure)| (*protocol, name.clone(), *figure))
        })
        .collect()
    };
    let (one, other) = (flat(one), flat(other));
    assert_eq!(one.len(), other.len());
    for ((protocol, name, a), (p, n, b)) in one.iter().zip(&other) {
        assert_eq!((protocol, name, a.records), (p, n, b.records));
        for (a, b) in [
            (a.mean, b.mean),
            (a.deviation, b.deviation),
            (a.low, b.low),
            (a.high, b.high),
        ] {
            assert!((a - b).abs() < 1e-9, "{name}: {a} {b}");
        }
    }
}

/// A model that holds the true target for the likelier one four times of five.
fn unedited(draw: &mut Stream) -> (f64, f64) {
    let truth = 2.0 + draw.unit();
    let margin = if draw.unit() < 0.8 { 1.0 } else { -1.0 };
    (truth + margin, truth)
}

#[test]
fn editors_whose_scores_are_known_get_them() {
    let base = table(&imagined(|_, draw| unedited(draw)));
    assert!(
        (15.0..25.0).contains(&base[0]) && (76.0..84.0).contains(&base[2]),
        "{base:?}"
    );
    // The oracle is right on the prompts of the edits and changes nothing else.
    let oracle = table(&imagined(|set, draw| {
        let (new, truth) = unedited(draw);
        if set == Set::Rewrite {
            (0.0, 50.0)
        } else {
            (new, truth)
        }
    }));
    assert_eq!((oracle[0], oracle[1], oracle[2]), (100.0, base[1], base[2]));
    // The parrot says the new target whatever is asked.
    let parrot = table(&imagined(|_, _| (0.0, 50.0)));
    assert_eq!(
        (parrot[0], parrot[1], parrot[2], parrot[4]),
        (100.0, 100.0, 0.0, 0.0)
    );
    // A collapsed model draws its logits.
    let collapsed = table(&imagined(|_, draw| {
        (10.0 + draw.unit(), 10.0 + draw.unit())
    }));
    for (score, bound) in collapsed[..3].iter().zip([10.0, 6.0, 3.0]) {
        assert!((score - 50.0).abs() < bound, "{collapsed:?}");
    }
    assert!(
        collapsed[3].abs() < 0.01 && (collapsed[4] - 50.0).abs() < 6.0,
        "{collapsed:?}"
    );
}

#[test]
fn a_table_shows_the_spread_of_records_and_can_be_made_anew() {
    let summary = imagined(|set, draw| match set {
        Set::Rewrite if draw.unit() < 0.5 => (0.0, 1.0),
        _ => (1.0, 0.0),
    });
    let es = summary.figure(Protocol::PairProb, "ES").unwrap();
    let share = es.mean / 100.0;
    let population = 100.0 * (share * (1.0 - share)).sqrt();
    assert!((es.deviation - population).abs() < 1e-9 && es.records == 400);
    assert!(
        es.low < es.mean && es.mean < es.high && es.high - es.low < 12.0,
        "{es:?}"
    );
    let accuracy = summary.figure(Protocol::ForcedSequence, "EAcc").unwrap();
    assert_eq!(accuracy.mean, es.mean);
    let text = serde_json::to_string(&summary).unwrap();
    same(&serde_json::from_str(&text).unwrap(), &summary);
    assert!(
        text.contains("pair.prob") && text.contains("tf.token"),
        "{text}"
    );
}

#[test]
fn a_model_that_knows_its_facts_resists_the_new_ones() {
    let house = House::new(24);
    let before = Before::record(&house.bare(), &house.edits).unwrap();
    let options = MeasureOptions {
        before: Some(&before),
        answering: Some(Answering {
            max_tokens: 12,
            ..Answering::default()
        }),
        ..MeasureOptions::default()
    };
    let (records, summary) = score(&house.bare(), &house.edits, &options).unwrap();
    let [es, ps, ns, nm, _] = table(&summary);
    assert!(
        es <= 10.0 && ps <= 10.0 && ns >= 90.0 && nm > 50.0,
        "{es} {ps} {ns} {nm}"
    );
    let mean = |protocol, name| summary.figure(protocol, name).unwrap().mean;
    assert_eq!(mean(Protocol::ForcedToken, "Locality"), 100.0);
    assert_eq!(mean(Protocol::ForcedToken, "NAgreement"), 100.0);
    assert_eq!(
        mean(Protocol::ForcedToken, "Locality.Relation_Specificity"),
        100.0
    );
    assert!(mean(Protocol::ForcedSequence, "NAcc") >= 90.0);
    assert_eq!(mean(Protocol::GreedyText, "EFree"), 0.0);
    // What it writes freely is what it was taught.
    let taught = records
        .iter()
        .zip(&house.edits)
        .filter(|(record, edit)| matches_any(&record.freely[0].text, edit.target_true.as_deref()));
    assert!(taught.count() >= 22, "{:?}", records[0].freely);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    write_records(&path, &records).unwrap();
    let again = read_records(&path).unwrap();
    assert_eq!(again.len(), records.len());
    same(&Summary::of(&again).unwrap(), &summary);
    before.write(&folder.path().join("before.json")).unwrap();
    assert_eq!(
        Before::read(&folder.path().join("before.json")).unwrap(),
        before
    );
}

#[test]
fn what_is_attached_counts_and_locality_is_held_against_the_untouched_model() {
    let house = House::new(6);
    let before = Before::record(&house.bare(), &house.edits).unwrap();
    let options = MeasureOptions {
        before: Some(&before),
        ..MeasureOptions::default()
    };
    let values = Stream::new(7, "noise").normal(160, 0.0, 4.0);
    let noise = Noise {
        path: "model.layers.0.mlp.down_proj".into(),
        noise: Tensor::from_data(TensorData::new(values, [1, 1, 160]), &Device::flex()),
    };
    let noisy = Scored {
        hooks: &[&noise],
        ..house.bare()
    };
    let (_, summary) = score(&noisy, &house.edits, &options).unwrap();
    let locality = summary
        .figure(Protocol::ForcedToken, "Locality")
        .unwrap()
        .mean;
    assert!(locality < 60.0, "{locality}");
    let stranger = EditRequest {
        id: "stranger".into(),
        ..house.edits[0].clone()
    };
    let problem = score(&noisy, &[stranger], &options).unwrap_err();
    assert!(
        problem.to_string().contains("before the edits"),
        "{problem}"
    );
}

#[test]
fn sampled_texts_repeat_and_depend_on_their_request_only() {
    let house = House::new(3);
    let options = Sampling {
        length: 40,
        ..Sampling::default()
    };
    let texts =
        |edit: &EditRequest, options: &Sampling| sampled(&house.bare(), edit, options).unwrap();
    let first = texts(&house.edits[0], &options);
    assert_eq!(first.len(), house.edits[0].generation.len());
    assert_eq!(first, texts(&house.edits[0], &options));
    let other = Sampling { seed: 1, ..options };
    assert_ne!(first, texts(&house.edits[0], &other));
    for (text, prompt) in first.iter().zip(&house.edits[0].generation) {
        assert!(text.starts_with(prompt), "{text}");
        let tokens = prompt_ids(&house.tokenizer, text).unwrap().len();
        assert!((30..=41).contains(&tokens), "{tokens}: {text}");
    }
    // A prompt that is longer than a text is a text.
    let short = Sampling {
        length: 4,
        ..options
    };
    assert_eq!(texts(&house.edits[0], &short), house.edits[0].generation);
    let all = MeasureOptions {
        sampling: Some(options),
        ..MeasureOptions::default()
    };
    let (records, summary) = score(&house.bare(), &house.edits, &all).unwrap();
    assert_eq!(records[0].texts, first);
    let entropy = summary.figure(Protocol::SampledText, "GE").unwrap();
    assert!((200.0..700.0).contains(&entropy.mean), "{entropy:?}");
    assert!(summary.figure(Protocol::SampledText, "RS").is_none());
}

#[test]
fn perplexities_of_sentences_and_of_a_corpus() {
    let house = House::new(4);
    let model = house.bare();
    let known: Vec<String> = house
        .edits
        .iter()
        .map(|edit| format!("{}{}.", edit.filled(), edit.true_text().unwrap()))
        .collect();
    let each: Vec<f64> = known
        .iter()
        .map(|text| perplexity_me(&model, std::slice::from_ref(text)).unwrap())
        .collect();
    let all = perplexity_me(&model, &known).unwrap();
    assert!((all - mean(each).unwrap()).abs() < 1e-3 * all, "{all}");
    let corpus = perplexity_corpus(&model, &known, 64, true).unwrap();
    let tokens = |text: &String| house.tokenizer.encode(text, false).unwrap().len();
    assert_eq!(corpus.tokens, known.iter().map(tokens).sum::<usize>());
    let bare = perplexity_corpus(&model, &known, 64, false).unwrap();
    assert_eq!(bare.tokens, corpus.tokens - known.len());
    assert!(perplexity_corpus(&model, &known, 1, false).is_err());
    assert!(perplexity_me(&model, &["".into()]).is_err());
}

#[test]
fn long_and_empty_prompts_are_refused() {
    let house = House::new(1);
    let long = "word ".repeat(400);
    let query = Query::new(&house.tokenizer, &long, "Oslo").unwrap();
    let problem = forced(&house.bare(), &[query]).unwrap_err();
    assert!(problem.to_string().contains("positions"), "{problem}");
    assert!(Query::new(&house.tokenizer, "Ada was born in", " ").is_err());
    // What begins every text stands before an empty prompt.
    assert_eq!(Query::new(&house.tokenizer, "", "Oslo").unwrap().prefix, 1);
}

#[test]
fn a_space_of_the_tokenizer_itself_is_not_counted_twice() {
    let Some(data) = std::env::var_os("MODELSMITH_DATA") else {
        return;
    };
    let folder = PathBuf::from(data).join("lm/stories260k-hf");
    if !folder.exists() {
        return;
    }
    let tokenizer = Tokenizer::load(folder).unwrap();
    for (prompt, target) in [
        ("Once upon a", "time"),
        ("The little girl was named", "Lily"),
    ] {
        let query = Query::new(&tokenizer, prompt, target).unwrap();
        let joined = tokenizer
            .encode(&format!("{prompt} {target}"), true)
            .unwrap();
        assert_eq!(query.ids, joined);
        let decoded = tokenizer.decode(query.target(), true).unwrap();
        assert_eq!(decoded.trim(), target);
    }
}

#[test]
fn a_measurement_goes_on_where_it_stopped() {
    let house = House::new(5);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let options = MeasureOptions::default();
    let (whole, expected) = score(&house.bare(), &house.edits, &options).unwrap();
    let part = score_file(&house.bare(), &house.edits[..2], &options, &path).unwrap();
    assert_eq!(part.records, 2);
    let all = score_file(&house.bare(), &house.edits, &options, &path).unwrap();
    same(&all, &expected);
    assert_eq!(read_records(&path).unwrap().len(), 5);
    let none = changes(&whole, &whole).unwrap();
    assert!(
        none.values()
            .flatten()
            .all(|(_, change)| change.difference == 0.0)
    );
    std::fs::write(&path, "{}\nno record\n").unwrap();
    let problem = score_file(&house.bare(), &house.edits, &options, &path).unwrap_err();
    assert!(
        problem.to_string().contains("line 1: no record"),
        "{problem}"
    );
}

#[test]
fn hops_and_questions_are_scored_by_what_the_model_knows() {
    let house = House::new(2);
    let hop = |edit: &EditRequest, answer: Option<&str>| Hop {
        question: String::new(),
        cloze: edit.filled(),
        answers: answer.map(str::to_owned).into_iter().collect(),
        relation: None,
    };
    let [first, second] = &house.edits[..] else {
        panic!("two edits");
    };
    let truth = |edit: &EditRequest| hop(edit, edit.target_true.as_deref());
    let instance = |hops: Vec<Hop>| Instance {
        id: "one".into(),
        questions: vec!["Who?".into(), "What?".into()],
        new_answers: vec!["nobody at all".into()],
        new_hops: hops,
        ..Instance::default()
    };
    let all = [
        instance(vec![truth(first), truth(second)]),
        instance(vec![truth(first), hop(second, Some(&second.target_new))]),
    ];
    let few = Answering {
        max_tokens: 8,
        ..Answering::default()
    };
    let shown = Demonstrations::default();
    let found = score_instances(&house.bare(), &all, &shown, "", &few).unwrap();
    assert_eq!(found[0].hops, [true, true]);
    assert_eq!(found[1].hops, [true, false]);
    assert!(found[0].is_recalled() && !found[1].is_recalled());
    assert_eq!(found[0].answers.len(), 2);
    assert!(!found[0].is_answered());
}

#[test]
fn tasks_are_asked_with_as_many_examples_as_fit() {
    let house = House::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reviews.test");
    let lines: String = (0..40)
        .map(|number| {
            format!(
                "{} a film {}.\n",
                number % 2,
                "and more ".repeat(number % 7)
            )
        })
        .collect();
    std::fs::write(&path, &lines).unwrap();
    let options = TaskOptions {
        shots: 4,
        tests: 12,
    };
    let task = Task::read(TaskForm::Sst2, &path, &options).unwrap();
    let result = task.measure(&house.bare()).unwrap();
    assert_eq!(result.labels, [0, 1].repeat(6));
    assert!(result.likeliest.iter().all(Option::is_some));
    for score in [
        result.f1_written(),
        result.f1_likeliest(),
        result.matthews_written(),
    ] {
        assert!((-1.0..=1.0).contains(&score));
    }
    let change = result.change_since(&result).unwrap();
    assert_eq!(
        (change.difference, change.low, change.high),
        (0.0, 0.0, 0.0)
    );
    std::fs::write(&path, "1 a\n0 b\n").unwrap();
    let problem = Task::read(TaskForm::Sst2, &path, &options).unwrap_err();
    assert!(problem.to_string().contains("2 rows"), "{problem}");
}

/// Keeps what it is told of prompts, and how many tokens a pass reads.
#[derive(Default)]
struct Told(Mutex<Vec<Vec<usize>>>);

impl Hooks for Told {
    fn given(&self, lengths: &[usize]) {
        self.0.lock().unwrap().push(lengths.to_vec());
    }
}

#[test]
fn hooks_are_told_where_prompts_end() {
    let house = House::new(1);
    let told = Told::default();
    let model = Scored {
        hooks: &[&told],
        ..house.bare()
    };
    let query = |prompt, target| Query::new(&house.tokenizer, prompt, target).unwrap();
    let long = query("The city where Ada Marlow was born is", "Oslo");
    let short = query("Ada Marlow was born in", "Redfield Motors");
    forced(&model, &[long.clone(), short.clone()]).unwrap();
    // Rows stand in order of their lengths.
    let mut rows = [&long, &short];
    rows.sort_by_key(|query| query.ids.len());
    assert_eq!(
        *told.0.lock().unwrap(),
        [rows.map(|query| query.prefix).to_vec()]
    );
}

#[test]
fn facts_of_counterfact_are_measured_on_a_model_that_does_not_know_them() {
    let Some(data) = std::env::var_os("MODELSMITH_DATA").map(PathBuf::from) else {
        return;
    };
    let folder = data.join("lm/stories260k-hf");
    let file = data.join("knowledge_editing/knowledgespread/counterfact-edit.json");
    if !folder.exists() || !file.exists() {
        return;
    }
    let host = modelsmith_hosts::load(&folder, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let encode = |text: &str, special: bool| tokenizer.encode(text, special);
    let checks = HostChecks {
        encode: Some(&encode),
        positions: Some(512),
    };
    let some = OpenEdits {
        limit: 200,
        ..OpenEdits::default()
    };
    let edits = open(file, &some, checks).unwrap().requests;
    let model = Scored {
        host: &host,
        tokenizer: &tokenizer,
        hooks: &[],
    };
    let (records, summary) = score(&model, &edits, &MeasureOptions::default()).unwrap();
    assert_eq!(records.len(), 200);
    // The model tells stories to children: which of two countries is right it guesses.
    let [es, ps, ns, nm, _] = table(&summary);
    for score in [es, ps, ns] {
        assert!((35.0..65.0).contains(&score), "{es} {ps} {ns}");
    }
    assert!(nm.abs() < 1.0, "{nm}");
}
