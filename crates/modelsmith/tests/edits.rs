//! Editing from the command line: facts in, listed, measured, undone, exported; a killed sequence; bad requests.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house")
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("modelsmith"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    program(words).output().unwrap()
}

fn succeed(words: &[&str]) -> String {
    let output = run(words);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {message}");
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with requests about the house, and some of its facts as lines of text.
fn world(count: &str) -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let requests = folder.path().join("requests.jsonl");
    std::fs::write(&requests, succeed(&["data", "edits", "--count", count])).unwrap();
    let made = folder.path().join("made");
    succeed(&["data", "house", made.to_str().unwrap()]);
    let corpus = std::fs::read_to_string(made.join("corpus.jsonl")).unwrap();
    let texts = folder.path().join("texts.jsonl");
    let some: Vec<&str> = corpus.lines().take(200).collect();
    std::fs::write(&texts, some.join("\n")).unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    (folder, text(requests), text(texts))
}

fn edit<'a>(requests: &'a str, texts: &'a str, output: &'a str, host: &'a str) -> Vec<&'a str> {
    vec![
        "edit",
        "--host",
        host,
        "--requests",
        requests,
        "--corpus",
        texts,
        "--output",
        output,
        "--method",
        "r_rome",
        "--set",
        "method.layers=[2]",
        "--set",
        "method.lookup=\"prompt_last\"",
        "--guard",
        "off",
    ]
}

fn steps(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder.join("steps")) else {
        return BTreeMap::new();
    };
    let whole = entries.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name()?.to_str()?.to_owned();
        (!name.starts_with('.')).then(|| (name, std::fs::read(&path).unwrap()))
    });
    whole.collect()
}

#[test]
fn facts_are_written_measured_undone_and_exported() {
    let (folder, requests, texts) = world("3");
    let host = house().to_str().unwrap().to_owned();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (edits, page) = (path("edits"), path("curves.html"));
    let told = succeed(&edit(&requests, &texts, &edits, &host));
    assert!(told.starts_with("written   3 facts in "), "{told}");
    let shown = succeed(&["edit", "show", &edits]);
    assert!(
        shown.starts_with("r_rome on ") && shown.lines().count() == 6,
        "{shown}"
    );
    let table = succeed(&[
        "edit",
        "eval",
        &edits,
        "--requests",
        &requests,
        "--texts",
        &texts,
        "--report",
        &page,
    ]);
    assert!(
        table.contains("unedited") && table.contains("perplexity"),
        "{table}"
    );
    assert!(
        std::fs::read_to_string(&page)
            .unwrap()
            .contains("What edits did")
    );
    assert_eq!(
        succeed(&["edit", "undo", &edits, "--last", "2"]),
        "undone: 2, left: 1\n"
    );
    let model = path("model");
    succeed(&["edit", "export", &edits, "--output", &model]);
    let first = std::fs::read_to_string(&requests).unwrap();
    let first: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    let prompt = first["prompt"]
        .as_str()
        .unwrap()
        .replace("{}", first["subject"].as_str().unwrap());
    let answer = succeed(&[
        "generate",
        "--host",
        &model,
        "--prompt",
        &prompt,
        "--max-tokens",
        "8",
    ]);
    assert!(
        answer.contains(first["target_new"].as_str().unwrap()),
        "{answer}"
    );

    let book = path("codebook");
    succeed(&[
        "edit",
        "grace",
        "--host",
        &host,
        "--requests",
        &requests,
        "--output",
        &book,
    ]);
    let with = [
        "generate",
        "--host",
        &host,
        "--adapter",
        &book,
        "--prompt",
        &prompt,
        "--max-tokens",
        "8",
    ];
    let answer = succeed(&with);
    assert!(
        answer.contains(first["target_new"].as_str().unwrap()),
        "{answer}"
    );
}

#[test]
fn a_killed_sequence_goes_on_at_the_next_edit() {
    let (folder, requests, texts) = world("24");
    let host = house().to_str().unwrap().to_owned();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, parts) = (path("whole"), path("parts"));
    succeed(&edit(&requests, &texts, &whole, &host));
    let mut kills = 0;
    for wanted in [2, 9, 15] {
        let words = edit(&requests, &texts, &parts, &host);
        let mut command = program(&words);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while steps(Path::new(&parts)).len() < wanted && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "every run had ended before it could be killed");
    let told = succeed(&edit(&requests, &texts, &parts, &host));
    assert!(told.contains("were there already"), "{told}");
    assert!(steps(Path::new(&whole)) == steps(Path::new(&parts)));
}

#[test]
fn a_file_of_faults_is_refused_with_all_of_them() {
    let (folder, _, texts) = world("1");
    let bad = folder.path().join("bad.jsonl");
    let rows = [
        r#"{"subject": "Ada", "prompt": "{} was born in""#,
        r#"["Ada"]"#,
        r#"{"subject": "Ada", "prompt": "{} was born in", "target": "Oslo"}"#,
        r#"{"subject": "Ada", "prompt": "Ada was born in", "target_new": "Oslo"}"#,
        r#"{"subject": "Ada", "prompt": "{} and {} were born in", "target_new": "Oslo"}"#,
        r#"{"subject": "", "prompt": "{} was born in", "target_new": "Oslo"}"#,
        r#"{"subject": "Bea", "prompt": "{} was born in", "target_new": " "}"#,
        r#"{"subject": "Cy", "prompt": "{} was born in", "target_new": "Oslo", "target_true": "Oslo"}"#,
        r#"{"subject": "Di", "prompt": "{} was born in", "target_new": 7}"#,
        r#"{"id": "a", "subject": "Ed", "prompt": "{} was born in", "target_new": "Oslo"}"#,
        r#"{"id": "a", "subject": "Flo", "prompt": "{} was born in", "target_new": "Oslo"}"#,
        r#"{"subject": "Ed", "prompt": "{} was born in", "target_new": "Rome"}"#,
    ];
    std::fs::write(&bad, rows.join("\n")).unwrap();
    let host = house().to_str().unwrap().to_owned();
    let output = folder.path().join("edits");
    let output = output.to_str().unwrap();
    let found = run(&edit(bad.to_str().unwrap(), &texts, output, &host));
    assert_eq!(found.status.code(), Some(3));
    let message = String::from_utf8(found.stderr).unwrap();
    for line in (1..=9).chain([11, 12]) {
        assert!(
            message.contains(&format!("line {line}")),
            "line {line}: {message}"
        );
    }
    assert!(!Path::new(output).exists());
}
