//! The UCI handwritten digits, embedded.
//!
//! Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
//! Repository, <https://doi.org/10.24432/C50P49>, CC BY 4.0, in the copy that scikit-learn ships:
//! the 1,797 images of the original test part, 8x8, grey values from 0 to 16.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::{Error, Images, Result};

const FILE: &[u8] = include_bytes!("digits/digits.csv.gz");
const SIDE: usize = 8;
const CLASSES: usize = 10;
const WHITE: u8 = 16;

/// Training, tuning and test images for [`split`](crate::split()): all 1,797 of them.
pub const DIGITS_SIZES: [usize; 3] = [1100, 200, 497];

/// The 1,797 digits: 1 channel, 8 rows, 8 columns, 10 classes, white = 16.
///
/// # Errors
/// When the embedded file is damaged, which a correct build excludes.
pub fn digits() -> Result<Images> {
    let mut text = String::new();
    let damaged = |e: std::io::Error| Error::Digits { line: 0, problem: e.to_string() };
    GzDecoder::new(FILE).read_to_string(&mut text).map_err(damaged)?;
    parse(&text)
}

/// One image a line: 64 grey values row by row, then the digit.
fn parse(text: &str) -> Result<Images> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        let (image, label) =
            parse_line(line).map_err(|problem| Error::Digits { line: i + 1, problem })?;
        pixels.extend_from_slice(&image);
        labels.push(u32::from(label));
    }
    Images::new("UCI digits", [1, SIDE, SIDE], CLASSES, WHITE, pixels, labels)
}

fn parse_line(line: &str) -> std::result::Result<(Vec<u8>, u8), String> {
    let number = |s: &str| s.parse::<u8>().map_err(|e| format!("{s:?} is not a byte: {e}"));
    let mut image = line.split(',').map(number).collect::<std::result::Result<Vec<_>, _>>()?;
    let fields = image.len();
    match image.pop() {
        Some(label) if image.len() == SIDE * SIDE => Ok((image, label)),
        _ => Err(format!("{fields} fields, expected {}", SIDE * SIDE + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_before_columns() {
        let fields: Vec<String> = (0..64).map(|i| (i % 17).to_string()).collect();
        let images = parse(&format!("{},7\n", fields.join(","))).unwrap();
        assert_eq!(images.labels(), [7]);
        // Row 2, column 5 is field 21.
        assert_eq!(images.image(0).unwrap()[2 * 8 + 5], 21 % 17);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let message = parse("1,2,3\n").unwrap_err().to_string();
        assert!(message.contains("line 1") && message.contains("3 fields"), "{message}");
        let message = parse("1,x\n").unwrap_err().to_string();
        assert!(message.contains("\"x\" is not a byte"), "{message}");
        let bright = format!("{},0\n", vec!["17"; 64].join(","));
        assert!(parse(&bright).unwrap_err().to_string().contains("above white"));
    }
}
