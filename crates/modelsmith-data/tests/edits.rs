//! Files of edit requests: every layout, and everything that is refused.

mod common;

use std::path::PathBuf;

use common::tokenizer;
use modelsmith_data::edits::{
    Conflicts, EditFile, EditFormat, EditRequest, HostChecks, Neighbour, OpenEdits, Probe, open,
};
use modelsmith_data::house::{self, HouseConfig};

fn read(contents: impl AsRef<[u8]>, options: &OpenEdits) -> Result<EditFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edits.jsonl");
    std::fs::write(&path, contents).unwrap();
    open(&path, options, HostChecks::default()).map_err(|error| {
        assert_eq!(error.exit_code(), 3);
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    })
}

fn requests(contents: &str) -> EditFile {
    read(contents, &OpenEdits::default()).unwrap()
}

/// One line for each kind of fault; line 14 is whole.
const FAULTY: &[&[u8]] = &[
    br#"{"subject": "Ada", "prompt": "{} was born in", "target_new: "Oslo"}"#,
    br#"["Ada", "{} was born in", "Oslo"]"#,
    br#"{"subject": "Ada", "prompt": "{} was born in", "target": "Oslo"}"#,
    br#"{"subject": "Ada", "prompt": "Ada was born in", "target_new": "Oslo"}"#,
    br#"{"subject": "Ada", "prompt": "{}, the mother of {}, was born in", "target_new": "Oslo"}"#,
    br#"{"subject": " ", "prompt": "{} was born in", "target_new": "Oslo"}"#,
    br#"{"subject": "Bruno", "prompt": "{} was born in", "target_new": ""}"#,
    "{\"subject\": \"Clara\", \"prompt\": \"{} was born in\", \"target_new\": \"\u{200B}\"}".as_bytes(),
    br#"{"subject": "Dario", "prompt": "{} was born in", "target_new": "Oslo ", "target_true": "Oslo"}"#,
    br#"{"id": "14", "subject": "Elsa", "prompt": "{} was born in", "target_new": "Oslo", "relation": "birthplace"}"#,
    br#"{"subject": "Elsa", "prompt": "The birthplace of {} is", "target_new": "Rome", "relation": "birthplace"}"#,
    br#"{"subject": "Felix", "prompt": "{} was born in", "target_new": 7, "neighbours": [{"prompt": "Ada was born in"}]}"#,
    b"{\"subject\": \"Gr\xffta\", \"prompt\": \"{} was born in\", \"target_new\": \"Oslo\"}",
    br#"{"subject": "Hugo", "prompt": "{} was born in", "target_new": "Oslo", "target_true": "Rome"}"#,
    br#"{"subject": "Iris\u0007", "prompt": "{} was born in", "target_new": "Oslo"}"#,
    br#"{"subject": "Jonas", "prompt": "Well, well, well, well, well, well, well, well, well, well, {} was born in", "target_new": "Oslo"}"#,
    br#"{"subject": "Karin", "prompt": "{} was born in", "target_new": "Oslo", "neighbours": [{"prompt": "Leo was born in"}], "portability": [{"kind": "Reasoning", "prompt": "The country of Karin is", "answers": []}]}"#,
];

/// What is said of them, line for line.
const FAULTS: &str = include_str!("golden/edits-faults.txt");

#[test]
fn every_kind_of_fault_is_named_with_its_line() {
    let tokenizer = tokenizer();
    let encode = |text: &str, special: bool| {
        // The house tokenizer has no normaliser; one that drops what cannot be seen is common.
        tokenizer.encode(&text.replace(" \u{200B}", ""), special)
    };
    let host = HostChecks {
        encode: Some(&encode),
        positions: Some(32),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edits.jsonl");
    std::fs::write(&path, FAULTY.join(&b"\n"[..])).unwrap();
    let error = open(&path, &OpenEdits::default(), host).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(text, FAULTS.trim_end());
    let few = OpenEdits {
        shown: 2,
        ..OpenEdits::default()
    };
    let text = open(&path, &few, host).unwrap_err().to_string();
    assert!(text.lines().count() == 4 && text.contains("more"), "{text}");
}

#[test]
fn own_requests_are_read_as_they_are_written() {
    let config = HouseConfig {
        people: 20,
        ..HouseConfig::default()
    };
    let made = house::edits(&config, 8, 1).unwrap();
    let lines: Vec<String> = made
        .iter()
        .map(|edit| serde_json::to_string(edit).unwrap())
        .collect();
    let file = requests(&lines.join("\n"));
    assert_eq!(file.format, EditFormat::Requests);
    assert_eq!(file.requests, made);
    assert_eq!(file.lines, (1..=8).collect::<Vec<u64>>());
    let listed = requests(&format!("[\n{}\n]", lines.join(",\n")));
    assert_eq!(listed.requests, made);
    assert_eq!(listed.lines, (2..=9).collect::<Vec<u64>>());
    let one: EditRequest = serde_json::from_str(&lines[3]).unwrap();
    assert_eq!(one, made[3]);
    let few = OpenEdits {
        limit: 3,
        ..OpenEdits::default()
    };
    assert_eq!(read(lines.join("\n"), &few).unwrap().requests, made[..3]);
}

#[test]
fn targets_have_one_space_in_front() {
    let file = requests(
        r#"{"id": 5, "subject": "Ada", "prompt": "{} was born in", "target_new": " Oslo "}
           {"subject": "Bo", "prompt": "{} was born in", "target_new": "New York", "target_true": "Rome"}"#,
    );
    let texts: Vec<_> = file
        .requests
        .iter()
        .map(|edit| {
            (
                edit.id.as_str(),
                edit.filled(),
                edit.new_text(),
                edit.true_text(),
            )
        })
        .collect();
    assert_eq!(
        texts[0],
        ("5", "Ada was born in".into(), " Oslo".into(), None)
    );
    assert_eq!(
        texts[1],
        (
            "2",
            "Bo was born in".into(),
            " New York".into(),
            Some(" Rome".into())
        )
    );
}

#[test]
fn counterfact_records() {
    let file = requests(
        r#"[{"case_id": 3, "pararel_idx": 1,
            "requested_rewrite": {"prompt": "{} is a native speaker of", "relation_id": "P103", "subject": "Ada",
                "target_new": {"str": "Greek", "id": "Q1"}, "target_true": {"str": "Finnish", "id": "Q2"}},
            "paraphrase_prompts": ["It rains. Ada speaks", "Ada's mother tongue is"],
            "neighborhood_prompts": ["The mother tongue of Bruno is", "Clara speaks"],
            "attribute_prompts": ["Dario speaks"],
            "generation_prompts": ["Ada lives in"]}]"#,
    );
    assert_eq!(file.format, EditFormat::Counterfact);
    let edit = &file.requests[0];
    assert_eq!(
        (edit.id.as_str(), edit.filled().as_str()),
        ("3", "Ada is a native speaker of")
    );
    assert_eq!(edit.target_true.as_deref(), Some("Finnish"));
    assert_eq!(edit.relation.as_deref(), Some("P103"));
    assert_eq!(edit.target_id.as_deref(), Some("Q1"));
    assert_eq!((edit.paraphrases.len(), edit.generation.len()), (2, 1));
    assert_eq!(edit.answer_of(&edit.neighbours[1]), Some("Finnish"));
}

#[test]
fn flat_records_get_their_templates_back() {
    let file = requests(
        r#"{"case_id": 0, "prompt": "The twin city of Lyon is", "target_new": "Manila", "subject": "Lyon",
            "ground_truth": "Beirut", "rephrase_prompt": "A note.\nLyon's twin is", "locality_prompt": "The twin city of Trieste is",
            "locality_ground_truth": "Graz"}
           {"prompt": "Who leads Acme?", "target_new": "Bo", "subject": "Acme", "ground_truth": [["Al"], ["Cy"]],
            "portability": {"Reasoning": [{"prompt": "Where was the head of Acme born?", "ground_truth": [["Oslo", "Christiania"]]}],
                            "Subject_Aliasing": {"prompt": ["Who leads ACME?", "Who runs it?"], "ground_truth": [["Bo"], "Bo"]}},
            "locality": {"Relation_Specificity": {"prompt": "Acme makes", "ground_truth": "anvils"}}}"#
            .replace("\n            ", "").as_str(),
    );
    assert_eq!(file.format, EditFormat::Flat);
    let [first, second] = &file.requests[..] else {
        panic!("{:?}", file.requests);
    };
    assert_eq!(first.prompt, "The twin city of {} is");
    assert_eq!(first.paraphrases, ["A note.\nLyon's twin is"]);
    let neighbour = Neighbour {
        prompt: "The twin city of Trieste is".into(),
        answer: Some("Graz".into()),
    };
    assert_eq!(first.neighbours, [neighbour]);
    assert_eq!(
        (second.id.as_str(), second.target_true.as_deref()),
        ("2", Some("Al"))
    );
    let probe = |kind: &str, prompt: &str, answers: &[&str]| Probe {
        kind: kind.into(),
        prompt: prompt.into(),
        answers: answers.iter().map(|text| (*text).into()).collect(),
    };
    assert_eq!(
        second.portability,
        [
            probe(
                "Reasoning",
                "Where was the head of Acme born?",
                &["Oslo", "Christiania"]
            ),
            probe("Subject_Aliasing", "Who leads ACME?", &["Bo"]),
            probe("Subject_Aliasing", "Who runs it?", &["Bo"]),
        ]
    );
    assert_eq!(
        second.locality,
        [probe("Relation_Specificity", "Acme makes", &["anvils"])]
    );
    for (prompt, cause) in [
        ("The twin of lyon is", "does not contain"),
        ("Lyon, Lyon is", "2 times"),
    ] {
        let text = format!(
            r#"[{{"prompt": "{prompt}", "target_new": "Rome", "subject": "Lyon", "ground_truth": "Oslo"}}]"#
        );
        let problem = read(text, &OpenEdits::default()).unwrap_err();
        assert!(
            problem.starts_with("edits.jsonl: line 1: ") && problem.contains(cause),
            "{problem}"
        );
    }
}

#[test]
fn zsre_records_have_no_true_target() {
    let file = requests(
        r#"[{"subject": "UniFirst", "src": "What does UniFirst make?", "pred": "uniform", "rephrase": "What is made by UniFirst?",
            "alt": "aircraft", "answers": ["uniforms", "uniform"], "loc": "nq question: who sings", "loc_ans": "Bo", "cond": "x"}]"#,
    );
    assert_eq!(file.format, EditFormat::Zsre);
    let edit = &file.requests[0];
    assert_eq!(edit.prompt, "What does {} make?");
    assert_eq!(
        (edit.target_new.as_str(), edit.target_true.as_deref()),
        ("uniforms", None)
    );
    assert_eq!(edit.neighbours[0].prompt, "who sings?");
    assert_eq!(edit.neighbours[0].answer.as_deref(), Some("Bo"));
}

#[test]
fn mquake_records_keep_the_question_over_the_hops() {
    let rewrite = |subject: &str, new: &str| {
        format!(
            r#"{{"prompt": "The head of {{}} is", "relation_id": "P6", "subject": "{subject}", "question": "Who heads {subject}?",
                "target_new": {{"str": "{new}", "id": "Q1"}}, "target_true": {{"str": "Al", "id": "Q2"}}}}"#
        )
    };
    let hop = |answer: &str| {
        format!(
            r#"{{"question": "Who heads Acme?", "cloze": "The head of Acme is", "answer": "{answer}", "answer_alias": ["Mr {answer}"]}}"#
        )
    };
    let text = format!(
        r#"[{{"case_id": 1, "requested_rewrite": [{}, {}], "questions": ["a?", "b?", "c?"], "answer": "Rome", "answer_alias": [],
            "new_answer": "Oslo", "new_answer_alias": ["Christiania"], "single_hops": [{}], "new_single_hops": [{}], "orig": {{"triples": [["Q1", "P6", "Q2"]], "new_triples": [["Q1", "P6", "Q3"]]}}}}]"#,
        rewrite("Acme", "Bo"),
        rewrite("Apex", "Cy"),
        hop("Al"),
        hop("Bo"),
    );
    let file = requests(&text);
    assert_eq!(file.format, EditFormat::Mquake);
    let ids: Vec<&str> = file.requests.iter().map(|edit| edit.id.as_str()).collect();
    assert_eq!(ids, ["1.0", "1.1"]);
    assert_eq!(file.requests[1].paraphrases, ["Who heads Apex?"]);
    let instance = &file.instances[0];
    assert_eq!((instance.id.as_str(), instance.questions.len()), ("1", 3));
    assert_eq!(instance.edits, ids);
    assert_eq!(instance.new_answers, ["Oslo", "Christiania"]);
    assert_eq!(instance.new_hops[0].answers, ["Bo", "Mr Bo"]);
    assert_eq!(instance.new_hops[0].relation.as_deref(), Some("P6"));
}

#[test]
fn the_last_of_contradicting_edits_can_win() {
    let line = |prompt: &str, target: &str| {
        format!(
            r#"{{"subject": "Ada", "prompt": "{prompt}", "target_new": "{target}", "relation": "birthplace"}}"#
        )
    };
    let text = [
        line("{} was born in", "Oslo"),
        line("The birthplace of {} is", "Oslo"),
        line("{} was born in", "Rome"),
        line("{} was born in", "Rome"),
    ]
    .join("\n");
    let with = |conflicts| OpenEdits {
        conflicts,
        ..OpenEdits::default()
    };
    let problem = read(&text, &with(Conflicts::Refuse)).unwrap_err();
    assert!(problem.contains("line 3: contradicts line 1"), "{problem}");
    let file = read(&text, &with(Conflicts::LastWins)).unwrap();
    assert_eq!((file.lines, file.overridden), (vec![3, 4], 2));
    assert_eq!(
        read(&text, &with(Conflicts::Allow)).unwrap().requests.len(),
        4
    );
}

#[test]
fn what_is_no_file_of_edits_is_refused() {
    for (contents, cause) in [
        ("", "line 1: the file is empty"),
        ("[\n{\"subject\": \"A\"", "line 2: the list does not close"),
        (
            "{\n \"subject\": \"A\"\n}",
            "line 1: an object over several lines",
        ),
        ("version https://git-lfs.github.com/spec/v1", "LFS"),
        ("<html>", "web page"),
    ] {
        let problem = read(contents, &OpenEdits::default()).unwrap_err();
        assert!(problem.contains(cause), "{problem}");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = open(folder.path(), &OpenEdits::default(), HostChecks::default());
    assert!(folder.unwrap_err().to_string().contains("is a folder"));
    let unknown = "counterfcat".parse::<EditFormat>().unwrap_err().to_string();
    assert!(unknown.contains("did you mean counterfact"), "{unknown}");
}

/// A real file, where `MODELSMITH_DATA` names the folder.
fn data(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MODELSMITH_DATA")?;
    let found = PathBuf::from(folder).join("knowledge_editing").join(path);
    found.exists().then_some(found)
}

#[test]
fn public_files_are_read_whole() {
    let allow = OpenEdits {
        conflicts: Conflicts::Allow,
        ..OpenEdits::default()
    };
    for (path, format, count) in [
        (
            "knowledgespread/counterfact-edit.json",
            EditFormat::Flat,
            10_000,
        ),
        (
            "knowledgespread/counterfact-train.json",
            EditFormat::Flat,
            10_000,
        ),
        (
            "knowledgespread/zsre_mend_train-1k.json",
            EditFormat::Zsre,
            1000,
        ),
        ("encore/counterfact_qna.json", EditFormat::Questions, 1000),
    ] {
        let Some(path) = data(path) else { return };
        let file = open(&path, &allow, HostChecks::default()).unwrap();
        assert_eq!((file.format, file.requests.len()), (format, count));
        assert!(file.lines.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

#[test]
fn contradictions_of_counterfact_are_found_and_can_be_resolved() {
    let Some(path) = data("knowledgespread/counterfact-edit.json") else {
        return;
    };
    let host = HostChecks::default();
    let problem = open(&path, &OpenEdits::default(), host)
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("79 faults") && problem.contains("contradicts line"),
        "{problem}"
    );
    let last = OpenEdits {
        conflicts: Conflicts::LastWins,
        ..OpenEdits::default()
    };
    let file = open(&path, &last, host).unwrap();
    assert_eq!(file.requests.len() + file.overridden, 10_000);
    assert_eq!(file.requests.len(), 9920);
}
