//! Claims whose arms change a model in their own way and are measured: each kind on a tiny world.

mod common;

use common::World;
use common::claims::{options, run};
use modelsmith_engine::claim::Verdict;
use modelsmith_engine::claim::file::{Claim, Tier};
use std::fs;

/// A claim about edits of the tiny world's facts, with `$WORLD` filled in.
const EDITS: &str = r#"
card = 99
title = "Edits"
statement = "A codebook leaves other facts where they are."
source = "this test"

[[experiment]]
id = "edits"
description = "facts of a tiny world"
edits = { folder = "$WORLD/model", count = 3, batch = 2, corpus = 20, others = 4 }

[experiment.tiers.smoke]
seeds = 2

[experiment.tiers.full]
seeds = 2

[[experiment.arms]]
id = "memit"
method = { name = "memit", lookup = "prompt_last", search = { steps = 3 } }

[[experiment.arms]]
id = "grace"
method = { name = "grace", steps = 3 }

[[experiment.tests]]
id = "recall"

[[experiment.tests]]
id = "others"

[[experiment.expect]]
arm = "grace"
baseline = "memit"
test = "recall"
direction = "reported"

[[experiment.expect]]
arm = "grace"
baseline = "memit"
test = "others"
metric = "loss"
direction = "lower"
"#;

#[test]
fn editors_and_a_codebook_are_compared_on_the_same_facts() {
    let world = World::new();
    let text = EDITS.replace("$WORLD", world.folder.path().to_str().unwrap());
    let options = options(&world, &text, Tier::Smoke);
    let (report, said) = run(&options);
    assert_eq!(said.len(), 4, "{said:?}");
    let experiment = &report.experiments[0];
    let [memit, grace] = experiment.arms.as_slice() else {
        panic!("{experiment:?}")
    };
    assert_eq!((experiment.steps, memit.learning_rate), (3, None));
    assert!(memit.trained_parameters > grace.trained_parameters);
    let [recall, others] = experiment.comparisons.as_slice() else {
        panic!("{experiment:?}")
    };
    assert_eq!((recall.items, others.items), (3, 4));
    // What is outside all radii is the host's own answer, to the bit.
    let alone = experiment.untrained[1].mean;
    assert_eq!(grace.figures[1].each[0].to_bits(), alone.to_bits());
    assert_ne!(memit.figures[1].each[0], alone);
    let (again, said) = run(&options);
    assert!(said.iter().all(|line| line.contains("finished before")));
    assert_eq!(again.experiments[0].comparisons, experiment.comparisons);
    // Fewer facts are other edits, whatever stands beside them.
    let few = text.replacen("seeds = 2", "seeds = 2\nitems = 2", 1);
    fs::write(options.claims.join("99-tiny.toml"), few).unwrap();
    let (fewer, said) = run(&options);
    assert!(said.iter().all(|line| line.contains("2 items")), "{said:?}");
    assert_eq!(fewer.experiments[0].comparisons[0].items, 2);
    fs::write(options.claims.join("99-tiny.toml"), &text).unwrap();
    // Arms that were left half done are made anew and come to the same.
    fs::remove_file(memit.runs[0].join("scores.json")).unwrap();
    let (again, _) = run(&options);
    assert_eq!(again.experiments[0].comparisons, experiment.comparisons);
}

#[test]
fn gates_are_compared_on_the_same_facts() {
    let world = World::new();
    let text = placed(&world, EDITS)
        .replace(
            "{ name = \"memit\", lookup = \"prompt_last\", search = { steps = 3 } }",
            "{ name = \"memory\", values = 4, steps = 3 }",
        )
        .replace(
            "{ name = \"grace\", steps = 3 }",
            "{ name = \"defer\", steps = 3 }",
        );
    assert!(text.contains("memory") && text.contains("defer"), "{text}");
    let (report, said) = run(&options(&world, &text, Tier::Smoke));
    assert_eq!(said.len(), 4, "{said:?}");
    let [memory, defer] = report.experiments[0].arms.as_slice() else {
        panic!("{report:?}")
    };
    // In a model of width 16 with MLPs of 24: mixture of four, and map with gate.
    assert_eq!(memory.trained_parameters, 4 * 24 + 4 + 4 * 16);
    assert_eq!(defer.trained_parameters, 16 * 24 + 16 + 24 + 1);
    let alone = report.experiments[0].untrained[1].mean;
    assert_ne!(memory.figures[1].each[0], alone);
}

#[test]
fn an_editor_is_trained_on_other_facts_first() {
    let world = World::new();
    let text = placed(&world, EDITS).replace(
        "{ name = \"grace\", steps = 3 }",
        "{ name = \"mend\", blocks = 1, rank = 2, steps = 3 }",
    );
    assert!(text.contains("mend"), "{text}");
    let (report, said) = run(&options(&world, &text, Tier::Smoke));
    assert_eq!(said.len(), 4, "{said:?}");
    let mend = &report.experiments[0].arms[1];
    // Three matrices of a block of width 16 with an MLP of 24.
    assert_eq!(mend.trained_parameters, 3 * 16 * 24);
    let alone = report.experiments[0].untrained[1].mean;
    assert_ne!(mend.figures[1].each[0], alone);
}

#[test]
fn experiments_of_edits_are_checked() {
    for (from, to, expected) in [
        ("count = 3", "count = 0", "edits.count: is 0"),
        ("seeds = 2", "seeds = 0", "tiers.smoke.seeds: is 0"),
        ("count = 3", "cuont = 3", "cuont: unknown key"),
        (
            "\"memit\", lookup",
            "\"memti\", lookup",
            "unknown method `memti`; did you mean memit",
        ),
        ("\"grace\", steps", "\"grace\", stesp", "no such option"),
        (
            "\"grace\", steps = 3",
            "\"defer\", steps = 0",
            "method.steps: is 0",
        ),
        (
            "\"grace\", steps = 3",
            "\"mend\", rank = 0",
            "method.rank: is 0",
        ),
        (
            "\"grace\", steps",
            "\"memory\", vlaues",
            "method.vlaues: unknown key; did you mean values",
        ),
        (
            "id = \"recall\"",
            "id = \"recal\"",
            "tests.recal: is no score of edits; did you mean recall",
        ),
        (
            "metric = \"loss\"",
            "metric = \"exact\"",
            "metric: is exact; others has loss",
        ),
        (
            "id = \"memit\"\n",
            "id = \"memit\"\nlearning_rates = [1.0]\n",
            "arms[0].learning_rates: is for arms that train",
        ),
        (
            "id = \"others\"\n",
            "id = \"others\"\ndata = { limit = 1 }\n",
            "tests.others.data: is for arms that train",
        ),
        (
            "seeds = 2\n",
            "seeds = 2\nrecipe = { seed = 1 }\n",
            "tiers.smoke.recipe: is for arms that train",
        ),
        (
            "edits = {",
            "recipe = { seed = 1 }\nedits = {",
            "edits: stands beside recipe",
        ),
    ] {
        assert!(EDITS.contains(from), "{from}");
        let error = Claim::parse(&EDITS.replacen(from, to, 1), "99-edits").unwrap_err();
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
}

/// A claim of a kind, with two arms and the tests given.
fn claim(kind: &str, arms: [&str; 2], tests: &[(&str, &str)]) -> String {
    let mut text = format!(
        r#"
card = 99
title = "Kind"
statement = "One arm is not the other."
source = "this test"

[[experiment]]
id = "kind"
description = "a tiny world"
{kind}

[experiment.tiers.smoke]
seeds = 2
items = 4

[experiment.tiers.full]
seeds = 2
"#
    );
    for (number, method) in arms.iter().enumerate() {
        text += &format!("\n[[experiment.arms]]\nid = \"arm{number}\"\nmethod = {method}\n");
    }
    for (test, metric) in tests {
        text += &format!("\n[[experiment.tests]]\nid = \"{test}\"\n");
        text += &format!(
            "\n[[experiment.expect]]\narm = \"arm0\"\nbaseline = \"arm1\"\ntest = \"{test}\"\n\
             metric = \"{metric}\"\ndirection = \"reported\"\n"
        );
    }
    text
}

fn placed(world: &World, text: &str) -> String {
    text.replace("$WORLD", world.folder.path().to_str().unwrap())
}

const COLLAPSE: &str =
    r#"collapse = { host = "$WORLD/model", texts = "$WORLD/texts.txt", corpus = 4, held_out = 2 }"#;

#[test]
fn words_are_edited_one_at_a_time() {
    let world = World::new();
    let text: Vec<String> = (0..6)
        .map(|number| format!("It was born in year {number} and lives there. The end."))
        .collect();
    let path = world.folder.path().join("texts.txt");
    fs::write(path, text.join("\n<|endoftext|>\n")).unwrap();
    let tests = [
        ("whole", "exact"),
        ("recall", "exact"),
        ("recall_prefixed", "exact"),
        ("neighbours", "exact"),
        ("others", "loss"),
        ("norm", "amount"),
    ];
    let arms = [
        r#"{ name = "rome", layers = [1], search = { steps = 3 } }"#,
        r#"{ name = "ft", layers = [1], steps = 3 }"#,
    ];
    let text = placed(&world, &claim(COLLAPSE, arms, &tests));
    let options = options(&world, &text, Tier::Smoke);
    let (report, said) = run(&options);
    assert_eq!(said.len(), 4, "{said:?}");
    let experiment = &report.experiments[0];
    let norm = &experiment.comparisons[5];
    assert_eq!(norm.items as u64, experiment.steps);
    assert!(norm.items >= 2 && norm.items <= 4, "{}", norm.items);
    for arm in &experiment.arms {
        let norm = arm.figures.iter().find(|one| one.test == "norm").unwrap();
        assert!(norm.mean > 0.0, "{norm:?}");
        assert!(arm.trained_parameters > 0);
    }
    let alone = |test: &str| {
        let found = experiment.untrained.iter().find(|one| one.test == test);
        found.unwrap().mean
    };
    assert_eq!(
        (alone("norm"), alone("whole"), alone("neighbours")),
        (0.0, 1.0, 1.0)
    );
    let (again, said) = run(&options);
    assert!(said.iter().all(|line| line.contains("finished before")));
    assert_eq!(again.experiments[0].comparisons, experiment.comparisons);
}

const TOXICITY: &str = r#"toxicity = { host = "host", texts = "$WORLD/tweets.csv", tokens = 6 }

[[experiment.first]]
id = "host"
recipe = { host = { path = "$WORLD/model" }, data = { path = "$CLAIM/texts.jsonl", batch_size = 4, held_out = 0.2 }, method = { name = "full" }, train = { max_steps = 2 } }
"#;

/// Eighty texts of two kinds, told apart by their words.
fn tweets(world: &World) {
    let mut rows = vec!["tweet,class".to_owned()];
    for number in 0..40 {
        rows.push(format!("you are an awful and nasty fellow {number},1"));
        rows.push(format!("what a lovely and sunny morning {number},2"));
    }
    fs::write(world.folder.path().join("tweets.csv"), rows.join("\n")).unwrap();
}

#[test]
fn continuations_are_judged_under_every_arm() {
    let world = World::new();
    tweets(&world);
    let tests = [("toxic", "exact"), ("empty", "exact"), ("others", "loss")];
    let probe = "length = \"mean_row\", min_accuracy = 0.01, probe = { epochs = 2 }";
    for arms in [
        [
            format!("{{ name = \"surgery\", {probe} }}"),
            "{ name = \"none\" }".to_owned(),
        ],
        [
            format!("{{ name = \"steering\", class = \"plain\", {probe} }}"),
            "{ name = \"tuned\", by = { name = \"lora\", rank = 2 }, steps = 2, batch_size = 4 }"
                .to_owned(),
        ],
    ] {
        let arms = [arms[0].as_str(), arms[1].as_str()];
        let text = placed(&world, &claim(TOXICITY, arms, &tests));
        let options = options(&world, &text, Tier::Smoke);
        let (report, _) = run(&options);
        let experiment = &report.experiments[0];
        assert_eq!(experiment.steps, 4);
        let none = &experiment.arms[1];
        let alone = &experiment.untrained;
        if arms[1].contains("none") {
            assert_eq!(
                none.figures[2].each[0].to_bits(),
                alone[2].each[0].to_bits()
            );
            assert_eq!(none.trained_parameters, 0);
        } else {
            assert_ne!(none.figures[2].each[0], alone[2].each[0]);
            assert!(none.trained_parameters > 0);
        }
        let strengths = experiment.arms[0].runs[0].join("strengths.json");
        let strengths = fs::read_to_string(strengths).unwrap();
        assert!(strengths.contains("\"budget\""), "{strengths}");
    }
}

#[test]
fn pruning_and_preferences_choose_their_strength_as_directions_do() {
    let world = World::new();
    tweets(&world);
    let arms = [
        "{ name = \"pruned\", shares = [0.1, 0.5] }",
        "{ name = \"dpo\", steps = [1, 2, 4], prompts = 16, dpo = { samples = 8, batch_size = 4 } }",
    ];
    let text = placed(
        &world,
        &claim(TOXICITY, arms, &[("toxic", "exact"), ("others", "loss")]),
    );
    let (report, _) = run(&options(&world, &text, Tier::Smoke));
    let experiment = &report.experiments[0];
    for (arm, count) in experiment.arms.iter().zip([2, 3]) {
        let strengths = fs::read_to_string(arm.runs[0].join("strengths.json")).unwrap();
        let strengths: serde_json::Value = serde_json::from_str(&strengths).unwrap();
        let points = strengths["points"].as_array().unwrap();
        assert_eq!(points.len(), count);
        // Every strength is another model.
        let all = points.iter().map(|point| point["perplexity"].to_string());
        let base = strengths["choice"]["budget"].as_f64().unwrap() / 1.03;
        assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), count);
        assert!(
            points
                .iter()
                .all(|point| point["perplexity"].as_f64() != Some(base))
        );
    }
}

const POLICY: &str = r#"policy = { host = "host", texts = "$WORLD/hatecheck.csv", changed = ["quote"], feedback = 4, precision = 0.5 }

[[experiment.first]]
id = "host"
recipe = { host = { path = "$WORLD/model" }, data = { path = "$CLAIM/episodes.jsonl", batch_size = 4, held_out = 0.2, max_length = 64 }, method = { name = "full" }, train = { max_steps = 2 } }
"#;

#[test]
fn feedback_is_followed_or_not_and_others_stay() {
    let world = World::new();
    let mut rows = vec!["test_case,label_gold,functionality,templ_id".to_owned()];
    for number in 0..24 {
        rows.push(format!("bad {number},non-hateful,quote,{number}.0"));
        rows.push(format!("sun {number},hateful,plain,{number}.0"));
    }
    fs::write(world.folder.path().join("hatecheck.csv"), rows.join("\n")).unwrap();
    let tests = ["followed", "kept", "kept_apart", "right"].map(|test| (test, "exact"));
    let figure = |arm: &modelsmith_engine::claim::report::ArmReport, test: &str| {
        arm.figures
            .iter()
            .find(|one| one.test == test)
            .unwrap()
            .mean
    };
    for arms in [
        [r#"{ name = "copy" }"#, r#"{ name = "none" }"#],
        [
            r#"{ name = "rit", random = true }"#,
            r#"{ name = "rit", form = "plain" }"#,
        ],
        [
            r#"{ name = "rit", neighbours = 1, order = "nearest_last" }"#,
            r#"{ name = "tuned", steps = 2, batch_size = 4 }"#,
        ],
    ] {
        let text = placed(&world, &claim(POLICY, arms, &tests));
        let (report, _) = run(&options(&world, &text, Tier::Smoke));
        let experiment = &report.experiments[0];
        assert_eq!(experiment.steps, 4);
        assert_eq!(figure(&experiment.arms[0], "kept_apart"), 1.0);
        if arms[1].contains("none") {
            assert_eq!(figure(&experiment.arms[1], "kept"), 1.0);
            // A model of two steps says nothing of the kind; a copied answer is the new policy's.
            assert_eq!(figure(&experiment.arms[1], "followed"), 0.0);
            assert!(figure(&experiment.arms[0], "followed") > 0.0);
        }
    }
}

#[test]
fn every_kind_refuses_what_it_cannot_do() {
    let arms = [r#"{ name = "rome" }"#, r#"{ name = "ft" }"#];
    let collapse = claim(COLLAPSE, arms, &[("norm", "amount")]);
    let arms = [r#"{ name = "surgery" }"#, r#"{ name = "none" }"#];
    let toxicity = claim(TOXICITY, arms, &[("toxic", "exact")]);
    let arms = [r#"{ name = "rit" }"#, r#"{ name = "tuned" }"#];
    let policy = claim(POLICY, arms, &[("kept", "exact")]);
    for good in [&collapse, &toxicity, &policy] {
        Claim::parse(good, "99-kind").unwrap();
    }
    let edits = "edits = { count = 3 }\ncollapse = {";
    for (good, from, to, expected) in [
        (
            &collapse,
            "held_out = 2",
            "held_out = 0",
            "collapse.held_out: is 0",
        ),
        (
            &collapse,
            "corpus = 4",
            "corpus = 4, prompt = \"was\"",
            "collapse.prompt: is \"was\"; needs {} once",
        ),
        (
            &collapse,
            "\"amount\"",
            "\"loss\"",
            "metric: is loss; norm has amount",
        ),
        (
            &collapse,
            "collapse = {",
            edits,
            "collapse: stands beside edits; an experiment is about one",
        ),
        (
            &collapse,
            "\"rome\"",
            "\"roem\"",
            "unknown method `roem`; did you mean",
        ),
        (
            &toxicity,
            "tokens = 6",
            "tokens = 0",
            "toxicity.tokens: is 0",
        ),
        (
            &toxicity,
            "tokens = 6",
            "rise = -1.0",
            "toxicity.rise: is -1",
        ),
        (
            &toxicity,
            "\"surgery\"",
            "\"surgrey\"",
            "unknown `surgrey`; did you mean surgery",
        ),
        (
            &toxicity,
            "\"surgery\"",
            "\"surgery\", class = 3",
            "method.class: is 3",
        ),
        (
            &toxicity,
            "\"none\"",
            "\"tuned\", by = { name = \"lroa\" }",
            "unknown method `lroa`; did you mean lora",
        ),
        (
            &toxicity,
            "\"none\"",
            "\"tuned\", steps = 0",
            "steps, batch_size or learning_rate of 0",
        ),
        (
            &toxicity,
            "\"none\"",
            "\"pruned\", shares = [0.2, 0.1]",
            "method.shares: is [0.2,0.1]; expected shares between 0 and 1 in order",
        ),
        (
            &toxicity,
            "\"none\"",
            "\"dpo\", dpo = { beta = 0.0 }",
            "method.beta: is 0; must be above 0",
        ),
        (&policy, "[\"quote\"]", "[]", "policy.changed: is 0"),
        (
            &policy,
            "precision = 0.5",
            "precision = 1.5",
            "policy.precision: is 1.5",
        ),
        (
            &policy,
            "\"rit\"",
            "\"rit\", neighbours = 0",
            "method.neighbours: is 0",
        ),
        (
            &policy,
            "\"rit\"",
            "\"rit\", neighbors = 2",
            "method.neighbors: unknown key; did you mean neighbours",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let error = Claim::parse(&good.replacen(from, to, 1), "99-kind").unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
}

/// A claim about pictures of three colours.
const DELTAS: &str = r#"
card = 99
title = "Deltas"
statement = "Several magnitudes are nearer to the difference than one."
source = "this test"

[[experiment]]
id = "edits"
description = "pictures of three colours"

[experiment.deltas]
train = "$IMAGES/colours.parquet"
test = "$IMAGES/colours.parquet"
size = [8, 8]
before = { images = 40, fit = { epochs = 4, batch_size = 8, learning_rate = 3e-3 } }
after = { images = 30, fit = { epochs = 2, batch_size = 8, learning_rate = 1e-3 } }
development = 10
smoke = 1.0
#EDITS

[experiment.tiers.smoke]
seeds = 2
items = 24

[experiment.tiers.full]
seeds = 2

[[experiment.arms]]
id = "post"
method = { name = "none" }

[[experiment.arms]]
id = "bits"
method = { name = "bitdelta", blocks = 16 }

[[experiment.arms]]
id = "bit"
method = { name = "bitdelta" }

[[experiment.arms]]
id = "products"
method = { name = "dare", p = 0.5, k = 0.5, mask = "gradient" }

[[experiment.arms]]
id = "chosen"
method = { name = "chosen" }

[[experiment.arms]]
id = "back"
method = { name = "chain", operators = [{ name = "expo", alpha = -0.5 }, { name = "expo", alpha = -1.0 }] }

[[experiment.tests]]
id = "accuracy"

[[experiment.tests]]
id = "loss"

[[experiment.tests]]
id = "change"

[[experiment.tests]]
id = "bits"

[[experiment.expect]]
arm = "bits"
baseline = "bit"
test = "change"
metric = "amount"
direction = "lower"

[[experiment.expect]]
arm = "back"
baseline = "post"
test = "loss"
metric = "loss"
direction = "reported"

[[experiment.expect]]
arm = "bit"
baseline = "post"
test = "bits"
metric = "amount"
direction = "lower"

[[experiment.expect]]
arm = "chosen"
baseline = "post"
test = "accuracy"
direction = "reported"
"#;

fn deltas(text: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/images");
    text.replace("$IMAGES", folder)
}

#[test]
fn edits_of_a_difference_are_compared_image_by_image() {
    let world = World::new();
    let options = options(&world, &deltas(DELTAS), Tier::Smoke);
    let (report, said) = run(&options);
    assert_eq!(said.len(), 12, "{said:?}");
    assert_eq!(report.verdict, Verdict::Supported, "{report:#?}");
    let experiment = &report.experiments[0];
    let figure = |arm: usize, test: usize| &experiment.arms[arm].figures[test];
    // Tests in the order in which something is expected of them: change, loss, bits, accuracy.
    let [post, bit, back] = [0, 2, 5];
    assert_eq!((figure(post, 0).mean, figure(post, 2).mean), (0.0, 32.0));
    assert_eq!(figure(back, 0).mean, 1.0);
    assert!(figure(bit, 2).mean < 32.0);
    // All the way back is the network before, but for the rounding of a sum.
    let alone = experiment.untrained[1].mean;
    assert!((figure(back, 1).mean - alone).abs() < 1e-5);
    assert_ne!(figure(post, 1).each[0], figure(post, 1).each[1]);
    assert_eq!(experiment.comparisons[1].items, 24);
    let (again, said) = run(&options);
    assert!(said.iter().all(|line| line.contains("finished before")));
    assert_eq!(again.experiments[0].comparisons, experiment.comparisons);
    // An arm that was left half done is made anew from the networks that were kept, and comes to the same.
    for arm in &experiment.arms[2..4] {
        fs::remove_file(arm.runs[1].join("scores.json")).unwrap();
    }
    let (again, _) = run(&options);
    assert_eq!(again.experiments[0].comparisons, experiment.comparisons);
}

#[test]
fn what_an_edit_does_to_the_loss_is_told_and_measured() {
    let world = World::new();
    let start = DELTAS.find("[[experiment.arms]]").unwrap();
    let head = DELTAS[..start].replace(
        "#EDITS",
        r#"edits = [
  { name = "dare", p = 0.5, k = -1.0 },
  { name = "dare", p = 0.9 },
  { name = "dare", p = 0.1, k = 0.5 },
]"#,
    );
    let tail = r#"
[[experiment.arms]]
id = "exact"
method = { name = "exact" }

[[experiment.arms]]
id = "trapezoid"
method = { name = "riemann", points = 8, rule = "trapezoid" }

[[experiment.arms]]
id = "law"
method = { name = "law" }

[[experiment.tests]]
id = "agreement"

[[experiment.tests]]
id = "error"

[[experiment.expect]]
arm = "trapezoid"
baseline = "exact"
test = "agreement"
direction = "as_good"
margin = 0.1
reason = "A sum of many points."

[[experiment.expect]]
arm = "law"
baseline = "exact"
test = "error"
metric = "amount"
direction = "reported"
"#;
    let options = options(&world, &deltas(&(head.clone() + tail)), Tier::Smoke);
    let (report, _) = run(&options);
    assert_eq!(report.verdict, Verdict::Supported, "{report:#?}");
    let [exact, trapezoid, law] = report.experiments[0].arms.as_slice() else {
        panic!("{report:?}")
    };
    assert!((exact.figures[0].mean - 1.0).abs() < 1e-9);
    assert_eq!(exact.figures[1].mean, 0.0);
    let untold = report.experiments[0].untrained[1].mean;
    assert!(trapezoid.figures[1].mean < 0.1 * untold);
    assert!(law.figures[1].mean > 0.0);
    // The law is about DARE with random masks alone.
    let text =
        deltas(&(head + tail)).replace("{ name = \"dare\", p = 0.9 }", "{ name = \"bitdelta\" }");
    let error = Claim::parse(&text, "99-tiny").unwrap_err().to_string();
    assert!(error.contains("about dare with random masks"), "{error}");
}

#[test]
fn experiments_of_deltas_are_checked() {
    for (from, to, expected) in [
        (
            "development = 10",
            "development = 0",
            "deltas.development: is 0",
        ),
        ("smoke = 1.0", "smoke = 1.5", "deltas.smoke: is 1.5"),
        ("epochs = 4", "epochs = 0", "epochs, batch_size: hold 0"),
        ("\"none\" }", "\"non\" }", "unknown"),
        ("\"none\" }", "\"none\", p = 1 }", "p: unknown key"),
        ("blocks = 16", "blocks = 300", "method.blocks: is 300"),
        (
            "id = \"loss\"",
            "id = \"los\"",
            "tests.los: is no score of deltas",
        ),
    ] {
        assert!(DELTAS.contains(from), "{from}");
        let text = deltas(&DELTAS.replacen(from, to, 1));
        let error = Claim::parse(&text, "99-tiny").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}
