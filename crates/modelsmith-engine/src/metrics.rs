//! Metrics of a run: `metrics.jsonl` is the record, TensorBoard's event file is made beside it.

use crate::tensorboard::EventFile;
use modelsmith_core::error::{Error, Result};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Append-only metrics, one JSON object a line, flushed a record at a time.
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
    offset: u64,
    events: EventFile,
}

impl Metrics {
    /// Opens the metrics of a run folder at a length that a checkpoint recorded; what was written
    /// after that checkpoint is cut off, since the resumed run writes it again.
    ///
    /// # Errors
    /// The files cannot be written, or are shorter than recorded.
    pub(crate) fn open(run: &Path, offset: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let io = |error| Error::io(&path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < offset {
            return Err(Error::file(
                &path,
                format!("has {length} bytes; the checkpoint was written after {offset}"),
            ));
        }
        file.set_len(offset).map_err(io)?;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok(Self {
            events: EventFile::create(&run.join("tensorboard"), offset)?,
            path,
            file,
            offset,
        })
    }

    /// Appends a record of `kind` (`train`, `eval`, ...) at a step.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn record(&mut self, kind: &str, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::new();
        line.insert("kind".into(), kind.into());
        line.insert("step".into(), step.into());
        for (name, value) in values {
            line.insert((*name).into(), (*value).into());
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| Error::io(&self.path, error))?;
        self.offset += text.len() as u64;
        for (name, value) in values {
            self.events
                .scalar(&format!("{kind}/{name}"), step, *value)?;
        }
        Ok(())
    }

    /// Length of the record so far; makes it durable.
    ///
    /// # Errors
    /// The file cannot be synced.
    pub(crate) fn sync(&mut self) -> Result<u64> {
        self.file
            .sync_data()
            .map_err(|error| Error::io(&self.path, error))?;
        Ok(self.offset)
    }
}
