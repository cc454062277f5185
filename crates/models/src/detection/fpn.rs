//! The feature pyramid: what is coarse is added to what is fine.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Conv2d, Linear, MaxPool2d, upsample_nearest};

use super::{convolution, pointwise, xavier};

/// L_i = lateral(C_i), M_i = L_i + up(M_(i+1)), P_i = conv(M_i); a further level is every second place of the last.
#[derive(Debug)]
pub(super) struct Fpn {
    laterals: Vec<Linear>,
    convolutions: Vec<Conv2d>,
}

impl Fpn {
    /// For `levels` of width `inputs`, at the names of mmdetection's `FPN`.
    pub(super) fn new(
        vb: &VarBuilder,
        levels: usize,
        inputs: usize,
        channels: usize,
    ) -> Result<Self> {
        let lateral = |i| {
            let vb = vb.pp("lateral_convs").pp(i).pp("conv");
            pointwise(&vb, inputs, channels, xavier(inputs, channels))
        };
        let convolution = |i| {
            let vb = vb.pp("fpn_convs").pp(i).pp("conv");
            convolution(&vb, channels, channels, xavier(9 * channels, 9 * channels))
        };
        Ok(Self {
            laterals: (0..levels).map(lateral).collect::<Result<_>>()?,
            convolutions: (0..levels).map(convolution).collect::<Result<_>>()?,
        })
    }

    /// Levels (B, H_i, W_i, C), the finest first, to those of the pyramid, one more.
    pub(super) fn forward(&self, levels: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut above: Option<Tensor> = None;
        let mut pyramid = Vec::with_capacity(levels.len() + 1);
        for ((x, lateral), convolution) in
            levels.iter().zip(&self.laterals).zip(&self.convolutions).rev()
        {
            let mut x = x.apply(lateral)?;
            if let Some(above) = above {
                let (_, h, w, _) = x.dims4()?;
                x = (x + upsample_nearest(&above, h, w)?)?;
            }
            pyramid.push(x.apply(convolution)?);
            above = Some(x);
        }
        let further = pyramid.first().map(|last| last.apply(&MaxPool2d { size: 1, stride: 2 }));
        pyramid.reverse();
        pyramid.extend(further.transpose()?);
        Ok(pyramid)
    }
}
