//! Image files as RGB, upright: JPEG, PNG and WebP, told apart by content and not by name.

use std::io::{self, Cursor, Read};

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Pixels from which Pillow takes an image for a decompression bomb and refuses it.
pub(crate) const MOST_PIXELS: u64 = 178_956_970;

/// Bytes in which most files have their header; a large preview or colour profile may stand in front of it.
const HEADER: u64 = 64 << 10;

/// Markers of a JPEG before its pixels, of which a progressive one has several, and at its end. A thumbnail has
/// its own, in front of both.
const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

type Result<T> = std::result::Result<T, String>;

/// Height and width by the beginning of a file, which may yet be turned.
///
/// # Errors
/// When it is that of no image, or its size is not sane: what is wrong, and what to do.
pub(crate) fn check_header(bytes: &[u8]) -> Result<[u32; 2]> {
    let [width, height] = match format(bytes)? {
        ImageFormat::Jpeg => jpeg(bytes, true).or_else(|_| jpeg(bytes, false))?.1,
        ImageFormat::Png => size(&png(bytes)?),
        _ => size(&webp(bytes)?),
    };
    check_size(width, height)?;
    Ok([height, width])
}

/// [`check_header`] of a file, of which no more is read than its beginning where that will do.
///
/// # Errors
/// When it cannot be read; inside, those of [`check_header`].
pub(crate) fn read_header(mut file: impl Read) -> io::Result<Result<[u32; 2]>> {
    let mut bytes = Vec::new();
    file.by_ref().take(HEADER).read_to_end(&mut bytes)?;
    if let Ok(size) = check_header(&bytes) {
        return Ok(Ok(size));
    }
    file.read_to_end(&mut bytes)?;
    Ok(check_header(&bytes))
}

/// Decodes a file: three channels of 8 bits, turned upright by its EXIF data.
///
/// Grey becomes three equal channels, 16 bits are rounded to 8, palettes and CMYK become RGB, transparency is
/// dropped, as in Pillow's `convert("RGB")`. (Pillow cuts 16 bits off at 255 instead, and does not turn.)
///
/// # Errors
/// When the file is no image of these formats, damaged or cut short, or has so many pixels that it may be made
/// to fill the memory: what is wrong, and what to do.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage> {
    match format(bytes)? {
        ImageFormat::Jpeg => decode_jpeg(bytes),
        ImageFormat::Png => decode_with(png(bytes)?),
        _ => decode_with(webp(bytes)?),
    }
}

fn format(bytes: &[u8]) -> Result<ImageFormat> {
    if bytes.is_empty() {
        return Err("an empty file; fetch it again".into());
    }
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => Ok(format),
        Ok(other) => {
            Err(format!("its content is {other:?}, and JPEG, PNG and WebP are read; convert it"))
        }
        Err(_) => Err("its content is that of no image (JPEG, PNG and WebP are read)".into()),
    }
}

fn check_size(width: u32, height: u32) -> Result<()> {
    match u64::from(width) * u64::from(height) {
        0 => Err(format!("{width} x {height} pixels: nothing to see")),
        pixels if pixels > MOST_PIXELS => Err(format!(
            "{width} x {height} pixels, more than {MOST_PIXELS}: it may be made to fill the memory; if it is \
             a real image, make it smaller"
        )),
        _ => Ok(()),
    }
}

fn size(decoder: &impl ImageDecoder) -> [u32; 2] {
    decoder.dimensions().into()
}

fn png(bytes: &[u8]) -> Result<PngDecoder<Cursor<&[u8]>>> {
    PngDecoder::new(Cursor::new(bytes)).map_err(|e| damaged(&e))
}

fn webp(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>> {
    WebPDecoder::new(Cursor::new(bytes)).map_err(|e| damaged(&e))
}

fn damaged(reason: &impl std::fmt::Display) -> String {
    format!("damaged or cut short ({reason}); fetch it again")
}

fn decode_with(mut decoder: impl ImageDecoder) -> Result<RgbImage> {
    let [width, height] = size(&decoder);
    check_size(width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| damaged(&e))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

/// A decoder that has read the headers, and (width, height).
fn jpeg(bytes: &[u8], strict: bool) -> Result<(Jpeg<'_>, [u32; 2])> {
    let options = DecoderOptions::new_fast()
        .set_strict_mode(strict)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(&e))?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    // Grey is decoded as such; CMYK and YCCK become RGB.
    if decoder.input_colorspace() != Some(ColorSpace::Luma) {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::RGB));
    }
    // A JPEG has 16 bits for either.
    Ok((decoder, [width as u32, height as u32]))
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage> {
    let read = |strict| {
        let (mut decoder, [width, height]) = jpeg(bytes, strict)?;
        check_size(width, height)?;
        let pixels = decoder.decode().map_err(|e| damaged(&e))?;
        let image = match decoder.output_colorspace() {
            Some(ColorSpace::Luma) => GrayImage::from_raw(width, height, pixels).map(Into::into),
            _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        };
        let mut image = image.ok_or_else(|| damaged(&"pixels are missing"))?;
        let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
        image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
        Ok(image.into_rgb8())
    };
    // Many files deviate from the standard in what can be passed over. One that is cut short can be read
    // then too, with grey for what is missing: it has no end.
    let whole = || {
        let pairs = || bytes.windows(2);
        let scan = pairs().rposition(|pair| pair == START_OF_SCAN).unwrap_or(bytes.len());
        pairs().skip(scan).any(|pair| pair == END_OF_IMAGE)
    };
    read(true).or_else(|error| if whole() { read(false) } else { Err(error) })
}
