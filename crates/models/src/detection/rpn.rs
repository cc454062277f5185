//! The region proposal network (Ren et al. 2015): where there may be objects.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Linear, Mode, Relu, Sequence, init};
use rand_chacha::ChaCha8Rng;

use super::anchors::{self, ANCHORS};
use super::backbone::STRIDES;
use super::boxes::{ANCHOR_STDS, Corners, area, clipped, decode, encode};
use super::losses::{binary_cross_entropy, l1, rows_or_none, times};
use super::matching::{Match, OF_ANCHORS, matches, sample};
use super::nms::{self, Candidate};
use super::{DetectorConfig, convolution, host, pointwise};

/// Deviation of the weights at initialisation.
const STD: f64 = 0.01;

/// The share of objects among the anchors that are trained on.
const OBJECTS: f64 = 0.5;

/// Proposals that overlap a better one by more are suppressed.
const OVERLAP: f64 = 0.7;

/// One network for all levels: conv, ReLU, then scores and offsets of the anchors of each place.
#[derive(Debug)]
pub(super) struct Rpn {
    shared: Sequence,
    scores: Linear,
    offsets: Linear,
    scale: f64,
}

/// What it says of the anchors of a batch.
pub(super) struct Scored {
    /// Logits, (B N, 1).
    logits: Tensor,
    /// Offsets, (B N, 4).
    offsets: Tensor,
    /// The N anchors of an image, level by level.
    anchors: Vec<Corners>,
    /// Places of each level, H_i and W_i.
    levels: Vec<[usize; 2]>,
}

impl Rpn {
    /// At the names of mmdetection's `RPNHead`.
    pub(super) fn new(vb: &VarBuilder, config: &DetectorConfig) -> Result<Self> {
        let c = config.channels;
        let shared = convolution(&vb.pp("rpn_conv"), c, c, init::normal(STD))?;
        Ok(Self {
            shared: Sequence::new([shared.into(), Relu.into()]),
            scores: pointwise(&vb.pp("rpn_cls"), c, ANCHORS, init::normal(STD))?,
            offsets: pointwise(&vb.pp("rpn_reg"), c, 4 * ANCHORS, init::normal(STD))?,
            scale: config.anchor_scale,
        })
    }

    /// Levels (B, H_i, W_i, C) of strides 4, 8, 16, ... to scores and offsets.
    pub(super) fn forward(&self, pyramid: &[Tensor], mode: Mode) -> Result<Scored> {
        let (mut logits, mut offsets) = (Vec::new(), Vec::new());
        let (mut anchors, mut levels) = (Vec::new(), Vec::new());
        for (i, x) in pyramid.iter().enumerate() {
            let (b, h, w, _) = x.dims4()?;
            let x = self.shared.forward(x, mode)?;
            logits.push(x.apply(&self.scores)?.reshape((b, h * w * ANCHORS))?);
            offsets.push(x.apply(&self.offsets)?.reshape((b, h * w * ANCHORS, 4))?);
            anchors.extend(anchors::level([h, w], STRIDES[0] << i, self.scale));
            levels.push([h, w]);
        }
        let logits = Tensor::cat(&logits, 1)?;
        let (b, n) = logits.dims2()?;
        let offsets = Tensor::cat(&offsets, 1)?.reshape((b * n, 4))?;
        Ok(Scored { logits: logits.reshape((b * n, 1))?, offsets, anchors, levels })
    }
}

impl Scored {
    /// Proposals of each image, best first: of each level the `of_level` best, those of an image without the ones
    /// that a better of the level overlaps, at most `most`. An image without any has itself as one.
    pub(super) fn proposals(
        &self,
        sizes: &[[usize; 2]],
        of_level: usize,
        most: usize,
    ) -> Result<Vec<Vec<Corners>>> {
        let (logits, offsets, n) = (host(&self.logits)?, host(&self.offsets)?, self.anchors.len());
        let of_image = |(image, &size): (usize, &[usize; 2])| {
            let (mut candidates, mut first) = (Vec::new(), 0);
            for (group, &[height, width]) in self.levels.iter().enumerate() {
                let end = first + height * width * ANCHORS;
                let mut places: Vec<usize> = (first..end).collect();
                first = end;
                places.sort_by(|&a, &b| logits[image * n + b].total_cmp(&logits[image * n + a]));
                for &place in places.iter().take(of_level) {
                    let at = image * n + place;
                    let by = std::array::from_fn(|i| offsets[4 * at + i]);
                    let corners = clipped(decode(self.anchors[place], by, ANCHOR_STDS), size);
                    if area(corners) > 0.0 {
                        candidates.push(Candidate { corners, score: logits[at], group });
                    }
                }
            }
            let kept = nms::keep(&candidates, OVERLAP, most);
            match kept.is_empty() {
                true => vec![[0.0, 0.0, size[1] as f64, size[0] as f64]],
                false => kept.into_iter().map(|i| candidates[i].corners).collect(),
            }
        };
        Ok(sizes.iter().enumerate().map(of_image).collect())
    }

    /// The anchors that belong to an image, whose sides are taken up to a multiple of the coarsest stride: beyond that is
    /// what other images of its batch pad it with (mmdetection's `valid_flags`).
    fn inside(&self, size: [usize; 2]) -> Vec<usize> {
        let [.., coarsest] = STRIDES;
        let [bottom, right] = size.map(|side| side.next_multiple_of(coarsest));
        let (mut places, mut first) = (Vec::new(), 0);
        for (i, &[height, width]) in self.levels.iter().enumerate() {
            let (stride, end) = (STRIDES[0] << i, first + height * width * ANCHORS);
            let inside = |place: &usize| {
                let cell = (place - first) / ANCHORS;
                cell / width * stride < bottom && cell % width * stride < right
            };
            places.extend((first..end).filter(inside));
            first = end;
        }
        places
    }

    /// Losses of classes and offsets over `count` anchors of each image, by its size and the objects in it.
    pub(super) fn losses(
        &self,
        objects: &[&[Corners]],
        sizes: &[[usize; 2]],
        count: usize,
        rng: impl Fn(usize) -> ChaCha8Rng,
    ) -> Result<[Tensor; 2]> {
        let n = self.anchors.len();
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        let (mut object_places, mut wanted) = (Vec::new(), Vec::new());
        for (image, (&objects, &size)) in objects.iter().zip(sizes).enumerate() {
            let inside = self.inside(size);
            let anchors: Vec<Corners> = inside.iter().map(|&place| self.anchors[place]).collect();
            let found = matches(&anchors, objects, OF_ANCHORS);
            let (ours, background) = sample(&found, count, OBJECTS, &mut rng(image));
            for &anchor in &ours {
                let Match::Object(object) = found[anchor] else { continue };
                object_places.push(image * n + inside[anchor]);
                wanted.extend(encode(anchors[anchor], objects[object], ANCHOR_STDS));
            }
            targets.extend(ours.iter().map(|_| 1.0).chain(background.iter().map(|_| 0.0)));
            places.extend(ours.iter().chain(&background).map(|&anchor| image * n + inside[anchor]));
        }
        let samples = places.len().max(1) as f64;
        let (logits, weight) = rows_or_none(&self.logits, &places)?;
        let class = times(&binary_cross_entropy(&logits, &targets, samples)?, weight)?;
        let (offsets, weight) = rows_or_none(&self.offsets, &object_places)?;
        Ok([class, l1(&offsets, &wanted, weight, samples)?])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;
    use rand::SeedableRng;

    use super::*;

    /// Scores of a batch of one image of padded sides, for each anchor a function of where it lies.
    fn scored(sides: [usize; 2]) -> Scored {
        let levels: Vec<[usize; 2]> =
            (0..5).map(|i| sides.map(|side| side.div_ceil(STRIDES[0] << i))).collect();
        let anchors: Vec<Corners> = levels
            .iter()
            .enumerate()
            .flat_map(|(i, &level)| anchors::level(level, STRIDES[0] << i, 4.0))
            .collect();
        let values: Vec<f64> = anchors.iter().flatten().map(|v| (v * 0.37).sin()).collect();
        let n = anchors.len();
        let logits = values.iter().step_by(4).copied().collect();
        let logits = Tensor::from_vec(logits, (n, 1), &Device::Cpu).unwrap();
        let offsets = Tensor::from_vec(values, (n, 4), &Device::Cpu).unwrap();
        Scored { logits, offsets, anchors, levels }
    }

    #[test]
    fn the_losses_of_an_image_do_not_depend_on_the_padding_of_its_batch() {
        // The second object lies in a corner, where anchors of the padding overlap it most.
        let objects: &[Corners] = &[[4.0, 4.0, 30.0, 40.0], [60.0, 40.0, 70.0, 50.0]];
        let losses = |sides| {
            let rng = |_| ChaCha8Rng::seed_from_u64(3);
            let losses = scored(sides).losses(&[objects], &[[50, 70]], 64, rng).unwrap();
            losses.map(|loss| loss.to_scalar::<f64>().unwrap().to_bits())
        };
        let alone = losses([64, 96]);
        for padded in [[64, 160], [128, 96], [160, 192]] {
            assert_eq!(losses(padded), alone, "{padded:?}");
        }
    }
}
