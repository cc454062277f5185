//! Labelled images in the rows of parquet files, as the Hugging Face hub keeps them.
//!
//! A row has a group `image` of `bytes`, the content of an image file, and `path`, which may be null, and a number
//! `label`. The names of the classes are in the metadata of the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::file::reader::FileReader;
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use super::files::ImageFiles;
use super::folder::ImageFolder;
use super::preprocessing::Preprocessing;
use super::shards::Shards;
use crate::rows::{each_row, open};
use crate::{Error, Result};

/// Names of the columns, the likelier first.
const IMAGE: [&str; 2] = ["image", "img"];
const LABEL: [&str; 3] = ["label", "labels", "fine_label"];

/// Key of what the hub says of a file, in JSON.
const HUGGING_FACE: &str = "huggingface";

/// The rows of a part.
#[derive(Default)]
struct Rows {
    /// The file and the number of each row, from 1.
    names: Vec<PathBuf>,
    labels: Vec<u32>,
    images: Vec<Arc<[u8]>>,
}

/// Reads the rows of all files.
///
/// # Errors
/// When a file cannot be read or has no such columns, a row has no image or no label, a label is none of the
/// classes, or a part has no rows: names file and row.
pub(super) fn read(
    name: String,
    shards: &Shards,
    preprocessing: &Preprocessing,
) -> Result<ImageFolder> {
    let root = &shards.root;
    let mut named = None;
    let mut rows = |files: &[PathBuf]| -> Result<Option<Rows>> {
        let Some(first) = files.first() else { return Ok(None) };
        let mut rows = Rows::default();
        for file in files {
            rows.read(root, file, &mut named)?;
        }
        match rows.labels.is_empty() {
            true => Err(fail(&root.join(first), "no rows in it; fetch it again".into())),
            false => Ok(Some(rows)),
        }
    };
    let train = rows(&shards.train)?.unwrap_or_default();
    let (tune, test) = (rows(&shards.tune)?, rows(&shards.test)?);
    let parts = || [Some(&train), tune.as_ref(), test.as_ref()].into_iter().flatten();
    let classes = match named {
        Some((_, names)) => names,
        None => numbers(root, parts())?,
    };
    for rows in parts() {
        if let Some(bad) = rows.labels.iter().position(|&label| label as usize >= classes.len()) {
            let (label, last) = (rows.labels[bad], classes.len().saturating_sub(1));
            let problem =
                format!("label {label}, and the classes are 0 to {last}; leave such rows out");
            return Err(Error::picture(root.join(&rows.names[bad]), problem));
        }
    }
    if classes.len() < 2 {
        return Err(fail(root, "a single class: there is nothing to tell apart".into()));
    }
    let classes: Arc<[String]> = classes.into();
    let set = |Rows { names, labels, images }: Rows| {
        let (classes, preprocessing) = (classes.clone(), preprocessing.clone());
        ImageFiles::in_memory(name.clone(), root, classes, names, labels, images, preprocessing)
    };
    let train = set(train);
    let (tune, test) = match (tune, test) {
        (tune, Some(test)) => (tune.map(set), Some(set(test))),
        (tune, None) => (None, tune.map(set)),
    };
    Ok(ImageFolder { train, tune, test, passed_over: 0 })
}

fn fail(path: &Path, problem: String) -> Error {
    Error::ImageFolder { folder: path.into(), problem }
}

/// The classes of labels without names: the numbers up to the largest.
fn numbers<'a>(root: &Path, parts: impl Iterator<Item = &'a Rows>) -> Result<Vec<String>> {
    let rows: Vec<_> = parts.flat_map(|rows| rows.labels.iter().zip(&rows.names)).collect();
    let Some(&(&largest, row)) = rows.iter().max_by_key(|(label, _)| **label) else {
        return Ok(Vec::new());
    };
    if largest as usize >= rows.len() {
        let problem = format!(
            "label {largest} in {} rows: are these the numbers of classes? Write such, from 0, as {}",
            rows.len(),
            LABEL[0]
        );
        return Err(Error::picture(root.join(row), problem));
    }
    Ok((0..=largest).map(|class| class.to_string()).collect())
}

impl Rows {
    /// Appends the rows of a file. `named` are the classes of the first file that names them, which those of all
    /// others must be.
    fn read(
        &mut self,
        root: &Path,
        file: &Path,
        named: &mut Option<(PathBuf, Vec<String>)>,
    ) -> Result<()> {
        let path = root.join(file);
        let reader = open(&path, IMAGE[0])?;
        let metadata = reader.metadata().file_metadata();
        let fields = metadata.schema_descr().root_schema().get_fields();
        let image = column(&path, fields, &IMAGE, "images (a group with `bytes`)", holds_image)?;
        let label = column(&path, fields, &LABEL, "labels (integers)", holds_label)?;
        let pairs = metadata.key_value_metadata().into_iter().flatten();
        let said =
            pairs.filter(|pair| pair.key == HUGGING_FACE).find_map(|pair| pair.value.as_ref());
        if let Some(names) = said.and_then(|said| class_names(said, label.name())) {
            match named {
                Some((first, known)) if *known != names => {
                    let first = first.display();
                    let problem =
                        format!("its classes are not those of {first}; are both of one data set?");
                    return Err(fail(&path, problem));
                }
                _ => *named = Some((path.clone(), names)),
            }
        }
        each_row(&path, &reader, vec![image, label], |number, values| {
            let mut name = file.as_os_str().to_owned();
            name.push(format!(" row {number}"));
            let name = PathBuf::from(name);
            let broken = |problem: String| Error::picture(root.join(&name), problem);
            let mut values = values.into_iter();
            let mut value = || values.next().unwrap_or(Field::Null);
            let image = bytes(value())
                .ok_or_else(|| broken("no bytes of an image; leave such rows out".into()))?;
            let label = value();
            let label = class(&label).ok_or_else(|| {
                broken(format!("label {label} is none; leave such rows, or files of them, out"))
            })?;
            self.names.push(name);
            self.labels.push(label);
            self.images.push(image);
            Ok(())
        })
    }
}

/// The first column of one of `names`.
fn column(
    path: &Path,
    fields: &[TypePtr],
    names: &[&str],
    what: &str,
    is: fn(&Type) -> bool,
) -> Result<TypePtr> {
    let found = |name: &&str| fields.iter().find(|field| field.name() == *name && is(field));
    names.iter().find_map(found).cloned().ok_or_else(|| {
        let looked_for = names.join(", ");
        let has: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        let problem =
            format!("no column of {what} (looked for {looked_for}); it has {}", has.join(", "));
        fail(path, format!("{problem}; rename its columns, or take another data set"))
    })
}

fn holds_image(column: &Type) -> bool {
    let is_bytes = |field: &TypePtr| {
        field.name() == "bytes"
            && field.is_primitive()
            && field.get_physical_type() == Physical::BYTE_ARRAY
    };
    column.is_group() && column.get_fields().iter().any(is_bytes)
}

fn holds_label(column: &Type) -> bool {
    column.is_primitive() && matches!(column.get_physical_type(), Physical::INT32 | Physical::INT64)
}

/// The content of an image file, in the group of its column.
fn bytes(field: Field) -> Option<Arc<[u8]>> {
    let Field::Group(group) = field else { return None };
    group.into_columns().into_iter().find_map(|(name, field)| match field {
        Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().into()),
        _ => None,
    })
}

fn class(field: &Field) -> Option<u32> {
    match *field {
        Field::Byte(label) => label.try_into().ok(),
        Field::Short(label) => label.try_into().ok(),
        Field::Int(label) => label.try_into().ok(),
        Field::Long(label) => label.try_into().ok(),
        Field::UByte(label) => Some(label.into()),
        Field::UShort(label) => Some(label.into()),
        Field::UInt(label) => Some(label),
        Field::ULong(label) => label.try_into().ok(),
        _ => None,
    }
}

/// The names of the classes of a column, where the hub gives them.
fn class_names(said: &str, label: &str) -> Option<Vec<String>> {
    let said: Value = serde_json::from_str(said).ok()?;
    let feature = &said["info"]["features"][label];
    if feature["_type"] != "ClassLabel" {
        return None;
    }
    let names = feature["names"].as_array()?.iter();
    names.map(|name| name.as_str().map(Into::into)).collect()
}
