//! Features of regions, each from the level of the pyramid that fits its size.

use candle_core::{Device, Result, Tensor};
use conditioned_nn::{Roi, embedding, roi_align};

use super::backbone::STRIDES;
use super::boxes::area;

/// Regions of at least twice this side in pixels leave the finest level.
const FINEST: f64 = 56.0;

/// The level of a region: floor(log2(sqrt(area) / 56)), from 0 to the last (Lin et al. 2017, equation 1).
fn level(roi: &Roi) -> usize {
    let level = (area(roi.corners).max(0.0).sqrt() / FINEST + 1e-6).log2().floor();
    // Below 0 it is cut off at 0.
    (level as usize).min(STRIDES.len() - 1)
}

/// Features (R, size, size, C) of regions of images, at least one, from the levels (B, H_i, W_i, C).
pub(super) fn features(pyramid: &[Tensor], rois: &[Roi], size: usize) -> Result<Tensor> {
    let (mut parts, mut places) = (Vec::new(), vec![0u32; rois.len()]);
    let mut next = 0;
    for (i, (x, stride)) in pyramid.iter().zip(STRIDES).enumerate() {
        let mine: Vec<usize> = (0..rois.len()).filter(|&r| level(&rois[r]) == i).collect();
        if mine.is_empty() {
            continue;
        }
        for &region in &mine {
            places[region] = next;
            next += 1;
        }
        let mine: Vec<Roi> = mine.into_iter().map(|region| rois[region]).collect();
        parts.push(roi_align(x, &mine, size, 1.0 / stride as f64, 0)?);
    }
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let all = Tensor::cat(&parts, 0)?;
    let (regions, c) = (rois.len(), all.dim(3)?);
    let all = all.reshape((regions, size * size * c))?;
    let places = Tensor::from_vec(places, regions, &Device::Cpu)?;
    embedding(&places, &all)?.reshape((regions, size, size, c))
}
