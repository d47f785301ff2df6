//! Pictures and labels in the rows of a Parquet file, as Hugging Face's image data sets store them: a column with the
//! bytes, alone or beside a path, and a column with the number of the class.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use modelsmith_core::error::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::read::guarded;

/// An open file.
pub(super) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    rows: usize,
}

/// A row, with its problem where it has no picture or no label.
pub(super) type Found = (Vec<u8>, i64);

impl Table {
    /// Opens a file and looks for both columns.
    ///
    /// # Errors
    /// No readable Parquet file, or one without such columns.
    pub(super) fn open(path: &Path, columns: [&str; 2]) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<&str> = schema.get_fields().iter().map(|f| f.name()).collect();
        for column in columns {
            if !names.contains(&column) {
                let problem = format!("has columns {names:?}; expected one named {column:?}");
                return Err(Error::file(path, problem));
            }
        }
        let rows = reader.metadata().file_metadata().num_rows();
        Ok(Self {
            path: path.to_path_buf(),
            rows: usize::try_from(rows).map_err(|_| {
                let problem = format!("claims {rows} rows; its header is damaged");
                Error::file(path, problem)
            })?,
            reader,
        })
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Hands out the rows of a range in order, each with its number.
    ///
    /// # Errors
    /// Pages that cannot be read, rows without picture or label, and what `take` refuses, all with file and row.
    pub(super) fn read(
        &self,
        range: &Range<usize>,
        columns: [&str; 2],
        take: &mut dyn FnMut(Found) -> Result<(), String>,
    ) -> Result<()> {
        let mut begin = 0;
        for (number, group) in self.reader.metadata().row_groups().iter().enumerate() {
            let count = usize::try_from(group.num_rows()).unwrap_or(0);
            let (first, end) = (range.start.max(begin), range.end.min(begin + count));
            if first < end {
                let rows = self.group(number)?;
                for at in first..end {
                    let row = rows.get(at - begin).ok_or_else(|| {
                        let problem = format!("ends at row {at}; its header says {}", self.rows);
                        Error::file(&self.path, problem)
                    })?;
                    let found = found(row, columns).and_then(&mut *take);
                    found.map_err(|problem| {
                        Error::file(&self.path, format!("row {}: {problem}", at + 1))
                    })?;
                }
            }
            begin += count;
        }
        Ok(())
    }

    fn group(&self, number: usize) -> Result<Vec<Row>> {
        guarded(&self.path, || {
            let reader = self.reader.get_row_group(number)?;
            reader.get_row_iter(None)?.collect()
        })
    }
}

/// The picture's bytes and the label of a row.
fn found(row: &Row, [image, label]: [&str; 2]) -> Result<Found, String> {
    let column = |name: &str| {
        let mut all = row.get_column_iter();
        all.find(|(found, _)| *found == name)
            .map(|(_, field)| field)
    };
    let bytes = match column(image) {
        Some(Field::Bytes(bytes)) => bytes.data().to_vec(),
        Some(Field::Group(group)) => {
            let mut parts = group.get_column_iter();
            match parts.find(|(name, _)| *name == "bytes") {
                Some((_, Field::Bytes(bytes))) => bytes.data().to_vec(),
                _ => return Err(format!("{image} has no bytes; expected a picture in it")),
            }
        }
        _ => return Err(format!("{image} holds no bytes; expected a picture")),
    };
    let label = match column(label) {
        Some(Field::Byte(value)) => i64::from(*value),
        Some(Field::Short(value)) => i64::from(*value),
        Some(Field::Int(value)) => i64::from(*value),
        Some(Field::Long(value)) => *value,
        Some(Field::UByte(value)) => i64::from(*value),
        Some(Field::UShort(value)) => i64::from(*value),
        Some(Field::UInt(value)) => i64::from(*value),
        Some(other) => {
            return Err(format!(
                "{label} is {other}; expected the number of a class"
            ));
        }
        None => return Err(format!("{label} is absent; expected the number of a class")),
    };
    Ok((bytes, label))
}
