//! A file of requests cut into records: objects one a line, or the elements of one JSON list.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::MAX_JSON_BYTES;
use serde_json::{Map, Value};

use super::fault::Faults;
use crate::read::{short, sniff};

/// A record's bytes and where they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Line, from 1.
    pub(super) line: u64,
    /// Bytes of the line before the record.
    column: usize,
    bytes: &'a [u8],
}

/// Bytes of a file of at most [`MAX_JSON_BYTES`], without a byte-order mark.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(Error::file(
            path,
            "is a folder; give the file of edit requests in it",
        ));
    }
    sniff(path, &mut file)?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(io)?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(Error::file(
            path,
            format!(
                "has more than {} MB; cut it into several files of edit requests",
                MAX_JSON_BYTES >> 20
            ),
        ));
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// All records in order; blank lines are none.
pub(super) fn records<'a>(bytes: &'a [u8], faults: &mut Faults) -> Vec<Record<'a>> {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
    match start.map(|at| (at, bytes[at])) {
        None => {
            faults.add(
                1,
                "the file is empty; expected one edit request a line, each an object",
            );
            Vec::new()
        }
        Some((at, b'[')) => elements(bytes, at, faults),
        Some((at, _)) => lines(bytes, at, faults),
    }
}

fn lines<'a>(bytes: &'a [u8], start: usize, faults: &mut Faults) -> Vec<Record<'a>> {
    let all = bytes.split(|byte| *byte == b'\n').zip(1..);
    let records: Vec<Record<'a>> = all
        .map(|(bytes, line)| Record {
            line,
            column: 0,
            bytes,
        })
        .filter(|record| !record.bytes.trim_ascii().is_empty())
        .collect();
    let first = records.first().map(|record| record.bytes.trim_ascii());
    if first == Some(b"{") {
        let line = line_of(bytes, start);
        faults.add(
            line,
            "an object over several lines; write each request on one line (jq -c . FILE), or all of \
             them as one list",
        );
        return Vec::new();
    }
    records
}

fn line_of(bytes: &[u8], at: usize) -> u64 {
    1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Elements of the list that opens at `open`.
fn elements<'a>(bytes: &'a [u8], open: usize, faults: &mut Faults) -> Vec<Record<'a>> {
    let mut records = Vec::new();
    let mut line = line_of(bytes, open);
    let mut line_start = bytes[..open]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    // Where the element that is being read began: byte, line, column.
    let mut begun: Option<(usize, u64, usize)> = None;
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    for (at, byte) in bytes.iter().enumerate().skip(open + 1) {
        let ends = depth == 0 && !in_string && matches!(byte, b',' | b']');
        if ends {
            records.extend(begun.take().map(|(from, line, column)| Record {
                line,
                column,
                bytes: bytes[from..at].trim_ascii_end(),
            }));
            if *byte == b']' {
                let rest = bytes[at + 1..].trim_ascii();
                if !rest.is_empty() {
                    faults.add(
                        line,
                        "something follows the list; expected its end to be the end of the file",
                    );
                }
                return records;
            }
            continue;
        }
        if begun.is_none() && !byte.is_ascii_whitespace() {
            begun = Some((at, line, at - line_start));
        }
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else {
            match byte {
                b'"' => in_string = true,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if *byte == b'\n' {
            line += 1;
            line_start = at + 1;
        }
    }
    let begun = begun.map_or(line, |(_, line, _)| line);
    faults.add(
        begun,
        "the list does not close after the record that begins here; a quote or a bracket is \
         missing, or the file was cut off",
    );
    records
}

impl Record<'_> {
    /// The record's object, or a fault.
    pub(super) fn object(&self, faults: &mut Faults) -> Option<Map<String, Value>> {
        let text = match std::str::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => {
                let (line, column) = self.place(error.valid_up_to());
                let problem = "not valid UTF-8; convert the file to UTF-8";
                faults.add_at(line, Some(column), problem);
                return None;
            }
        };
        let problem = match serde_json::from_str(text.trim()) {
            Ok(Value::Object(map)) => return Some(map),
            Ok(other) => format!(
                "{} is no object; expected {{\"subject\": …, \"prompt\": \"… {{}} …\", \
                 \"target_new\": …}}",
                short(&other.to_string())
            ),
            Err(error) => {
                let skipped = text.len() - text.trim_start().len();
                let above: usize = text
                    .trim_start()
                    .split_inclusive('\n')
                    .map(str::len)
                    .take(error.line() - 1)
                    .sum();
                let at = skipped + above + error.column().saturating_sub(1);
                let (line, column) = self.place(at.min(text.len()));
                let reason = error.to_string();
                let reason = reason.split(" at line ").next().unwrap_or_default();
                let problem = format!("not JSON: {reason}; mend the record or take it out");
                faults.add_at(line, Some(column), problem);
                return None;
            }
        };
        faults.add(self.line, problem);
        None
    }

    /// Line and column of a byte of the record, from 1.
    fn place(&self, at: usize) -> (u64, usize) {
        let before = &self.bytes[..at];
        match before.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => (self.line + line_of(before, at) - 1, at - end),
            None => (self.line, self.column + at + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> (Vec<(u64, String)>, Vec<u64>) {
        let mut faults = Faults::new("x");
        let found = records(text.as_bytes(), &mut faults);
        let shown = |record: &Record<'_>| {
            let text = String::from_utf8(record.bytes.to_vec()).unwrap();
            (record.line, text)
        };
        let lines = faults.found().iter().map(|fault| fault.line).collect();
        (found.iter().map(shown).collect(), lines)
    }

    #[test]
    fn lines_and_lists_keep_the_line_where_a_record_begins() {
        let (found, faults) = cut("\n{\"a\": 1}\n\n{\"b\": 2}");
        assert_eq!(found, [(2, "{\"a\": 1}".into()), (4, "{\"b\": 2}".into())]);
        assert!(faults.is_empty());
        let (found, faults) = cut("[\n {\"a\": \"],{\\\"\",\n  \"b\": [1, 2]},\n 7\n]\n");
        assert_eq!(
            found[0],
            (2, "{\"a\": \"],{\\\"\",\n  \"b\": [1, 2]}".into())
        );
        assert_eq!(found[1], (4, "7".into()));
        assert!(faults.is_empty());
        assert_eq!(cut("[]").0, []);
    }

    #[test]
    fn what_is_no_list_of_records_is_named() {
        assert_eq!(cut(" \n").1, [1]);
        assert_eq!(cut("[{\"a\": 1},\n{\"b\": \"2}]").1, [2]);
        assert_eq!(cut("[{}] x").1, [1]);
        assert_eq!(cut("\n{\n \"a\": 1\n}").1, [2]);
    }

    #[test]
    fn a_fault_inside_a_record_has_its_own_line_and_column() {
        let mut faults = Faults::new("x");
        let text = b"[{\"a\": 1},\n {\"b\":\n   oops}, {\"c\": \"\xff\"}, {\"d\" 1}]";
        let found = records(text, &mut faults);
        let objects = found.iter().filter_map(|record| record.object(&mut faults));
        assert_eq!(objects.count(), 1);
        let places: Vec<_> = faults.found().iter().map(|f| (f.line, f.column)).collect();
        assert_eq!(places, [(3, Some(4)), (3, Some(18)), (3, Some(28))]);
    }
}
