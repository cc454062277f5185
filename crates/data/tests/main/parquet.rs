use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conditioned_data::{Corpus, Layout};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use crate::corruption::check;
use crate::damage::{Cut, allocated};

/// A row group: a row is a text or a null.
type Group<'a> = &'a [Option<&'a str>];

const SCHEMA: &str = "message rows {
    required int64 n;
    optional binary text (UTF8);
    optional binary bytes;
    optional group answer { required binary text (STRING); }
    repeated binary words (UTF8);
}";

/// Writes the same rows to `text` and `bytes`, and to `answer.text` those that are no nulls.
fn write(path: &Path, groups: &[Group<'_>], properties: WriterProperties) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let present = rows.iter().map(|row| i16::from(row.is_some())).collect::<Vec<_>>();
        let values = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect::<Vec<_>>();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let numbers = (0..rows.len() as i64).collect::<Vec<_>>();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        for _ in 0..3 {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&present), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let (present, starts) = (vec![0; rows.len()], vec![0; rows.len()]);
        column.typed::<ByteArrayType>().write_batch(&[], Some(&present), Some(&starts)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn snappy() -> WriterProperties {
    WriterProperties::builder().set_compression(Compression::SNAPPY).build()
}

fn read(path: &Path, column: &str) -> Vec<String> {
    let corpus = Corpus::open(path, Layout::Parquet(column.into())).unwrap();
    corpus.documents().map(Result::unwrap).collect()
}

fn failure(path: &Path, column: &str) -> String {
    let corpus = Corpus::open(path, Layout::Parquet(column.into())).unwrap();
    let mut documents = corpus.documents().skip_while(Result::is_ok);
    let message = documents.next().unwrap().unwrap_err().to_string();
    assert!(documents.next().is_none());
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(message.contains(&format!("column {column:?}")), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

fn file(folder: &TempDir, groups: &[Group<'_>]) -> PathBuf {
    let path = folder.path().join("a.parquet");
    write(&path, groups, snappy());
    path
}

#[test]
fn rows_are_documents_in_their_order() {
    let long = "word ".repeat(5000);
    let many = (0..1000).map(|i| format!("row {}", i % 7)).collect::<Vec<_>>();
    let many = many.iter().map(|row| Some(row.as_str())).collect::<Vec<_>>();
    let nulls = vec![None; 600];
    let groups: &[Group<'_>] =
        &[&[Some("One.\n\nMore."), None, Some("é"), Some(" ")], &nulls, &many, &[Some(&long)]];
    let mut expected = vec!["One.\n\nMore.", "é"];
    expected.extend(many.iter().flatten());
    expected.push(&long);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .set_data_page_row_count_limit(100)
                    .set_write_batch_size(50)
                    .build();
                let folder = TempDir::new().unwrap();
                let path = folder.path().join("a.parquet");
                write(&path, groups, properties);
                for column in ["text", "answer.text"] {
                    assert_eq!(read(&path, column), expected, "{compression} {dictionary}");
                }
            }
        }
    }
}

#[test]
fn parquet_files_of_a_folder_are_one_corpus() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    write(&folder.path().join("data/train-00001-of-00002.parquet"), &[&[Some("2")]], snappy());
    write(&folder.path().join("data/train-00000-of-00002.parquet"), &[&[Some("1")], &[]], snappy());
    fs::write(folder.path().join("README.md"), "no").unwrap();
    write(&folder.path().join("empty.parquet"), &[], snappy());
    assert_eq!(read(folder.path(), "text"), ["1", "2"]);
    let none = Corpus::open(folder.path(), Layout::Jsonl("text".into())).unwrap_err();
    assert!(none.to_string().contains("looked for files in .jsonl"));
}

#[test]
fn a_column_that_is_not_text_is_named() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, &[&[Some("1")]]);
    let absent = failure(&path, "story");
    assert!(absent.contains("no column"), "{absent}");
    assert!(absent.contains("n, text, bytes, answer.text, words"), "{absent}");
    assert!(failure(&path, "n").contains("not of strings but of INT64"));
    assert!(failure(&path, "bytes").contains("not of strings"));
    assert!(failure(&path, "words").contains("not of strings"));
}

#[test]
fn damaged_files_are_errors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    for other in [&b"not a parquet file"[..], b""] {
        fs::write(&path, other).unwrap();
        assert!(failure(&path, "text").contains("fetch the file again"));
    }
    let path = file(&folder, &[&[Some("One."), None], &[Some("Two.")]]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    assert!(failure(&path, "text").contains("fetch the file again"));
}

/// Each byte is damaged in turn: documents or one error, never a panic.
#[test]
fn damage_anywhere_is_no_panic() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let properties = properties.set_statistics_enabled(EnabledStatistics::None).build();
    write(&path, &[&[Some("One."), None, Some("One.")], &[Some("Two.")]], properties);
    let whole = fs::read(&path).unwrap();
    for i in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << (i % 8);
        fs::write(&path, &bytes).unwrap();
        let corpus = Corpus::open(&path, Layout::Parquet("text".into())).unwrap();
        let errors = corpus.documents().take(10_000).filter(Result::is_err).count();
        assert!(errors <= 1, "byte {i}");
    }
}

/// A page header asks for more than the metadata know of, and a dictionary for more values than bytes.
#[test]
fn no_memory_is_taken_because_a_page_asks_for_it() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, &[&[Some("One."), Some("Two.")]]);
    let whole = fs::read(&path).unwrap();
    let reader = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let column = reader.metadata().row_group(0).column(1);
    let start = column.dictionary_page_offset().unwrap() as usize;
    // Kind, size after unpacking, size, then the dictionary's header with its values, a byte each.
    let [0x15, 0x04, 0x15, _, 0x15, _, 0x4c, 0x15, _] = whole[start..start + 9] else {
        panic!("{:x?}", &whole[start..start + 9])
    };
    // 2^30, as thrift writes it.
    let large = [0x80, 0x80, 0x80, 0x80, 0x08];
    for (at, problem) in [(3, "a page of 1073741824 bytes"), (8, "with 1073741824 values")] {
        let (before, after) = whole.split_at(start + at);
        fs::write(&path, [before, &large, &after[1..]].concat()).unwrap();
        // The metadata at the end have their place from there.
        let mut message = String::new();
        let bytes = allocated(&mut || message = failure(&path, "text"));
        assert!(message.contains(problem) && bytes < 1 << 20, "{bytes}: {message}");
    }
}

/// See `tests/support/corruption.rs`.
#[test]
fn damaged_files_neither_panic_nor_hang_nor_take_memory() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for (compression, version, dictionary) in [
        (Compression::SNAPPY, WriterVersion::PARQUET_1_0, true),
        (zstd, WriterVersion::PARQUET_2_0, true),
        (Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0, true),
        (Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0, false),
    ] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.parquet");
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        write(&path, &[&[Some("Once, naïve."), None, Some("Once.")], &[Some("Two.")]], properties);
        let kind = if dictionary { "" } else { ", without dictionary" };
        check(&format!("parquet ({compression}{kind})"), [path.clone()], Cut::Known, move || {
            let corpus = Corpus::open(&path, Layout::Parquet("text".into()))?;
            corpus.documents().collect::<Result<Vec<_>, _>>()
        });
    }
}
