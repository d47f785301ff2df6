//! Public files made fit to read: one encoding, coarse labels, parts, lines of the length wanted.

use super::file::Prepared;
use crate::recipe::data_path;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, safe_name};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes each file under its name in `folder`, those of one name one behind the other.
///
/// # Errors
/// A name that is none, a part that is none, files that cannot be read or written.
pub(super) fn write(files: &[Prepared], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for file in files {
        let text = texts.entry(&file.name).or_default();
        text.push_str(&prepared(file)?);
    }
    for (name, text) in texts {
        atomic_bytes(folder.join(safe_name("file", name)?), text.as_bytes())?;
    }
    Ok(())
}

fn prepared(file: &Prepared) -> Result<String> {
    let path = data_path(&file.path)?;
    let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
    // In Latin-1 a byte is the number of its character, so every file can be read.
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|other| other.into_bytes().into_iter().map(char::from).collect());
    let text = match file.columns.is_empty() {
        true => text,
        false => columns(&path, &text, &file.columns)?,
    };
    let whole = file.part.is_none() && file.words.is_none() && !file.coarse_labels;
    if whole {
        return Ok(text);
    }
    let wanted = |line: &&str| {
        let count = line.split_whitespace().count();
        let [least, most] = file.words.unwrap_or([0, usize::MAX]);
        (least..=most).contains(&count)
    };
    let lines: Vec<&str> = text.lines().filter(wanted).collect();
    let lines = part(&lines, file.part.unwrap_or([0.0, 1.0]))?.iter();
    let lines = lines.map(|line| match file.coarse_labels {
        true => coarse(line),
        false => format!("{line}\n"),
    });
    Ok(lines.collect())
}

/// The lines between two shares.
fn part<'a, 't>(lines: &'a [&'t str], [from, to]: [f64; 2]) -> Result<&'a [&'t str]> {
    if !(0.0 <= from && from < to && to <= 1.0) {
        let problem = format!("is [{from}, {to}]; must be two shares, the first below the second");
        return Err(Error::config("prepare.part", problem));
    }
    let at = |share: f64| (share * lines.len() as f64).round() as usize;
    Ok(&lines[at(from)..at(to)])
}

/// A JSON list of objects as lines of some of their texts.
fn columns(path: &Path, text: &str, names: &[String]) -> Result<String> {
    let rows: Vec<Value> = serde_json::from_str(text).map_err(|error| Error::file(path, error))?;
    let mut lines = String::new();
    for row in rows {
        let texts = names.iter().filter_map(|name| row[name.as_str()].as_str());
        let words = texts.flat_map(str::split_whitespace);
        lines.push_str(&words.collect::<Vec<_>>().join(" "));
        lines.push('\n');
    }
    Ok(lines)
}

/// `HUM:ind Who ...` as `HUM Who ...`.
fn coarse(line: &str) -> String {
    match line.split_once(' ') {
        Some((label, text)) => {
            let label = label.split(':').next().unwrap_or(label);
            format!("{label} {text}\n")
        }
        None => format!("{line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_characters_and_labels_coarse() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("old");
        std::fs::write(&source, b"A:b caf\xe9: x\n").unwrap();
        let mut file = Prepared {
            name: "new.txt".into(),
            path: source,
            ..Prepared::default()
        };
        let read = || std::fs::read_to_string(folder.path().join("new.txt")).unwrap();
        write(std::slice::from_ref(&file), folder.path()).unwrap();
        assert_eq!(read(), "A:b café: x\n");
        file.coarse_labels = true;
        write(std::slice::from_ref(&file), folder.path()).unwrap();
        assert_eq!(read(), "A café: x\n");
        file.name = "../new.txt".into();
        assert!(write(&[file], folder.path()).is_err());
    }

    #[test]
    fn parts_of_files_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("lines");
        std::fs::write(&lines, "one\na b\nc d\ne f\ng h i\nj k\n").unwrap();
        let list = folder.path().join("list");
        std::fs::write(
            &list,
            r#"[{"q": "How\n many?", "a": "Two", "n": 2}, {"q": "Why?"}]"#,
        )
        .unwrap();
        let both = [
            Prepared {
                name: "both".into(),
                path: lines.clone(),
                words: Some([2, 2]),
                part: Some([0.5, 1.0]),
                ..Prepared::default()
            },
            Prepared {
                name: "both".into(),
                path: list,
                columns: vec!["q".into(), "a".into()],
                ..Prepared::default()
            },
        ];
        write(&both, folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("both")).unwrap();
        assert_eq!(text, "e f\nj k\nHow many? Two\nWhy?\n");
        let wrong = Prepared {
            name: "wrong".into(),
            path: lines,
            part: Some([0.5, 0.5]),
            ..Prepared::default()
        };
        assert!(write(&[wrong], folder.path()).is_err());
    }
}
