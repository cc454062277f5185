//! What a detector costs, before it is built.

use candle_core::Result;

use super::anchors::ANCHORS;
use super::backbone::STRIDES;
use super::{DetectorConfig, MaskRcnn};
use crate::Architecture;
use crate::architecture::parameters_of;
use crate::conditioning::ConditioningConfig;
use crate::xcit::XcitConfig;

impl DetectorConfig {
    /// Trainable scalars of the detector on a backbone.
    ///
    /// # Errors
    /// When a configuration contradicts itself.
    pub fn parameter_count(&self, backbone: &XcitConfig) -> Result<usize> {
        let conditioning = ConditioningConfig::default();
        let plain = XcitConfig { conditioning, ..backbone.clone() };
        parameters_of(|vb| MaskRcnn::new(&plain, self, vb))
    }

    /// Multiply-accumulates of a training pass over an image of `side` x `side` pixels, matrix products only, with
    /// as many proposals and a quarter of them objects as a step trains on.
    pub fn macs(&self, backbone: &XcitConfig, side: usize) -> usize {
        let XcitConfig { width, patch_size, .. } = *backbone;
        let Self { channels: c, hidden, classes: k, .. } = *self;
        let trunk = XcitConfig { image_size: side, class_depth: 0, ..backbone.clone() };
        let places = |stride: usize| (side / stride).pow(2);
        // Each transposed convolution makes four places of one, from the patches on.
        let level = |&stride: &usize| {
            let doubled = (patch_size / stride).checked_ilog2().unwrap_or(0);
            let larger: usize =
                (0..doubled).map(|i| 4 * width * width * places(patch_size >> i)).sum();
            larger + places(stride) * (width * c + 9 * c * c)
        };
        let pyramid: usize = STRIDES.iter().map(level).sum();
        let proposals: usize = STRIDES.iter().map(|&stride| places(stride)).sum::<usize>()
            * (9 * c * c + 5 * ANCHORS * c);
        let boxes = 49 * c * hidden + hidden * hidden + hidden * (5 * k + 1);
        let masks = 196 * 9 * c * c * self.mask_convolutions + 784 * (c * c + c * k);
        let regions = self.region_samples * boxes + self.region_samples / 4 * masks;
        trunk.macs(0) + pyramid + proposals + regions
    }
}
