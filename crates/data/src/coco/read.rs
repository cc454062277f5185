//! From the entries of a JSON file to images with objects, and what is done about those that are wrong.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde_json::value::RawValue;

use super::json::{self, Annotation, ImageEntry};
use super::{Category, CocoImage, Instance};
use crate::image::decode::MOST_PIXELS;
use crate::table::read_text;
use crate::{Error, Result};

/// Wrong entries that a warning names.
const NAMED: usize = 3;

/// What is wrong with the entries of a file, or the first of it.
pub(super) struct Broken<'a> {
    json: &'a Path,
    skip: bool,
    count: usize,
    first: Vec<String>,
}

impl<'a> Broken<'a> {
    pub(super) fn new(json: &'a Path, skip: bool) -> Self {
        Self { json, skip, count: 0, first: Vec::new() }
    }

    /// How many were left out.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// One more.
    ///
    /// # Errors
    /// With it, unless it is to be left out.
    pub(super) fn add(&mut self, problem: String) -> Result<()> {
        if !self.skip {
            let problem = format!("{problem}; mend it, or have what is broken left out");
            return Err(Error::Coco { path: self.json.into(), problem });
        }
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(problem);
        }
        Ok(())
    }

    /// Says what was left out.
    pub(super) fn warn(&self) {
        if self.count > 0 {
            let more = if self.count > self.first.len() { ", and others" } else { "" };
            tracing::warn!(
                "{}: {} broken images and annotations are left out: {}{more}",
                self.json.display(),
                self.count,
                self.first.join(", ")
            );
        }
    }

    /// Why no image is left.
    pub(super) fn nothing_left(&self, split: Option<&str>) -> String {
        match (self.first.first(), split) {
            (Some(first), _) => format!("no image is left, as of {first}; mend the file"),
            (None, Some(split)) => {
                format!(
                    "no image has the `split` {split:?}; name one that is there, or none for all of them"
                )
            }
            (None, None) => "no image; give a file with some".into(),
        }
    }
}

/// The text of a file.
///
/// # Errors
/// When it cannot be read, is no file or not UTF-8.
pub(super) fn read_json(path: &Path) -> Result<String> {
    match path.is_dir() {
        false => read_text(path),
        true => {
            let problem = "a folder, where a JSON file is expected; name the file in it";
            Err(Error::Coco { path: path.into(), problem: problem.into() })
        }
    }
}

/// The images of a split without their objects, in the order of the file, and the ids of the other images.
pub(super) fn images(
    entries: &[&RawValue],
    folder: &Path,
    split: Option<&str>,
    broken: &mut Broken<'_>,
) -> Result<(Vec<CocoImage>, HashSet<u64>)> {
    let (mut images, mut ids, mut others) = (Vec::new(), HashSet::new(), HashSet::new());
    // None for an image of another split.
    let read = |(place, raw): (usize, &&RawValue)| {
        let read = |raw| {
            let entry: ImageEntry = json::parse(raw)?;
            let is_other = split.is_some() && entry.split.as_deref() != split;
            Ok((entry.id, if is_other { None } else { Some(image(&entry, folder)?) }))
        };
        read(raw).map_err(|problem: String| {
            (json::id(raw), format!("{}: {problem}", json::name("image", place, raw)))
        })
    };
    let read: Vec<_> = entries.par_iter().enumerate().map(read).collect();
    for found in read {
        match found {
            Err((id, problem)) => {
                broken.add(problem)?;
                others.extend(id);
            }
            Ok((id, _)) if !ids.insert(id) => broken.add(format!("image {id} comes twice"))?,
            Ok((_, Some(image))) => images.push(image),
            Ok((id, None)) => _ = others.insert(id),
        }
    }
    Ok((images, others))
}

fn image(entry: &ImageEntry, folder: &Path) -> std::result::Result<CocoImage, String> {
    let ImageEntry { id, ref file_name, height, width, .. } = *entry;
    let pixels = u64::from(height) * u64::from(width);
    if pixels == 0 || pixels > MOST_PIXELS {
        return Err(format!("{height} x {width} pixels, and 1 to {MOST_PIXELS} are expected"));
    }
    let file = PathBuf::from(file_name);
    let is_inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !file.components().all(is_inside) {
        return Err(format!("the path {file_name:?} leaves the folder of images"));
    }
    if !folder.join(&file).is_file() {
        return Err(format!("no file {file_name:?} in {}", folder.display()));
    }
    let [height, width] = [height, width].map(|side| side as usize);
    Ok(CocoImage { id, file, height, width, instances: Vec::new() })
}

/// Hands the objects to their images; those of `others` are passed over, and, with a warning, those whose box has no
/// area, of which COCO's own training set has two: there is nothing to find.
pub(super) fn instances(
    entries: &[&RawValue],
    categories: &[Category],
    images: &mut [CocoImage],
    others: &HashSet<u64>,
    broken: &mut Broken<'_>,
) -> Result<()> {
    let places: HashMap<u64, usize> =
        images.iter().enumerate().map(|(place, image)| (image.id, place)).collect();
    let read = |(place, raw): (usize, &&RawValue)| {
        let fail = |problem| format!("{}: {problem}", json::name("annotation", place, raw));
        let annotation: Annotation<'_> = json::parse(raw).map_err(fail)?;
        let Some(&image) = places.get(&annotation.image_id) else {
            return match others.contains(&annotation.image_id) {
                true => Ok(None),
                false => {
                    Err(fail(format!("image {} is none of the list `images`", annotation.image_id)))
                }
            };
        };
        let size = [images[image].height, images[image].width];
        Ok(Some((image, annotation.instance(size, categories).map_err(fail)?)))
    };
    type Read = std::result::Result<Option<(usize, Option<Instance>)>, String>;
    let read: Vec<Read> = entries.par_iter().enumerate().map(read).collect();
    let (mut ids, mut flat) = (HashSet::new(), 0_usize);
    for instance in read {
        match instance {
            Err(problem) => broken.add(problem)?,
            Ok(Some((_, Some(instance)))) if !ids.insert(instance.id) => {
                broken.add(format!("annotation {} comes twice", instance.id))?;
            }
            Ok(Some((image, Some(instance)))) => images[image].instances.push(instance),
            Ok(Some((_, None))) => flat += 1,
            Ok(None) => {}
        }
    }
    if flat > 0 {
        let json = broken.json.display();
        tracing::warn!("{json}: {flat} annotations whose box has no area are left out");
    }
    Ok(())
}
