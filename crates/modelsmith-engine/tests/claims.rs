//! Claims: the files of the repository, what is refused, and a whole claim on a tiny model.

mod common;

use common::World;
use common::claims::{options, run};
use modelsmith_core::files::read_json;
use modelsmith_engine::Stop;
use modelsmith_engine::claim::file::{Claim, Tier, read_all};
use modelsmith_engine::claim::report::ClaimReport;
use modelsmith_engine::claim::{Verdict, Which, document, reproduce};
use std::fs;
use std::path::{Path, PathBuf};

/// Claims in the folder of the repository.
const CLAIMS: usize = 14;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_claim_of_the_repository_is_read() {
    let claims = read_all(&repository().join("claims")).unwrap();
    assert_eq!(claims.len(), CLAIMS);
    for claim in &claims {
        let (number, _) = claim.name.split_once('-').expect("NN-name");
        assert_eq!(number.parse(), Ok(claim.card), "{}", claim.name);
        assert!(!claim.experiment.is_empty(), "{}", claim.name);
    }
}

#[test]
fn the_document_is_made_of_what_was_recorded() {
    let docs = repository().join("docs");
    let mut paths: Vec<PathBuf> = fs::read_dir(docs.join("claims"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert_eq!(paths.len(), CLAIMS);
    let reports: Vec<ClaimReport> = paths.iter().map(|path| read_json(path).unwrap()).collect();
    assert!(reports.iter().all(|report| report.tier == Tier::Full));
    assert_eq!(
        document(&reports),
        fs::read_to_string(docs.join("CLAIMS.md")).unwrap()
    );
}

/// A claim about the tiny world's questions, with `$WORLD` and `$TAIL` filled in.
const TINY: &str = r#"
card = 99
title = "Tiny"
statement = "LoRA lowers the loss as full fine-tuning does."
source = "this test"

[[paper]]
setting = "none"
arm = "lora"
figure = "1.0"

[[experiment]]
id = "tiny"
description = "questions of a tiny world"

[experiment.recipe]
host = { path = "$WORLD/model" }
data = { path = "$WORLD/model/questions.jsonl", limit = 24, batch_size = 4, held_out = 0.25 }
train = { max_steps = 6 }

[experiment.tiers.smoke]
seeds = 2
items = 8

[experiment.tiers.full]
seeds = 2
recipe = { train = { max_steps = 8 } }

[[experiment.arms]]
id = "lora"
method = { name = "lora", rank = 2 }
learning_rates = [1e-2, 2e-2]

[[experiment.arms]]
id = "slow"
method = { name = "lora", rank = 2 }
learning_rates = [1e-6, 2e-6]

[[experiment.tests]]
id = "held"
data = { path = "$WORLD/model/questions-held-out.jsonl" }

[[experiment.expect]]
arm = "lora"
baseline = "slow"
test = "held"
metric = "loss"
direction = "lower"
"#;

fn tiny(world: &World) -> String {
    TINY.replace("$WORLD", world.folder.path().to_str().unwrap())
}

#[test]
fn a_claim_is_run_judged_and_written_down() {
    let world = World::new();
    let options = options(&world, &tiny(&world), Tier::Full);
    let (report, said) = run(&options);
    // Two arms, two rates each to choose from, two seeds.
    assert_eq!(said.len(), 8, "{said:?}");
    assert!(said.iter().all(|line| line.contains("8 steps")), "{said:?}");
    assert_eq!(report.verdict, Verdict::Supported, "{report:#?}");
    let experiment = &report.experiments[0];
    assert_eq!(
        (experiment.seeds.as_slice(), experiment.steps),
        ([1, 2].as_slice(), 8)
    );
    let found = &experiment.comparisons[0];
    assert!(found.low <= found.difference && found.difference <= found.high && found.high < 0.0);
    assert_eq!((found.each.len(), found.items), (2, 15));
    let [lora, slow] = experiment.arms.as_slice() else {
        panic!("{experiment:?}")
    };
    assert_eq!(lora.trained_parameters, slow.trained_parameters);
    let chosen = lora.learning_rate.unwrap();
    assert!([1e-2, 2e-2].contains(&chosen) && lora.tried.len() == 2);
    let difference = lora.figures[0].mean - slow.figures[0].mean;
    assert!((difference - found.difference).abs() < 1e-9);
    assert_eq!(experiment.untrained.len(), 1);

    let written: ClaimReport = read_json(options.output.join("99-tiny/full/claim.json")).unwrap();
    assert_eq!(written.verdict, report.verdict);
    let text = fs::read_to_string(options.docs.join("CLAIMS.md")).unwrap();
    for part in [
        "99 Tiny",
        "**supported**",
        "lora: 1.0",
        "lora − slow on held (loss)",
        &report.date,
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(options.docs.join("claims/99-tiny.json").is_file());
}

#[test]
fn a_reproduction_goes_on_where_it_was_and_repeats_to_the_bit() {
    let world = World::new();
    let options = options(&world, &tiny(&world), Tier::Smoke);
    let (first, _) = run(&options);
    // An interrupted run has no summary, and its scores are not there.
    let interrupted = &first.experiments[0].arms[0].runs[1];
    for entry in fs::read_dir(interrupted).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "summary.json" || name.starts_with("scores-") {
            fs::remove_file(path).unwrap();
        }
    }
    let (second, said) = run(&options);
    let kept = said
        .iter()
        .filter(|line| line.contains("finished before"))
        .count();
    assert_eq!((said.len(), kept), (9, 7), "{said:?}");
    let compared = |report: &ClaimReport| report.experiments[0].comparisons.clone();
    assert_eq!(compared(&first), compared(&second));
    assert_eq!(first.experiments[0].comparisons[0].items, 8);
    assert!(!options.docs.exists(), "the smoke tier records nothing");
}

#[test]
fn absent_data_is_skipped_and_not_judged() {
    let world = World::new();
    let text = tiny(&world).replace("path = \"", "path = \"$MODELSMITH_DATA/nowhere/");
    let (report, said) = run(&options(&world, &text, Tier::Full));
    assert_eq!(report.verdict, Verdict::Skipped);
    assert!(said[0].contains("skipped: no data"), "{said:?}");
    assert!(report.experiments[0].skipped.is_some() && report.experiments[0].arms.is_empty());
    assert!(!world.folder.path().join("docs").exists());
}

#[test]
fn unfair_and_malformed_claims_are_refused() {
    let cases = [
        ("card = 99", "card = 0", "card: is 0"),
        (
            "title = \"Tiny\"",
            "titel = \"Tiny\"",
            "titel: unknown key; did you mean title",
        ),
        (
            "id = \"slow\"",
            "id = \"lora\"",
            "experiment[0].arms: id `lora` is there twice",
        ),
        (
            "baseline = \"slow\"",
            "baseline = \"slwo\"",
            "expect[0].baseline: unknown `slwo`; did you mean slow",
        ),
        (
            "baseline = \"slow\"",
            "baseline = \"lora\"",
            "expect[0].baseline: is the arm itself",
        ),
        (
            "test = \"held\"",
            "test = \"other\"",
            "expect[0].test: unknown `other`",
        ),
        (
            "[1e-6, 2e-6]",
            "[1e-6]",
            "arms[1].learning_rates: has 1 values, the first arm has 2",
        ),
        (
            "[1e-6, 2e-6]",
            "[1e-6, -1.0]",
            "arms[1].learning_rates: holds -1",
        ),
        (
            "seeds = 2\nitems",
            "seeds = 0\nitems",
            "tiers.smoke.seeds: is 0",
        ),
        (
            "direction = \"lower\"",
            "direction = \"as_good\"",
            "expect[0].margin: is 0",
        ),
        (
            "direction = \"lower\"",
            "direction = \"as_good\"\nmargin = 0.1",
            "expect[0].reason: is empty",
        ),
        (
            "direction = \"lower\"",
            "direction = \"lower\"\nmargin = 0.1",
            "expect[0].margin: counts for",
        ),
        (
            "max_steps = 6",
            "max_steps = 6, learning_rate = 1.0",
            "train.learning_rate: is set by arms",
        ),
        (
            "max_steps = 6",
            "max_stepz = 6",
            "train.max_stepz: unknown key; did you mean max_steps",
        ),
        (
            "{ name = \"lora\", rank = 2 }",
            "{ name = \"loar\" }",
            "unknown method `loar`; did you mean lora",
        ),
        (
            "data = { path = \"$WORLD/model/questions-held",
            "data = { paht = \"",
            "data.paht: unknown key",
        ),
    ];
    let good = TINY.to_owned();
    Claim::parse(&good, "99-tiny").unwrap();
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from}");
        let error = Claim::parse(&good.replacen(from, to, 1), "99-tiny").unwrap_err();
        assert_eq!(error.exit_code(), 2, "{to}");
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
}

#[test]
fn an_unknown_card_names_those_that_are_known() {
    let world = World::new();
    let mut options = options(&world, &tiny(&world), Tier::Smoke);
    options.which = Which::Cards(vec![7]);
    let error = reproduce(&options, &Stop::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("cards with one: 99"), "{error}");
}
