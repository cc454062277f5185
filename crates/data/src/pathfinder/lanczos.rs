//! Pillow's Lanczos filter for small grey images, byte for byte.
//!
//! `fast_image_resize`, which prepares photographs, keeps 16 bits of a weight and may be 1 of 255 off; where a dash
//! may lie is decided by single bytes.

use std::f64::consts::PI;

/// Radius of the kernel in pixels of the smaller image.
const SUPPORT: f64 = 3.0;
/// Bits of a weight behind the point.
const BITS: u32 = 22;

/// The weights of one target pixel, of the source pixels from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Brings a square grey image of `side`² pixels to `target`² pixels.
///
/// Along rows first and then along columns, each pass rounded to bytes, which cuts off what overshoots.
/// `target` is at most `side`.
pub(super) fn resize(source: &[u8], side: usize, target: usize) -> Vec<u8> {
    let taps = taps(side, target);
    // Each pass turns rows into columns: after two of them the image is upright again.
    pass(&pass(source, side, &taps), side, &taps)
}

fn pass(source: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let rows = source.chunks_exact(width);
    let mut target = Vec::with_capacity(taps.len() * rows.len());
    for Taps { first, weights } in taps {
        target.extend(rows.clone().map(|row| {
            let products = row[*first..].iter().zip(weights).map(|(&p, &w)| i32::from(p) * w);
            let sum = products.sum::<i32>() + (1 << (BITS - 1));
            (sum >> BITS).clamp(0, 255) as u8
        }));
    }
    target
}

fn taps(side: usize, target: usize) -> Vec<Taps> {
    let scale = side as f64 / target as f64;
    let taps = |pixel: usize| {
        let centre = (pixel as f64 + 0.5) * scale;
        let first = (centre - SUPPORT * scale + 0.5).max(0.0) as usize;
        let end = ((centre + SUPPORT * scale + 0.5) as usize).min(side);
        let kernel = |at: usize| lanczos((at as f64 - centre + 0.5) / scale);
        let weights: Vec<f64> = (first..end).map(kernel).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(whole).collect() }
    };
    (0..target).map(taps).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}
