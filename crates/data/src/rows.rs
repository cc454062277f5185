//! [`Rows`]: the strings of one column of a parquet file, some rows at a time; [`table`]: some columns.

use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{ColumnDescriptor, Type};

use crate::{Error, Result};

/// Rows that are read together: few enough for long documents, enough for short ones.
const BATCH: usize = 256;

/// A file, row group by row group; in memory are a page of the column and a batch of its rows.
pub(crate) struct Rows<'a> {
    path: &'a Path,
    column: &'a str,
    file: SerializedFileReader<File>,
    index: usize,
    /// Row groups that were begun.
    groups: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    batch: std::vec::IntoIter<ByteArray>,
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("path", &self.path).field("groups", &self.groups).finish()
    }
}

impl<'a> Rows<'a> {
    /// # Errors
    /// When the file cannot be read, is no parquet, or has no such column of strings.
    pub(crate) fn open(path: &'a Path, column: &'a str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let file =
            caught(|| SerializedFileReader::new(file)).map_err(|e| damaged(path, column, &e))?;
        let columns = file.metadata().file_metadata().schema_descr().columns();
        let Some(index) = columns.iter().position(|c| c.path().string() == column) else {
            let names = columns.iter().map(|c| c.path().string()).collect::<Vec<_>>().join(", ");
            let problem = format!("no column {column:?}; name the column of the text: {names}");
            return Err(Error::Corpus { path: path.into(), problem });
        };
        if !is_text(&columns[index]) {
            let problem = format!(
                "column {column:?} is not of strings but of {}; name the column of the text",
                columns[index].physical_type()
            );
            return Err(Error::Corpus { path: path.into(), problem });
        }
        Ok(Self {
            path,
            column,
            file,
            index,
            groups: 0,
            group: None,
            batch: Vec::new().into_iter(),
        })
    }

    /// The next document, or `None` at the end of the file.
    pub(crate) fn document(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(value) = self.batch.next() {
                let text = value.as_utf8().map_err(|e| damaged(self.path, self.column, &e))?;
                return Ok(Some(text.into()));
            }
            let more = caught(|| self.next_batch());
            if !more.map_err(|e| damaged(self.path, self.column, &e))? {
                return Ok(None);
            }
        }
    }

    /// Reads rows, of which all may be null; whether there were any.
    fn next_batch(&mut self) -> parquet::errors::Result<bool> {
        loop {
            if let Some(group) = &mut self.group {
                // Levels say which rows are null; the values that follow leave those out.
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let (rows, ..) = group.read_records(BATCH, Some(&mut levels), None, &mut values)?;
                self.batch = values.into_iter();
                if rows > 0 {
                    return Ok(true);
                }
                self.group = None;
            }
            if self.groups == self.file.num_row_groups() {
                return Ok(false);
            }
            let group = self.file.get_row_group(self.groups)?;
            self.groups += 1;
            match group.get_column_reader(self.index)? {
                ColumnReader::ByteArrayColumnReader(reader) => self.group = Some(reader),
                _ => return Err(ParquetError::General("a row group is of another type".into())),
            }
        }
    }
}

/// The values of some columns, row by row, as strings: texts as they are, numbers as they print.
///
/// # Errors
/// When the file cannot be read, is no parquet, or has no such column, or when a value is neither text
/// nor number, by row.
pub(crate) fn table(path: &Path, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let names = columns.join(", ");
    let fail = |problem: String| Error::Corpus { path: path.into(), problem };
    let file = File::open(path).map_err(Error::io(path))?;
    let file = caught(|| SerializedFileReader::new(file)).map_err(|e| damaged(path, &names, &e))?;
    let schema = file.metadata().file_metadata().schema_descr().root_schema();
    let field = |name: &&str| {
        let found = schema.get_fields().iter().find(|field| field.name() == *name);
        found.cloned().ok_or_else(|| {
            let found = schema.get_fields().iter().map(|field| field.name());
            let found = found.collect::<Vec<_>>().join(", ");
            fail(format!("no column {name:?}, found {found}; is it of another task?"))
        })
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>>>()?;
    let rows = caught(|| {
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
        file.get_row_iter(Some(projection))?.collect::<parquet::errors::Result<Vec<_>>>()
    });
    let rows = rows.map_err(|e| damaged(path, &names, &e))?;
    let value = |(row, (name, field)): (usize, (String, Field))| match field {
        Field::Str(text) => Ok(text),
        Field::Null | Field::Bytes(_) | Field::Group(_) | Field::ListInternal(_) => {
            Err(fail(format!("row {row}: {name:?} is no text or number; leave such rows out")))
        }
        number => Ok(number.to_string()),
    };
    let rows = (1..).zip(rows).map(|(i, row)| {
        let columns = row.into_columns().into_iter();
        columns.map(|column| value((i, column))).collect::<Result<Vec<_>>>()
    });
    rows.collect()
}

/// Strings, at most one a row.
fn is_text(column: &ColumnDescriptor) -> bool {
    let string = matches!(column.logical_type_ref(), Some(LogicalType::String))
        || column.converted_type() == ConvertedType::UTF8;
    string && column.max_rep_level() == 0
}

/// The reader asserts where damaged metadata contradict themselves; it is not used after that.
fn caught<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> parquet::errors::Result<T> {
    let contradiction = |_| Err(ParquetError::General("metadata contradict themselves".into()));
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(contradiction)
}

fn damaged(path: &Path, column: &str, error: &ParquetError) -> Error {
    let problem = format!("column {column:?} cannot be read ({error}); fetch the file again");
    Error::Corpus { path: path.into(), problem }
}
