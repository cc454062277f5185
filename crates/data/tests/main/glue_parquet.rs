//! The hub's layout of GLUE, in files that the test writes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use conditioned_data::{Labels, Task};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use crate::corruption::check;
use crate::damage::Cut;

/// Columns of text, then `label`, then a row's number as `idx`, as on the hub.
fn write(path: &Path, columns: &[&str], texts: &[&[&str]], labels: &[f32]) {
    let score = labels.iter().any(|label| label.fract() != 0.0);
    let kind = if score { "float" } else { "int64" };
    let texts_schema = columns.iter().map(|name| format!("optional binary {name} (STRING); "));
    let schema = format!(
        "message schema {{ {} optional {kind} label; optional int32 idx; }}",
        texts_schema.collect::<String>()
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let present = vec![1; labels.len()];
    for values in texts {
        let present: Vec<i16> = values.iter().map(|text| i16::from(*text != "NULL")).collect();
        let values: Vec<ByteArray> = values
            .iter()
            .filter(|text| **text != "NULL")
            .map(|text| ByteArray::from(*text))
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&present), None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    if score {
        column.typed::<FloatType>().write_batch(labels, Some(&present), None).unwrap();
    } else {
        let labels: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
        column.typed::<Int64Type>().write_batch(&labels, Some(&present), None).unwrap();
    }
    column.close().unwrap();
    let numbers: Vec<i32> = (0..labels.len() as i32).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&numbers, Some(&present), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

fn columns(task: Task) -> &'static [&'static str] {
    match task {
        Task::Cola | Task::Sst2 => &["sentence"],
        Task::Mrpc | Task::StsB | Task::Rte => &["sentence1", "sentence2"],
        Task::Qqp => &["question1", "question2"],
        Task::Mnli => &["premise", "hypothesis"],
        Task::Qnli => &["question", "sentence"],
    }
}

#[test]
fn every_task_of_the_hub_is_read() {
    for task in Task::ALL {
        let root = TempDir::new().unwrap();
        let texts: &[&[&str]] = &[&["a \"b ", "c"], &["d", " e"]];
        let labels: &[f32] = if task.labels() == Labels::Score { &[0.0, 3.2] } else { &[1.0, 0.0] };
        let sets: &[&str] = match task {
            Task::Mnli => &["validation_matched", "validation_mismatched"],
            _ => &["validation"],
        };
        let folder = root.path().join(task.name());
        for (set, i, n) in
            sets.iter().map(|set| (*set, 0, 1)).chain([("train", 0, 2), ("train", 1, 2)])
        {
            let path = folder.join(format!("{set}-{i:05}-of-{n:05}.parquet"));
            write(&path, columns(task), &texts[..columns(task).len()], labels);
        }
        for folder in [root.path(), folder.as_path()] {
            let splits = task.read(folder).unwrap();
            assert_eq!((splits.train.len(), splits.dev.len()), (4, sets.len()));
            for (i, row) in splits.train.rows().iter().enumerate() {
                assert_eq!(row.text, ["a \"b", "c"][i % 2]);
                let second = (columns(task).len() == 2).then_some(["d", "e"][i % 2]);
                assert_eq!((row.second.as_deref(), row.label), (second, labels[i % 2]));
            }
            assert_eq!(splits.dev[0].1.rows(), &splits.train.rows()[..2]);
        }
    }
}

#[test]
fn files_of_the_hub_that_do_not_fit_are_named() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("validation-00000-of-00001.parquet");
    let fail = |task: Task| {
        let message = task.read(root.path()).unwrap_err().to_string();
        assert!(message.contains(root.path().to_str().unwrap()), "{message}");
        message
    };
    write(&path, &["sentence"], &[&["a", "b"]], &[0.0, 1.0]);
    assert!(fail(Task::Sst2).contains("the train file of SST-2 is missing"));
    let train = root.path().join("train-00000-of-00001.parquet");
    write(&train, &["sentence"], &[&["a", "b"]], &[0.0, -1.0]);
    assert!(fail(Task::Sst2).contains("line 2: label \"-1\" is not one of negative, positive"));
    assert!(fail(Task::Rte).contains("no column \"sentence1\", found sentence, label, idx"));
    write(&train, &["sentence"], &[&["a", "NULL"]], &[0.0, 1.0]);
    assert!(fail(Task::Sst2).contains("row 2: \"sentence\" is no text or number"));
    fs::write(&train, "PAR1 and so on").unwrap();
    assert!(fail(Task::Sst2).contains("fetch the file again"));
}

/// See `tests/support/corruption.rs`.
#[test]
fn damaged_files_of_the_hub_neither_panic_nor_hang_nor_take_memory() {
    let root = TempDir::new().unwrap();
    let files = ["train", "validation"].map(|set| {
        let path = root.path().join(format!("{set}-00000-of-00001.parquet"));
        write(&path, columns(Task::Rte), &[&["a", "naïve"], &["c", "d"]], &[1.0, 0.0]);
        path
    });
    let path = root.path().to_path_buf();
    check("GLUE's RTE (parquet)", files, Cut::Known, move || Task::Rte.read(&path));
}
