//! The five losses of a Mask R-CNN.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::embedding;

/// Scalars whose sum is trained on.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Cross-entropy of anchors, object or not.
    pub anchor_class: Tensor,
    /// L1 distance of the offsets of anchors.
    pub anchor_box: Tensor,
    /// Cross-entropy of the classes of proposals.
    pub class: Tensor,
    /// L1 distance of the offsets of proposals.
    pub corners: Tensor,
    /// Cross-entropy of the pixels of masks.
    pub mask: Tensor,
}

impl Losses {
    /// Their sum.
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn total(&self) -> Result<Tensor> {
        let Self { anchor_class, anchor_box, class, corners, mask } = self;
        (((anchor_class + anchor_box)? + class)? + corners)? + mask
    }

    /// Their names and values.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub fn values(&self) -> Result<[(&'static str, f64); 5]> {
        // Metal has no f64, here and below.
        let value =
            |loss: &Tensor| loss.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>();
        Ok([
            ("anchor_class", value(&self.anchor_class)?),
            ("anchor_box", value(&self.anchor_box)?),
            ("class", value(&self.class)?),
            ("corners", value(&self.corners)?),
            ("mask", value(&self.mask)?),
        ])
    }
}

/// Rows (R, C) of a matrix (N, C); without any, the first with weight zero: what made them then has a gradient, of
/// zero, all the same. Returns the rows and the weight of each.
pub(super) fn rows_or_none(x: &Tensor, places: &[usize]) -> Result<(Tensor, f64)> {
    let ids: Vec<u32> = match places {
        [] => vec![0],
        places => places.iter().map(|&place| place as u32).collect(),
    };
    let ids = Tensor::new(ids, &Device::Cpu)?;
    Ok((embedding(&ids, x)?, if places.is_empty() { 0.0 } else { 1.0 }))
}

/// 1/n sum over elements of -t ln s(x) - (1 - t) ln(1 - s(x)), s the logistic function:
/// max(x, 0) - t x + ln(1 + e^-|x|), which no logit overflows. At 0 candle's max and |x| have slope 1, together the
/// 1/2 - t that is right: neither may be replaced alone.
pub(super) fn binary_cross_entropy(logits: &Tensor, targets: &[f64], n: f64) -> Result<Tensor> {
    let t = like(logits, targets)?;
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    ((logits.relu()? - (logits * t)?)? + soft)?.sum_all()? / n
}

/// weight/n sum over elements of |x - t|.
pub(super) fn l1(x: &Tensor, targets: &[f64], weight: f64, n: f64) -> Result<Tensor> {
    times(&(x - like(x, targets)?)?.abs()?.sum_all()?, weight / n)
}

/// A scalar times a factor, through which a gradient goes even if it is zero: candle's own product with a number cuts
/// the graph then.
pub(super) fn times(loss: &Tensor, factor: f64) -> Result<Tensor> {
    loss * Tensor::new(factor, &Device::Cpu)?.to_dtype(loss.dtype())?.to_device(loss.device())?
}

/// Constants of the shape of `x`; zeros where there are none.
fn like(x: &Tensor, values: &[f64]) -> Result<Tensor> {
    match values {
        [] => x.detach().zeros_like(),
        values => {
            let values = Tensor::from_slice(values, x.shape(), &Device::Cpu)?;
            values.to_dtype(x.dtype())?.to_device(x.device())
        }
    }
}
