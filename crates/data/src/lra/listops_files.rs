//! The released files of ListOps: `Source` and `Target`, between tabs, under a header.

use std::path::Path;

use super::{Layout, lines, no_row};
use crate::listops::{self, CLASSES, VOCABULARY};
use crate::sequence_set::Flat;
use crate::table::at;
use crate::{Result, SequenceSet, SequenceSplits};

pub(crate) const FILES: Layout = Layout { places: &["", "listops-1000"], file: "basic_train.tsv" };

const NAME: &str = "LRA ListOps";

/// Reads the three files.
///
/// # Errors
/// When a file is not there, or a line of it is no expression with its value: names file and line.
pub(crate) fn read(folder: &Path) -> Result<SequenceSplits> {
    let root = FILES.find(folder, "files of ListOps")?;
    let part = |name: &str| read_file(&root.join(format!("basic_{name}.tsv")));
    Ok(SequenceSplits { train: part("train")?, tune: part("val")?, test: part("test")? })
}

fn read_file(path: &Path) -> Result<SequenceSet> {
    let mut flat = Flat::default();
    lines(path, |number, line| {
        let fail = |problem: String| at(path, number, problem);
        let line = std::str::from_utf8(line)
            .map_err(|e| fail(format!("not UTF-8 ({e}); fetch the file again")))?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [source, target] = fields[..] else {
            let found = fields.len();
            return Err(fail(format!("{found} columns, expected Source and Target between a tab")));
        };
        if number == 1 {
            return match (source, target) {
                ("Source", "Target") => Ok(()),
                _ => Err(fail(format!("the header is {line:.60?}, expected Source and Target"))),
            };
        }
        let tokens = listops::read(source).map_err(fail)?;
        let value = listops::value(&tokens).map_err(fail)?;
        // Of a whole file they agree: the target was computed like this.
        match target.parse::<u32>() {
            Ok(label) if label as usize >= CLASSES => {
                Err(fail(format!("target {label} is out of range, expected 0 to {}", CLASSES - 1)))
            }
            Ok(label) if label == value => {
                flat.push(tokens);
                flat.labels.push(label);
                Ok(())
            }
            _ => Err(fail(format!(
                "target {target:.20?} where the value is {value}; fetch the file again"
            ))),
        }
    })?;
    if flat.labels.is_empty() {
        return Err(no_row(path));
    }
    SequenceSet::of_flat(NAME, [VOCABULARY, CLASSES], false, flat)
}
