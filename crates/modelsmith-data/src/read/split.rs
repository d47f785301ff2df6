//! Cuts a file of lines into rows without reading more than one row into memory.

use std::io::{BufRead, Read};

use crate::config::{Document, Kind};

/// Largest row in bytes; a longer one is refused before it is held in memory.
pub const MAX_ROW: usize = 64 << 20;

/// How the lines of a file make rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Each line that is not blank.
    Lines,
    /// The whole file.
    File,
    /// Runs of lines between blank lines.
    Paragraphs,
    /// Runs of lines between lines equal to this.
    Separated(String),
    /// Records of comma-separated values: quotes may hold line ends.
    Quoted,
}

impl Cut {
    pub(crate) fn new(kind: Kind, document: Document, separator: Option<&str>) -> Self {
        match (kind, document, separator) {
            (Kind::Text, _, Some(separator)) => Self::Separated(separator.into()),
            (Kind::Text, Document::File, None) => Self::File,
            (Kind::Text, Document::Paragraph, None) => Self::Paragraphs,
            (Kind::Csv, ..) => Self::Quoted,
            _ => Self::Lines,
        }
    }
}

/// A row's bytes and where they start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Why a file could not be cut further.
#[derive(Debug)]
pub(crate) enum SplitError {
    Io(std::io::Error),
    /// The row at this byte exceeds the limit.
    TooLong(u64),
    /// The quote of the record at this byte never closes.
    OpenQuote(u64),
}

/// Iterator over the rows of a reader.
#[derive(Debug)]
pub(crate) struct Splitter<R> {
    reader: R,
    cut: Cut,
    limit: usize,
    offset: u64,
    failed: bool,
}

impl<R: BufRead> Splitter<R> {
    pub(crate) fn new(reader: R, cut: Cut, limit: usize) -> Self {
        Self {
            reader,
            cut,
            limit,
            offset: 0,
            failed: false,
        }
    }

    /// Appends the next line to `into`; returns its length with the line end, 0 at the end.
    fn line(&mut self, into: &mut Vec<u8>, start: u64) -> Result<usize, SplitError> {
        let room = self.limit.saturating_sub(into.len()) as u64 + 1;
        let before = into.len();
        let mut bounded = self.reader.by_ref().take(room);
        let read = bounded.read_until(b'\n', into).map_err(SplitError::Io)?;
        self.offset += read as u64;
        if into.len() > self.limit {
            return Err(SplitError::TooLong(start));
        }
        // A byte-order mark is no part of the first row.
        if before == 0 && start == 0 && into.starts_with(b"\xEF\xBB\xBF") {
            into.drain(..3);
        }
        Ok(read)
    }

    fn advance(&mut self) -> Result<Option<Chunk>, SplitError> {
        let mut chunk = Chunk {
            offset: self.offset,
            bytes: Vec::new(),
        };
        let mut quoted = Quotes::default();
        loop {
            let before = chunk.bytes.len();
            let read = self.line(&mut chunk.bytes, chunk.offset)?;
            if read == 0 {
                if quoted.inside {
                    return Err(SplitError::OpenQuote(chunk.offset));
                }
                return Ok((!is_blank(&chunk.bytes)).then_some(chunk));
            }
            let line = chunk.bytes.get(before..).unwrap_or_default();
            let ends = match &self.cut {
                Cut::File => false,
                Cut::Lines => true,
                Cut::Paragraphs => is_blank(line),
                Cut::Separated(separator) => trim_end(line) == separator.as_bytes(),
                Cut::Quoted => quoted.line_ends_record(line),
            };
            if ends && matches!(self.cut, Cut::Paragraphs | Cut::Separated(_)) {
                chunk.bytes.truncate(before);
            }
            if ends && is_blank(&chunk.bytes) {
                chunk = Chunk {
                    offset: self.offset,
                    bytes: Vec::new(),
                };
            } else if ends {
                return Ok(Some(chunk));
            }
        }
    }
}

impl<R: BufRead> Iterator for Splitter<R> {
    type Item = Result<Chunk, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

/// Whether a record of comma-separated values is inside a quoted field.
#[derive(Debug, Default)]
struct Quotes {
    inside: bool,
}

impl Quotes {
    /// Reads a line with its end; a quote opens only at the start of a field.
    fn line_ends_record(&mut self, line: &[u8]) -> bool {
        let mut field_start = !self.inside;
        let mut bytes = line.iter().peekable();
        while let Some(byte) = bytes.next() {
            if self.inside && *byte == b'"' {
                if bytes.peek() == Some(&&b'"') {
                    bytes.next();
                } else {
                    self.inside = false;
                }
            } else if !self.inside {
                self.inside = field_start && *byte == b'"';
                field_start = *byte == b',';
            }
        }
        !self.inside
    }
}

pub(crate) fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, cut: Cut) -> Vec<(u64, String)> {
        let splitter = Splitter::new(text.as_bytes(), cut, 100);
        let text = |chunk: Chunk| (chunk.offset, String::from_utf8(chunk.bytes).unwrap());
        splitter.map(|chunk| text(chunk.unwrap())).collect()
    }

    #[test]
    fn lines_paragraphs_and_files() {
        assert_eq!(
            rows("a\n\nb\r\n", Cut::Lines),
            [(0, "a\n".into()), (3, "b\r\n".into())]
        );
        assert_eq!(
            rows("a\nb\n\n\nc", Cut::Paragraphs),
            [(0, "a\nb\n".into()), (6, "c".into())]
        );
        assert_eq!(rows("a\n\nc", Cut::File), [(0, "a\n\nc".into())]);
        assert_eq!(rows(" \n\n", Cut::File), []);
        let separated = rows("a\n\nb\n--\nc\n--\n", Cut::Separated("--".into()));
        assert_eq!(separated, [(0, "a\n\nb\n".into()), (8, "c\n".into())]);
    }

    #[test]
    fn quotes_hold_line_ends() {
        let found = rows("a,\"b\n\"\"c\"\n5\" x,d\n", Cut::Quoted);
        assert_eq!(
            found,
            [(0, "a,\"b\n\"\"c\"\n".into()), (10, "5\" x,d\n".into())]
        );
        let mut open = Splitter::new("a,\"b\n".as_bytes(), Cut::Quoted, 100);
        assert!(matches!(open.next(), Some(Err(SplitError::OpenQuote(0)))));
    }

    #[test]
    fn a_long_row_is_refused_before_it_is_held() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut splitter = Splitter::new(endless, Cut::Lines, 1000);
        assert!(matches!(splitter.next(), Some(Err(SplitError::TooLong(0)))));
        assert!(splitter.next().is_none());
    }
}
