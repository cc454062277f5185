//! [`Rows`]: the strings of one column of a parquet file, some rows at a time; [`table`]: some columns.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{ColumnDescriptor, Type, TypePtr};

use crate::{Error, Result};

/// Rows that are read together: few enough for long documents, enough for short ones.
const BATCH: usize = 256;

/// A file, row group by row group; in memory are a page of the column and a batch of its rows.
pub(crate) struct Rows<'a> {
    path: &'a Path,
    column: &'a str,
    file: SerializedFileReader<Pages>,
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
        let file = open(path, column)?;
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
    let file = open(path, &names)?;
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
    let value = |row: usize, (name, field): (&&str, Field)| match field {
        Field::Str(text) => Ok(text),
        Field::Null | Field::Bytes(_) | Field::Group(_) | Field::ListInternal(_) => {
            Err(fail(format!("row {row}: {name:?} is no text or number; leave such rows out")))
        }
        number => Ok(number.to_string()),
    };
    let mut rows = Vec::new();
    each_row(path, &file, fields, |number, values| {
        let values = columns.iter().zip(values).map(|column| value(number, column));
        rows.push(values.collect::<Result<Vec<_>>>()?);
        Ok(())
    })?;
    Ok(rows)
}

/// Hands over the values of some columns, in their order, row by row from 1.
///
/// # Errors
/// When they cannot be read, and those of `each`.
pub(crate) fn each_row(
    path: &Path,
    file: &SerializedFileReader<Pages>,
    columns: Vec<TypePtr>,
    mut each: impl FnMut(usize, Vec<Field>) -> Result<()>,
) -> Result<()> {
    let names = columns.iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
    let name = file.metadata().file_metadata().schema_descr().root_schema().name();
    let rows = caught(|| {
        let wanted = Type::group_type_builder(name).with_fields(columns).build()?;
        file.get_row_iter(Some(wanted))
    });
    let mut rows = rows.map_err(|e| damaged(path, &names, &e))?;
    for number in 1.. {
        let row = caught(|| rows.next().transpose()).map_err(|e| damaged(path, &names, &e))?;
        let Some(row) = row else { break };
        each(number, row.into_columns().into_iter().map(|(_, value)| value).collect())?;
    }
    Ok(())
}

/// A file of which the metadata have been read; `columns` are those that are wanted, for errors.
pub(crate) fn open(path: &Path, columns: &str) -> Result<SerializedFileReader<Pages>> {
    let most = Arc::new(OnceLock::new());
    let file = File::open(path).map_err(Error::io(path))?;
    let pages = Pages { file, most: most.clone() };
    let file =
        caught(|| SerializedFileReader::new(pages)).map_err(|e| damaged(path, columns, &e))?;
    let groups = file.metadata().row_groups().iter();
    let columns = groups.flat_map(RowGroupMetaData::columns);
    let sizes = columns.map(ColumnChunkMetaData::uncompressed_size);
    most.get_or_init(|| sizes.max().unwrap_or(0).max(PAGE));
    Ok(file)
}

/// Bytes that a page may unpack to whatever the metadata say.
const PAGE: i64 = 8 << 20;

/// A file of which each page header is compared with the metadata before the library allocates what it
/// asks for.
pub(crate) struct Pages {
    file: File,
    /// Bytes of the largest column of a row group, which no page of it exceeds; known after the metadata.
    most: Arc<OnceLock<i64>>,
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Pages {
    type T = BufReader<File>;

    /// A reader at a page header.
    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let mut reader = self.file.get_read(start)?;
        if let (Some(&most), Some((size, values))) = (self.most.get(), claims(reader.fill_buf()?))
            && (size > most || values > size)
        {
            let problem = format!(
                "a page of {size} bytes with {values} values in its dictionary, in columns of {most} bytes"
            );
            return Err(ParquetError::General(problem));
        }
        Ok(reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start.saturating_add(length as u64) > self.len() {
            let problem = format!("{length} bytes at {start} of {}", self.len());
            return Err(ParquetError::EOF(problem));
        }
        self.file.get_bytes(start, length)
    }
}

/// What a page header asks for: bytes after unpacking, and the values of a dictionary.
///
/// It is thrift's compact protocol: kind, both sizes, perhaps a checksum, then the header of its kind,
/// which for a dictionary begins with the number of values.
fn claims(header: &[u8]) -> Option<(i64, i64)> {
    /// A 32-bit number in the next field, and a structure in field 7 after field 3 and after field 4.
    const NUMBER: u8 = 0x15;
    const DICTIONARY: [u8; 2] = [0x4c, 0x3c];
    let mut bytes = header.iter().copied();
    let mut sizes = [0; 3];
    for size in &mut sizes {
        bytes.next().filter(|&field| field == NUMBER)?;
        *size = number(&mut bytes)?;
    }
    let mut field = bytes.next()?;
    let checksum = field == NUMBER;
    if checksum {
        number(&mut bytes)?;
        field = bytes.next()?;
    }
    let dictionary = field == DICTIONARY[usize::from(checksum)] && bytes.next() == Some(NUMBER);
    Some((sizes[1], if dictionary { number(&mut bytes)? } else { 0 }))
}

/// A number of thrift's: seven bits a byte, the lowest first; its own lowest bit is the sign.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let byte = bytes.next()?;
        number |= i64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number >> 1);
        }
    }
    None
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
