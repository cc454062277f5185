//! The released pairs of AAN: label, two ids and two texts, between tabs, without a header.

use std::path::Path;

use super::{BYTES, Layout, check_length, ids, lines, no_row};
use crate::sequence_set::Flat;
use crate::table::at;
use crate::{Result, SequenceSet, SequenceSplits};

pub(crate) const FILES: Layout =
    Layout { places: &["", "tsv_data"], file: "new_aan_pairs.train.tsv" };

const NAME: &str = "LRA Retrieval";

/// Reads the three files of the folder that has them.
///
/// # Errors
/// When a file is not there, or a line of it is no labelled pair of texts: names file and line.
pub(crate) fn read(root: &Path, max_length: usize) -> Result<SequenceSplits> {
    check_length(max_length)?;
    let part = |name: &str| read_file(&root.join(format!("new_aan_pairs.{name}.tsv")), max_length);
    Ok(SequenceSplits { train: part("train")?, tune: part("eval")?, test: part("test")? })
}

fn read_file(path: &Path, max_length: usize) -> Result<SequenceSet> {
    let mut flat = Flat::default();
    lines(path, |number, line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
        let [label, _, _, first, second] = fields[..] else {
            let found = fields.len();
            let problem = format!("{found} columns, expected a label, two ids and two texts");
            return Err(at(path, number, problem));
        };
        if first.is_empty() || second.is_empty() {
            return Err(at(path, number, "an empty text; leave the line out"));
        }
        // Written as 0 and 1 or as 0.0 and 1.0.
        let text = String::from_utf8_lossy(label);
        let label = match text.trim().parse::<f32>() {
            Ok(0.0) => 0,
            Ok(1.0) => 1,
            _ => {
                let problem = format!("label {text:.20?} is out of range, expected 0 or 1");
                return Err(at(path, number, problem));
            }
        };
        flat.push(ids(first, max_length));
        flat.push(ids(second, max_length));
        flat.labels.push(label);
        Ok(())
    })?;
    if flat.labels.is_empty() {
        return Err(no_row(path));
    }
    SequenceSet::of_flat(NAME, [BYTES, 2], true, flat)
}
