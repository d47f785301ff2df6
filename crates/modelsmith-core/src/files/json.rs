//! How are the JSON files beside the weights read without trusting their size or depth?

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use super::kind::{plain_file, refused_by_content, shown};
use crate::error::{Error, Result};

/// Largest JSON file read, in bytes.
pub const MAX_JSON_BYTES: u64 = 64 << 20;
/// Deepest nesting of arrays and objects read.
pub const MAX_JSON_DEPTH: usize = 64;
/// Most values read: bounds memory, because one byte of JSON can take 70 bytes as a value.
const MAX_JSON_VALUES: usize = 4_000_000;

/// Reads a JSON file of at most [`MAX_JSON_BYTES`] into a type or a [`serde_json::Value`].
///
/// A UTF-8 byte order mark is skipped. Errors name file, line, column and the path of the key.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let too_large = |size: u64| {
        Error::file(
            path,
            format!("the file has {size} bytes or more; at most {MAX_JSON_BYTES} are read as JSON"),
        )
    };
    let size = plain_file(path)?.len();
    if size > MAX_JSON_BYTES {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::io(path, source))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    parse_json(path, &bytes)
}

/// Reads JSON already in memory; `path` is what errors name.
pub fn parse_json<T: DeserializeOwned>(path: impl AsRef<Path>, bytes: &[u8]) -> Result<T> {
    let path = path.as_ref();
    let fail = |problem: String| Error::file(path, problem);
    let text = text(bytes).map_err(fail)?;
    check_bounds(text.as_bytes()).map_err(fail)?;
    let source = &mut serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut *source).map_err(|problem| {
        let key = problem.path().to_string();
        let at = if key == "." || problem.inner().is_syntax() || problem.inner().is_eof() {
            String::new()
        } else {
            format!(" in {}", shown(&key))
        };
        fail(format!("not the expected JSON{at}: {}", problem.inner()))
    })?;
    source
        .end()
        .map_err(|problem| fail(format!("not the expected JSON: {problem}")))?;
    Ok(value)
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    if let Some(reason) = refused_by_content(bytes) {
        return Err(reason);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("the file is UTF-16; save it as UTF-8".into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|problem| {
        let (line, column) = place(bytes, problem.valid_up_to());
        format!("not valid UTF-8 at line {line} column {column}; save it as UTF-8")
    })
}

/// One pass over the text before any value is built: nesting depth and number of values.
fn check_bounds(bytes: &[u8]) -> Result<(), String> {
    let (mut depth, mut values) = (0_usize, 1_usize);
    let mut in_string = false;
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate() {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > MAX_JSON_DEPTH || values > MAX_JSON_VALUES {
            let (line, column) = place(bytes, at);
            let limit = if depth > MAX_JSON_DEPTH {
                format!("nested deeper than {MAX_JSON_DEPTH} levels")
            } else {
                format!("more than {MAX_JSON_VALUES} values")
            };
            return Err(format!("{limit} at line {line} column {column}; refused"));
        }
    }
    Ok(())
}

/// Line and column, from 1, of a byte.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before
        .iter()
        .rev()
        .take_while(|byte| **byte != b'\n')
        .count()
        + 1;
    (line, column)
}

/// An object of strings with at most `MAX` entries, in which no key may appear twice.
pub(super) struct UniqueMap<const MAX: usize>(pub(super) BTreeMap<String, String>);

impl<'de, const MAX: usize> serde::Deserialize<'de> for UniqueMap<MAX> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(UniqueVisitor::<MAX>).map(Self)
    }
}

struct UniqueVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for UniqueVisitor<MAX> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let key_shown = shown(&key);
            if entries.len() == MAX {
                return Err(A::Error::custom(format!("more than {MAX} entries")));
            }
            let value = map
                .next_value::<String>()
                .map_err(|problem| A::Error::custom(format!("{key_shown}: {problem}")))?;
            if entries.insert(key, value).is_some() {
                return Err(A::Error::custom(format!("{key_shown} is given twice")));
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problem(bytes: &[u8]) -> String {
        parse_json::<Value>("config.json", bytes)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_are_harmless() {
        let value: Value = parse_json("c.json", b"\xef\xbb\xbf{\"a\":\r\n 1}\r\n").unwrap();
        assert_eq!(value, json!({"a": 1}));
    }

    #[test]
    fn faults_name_file_line_and_column() {
        let cases: [(&[u8], &str); 8] = [
            (b"{\"a\": 1,\n  b: 2}", "line 2 column 3"),
            (b"{\"a\": \"\xff\"}", "not valid UTF-8 at line 1 column 8"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"", "empty"),
            (b"{}\n{}", "line 2 column 1"),
            (b"{\"a\": \0}", "line 1 column 7"),
            (b"version https://git-lfs.github.com/spec/v1", "LFS"),
            (b"<html>", "web page"),
        ];
        for (bytes, cause) in cases {
            let problem = problem(bytes);
            assert!(problem.starts_with("config.json: "), "{problem}");
            assert!(problem.contains(cause), "{problem}");
        }
    }

    #[test]
    fn deep_and_crowded_json_is_refused_before_it_is_built() {
        assert!(problem(&b"[".repeat(100_000)).contains("deeper than 64 levels"));
        assert!(problem(&b"{\"a\":".repeat(100_000)).contains("deeper than 64 levels"));
        let crowded = [b"[".as_slice(), &b"0,".repeat(5_000_000), b"0]"].concat();
        assert!(problem(&crowded).contains("more than 4000000 values"));
        assert!(parse_json::<Value>("c", br#"{"a": "[[[\"{{{\\", "b": []}"#).is_ok());
    }

    #[test]
    fn a_huge_file_is_refused_by_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let problem = read_json::<Value>(&path).unwrap_err();
        assert!(
            problem.to_string().contains("1073741824 bytes"),
            "{problem}"
        );
        assert_eq!(problem.exit_code(), 3);
        assert!(
            read_json::<Value>(dir.path())
                .unwrap_err()
                .to_string()
                .contains("folder")
        );
    }

    #[test]
    fn a_typed_fault_names_the_key() {
        #[derive(serde::Deserialize, Debug)]
        struct Config {
            #[expect(dead_code)]
            layers: Vec<u32>,
        }
        let problem = parse_json::<Config>("c.json", br#"{"layers": [1, "x"]}"#).unwrap_err();
        assert!(problem.to_string().contains("in `layers[1]`"), "{problem}");
    }
}
