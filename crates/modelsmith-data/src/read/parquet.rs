//! Rows of a Parquet file, one row group in memory at a time.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use modelsmith_core::error::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

type Row = Map<String, Value>;

/// An open Parquet file.
pub(crate) struct ParquetFile {
    reader: SerializedFileReader<File>,
    /// First row of each group, and the number of rows at the end.
    starts: Vec<u64>,
    /// The group read last.
    held: Mutex<Option<(usize, Vec<Row>)>>,
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile")
            .field("starts", &self.starts)
            .finish_non_exhaustive()
    }
}

impl ParquetFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        let mut starts = vec![0u64];
        for group in reader.metadata().row_groups() {
            let rows = u64::try_from(group.num_rows()).map_err(|_| {
                Error::file(
                    path,
                    format!("a row group claims {} rows", group.num_rows()),
                )
            })?;
            let end = starts.last().copied().unwrap_or(0).checked_add(rows);
            starts.push(end.ok_or_else(|| Error::file(path, "row counts overflow"))?);
        }
        Ok(Self {
            reader,
            starts,
            held: Mutex::new(None),
        })
    }

    pub(crate) fn starts(&self) -> &[u64] {
        &self.starts
    }

    pub(crate) fn row(&self, path: &Path, row: u64) -> Result<Row> {
        let group = self
            .starts
            .partition_point(|start| *start <= row)
            .saturating_sub(1);
        let index = (row - self.starts[group]) as usize;
        let mut held = self
            .held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if held.as_ref().is_none_or(|(at, _)| *at != group) {
            *held = Some((group, self.read_group(path, group)?));
        }
        let rows = held
            .as_ref()
            .map(|(_, rows)| rows.as_slice())
            .unwrap_or_default();
        rows.get(index).cloned().ok_or_else(|| {
            let promised = self.starts[group + 1] - self.starts[group];
            Error::file(
                path,
                format!(
                    "row group {group} has {} rows, its header says {promised}",
                    rows.len()
                ),
            )
        })
    }

    fn read_group(&self, path: &Path, group: usize) -> Result<Vec<Row>> {
        guarded(path, || {
            let reader = self.reader.get_row_group(group)?;
            let rows = reader.get_row_iter(None)?;
            rows.map(|row| {
                let columns = row?.into_columns();
                Ok(columns
                    .into_iter()
                    .map(|(name, field)| (name, to_json(field)))
                    .collect())
            })
            .collect()
        })
    }
}

/// The decoder panics on some malformed files; that is the file's fault, not the program's.
pub(crate) fn guarded<T>(
    path: &Path,
    read: impl FnOnce() -> Result<T, parquet::errors::ParquetError>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::file(
            path,
            format!("is not a readable Parquet file: {error}"),
        )),
        Err(_) => Err(Error::file(
            path,
            "is a damaged Parquet file: its pages contradict its header",
        )),
    }
}

fn to_json(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => value.into(),
        Field::Long(value) | Field::TimeMicros(value) => value.into(),
        Field::TimestampMillis(value) | Field::TimestampMicros(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => f64::from(value.to_f32()).into(),
        Field::Float(value) => f64::from(value).into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::Bytes(value) => String::from_utf8_lossy(value.data()).into_owned().into(),
        Field::Group(row) => row
            .into_columns()
            .into_iter()
            .map(|(name, field)| (name, to_json(field)))
            .collect(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(to_json).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| field.to_string().trim_matches('"').to_string();
            let entries = map.entries().iter();
            Value::Object(
                entries
                    .map(|(name, value)| (key(name), to_json(value.clone())))
                    .collect(),
            )
        }
        other => other.to_string().into(),
    }
}
