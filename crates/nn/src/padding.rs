//! Where the sequences of a batch end.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::upload;

/// The lengths of B sequences that padding fills to N tokens each.
///
/// Padding comes after the tokens: the first `length` of a sequence are real.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use conditioned_nn::Padding;
/// # fn main() -> candle_core::Result<()> {
/// let mask = Tensor::new(&[[1u8, 1, 0], [1, 1, 1]], &Device::Cpu)?;
/// assert_eq!(Padding::of(&mask)?.lengths(), [2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    lengths: Arc<[usize]>,
    tokens: usize,
}

impl Padding {
    /// The padding that `mask` (B, N) u8, 1 = real, describes.
    ///
    /// # Errors
    /// When the mask is not (B, N) u8, a sequence has no real token, or a real token follows padding.
    pub fn of(mask: &Tensor) -> Result<Self> {
        let (_, tokens) = mask.dims2()?;
        if mask.dtype() != DType::U8 {
            candle_core::bail!("padding: a mask of {:?}; expected u8", mask.dtype());
        }
        let rows: Vec<Vec<u8>> = mask.to_device(&Device::Cpu)?.to_vec2()?;
        let length = |(i, row): (usize, &Vec<u8>)| {
            let length = row.iter().take_while(|&&real| real != 0).count();
            if length == 0 || row[length..].iter().any(|&real| real != 0) {
                candle_core::bail!(
                    "padding: sequence {i} of the batch must begin with its real tokens, at least \
                     one, and padding must follow them"
                );
            }
            Ok(length)
        };
        let lengths = rows.iter().enumerate().map(length).collect::<Result<_>>()?;
        Ok(Self { lengths, tokens })
    }

    /// Real tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The mask (B, N) u8, 1 = real.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn mask(&self, device: &Device) -> Result<Tensor> {
        let row = |&length: &usize| (0..self.tokens).map(move |i| u8::from(i < length));
        let mask: Vec<u8> = self.lengths.iter().flat_map(row).collect();
        upload(&Tensor::from_vec(mask, (self.lengths.len(), self.tokens), &Device::Cpu)?, device)
    }

    /// The lengths (B,) u32.
    pub(crate) fn lengths_on(&self, device: &Device) -> Result<Tensor> {
        let lengths = self.lengths.iter().map(|&length| length as u32);
        Tensor::from_iter(lengths, device)
    }

    /// Refuses tokens (B, N, ...) of another shape.
    pub(crate) fn check(&self, dims: &[usize]) -> Result<()> {
        if dims.get(..2) != Some(&[self.lengths.len(), self.tokens]) {
            candle_core::bail!(
                "padding of {} sequences of {} tokens does not fit {dims:?}",
                self.lengths.len(),
                self.tokens
            );
        }
        Ok(())
    }
}
