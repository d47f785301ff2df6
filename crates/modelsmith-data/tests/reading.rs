//! Files of every kind, well-formed and not.

mod common;

use common::file;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_data::{DataConfig, Document, Kind};
use serde_json::{Value, json};

fn rows(config: &DataConfig) -> Vec<Value> {
    let source = Source::open(&config.path, &ReadOptions::from(config)).unwrap();
    source
        .rows()
        .map(|row| Value::Object(row.unwrap().1))
        .collect()
}

fn failure(name: &str, contents: impl AsRef<[u8]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, name, contents);
    let options = ReadOptions::from(&config);
    let result = Source::open(&config.path, &options)
        .and_then(|source| source.rows().collect::<Result<Vec<_>, _>>());
    let error = result.expect_err("must be refused");
    assert_eq!(error.exit_code(), 3);
    error
        .to_string()
        .replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn lines_of_json_with_mark_and_carriage_returns() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(
        &folder,
        "a.jsonl",
        "\u{FEFF}{\"text\": \"one\"}\r\n\r\n{\"text\": \"two\"}",
    );
    assert_eq!(
        rows(&config),
        [json!({"text": "one"}), json!({"text": "two"})]
    );
    let only = file(&folder, "b.jsonl", "\u{FEFF}{\"text\": \"one\"}");
    assert_eq!(rows(&only), [json!({"text": "one"})]);
}

#[test]
fn comma_and_tab_separated_values() {
    let folder = tempfile::tempdir().unwrap();
    let csv = file(
        &folder,
        "a.csv",
        "\u{FEFF}text,label\r\n\"a, \"\"b\"\"\nc\",1\r\nd,0\r\n",
    );
    assert_eq!(
        rows(&csv),
        [
            json!({"text": "a, \"b\"\nc", "label": "1"}),
            json!({"text": "d", "label": "0"})
        ]
    );
    let tsv = file(&folder, "a.tsv", "text\tlabel\nsay \"hi\t1\n");
    assert_eq!(rows(&tsv), [json!({"text": "say \"hi", "label": "1"})]);
}

#[test]
fn plain_text_by_paragraph_line_file_and_separator() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = file(
        &folder,
        "a.txt",
        "\u{FEFF}one\r\ntwo\r\n\r\n\r\n  three\n<|end|>\nfour\n",
    );
    let texts = |config: &DataConfig| -> Vec<String> {
        rows(config)
            .iter()
            .map(|row| row["text"].as_str().unwrap().to_string())
            .collect()
    };
    assert_eq!(texts(&config), ["one\ntwo", "  three\n<|end|>\nfour"]);
    config.document = Document::Line;
    assert_eq!(texts(&config), ["one", "two", "  three", "<|end|>", "four"]);
    config.document = Document::File;
    assert_eq!(texts(&config), ["one\ntwo\n\n\n  three\n<|end|>\nfour"]);
    config.separator = Some("<|end|>".into());
    assert_eq!(texts(&config), ["one\ntwo\n\n\n  three", "four"]);
    config.limit = 1;
    assert_eq!(texts(&config), ["one\ntwo\n\n\n  three"]);
}

#[test]
fn a_folder_is_its_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder, "b.jsonl", "{\"text\": \"b\"}\n");
    file(&folder, "a.txt", "a\n\nA\n");
    file(&folder, "ignored.bin", "x");
    let config = common::config(folder.path().to_path_buf());
    assert_eq!(
        rows(&config),
        [
            json!({"text": "a"}),
            json!({"text": "A"}),
            json!({"text": "b"})
        ]
    );
}

#[test]
fn a_kind_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = file(&folder, "data.unknown", "{\"text\": \"one\"}\n");
    let refused = Source::open(&config.path, &ReadOptions::from(&config)).unwrap_err();
    assert!(refused.to_string().contains("set data.kind"), "{refused}");
    config.kind = Kind::Jsonl;
    assert_eq!(rows(&config).len(), 1);
}

#[test]
fn malformed_lines_are_named() {
    let good = "{\"text\": \"a\"}\n\n";
    let cases = [
        (
            format!("{good}{{\"text\": }}\n"),
            "DIR/a.jsonl: line 3, column 10: not JSON: expected value",
        ),
        (
            format!("{good}[1]\n"),
            "DIR/a.jsonl: line 3: a JSON array; expected one object a line",
        ),
        (
            format!("{good}7\n"),
            "DIR/a.jsonl: line 3: 7 is no JSON object",
        ),
        (
            "[\n{\"text\": 1}\n]\n".into(),
            "DIR/a.jsonl: line 1, column 1: JSON over several lines",
        ),
        (
            format!("{good}{{\"a\": \"\0\"}}\n"),
            "DIR/a.jsonl: line 3, column 8: a NUL byte",
        ),
        (
            format!(
                "{{\"a\": {}1{}}}\n",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ),
            "nested more than 128 deep",
        ),
        (
            "version https://git-lfs.github.com/spec/v1\n".into(),
            "Git LFS pointer",
        ),
        ("<!DOCTYPE html>\n".into(), "is a web page"),
    ];
    for (contents, expected) in cases {
        let found = failure("a.jsonl", &contents);
        assert!(found.contains(expected), "{found}\nlacks {expected}");
    }
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let found = failure("a.txt", b"fine\nal\xFFso\n");
    assert_eq!(
        found,
        "DIR/a.txt: line 2, column 3: not valid UTF-8; convert the file to UTF-8"
    );
    let found = failure("a.jsonl", b"{\"text\": \"\xC3\"}\n");
    assert!(
        found.contains("line 1, column 11: not valid UTF-8"),
        "{found}"
    );
    let utf16: Vec<u8> = "text,label\na,1\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(failure("a.tsv", utf16).contains("NUL byte"));
}

#[test]
fn records_of_the_wrong_width_are_named() {
    let found = failure("a.csv", "text,label\n\"x\ny\",1\nz\n");
    assert!(
        found.contains("line 4: has 1 fields, the header has 2 (text, label)"),
        "{found}"
    );
    assert!(failure("a.csv", "text,text\na,b\n").contains("stands twice"));
    assert!(
        failure("a.csv", "text,label\na,\"b\n")
            .contains("line 2: a quote opens here and never closes")
    );
}

#[test]
fn a_huge_line_is_refused_in_bounded_memory() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.jsonl");
    // A hole of 2 GB: no disk is used, and no line end is found.
    let mut made = std::fs::File::create(&path).unwrap();
    made.write_all(b"{\"text\": \"a\"}\n").unwrap();
    made.set_len(2 << 30).unwrap();
    let started = std::time::Instant::now();
    let error = Source::open(&path, &ReadOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 2: a row of more than 64 MB"),
        "{error}"
    );
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn a_file_that_changes_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "a.jsonl", "{\"text\": \"a\"}\n");
    let source = Source::open(&config.path, &ReadOptions::default()).unwrap();
    std::fs::write(&config.path, "{}").unwrap();
    assert!(
        source
            .row(0)
            .unwrap_err()
            .to_string()
            .contains("has changed")
    );
    assert!(source.row(1).is_err());
}

#[test]
fn empty_files_have_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in [
        ("a.jsonl", ""),
        ("b.txt", " \n\n"),
        ("c.csv", ""),
        ("d.csv", "text\n"),
        ("e.tsv", "\u{FEFF}"),
    ] {
        assert!(rows(&file(&folder, name, contents)).is_empty(), "{name}");
    }
    let empty = folder.path().join("none");
    std::fs::create_dir(&empty).unwrap();
    assert!(Source::open(&empty, &ReadOptions::default()).is_err());
    assert!(Source::open(folder.path().join("absent.txt"), &ReadOptions::default()).is_err());
}

mod parquet_files {
    use super::*;
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// Two row groups of `text` and `label`.
    fn write(path: &std::path::Path) {
        let schema = "message row { required binary text (UTF8); optional int64 label; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = std::fs::File::create(path).unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        for group in 0..2i64 {
            let mut rows = writer.next_row_group().unwrap();
            while let Some(mut column) = rows.next_column().unwrap() {
                match column.untyped() {
                    ColumnWriter::ByteArrayColumnWriter(texts) => {
                        let values: Vec<ByteArray> = (0..3)
                            .map(|row| format!("g{group} r{row}").as_str().into())
                            .collect();
                        texts.write_batch(&values, None, None).unwrap();
                    }
                    ColumnWriter::Int64ColumnWriter(labels) => {
                        labels
                            .write_batch(&[group, group], Some(&[1, 0, 1]), None)
                            .unwrap();
                    }
                    _ => unreachable!(),
                }
                column.close().unwrap();
            }
            rows.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn rows_come_by_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path);
        let source = Source::open(&path, &ReadOptions::default()).unwrap();
        assert_eq!(source.blocks(), [0..3, 3..6]);
        let row = |at| Value::Object(source.row(at).unwrap().1);
        assert_eq!(row(4), json!({"text": "g1 r1", "label": null}));
        assert_eq!(row(0), json!({"text": "g0 r0", "label": 0}));
        let (at, _) = source.row(5).unwrap();
        assert!(at.error("bad").to_string().ends_with("row 6: bad"));
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            if let Ok(source) = Source::open(&path, &ReadOptions::default()) {
                let count = source.len().min(100);
                (0..count).for_each(|row| drop(source.row(row)));
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(Source::open(&path, &ReadOptions::default()).is_err());
        }
    }
}
