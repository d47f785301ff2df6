//! Rows of data files, by position or in order, one row in memory at a time.
//!
//! One pass over a file of lines finds where each row starts (eight bytes a row); after it any
//! row is read by seeking, which is what makes shuffling a file larger than memory possible.
//! Parquet brings such an index with it, by row group.

mod location;
mod parquet;
mod parse;
mod split;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use modelsmith_core::error::{Error, Result};
use serde_json::{Map, Value};

use crate::config::{DataConfig, Document, Kind};
pub use location::Location;
use parquet::ParquetFile;
pub(crate) use parquet::guarded;
pub(crate) use parse::short;
use parse::{Layout, record};
pub use split::MAX_ROW;
use split::{Chunk, Cut, SplitError, Splitter};

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Kind of the files, or `Auto`.
    pub kind: Kind,
    /// How plain text is cut.
    pub document: Document,
    /// Line between documents of plain text.
    pub separator: Option<String>,
    /// Rows at most; 0 for all.
    pub limit: usize,
}

impl From<&DataConfig> for ReadOptions {
    fn from(config: &DataConfig) -> Self {
        Self {
            kind: config.kind,
            document: config.document,
            separator: config.separator.clone(),
            limit: config.limit,
        }
    }
}

/// The rows of one or more files.
#[derive(Debug)]
pub struct Source {
    files: Vec<DataFile>,
    /// First row of each file, and the number of rows at the end.
    starts: Vec<u64>,
}

#[derive(Debug)]
struct DataFile {
    path: Arc<PathBuf>,
    size: u64,
    modified: Option<SystemTime>,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Lines {
        file: Mutex<File>,
        offsets: Vec<u64>,
        layout: Layout,
    },
    Parquet(ParquetFile),
}

impl Source {
    /// Opens a file, or every file of a known kind in a folder in order of name, and finds the
    /// rows.
    ///
    /// # Errors
    /// [`Error::File`] for an unknown kind, an empty folder, a row over [`MAX_ROW`] bytes.
    pub fn open(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let mut source = Self {
            files: Vec::new(),
            starts: vec![0],
        };
        for path in list(path.as_ref())? {
            let left = match options.limit {
                0 => u64::MAX,
                limit => (limit as u64).saturating_sub(source.len()),
            };
            let file = DataFile::open(&path, options, left)?;
            source.starts.push(source.len() + file.len().min(left));
            source.files.push(file);
        }
        Ok(source)
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The row of this number with its place.
    ///
    /// # Errors
    /// [`Error::File`] with line and column when the row is malformed or the file has changed.
    pub fn row(&self, row: u64) -> Result<(Location, Map<String, Value>)> {
        let file = self
            .starts
            .partition_point(|start| *start <= row)
            .saturating_sub(1);
        match self.files.get(file) {
            Some(found) => found.row(row - self.starts[file]),
            None => Err(Error::Failed(format!(
                "row {row} asked of {} rows",
                self.len()
            ))),
        }
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = Result<(Location, Map<String, Value>)>> {
        (0..self.len()).map(|row| self.row(row))
    }

    /// Runs of rows that are cheap to read together: whole for lines, row groups for Parquet.
    pub fn blocks(&self) -> Vec<Range<u64>> {
        let mut blocks: Vec<Range<u64>> = Vec::new();
        let mut lines_before = false;
        for (file, bounds) in self.files.iter().zip(self.starts.windows(2)) {
            match &file.rows {
                // Neighbouring files of lines are one block, as if they were one file.
                Rows::Lines { .. } => match blocks.last_mut() {
                    Some(last) if lines_before => last.end = bounds[1],
                    _ => blocks.push(bounds[0]..bounds[1]),
                },
                Rows::Parquet(parquet) => {
                    let groups = parquet.starts().windows(2);
                    let global = |at: u64| (bounds[0] + at).min(bounds[1]);
                    blocks.extend(groups.map(|group| global(group[0])..global(group[1])));
                }
            }
            lines_before = matches!(file.rows, Rows::Lines { .. });
        }
        blocks.retain(|block| !block.is_empty());
        blocks
    }
}

impl DataFile {
    fn open(path: &Path, options: &ReadOptions, limit: u64) -> Result<Self> {
        let io = |error| Error::io(path, error);
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        sniff(path, &mut file)?;
        let rows = match resolve(path, options.kind)? {
            Kind::Parquet => Rows::Parquet(ParquetFile::open(path)?),
            kind => Rows::index(path, file, kind, options, limit)?,
        };
        Ok(Self {
            path: Arc::new(path.to_path_buf()),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            rows,
        })
    }

    fn len(&self) -> u64 {
        match &self.rows {
            Rows::Lines { offsets, .. } => offsets.len().saturating_sub(1) as u64,
            Rows::Parquet(file) => file.starts().last().copied().unwrap_or(0),
        }
    }

    fn row(&self, row: u64) -> Result<(Location, Map<String, Value>)> {
        let mut at = Location {
            path: Arc::clone(&self.path),
            row,
            offset: None,
        };
        match &self.rows {
            Rows::Parquet(file) => Ok((at, file.row(&self.path, row)?)),
            Rows::Lines {
                file,
                offsets,
                layout,
            } => {
                let span = offsets[row as usize]..offsets[row as usize + 1];
                at.offset = Some(span.start);
                let bytes = self.bytes(file, span)?;
                let map = layout.parse(&at, &bytes)?;
                Ok((at, map))
            }
        }
    }

    fn bytes(&self, file: &Mutex<File>, span: Range<u64>) -> Result<Vec<u8>> {
        let mut file = file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = file
            .metadata()
            .map_err(|error| Error::io(&*self.path, error))?;
        if now.len() != self.size || now.modified().ok() != self.modified {
            return Err(Error::file(
                &*self.path,
                "has changed since it was opened; leave data files alone during a run",
            ));
        }
        let mut bytes = vec![0; (span.end - span.start) as usize];
        let read = file
            .seek(SeekFrom::Start(span.start))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| Error::io(&*self.path, error))?;
        Ok(bytes)
    }
}

impl Rows {
    /// Finds where rows start, reading the file once.
    fn index(
        path: &Path,
        file: File,
        kind: Kind,
        options: &ReadOptions,
        limit: u64,
    ) -> Result<Self> {
        let io = |error| Error::io(path, error);
        let cut = Cut::new(kind, options.document, options.separator.as_deref());
        let again = File::open(path).map_err(io)?;
        let mut splitter = Splitter::new(
            BufReader::with_capacity(1 << 20, file),
            cut.clone(),
            MAX_ROW,
        );
        let mut layout = Layout {
            kind,
            cut,
            header: Vec::new(),
        };
        if matches!(kind, Kind::Csv | Kind::Tsv) {
            let first = splitter
                .next()
                .transpose()
                .map_err(|error| split_error(path, error))?;
            layout.header = header(path, kind, first)?;
        }
        let mut offsets = Vec::new();
        let mut end = None;
        for chunk in splitter {
            let chunk = chunk.map_err(|error| split_error(path, error))?;
            if offsets.len() as u64 == limit {
                end = Some(chunk.offset);
                break;
            }
            offsets.push(chunk.offset);
            end = Some(chunk.offset + chunk.bytes.len() as u64 + 3);
        }
        if let Some(end) = end {
            // The last row ends with its own bytes; three more where a byte-order mark was cut.
            let size = again.metadata().map_err(io)?.len();
            offsets.push(end.min(size));
        }
        Ok(Self::Lines {
            file: Mutex::new(again),
            offsets,
            layout,
        })
    }
}

fn header(path: &Path, kind: Kind, first: Option<Chunk>) -> Result<Vec<String>> {
    let Some(chunk) = first else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8(chunk.bytes)
        .map_err(|_| Error::file(path, "line 1: the header is not valid UTF-8"))?;
    let names =
        record(kind, &text).map_err(|problem| Error::file(path, format!("line 1: {problem}")))?;
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::file(
            path,
            format!("line 1: column {:?} stands twice in the header", pair[0]),
        )),
        None => Ok(names),
    }
}

fn split_error(path: &Path, error: SplitError) -> Error {
    let at = |offset| Location {
        path: Arc::new(path.to_path_buf()),
        row: 0,
        offset: Some(offset),
    };
    match error {
        SplitError::Io(error) => Error::io(path, error),
        SplitError::TooLong(offset) => at(offset).error(format!(
            "a row of more than {} MB; cut it, or for plain text choose a smaller data.document",
            MAX_ROW >> 20
        )),
        SplitError::OpenQuote(offset) => at(offset).error("a quote opens here and never closes"),
    }
}

/// The file itself, or the files of a folder in order of name.
fn list(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::io(path, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| Error::io(path, error))?.path();
        if file.is_file() && resolve(&file, Kind::Auto).is_ok() {
            files.push(file);
        }
    }
    files.sort_unstable();
    if files.is_empty() {
        return Err(Error::file(
            path,
            "holds no file that ends in .txt, .jsonl, .csv, .tsv or .parquet",
        ));
    }
    Ok(files)
}

fn resolve(path: &Path, kind: Kind) -> Result<Kind> {
    if kind != Kind::Auto {
        return Ok(kind);
    }
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    match extension.as_str() {
        "txt" | "text" | "md" => Ok(Kind::Text),
        "jsonl" | "ndjson" | "json" => Ok(Kind::Jsonl),
        "csv" => Ok(Kind::Csv),
        "tsv" => Ok(Kind::Tsv),
        "parquet" => Ok(Kind::Parquet),
        _ => Err(Error::file(
            path,
            format!(
                "the ending {extension:?} says no kind of data; set data.kind to text, jsonl, csv, tsv or parquet"
            ),
        )),
    }
}

/// Refuses what is often found in place of data.
pub(crate) fn sniff(path: &Path, file: &mut File) -> Result<()> {
    let mut head = Vec::new();
    let read = file
        .by_ref()
        .take(64)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind());
    read.map_err(|error| Error::io(path, error))?;
    let head = head.to_ascii_lowercase();
    if head.starts_with(b"version https://git-lfs") {
        return Err(Error::file(
            path,
            "is a Git LFS pointer, not the data; fetch it with: git lfs pull",
        ));
    }
    if head.starts_with(b"<!doctype html") || head.starts_with(b"<html") {
        return Err(Error::file(
            path,
            "is a web page, not data; download the file itself",
        ));
    }
    Ok(())
}
