//! The released files of Pathfinder: `imgs/K/sample_N.png`, and of each folder K a list of them with their labels.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use super::{BYTES, Layout, lines, no_row};
use crate::image::decode::{check_header, decode};
use crate::sequence_set::Flat;
use crate::table::at;
use crate::{Error, Result, SequenceSet, SequenceSplits};

pub(crate) const FILES: Layout = Layout {
    places: &["", "curv_contour_length_14", "pathfinder32/curv_contour_length_14"],
    file: "metadata",
};

const NAME: &str = "LRA Pathfinder";

/// An image and its label.
struct Entry {
    path: PathBuf,
    label: u32,
}

/// Reads all images: 80 % of them, in the order of the lists, are to train on, then 10 % each to tune and to
/// report on.
///
/// # Errors
/// When a list is not as it should be, or an image is missing, damaged or of another size than the first.
pub(crate) fn read(folder: &Path) -> Result<SequenceSplits> {
    let root = FILES.find(folder, "lists of Pathfinder")?;
    let mut entries = Vec::new();
    for list in lists(&root.join(FILES.file))? {
        entries.extend(read_list(&root, &list)?);
    }
    let n = entries.len();
    let Some(first) = entries.first().filter(|_| n >= 10) else {
        let problem = format!("{n} images listed, and a tenth is held out; give at least 10");
        return Err(Error::Corpus { path: root.join(FILES.file), problem });
    };
    let size = check(&first.path, None)?;
    let pixels = entries.par_iter().map(|entry| pixels(&entry.path, size));
    let pixels = pixels.collect::<Result<Vec<_>>>()?;
    let part = |range: std::ops::Range<usize>| {
        let mut flat = Flat::default();
        for i in range {
            flat.push(pixels[i].iter().map(|&pixel| u16::from(pixel) + 1));
            flat.labels.push(entries[i].label);
        }
        SequenceSet::of_flat(NAME, [BYTES, 2], false, flat)
    };
    let (middle, last) = (n * 8 / 10, n * 9 / 10);
    Ok(SequenceSplits { train: part(0..middle)?, tune: part(middle..last)?, test: part(last..n)? })
}

/// The lists, by number: they are text, although they are called `K.npy`.
fn lists(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut lists = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), Some("npy")) = (number, path.extension().and_then(|e| e.to_str())) {
            lists.push((number, path));
        }
    }
    lists.sort();
    if lists.is_empty() {
        let problem = "no list (0.npy, 1.npy and so on) in it; unpack the archive again".into();
        return Err(Error::Corpus { path: folder.into(), problem });
    }
    Ok(lists.into_iter().map(|(_, path)| path).collect())
}

/// The images of a list: folder, file, number, label and further fields a line.
fn read_list(root: &Path, list: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    lines(list, |number, line| {
        let fail = |problem: String| at(list, number, problem);
        let line = std::str::from_utf8(line)
            .map_err(|e| fail(format!("not UTF-8 ({e}); fetch the file again")))?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [folder, file, _, label, ..] = fields[..] else {
            let found = fields.len();
            return Err(fail(format!("{found} fields, expected folder, file, number and label")));
        };
        let label = match label {
            "0" => 0,
            "1" => 1,
            _ => return Err(fail(format!("label {label:.20?} is out of range, expected 0 or 1"))),
        };
        let path = Path::new(folder).join(file);
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(fail(format!("{} leads out of the folder", path.display())));
        }
        let path = root.join(path);
        if !path.is_file() {
            let problem = format!("no image {}; unpack the archive again", path.display());
            return Err(fail(problem));
        }
        entries.push(Entry { path, label });
        Ok(())
    })?;
    if entries.is_empty() {
        return Err(no_row(list));
    }
    Ok(entries)
}

/// Height and width of an image, `expected` where that is known.
fn check(path: &Path, expected: Option<[u32; 2]>) -> Result<[u32; 2]> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    check_bytes(path, &bytes, expected)
}

fn check_bytes(path: &Path, bytes: &[u8], expected: Option<[u32; 2]>) -> Result<[u32; 2]> {
    let size = check_header(bytes).map_err(|problem| Error::picture(path.into(), problem))?;
    match expected {
        Some(expected) if expected != size => {
            let ([h, w], [eh, ew]) = (size, expected);
            let problem = format!("{h} x {w} pixels where the first image has {eh} x {ew}");
            Err(Error::picture(path.into(), problem))
        }
        _ => Ok(size),
    }
}

/// The grey pixels of an image of a size.
fn pixels(path: &Path, size: [u32; 2]) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    check_bytes(path, &bytes, Some(size))?;
    let image = decode(&bytes).map_err(|problem| Error::picture(path.into(), problem))?;
    // The files are grey, which is decoded as three equal channels.
    if image.pixels().any(|pixel| pixel[0] != pixel[1] || pixel[0] != pixel[2]) {
        let problem = "in colours, and the images of Pathfinder are grey; convert it".into();
        return Err(Error::picture(path.into(), problem));
    }
    Ok(image.pixels().map(|pixel| pixel[0]).collect())
}
