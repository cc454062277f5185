//! What COCO's JSON files hold, entry by entry: one that is wrong is named, and the others can be read.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::detection::is_box;
use super::{Category, Instance, Rle};

type Result<T> = std::result::Result<T, String>;

/// Pixels that a box may reach over its image: some programs round to whole ones, or count them from 1.
const SLACK: f64 = 1.0;

/// A file of annotations, its entries as text.
#[derive(Deserialize)]
#[serde(expecting = "an object with `images`, `annotations` and `categories`")]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    pub(super) images: Vec<&'a RawValue>,
    #[serde(borrow)]
    pub(super) annotations: Vec<&'a RawValue>,
    pub(super) categories: Vec<Category>,
}

/// An image of a file.
#[derive(Deserialize)]
#[serde(expecting = "an object with `id`, `file_name`, `height` and `width`")]
pub(super) struct ImageEntry {
    pub(super) id: u64,
    pub(super) file_name: String,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) split: Option<String>,
}

/// An annotation of a file.
#[derive(Deserialize)]
#[serde(expecting = "an object with `id`, `image_id`, `category_id`, `bbox` and `segmentation`")]
pub(super) struct Annotation<'a> {
    pub(super) id: u64,
    pub(super) image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u64,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
}

/// A detection of a file of results.
#[derive(Serialize, Deserialize)]
#[serde(
    expecting = "an object with `image_id`, `category_id`, `score` and `bbox` or `segmentation`"
)]
pub(super) struct ResultEntry<T> {
    pub(super) image_id: u64,
    pub(super) category_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bbox: Option<[f64; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) segmentation: Option<T>,
    pub(super) score: f64,
}

/// A mask as runs.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object with `size` and `counts`")]
pub(super) struct Runs<T> {
    /// Height and width.
    pub(super) size: [usize; 2],
    /// A list, or a compressed string.
    pub(super) counts: T,
}

#[derive(Deserialize)]
struct Named {
    id: u64,
}

/// The id of an entry, if it has one.
pub(super) fn id(raw: &RawValue) -> Option<u64> {
    parse::<Named>(raw).ok().map(|named| named.id)
}

/// An entry of a list by its id, or by its place where it has none.
pub(super) fn name(what: &str, place: usize, raw: &RawValue) -> String {
    match id(raw) {
        Some(id) => format!("{what} {id}"),
        None => format!("{what} number {place} (from 0) of the list"),
    }
}

/// Parses an entry of a list, or a part of one.
///
/// # Errors
/// What was found and expected.
pub(super) fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|e| {
        // Line and column are those of the entry alone.
        let text = e.to_string();
        text.split(" at line ").next().unwrap_or(&text).to_string()
    })
}

impl Annotation<'_> {
    /// The object in its image, of this height and width; none where its box is a line or a point.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn instance(
        &self,
        size: [usize; 2],
        categories: &[Category],
    ) -> Result<Option<Instance>> {
        let place = |category: &Category| category.id;
        let category = categories.binary_search_by_key(&self.category_id, place).map_err(|_| {
            format!("category {} is none of the list `categories`", self.category_id)
        })?;
        let [left, top, across, down] = self.bbox;
        if !is_box(self.bbox) {
            return Err(format!(
                "the box {:?} (left, top, width, height) has a side below 0",
                self.bbox
            ));
        }
        let [height, width] = size;
        let fits = |start: f64, length: f64, side: usize| {
            start >= -SLACK && start + length <= side as f64 + SLACK
        };
        if !fits(left, across, width) || !fits(top, down, height) {
            return Err(format!(
                "the box {:?} (left, top, width, height) is outside its image of {height} x {width} pixels",
                self.bbox
            ));
        }
        if across == 0.0 || down == 0.0 {
            return Ok(None);
        }
        let Some(segmentation) = self.segmentation else {
            return Err("no `segmentation`, and every object needs its mask".into());
        };
        let mask = segments(segmentation, size)?;
        let area = self.area.unwrap_or_else(|| mask.area() as f64);
        if !area.is_finite() || area < 0.0 {
            return Err(format!("area {area} is none"));
        }
        let crowd = match self.iscrowd {
            0 => false,
            1 => true,
            other => return Err(format!("`iscrowd` is {other}, and 0 or 1 is expected")),
        };
        Ok(Some(Instance { id: self.id, category, bbox: self.bbox, mask, area, crowd }))
    }
}

/// The mask of an image, of this height and width: polygons, or runs.
fn segments(raw: &RawValue, [height, width]: [usize; 2]) -> Result<Rle> {
    if raw.get().starts_with('[') {
        let polygons: Vec<Vec<f64>> = parse(raw).map_err(|e| format!("`segmentation`: {e}"))?;
        return Rle::of_polygons(&polygons, height, width).map_err(|e| e.to_string());
    }
    let mask = runs(raw)?;
    match mask.size() == [height, width] {
        true => Ok(mask),
        false => {
            let [rows, columns] = mask.size();
            Err(format!("a mask of {rows} x {columns} pixels in an image of {height} x {width}"))
        }
    }
}

/// The mask of runs in a list or in a compressed string.
///
/// # Errors
/// What is wrong with it.
pub(super) fn runs(raw: &RawValue) -> Result<Rle> {
    let fail = |e: String| format!("`segmentation`: {e}");
    let Runs { size: [height, width], counts }: Runs<&RawValue> = parse(raw).map_err(fail)?;
    let mask = match counts.get().starts_with('"') {
        true => Rle::of_string(&parse::<String>(counts).map_err(fail)?, height, width),
        false => Rle::of_counts(height, width, parse(counts).map_err(fail)?),
    };
    mask.map_err(|e| e.to_string())
}
