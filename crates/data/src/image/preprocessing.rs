//! [`Preprocessing`]: how an image of any size becomes what a network takes.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use image::imageops::crop_imm;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::decode::{MOST_PIXELS, decode};
use super::resize::{Interpolation, resize};
use crate::atomic::write_atomic;
use crate::transform::rect::Rect;
use crate::{Error, Normalisation, Result};

/// Mean and standard deviation of the channels of ImageNet-1k, on the scale from 0 to 1.
const IMAGENET: Normal = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Part of the shorter side that the centre of an image takes.
const CROP: f64 = 0.875;

/// Up to this side DeiT's code takes images as they are.
const SMALL: usize = 32;

/// The files of Hugging Face, and of timm.
const HUGGING_FACE: &str = "preprocessor_config.json";
const TIMM: &str = "config.json";

type Normal = ([f32; 3], [f32; 3]);

/// How an image of any size becomes (3, S, S) without augmentation: it is resized, the centre of S x S pixels is
/// cut out, and channel c becomes `(p / 255 - mean_c) / std_c`.
///
/// ```
/// use conditioned_data::{Preprocessing, Resize};
///
/// let preprocessing = Preprocessing::imagenet(224);
/// assert_eq!(preprocessing.resize, Resize::Shorter(256));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Side S in pixels.
    pub side: usize,
    /// To what the image is resized.
    pub resize: Resize,
    /// How.
    pub interpolation: Interpolation,
    /// Mean of each channel.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

/// To what an image is resized before its centre is cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// The shorter side to so many pixels; the other one follows.
    Shorter(usize),
    /// Both sides to so many pixels, whatever they were.
    Both(usize),
}

impl Resize {
    /// The side that is given.
    fn side(self) -> usize {
        match self {
            Self::Shorter(side) | Self::Both(side) => side,
        }
    }

    fn map(self, f: impl FnOnce(usize) -> usize) -> Self {
        match self {
            Self::Shorter(side) => Self::Shorter(f(side)),
            Self::Both(side) => Self::Both(f(side)),
        }
    }
}

impl Preprocessing {
    /// What DeiT's code does for ImageNet: the centre, 7/8 of the shorter side, bicubic; all of an image up to 32
    /// pixels.
    pub fn imagenet(side: usize) -> Self {
        let crop = if side > SMALL { CROP } else { 1.0 };
        let (mean, std) = IMAGENET;
        let resize = Resize::Shorter((side as f64 / crop) as usize);
        Self { side, resize, interpolation: Interpolation::Bicubic, mean, std }
    }

    /// The same for another side S: what is resized to is in proportion, rounded down.
    pub fn with_side(&self, side: usize) -> Self {
        let resize = self.resize.map(|old| old * side / self.side.max(1));
        Self { side, resize, ..self.clone() }
    }

    /// Reads how the images of a checkpoint are prepared: `preprocessor_config.json` of Hugging Face, or timm's
    /// `config.json`, in its `pretrained_cfg` or, in old files, at its root.
    ///
    /// # Errors
    /// When neither is there or can be read, or asks for what is not done here: names file, key and value.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(HUGGING_FACE);
        if file.is_file() {
            return of_hugging_face(&Fields::read(&file, None)?);
        }
        let file = folder.join(TIMM);
        match Fields::read(&file, Some("pretrained_cfg")) {
            Ok(fields) if !fields.map.is_empty() => of_timm(&fields),
            Err(error @ Error::Preprocessing { .. }) => Err(error),
            _ => Err(Error::Preprocessing {
                path: folder.into(),
                problem: format!(
                    "no {HUGGING_FACE}, and no `pretrained_cfg` in {TIMM}: how its images are prepared is not \
                     known; fetch {HUGGING_FACE} of the checkpoint too"
                ),
            }),
        }
    }

    /// Writes `preprocessor_config.json`, with which transformers prepares images alike. (Where what is around the
    /// centre is odd, it begins half a pixel before it there, and after it here and in torchvision, or the other
    /// way round: whichever is even here.)
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let Self { side, resize, interpolation, mean, std } = self;
        let square = |side: usize| json!({ "height": side, "width": side });
        let cropped = *resize != Resize::Both(*side);
        let (processor, size) = match resize {
            Resize::Both(both) if !cropped => ("ViTImageProcessor", square(*both)),
            Resize::Both(both) => ("DeiTImageProcessor", square(*both)),
            Resize::Shorter(side) => ("CLIPImageProcessor", json!({ "shortest_edge": side })),
        };
        let mut fields = json!({
            "image_processor_type": processor,
            "do_convert_rgb": true,
            "do_resize": true,
            "size": size,
            "resample": interpolation.of_pillow(),
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": decimals(mean),
            "image_std": decimals(std),
        });
        if cropped {
            fields["do_center_crop"] = json!(true);
            fields["crop_size"] = square(*side);
        }
        write_atomic(&folder.join(HUGGING_FACE), format!("{fields:#}\n").as_bytes())
    }

    /// The entries of timm's `pretrained_cfg` that say the same.
    pub fn to_timm(&self) -> Map<String, Value> {
        let Self { side, resize, interpolation, mean, std } = self;
        // What is resized to is S / crop_pct, rounded down there: the quotient itself could lose a pixel.
        let crop = match resize.side() {
            resized if resized == *side => 1.0,
            resized => *side as f64 / (resized as f64 + 0.25),
        };
        let entries = [
            ("crop_pct", json!(crop)),
            (
                "crop_mode",
                json!(if matches!(resize, Resize::Both(_)) { "squash" } else { "center" }),
            ),
            ("interpolation", json!(interpolation)),
            ("mean", decimals(mean)),
            ("std", decimals(std)),
        ];
        entries.map(|(key, value)| (key.to_string(), value)).into_iter().collect()
    }

    /// Mean and standard deviation.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation { mean: self.mean.to_vec(), std: self.std.to_vec() }
    }

    /// One image as the network takes it: (3, S, S) in f32 on a device.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or it cannot be resized.
    pub fn read_image(&self, file: &Path, device: &Device) -> Result<Tensor> {
        self.check()?;
        let bytes = fs::read(file).map_err(Error::io(file))?;
        let image = decode(&bytes).and_then(|image| self.apply(&image));
        let image = image.map_err(|problem| Error::picture(file.into(), problem))?;
        let side = self.side;
        let pixels =
            Tensor::from_slice(image.as_raw(), (side, side, 3), device)?.permute((2, 0, 1))?;
        let of = |values: &[f32; 3]| Tensor::new(values, device)?.reshape((3, 1, 1));
        let scaled = (pixels.to_dtype(DType::F32)? / 255.0)?;
        Ok(scaled.broadcast_sub(&of(&self.mean)?)?.broadcast_div(&of(&self.std)?)?)
    }

    /// Checks the settings.
    pub(crate) fn check(&self) -> Result<()> {
        let (side, resized) = (self.side, self.resize.side());
        if side == 0 || resized < side || resized > MOST_SIDE {
            let value = format!("{side} out of {resized} pixels");
            let expected = format!(
                "expected a side of at least 1 and at most what is resized to, up to {MOST_SIDE}"
            );
            return Err(Error::config("preprocessing", value, expected));
        }
        let Self { mean, std, .. } = self;
        if let Some(mean) = mean.iter().find(|mean| !mean.is_finite()) {
            return Err(Error::config("preprocessing.mean", mean, "expected finite numbers"));
        }
        if let Some(std) = std.iter().find(|std| !(**std > 0.0 && std.is_finite())) {
            let expected = "expected finite numbers above 0: pixels are divided by it";
            return Err(Error::config("preprocessing.std", std, expected));
        }
        Ok(())
    }

    /// Height and width that an image is resized to.
    ///
    /// # Errors
    /// When it is so narrow that a side would be too long, or that resizing it would fill the memory.
    pub(crate) fn target(
        &self,
        [height, width]: [u32; 2],
    ) -> std::result::Result<[u32; 2], String> {
        let target = match self.resize {
            Resize::Both(side) => [side as u64; 2],
            Resize::Shorter(side) => {
                // As torchvision rounds.
                let long = |long: u32, short: u32| {
                    (side as u64 * u64::from(long)) / u64::from(short.max(1))
                };
                match height <= width {
                    true => [side as u64, long(width, height)],
                    false => [long(height, width), side as u64],
                }
            }
        };
        // Rows are resized first. An image may yet be turned, so that either side may be its height.
        let between = u64::from(height.max(width)) * target[1].max(target[0]);
        if target.iter().any(|&side| side > MOST_SIDE as u64) || between > MOST_PIXELS {
            let [h, w] = target;
            return Err(format!(
                "{height} x {width} pixels: too narrow to be resized to {h} x {w}; cut it to a wider part"
            ));
        }
        Ok(target.map(|side| side as u32))
    }

    /// The image as the network takes it, S x S.
    ///
    /// # Errors
    /// As [`Preprocessing::target`].
    pub(crate) fn apply(&self, image: &RgbImage) -> std::result::Result<RgbImage, String> {
        let (height, width) = (image.height(), image.width());
        let [new_height, new_width] = self.target([height, width])?;
        let whole = Rect { top: 0, left: 0, height: height as usize, width: width as usize };
        let resized = match [new_height, new_width] == [height, width] {
            true => image.clone(),
            false => resize(image, whole, [new_height, new_width], self.interpolation)?,
        };
        let side = self.side as u32;
        if [new_height, new_width] == [side, side] {
            return Ok(resized);
        }
        // torchvision's centre: halves round to even.
        let start = |length: u32| {
            f64::from(length.saturating_sub(side)).mul_add(0.5, 0.0).round_ties_even()
        };
        let (top, left) = (start(new_height) as u32, start(new_width) as u32);
        Ok(crop_imm(&resized, left, top, side, side).to_image())
    }
}

/// No image is resized to more.
const MOST_SIDE: usize = 1 << 14;

impl Interpolation {
    /// Pillow's number.
    fn of_pillow(self) -> u8 {
        match self {
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
        }
    }

    fn from_pillow(number: u64) -> Option<Self> {
        [Self::Lanczos, Self::Bilinear, Self::Bicubic]
            .into_iter()
            .find(|kind| u64::from(kind.of_pillow()) == number)
    }
}

/// Numbers as they print in f32: 0.485 and not 0.48500001430511475.
fn decimals(values: &[f32; 3]) -> Value {
    values
        .iter()
        .map(|value| value.to_string().parse::<f64>().unwrap_or(f64::from(*value)))
        .collect()
}

/// The settings of a file.
struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    /// The object in a file, or, of a file of timm, what it says of the network as published: that is under a key of its
    /// own, or, in old files, at the root. Empty where there is none.
    fn read(path: &Path, key: Option<&str>) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let fail = |problem| Error::Preprocessing { path: path.into(), problem };
        let mut map: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|e| fail(format!("not an object of settings ({e}); fetch it again")))?;
        if let Some(key) = key {
            map = match map.remove(key) {
                Some(Value::Object(inner)) => inner,
                None if map.contains_key("input_size") && !map.contains_key("model_type") => map,
                _ => Map::new(),
            };
        }
        Ok(Self { path: path.into(), map })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, wanted: &str) -> Error {
        let problem = match self.get(key) {
            Some(found) => format!("`{key}` is {found}; images are prepared here with {wanted}"),
            None => format!("`{key}` is missing; expected {wanted}"),
        };
        Error::Preprocessing { path: self.path.clone(), problem }
    }

    /// Checks that a switch is on, or not there.
    fn on(&self, key: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(_) => Err(self.wrong(key, "true")),
        }
    }

    fn is_off(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::Bool(false))
    }

    /// Three numbers.
    fn channels(&self, key: &str) -> Result<[f32; 3]> {
        let values = self.get(key).and_then(Value::as_array).map(|list| {
            list.iter().filter_map(|value| value.as_f64().map(|value| value as f32)).collect()
        });
        values
            .and_then(|values: Vec<f32>| <[f32; 3]>::try_from(values).ok())
            .filter(|values| values.iter().all(|value| value.is_finite()))
            .ok_or_else(|| self.wrong(key, "a number for each of three channels"))
    }

    /// A size: a number, `height` and `width` that are equal, or the shortest edge.
    fn size(&self, key: &str) -> Result<Resize> {
        let number = |value: Option<&Value>| {
            value.and_then(Value::as_u64).filter(|n| (1..=MOST_SIDE as u64).contains(n))
        };
        let wrong = || {
            self.wrong(key, "a number of pixels, equal `height` and `width`, or `shortest_edge`")
        };
        let value = self.get(key).ok_or_else(wrong)?;
        if let Some(side) = number(Some(value)) {
            return Ok(Resize::Both(side as usize));
        }
        let side = |name| number(value.get(name));
        match (side("height"), side("width"), side("shortest_edge")) {
            (Some(height), Some(width), None) if height == width => {
                Ok(Resize::Both(height as usize))
            }
            (None, None, Some(edge)) => Ok(Resize::Shorter(edge as usize)),
            _ => Err(wrong()),
        }
    }

    fn normal(&self, mean: &str, std: &str) -> Result<Normal> {
        let std_value = self.channels(std)?;
        match std_value.iter().all(|value| *value > 0.0) {
            true => Ok((self.channels(mean)?, std_value)),
            false => Err(self.wrong(std, "numbers above 0")),
        }
    }
}

fn of_hugging_face(fields: &Fields) -> Result<Preprocessing> {
    fields.on("do_resize")?;
    fields.on("do_rescale")?;
    let factor = fields.get("rescale_factor").map_or(Some(1.0 / 255.0), Value::as_f64);
    if factor.is_none_or(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err(fields.wrong("rescale_factor", "1/255"));
    }
    let kinds = ["image_processor_type", "feature_extractor_type"];
    let kind = kinds.iter().find_map(|key| fields.get(key)?.as_str()).unwrap_or_default();
    let resize = match fields.size("size")? {
        // A number alone is the shorter side there.
        Resize::Both(side)
            if kind.starts_with("CLIP") && fields.get("size").is_some_and(Value::is_u64) =>
        {
            Resize::Shorter(side)
        }
        resize => resize,
    };
    // DeiT's files before 2022 have the size of the crop alone to say that there is one.
    let crops = fields.get("crop_size").is_some() && !fields.is_off("do_center_crop");
    let side = if crops { fields.size("crop_size")?.side() } else { resize.side() };
    if resize.side() < side || (!crops && matches!(resize, Resize::Shorter(_))) {
        return Err(
            fields.wrong("size", "no less than the crop, and a crop where only one edge is given")
        );
    }
    // What the processors of transformers do where a file does not say.
    let usual = if kind.starts_with("DeiT") || kind.starts_with("CLIP") { 3 } else { 2 };
    let resample = fields.get("resample").map_or(Some(usual), Value::as_u64);
    let interpolation = resample.and_then(Interpolation::from_pillow);
    let (mean, std) = match fields.is_off("do_normalize") {
        true => ([0.0; 3], [1.0; 3]),
        false => fields.normal("image_mean", "image_std")?,
    };
    Ok(Preprocessing {
        side,
        resize,
        interpolation: interpolation
            .ok_or_else(|| fields.wrong("resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)"))?,
        mean,
        std,
    })
}

fn of_timm(fields: &Fields) -> Result<Preprocessing> {
    let shape = fields.get("input_size").and_then(Value::as_array);
    let side = shape.and_then(|shape| match shape.as_slice() {
        [_, height, width] if height == width => height.as_u64(),
        _ => None,
    });
    let side = side.filter(|side| (1..=MOST_SIDE as u64).contains(side));
    let side = side.ok_or_else(|| fields.wrong("input_size", "[3, S, S]"))? as usize;
    let crop = fields.get("crop_pct").map_or(Some(CROP), Value::as_f64);
    let crop = crop.filter(|crop| *crop > 0.0 && *crop <= 1.0);
    let resized =
        (side as f64 / crop.ok_or_else(|| fields.wrong("crop_pct", "a part of 1"))?) as usize;
    let text = |key| fields.get(key).map(|value| value.as_str().unwrap_or("?"));
    // timm's own choice, too.
    let (mean, std) = match (fields.get("mean"), fields.get("std")) {
        (None, None) => IMAGENET,
        _ => fields.normal("mean", "std")?,
    };
    Ok(Preprocessing {
        side,
        resize: match text("crop_mode") {
            None | Some("center") => Resize::Shorter(resized),
            Some("squash") => Resize::Both(resized),
            Some(_) => return Err(fields.wrong("crop_mode", "center or squash")),
        },
        interpolation: match text("interpolation") {
            // timm's own choice where a checkpoint says nothing.
            None | Some("bicubic") => Interpolation::Bicubic,
            Some("bilinear") => Interpolation::Bilinear,
            Some("lanczos") => Interpolation::Lanczos,
            Some(_) => return Err(fields.wrong("interpolation", "bicubic, bilinear or lanczos")),
        },
        mean,
        std,
    })
}
