//! The box head: what a proposal holds, and where exactly.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Linear, Mode, Relu, Roi, Sequence, cross_entropy, init};
use rand_chacha::ChaCha8Rng;

use super::boxes::{Corners, HEAD_STDS, clipped, decode, encode};
use super::losses::{l1, rows_or_none};
use super::matching::{Match, OF_PROPOSALS, matches, sample};
use super::nms::{self, Candidate};
use super::{DetectorConfig, host, linear, regions, xavier};

/// Places along a side of a region's features.
const SIDE: usize = 7;

/// The share of objects among the proposals that are trained on.
const OBJECTS: f64 = 0.25;

/// Boxes that overlap a better one of their class by more are suppressed.
const OVERLAP: f64 = 0.5;

/// Deviations of the last weights at initialisation.
const CLASS_STD: f64 = 0.01;
const OFFSET_STD: f64 = 0.001;

/// Features (R, 7, 7, C), two hidden layers, then logits of K classes and background, and offsets for each class.
#[derive(Debug)]
pub(super) struct BoxHead {
    hidden: Sequence,
    class: Linear,
    offsets: Linear,
    classes: usize,
}

/// A proposal that is trained on: where it is, and the object that it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trained {
    pub(super) roi: Roi,
    pub(super) object: Option<usize>,
}

/// Proposals of an image to train on: those drawn of `proposals` and the objects themselves.
pub(super) fn trained(
    image: usize,
    objects: &[Corners],
    proposals: &[Corners],
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Trained> {
    let boxes: Vec<Corners> = objects.iter().chain(proposals).copied().collect();
    let mut found: Vec<Match> = (0..objects.len()).map(Match::Object).collect();
    found.extend(matches(proposals, objects, OF_PROPOSALS));
    let (ours, background) = sample(&found, count, OBJECTS, rng);
    let trained = |place: usize| Trained {
        roi: Roi { image, corners: boxes[place] },
        object: match found[place] {
            Match::Object(object) => Some(object),
            Match::Background | Match::Neither => None,
        },
    };
    ours.into_iter().chain(background).map(trained).collect()
}

impl BoxHead {
    /// At the names of mmdetection's `Shared2FCBBoxHead`.
    pub(super) fn new(vb: &VarBuilder, config: &DetectorConfig) -> Result<Self> {
        let (inputs, hidden, k) = (SIDE * SIDE * config.channels, config.hidden, config.classes);
        let shared = vb.pp("shared_fcs");
        Ok(Self {
            hidden: Sequence::new([
                linear(&shared.pp(0), inputs, hidden, xavier(inputs, hidden))?.into(),
                Relu.into(),
                linear(&shared.pp(1), hidden, hidden, xavier(hidden, hidden))?.into(),
                Relu.into(),
            ]),
            class: linear(&vb.pp("fc_cls"), hidden, k + 1, init::normal(CLASS_STD))?,
            offsets: linear(&vb.pp("fc_reg"), hidden, 4 * k, init::normal(OFFSET_STD))?,
            classes: k,
        })
    }

    /// Logits (R, K + 1), the background last, and offsets (R, 4 K) of regions.
    fn forward(&self, pyramid: &[Tensor], rois: &[Roi], mode: Mode) -> Result<[Tensor; 2]> {
        let x = regions::features(pyramid, rois, SIDE)?;
        // mmdetection's order: channel, row, column.
        let x = x.permute((0, 3, 1, 2))?.flatten_from(1)?;
        let x = self.hidden.forward(&x, mode)?;
        Ok([x.apply(&self.class)?, x.apply(&self.offsets)?])
    }

    /// Losses of classes and offsets over proposals of a batch, at least one; `objects` are box and class of the
    /// objects of each image.
    pub(super) fn losses(
        &self,
        pyramid: &[Tensor],
        trained: &[Trained],
        objects: &[(&[Corners], &[usize])],
        mode: Mode,
    ) -> Result<[Tensor; 2]> {
        let (k, n) = (self.classes, trained.len());
        let rois: Vec<Roi> = trained.iter().map(|trained| trained.roi).collect();
        let [logits, offsets] = self.forward(pyramid, &rois, mode)?;
        let mut targets = vec![0.0; n * (k + 1)];
        let (mut places, mut wanted) = (Vec::new(), Vec::new());
        for (i, &Trained { roi, object }) in trained.iter().enumerate() {
            let (boxes, classes) = objects[roi.image];
            let class = object.map_or(k, |object| classes[object]);
            targets[i * (k + 1) + class] = 1.0;
            if let Some(object) = object {
                places.push(i * k + class);
                wanted.extend(encode(roi.corners, boxes[object], HEAD_STDS));
            }
        }
        let targets = Tensor::from_vec(targets, (n, k + 1), logits.device())?;
        let class = cross_entropy(&logits, &targets)?;
        let (offsets, weight) = rows_or_none(&offsets.reshape((n * k, 4))?, &places)?;
        Ok([class, l1(&offsets, &wanted, weight, n as f64)?])
    }

    /// What is found among the proposals of an image of `size`: boxes with class and score, best first.
    pub(super) fn found(
        &self,
        pyramid: &[Tensor],
        image: usize,
        proposals: &[Corners],
        size: [usize; 2],
        config: &DetectorConfig,
    ) -> Result<Vec<Candidate>> {
        let k = self.classes;
        let rois: Vec<Roi> = proposals.iter().map(|&corners| Roi { image, corners }).collect();
        let [logits, offsets] = self.forward(pyramid, &rois, Mode::Eval)?;
        let scores = host(&candle_nn::ops::softmax(&logits, D::Minus1)?)?;
        let offsets = host(&offsets)?;
        let mut candidates = Vec::new();
        for (i, &proposal) in proposals.iter().enumerate() {
            for group in 0..k {
                let score = scores[i * (k + 1) + group];
                if score > config.least_score {
                    let by = std::array::from_fn(|j| offsets[4 * (i * k + group) + j]);
                    let corners = clipped(decode(proposal, by, HEAD_STDS), size);
                    candidates.push(Candidate { corners, score, group });
                }
            }
        }
        let kept = nms::keep(&candidates, OVERLAP, config.most_found);
        Ok(kept.into_iter().map(|i| candidates[i]).collect())
    }
}
