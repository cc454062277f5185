//! Tokens cut into f64 matrices: reading, scaling, rounding back.

use candle_core::{DType, Device, Tensor, WithDType};
use faer::MatRef;

use crate::{Error, Result};

/// How the rows of a tensor (..., N, d) are cut into matrices, and which of them are padding.
pub(crate) struct Layout {
    /// Rows of each block; the last block may be shorter.
    pub(crate) block: usize,
    /// Tokens N of a sequence: turns a row into (batch, token) for an error.
    tokens: usize,
    channels: usize,
    /// One byte a row, 0 = padding.
    mask: Option<Vec<u8>>,
}

impl Layout {
    /// One block per sequence of x (B, N, d) or (N, d), with a mask (B, N) or (N,).
    pub(crate) fn sequences(x: &Tensor, mask: Option<&Tensor>) -> Result<Self> {
        let tokens = match *x.dims() {
            [tokens, _] | [_, tokens, _] => tokens,
            _ => {
                return Err(shape_error(x, "(batch, tokens, channels) or (tokens, channels)"));
            }
        };
        Self::rows(x, mask, tokens)
    }

    /// Blocks of `block` rows of x (..., N, d) read as one long list of tokens.
    pub(crate) fn rows(x: &Tensor, mask: Option<&Tensor>, block: usize) -> Result<Self> {
        let [.., tokens, channels] = *x.dims() else {
            return Err(shape_error(x, "(..., tokens, channels)"));
        };
        let mask = mask.map(|mask| read_mask(mask, x)).transpose()?;
        Ok(Self { block, tokens, channels, mask })
    }

    /// Whether there is a mask.
    pub(crate) fn has_padding(&self) -> bool {
        self.mask.is_some()
    }

    fn is_real(&self, row: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[row] != 0)
    }

    fn position(&self, row: usize) -> (usize, usize) {
        (row / self.tokens, row % self.tokens)
    }

    /// Entries of each block.
    pub(crate) fn block_size(&self) -> usize {
        (self.block * self.channels).max(1)
    }

    /// The real rows of `xs`, whose first row is row `first` of the tensor.
    pub(crate) fn read<T: WithDType>(
        &self,
        tensor: &'static str,
        xs: &[T],
        first: usize,
    ) -> Result<Option<Block>> {
        let mut values = self.real_rows(xs, first);
        let Some(peak) = vectorised(
            #[inline(always)]
            || finite_peak(&values),
        ) else {
            return Err(self.non_finite(tensor, &values, first));
        };
        let scale = power_of_two_below_inverse(peak);
        if scale != 1.0 {
            values.iter_mut().for_each(|v| *v *= scale);
        }
        let rows = values.len() / self.channels.max(1);
        Ok((rows > 0).then_some(Block { values, rows, channels: self.channels, scale }))
    }

    /// The real rows of `xs`, whose first row is row `first` of the tensor, in f64.
    fn real_rows<T: WithDType>(&self, xs: &[T], first: usize) -> Vec<f64> {
        let d = self.channels.max(1);
        let real = (0..xs.len() / d).filter(|n| self.is_real(first + n));
        let mut values = Vec::with_capacity(real.clone().count() * d);
        vectorised(
            #[inline(always)]
            || {
                for n in real {
                    values.extend(xs[n * d..][..d].iter().map(
                        #[inline(always)]
                        |x| x.to_f64(),
                    ));
                }
            },
        );
        values
    }

    /// The first of the real rows from row `first` on that is not finite, as an error.
    fn non_finite(&self, tensor: &'static str, values: &[f64], first: usize) -> Error {
        let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let d = self.channels.max(1);
        let row = (first..).filter(|&row| self.is_real(row)).nth(at / d).unwrap_or(first);
        let (batch, token) = self.position(row);
        Error::NonFinite { tensor, value: values[at], batch, token, channel: at % d }
    }

    /// Rounds values to the real rows of `out`.
    pub(crate) fn write<T: WithDType>(
        &self,
        values: &[f64],
        unscale: f64,
        first: usize,
        out: &mut [T],
    ) -> Result<()> {
        let d = self.channels.max(1);
        let real = out.chunks_exact_mut(d).enumerate().filter(|(n, _)| self.is_real(first + n));
        vectorised(
            #[inline(always)]
            || {
                for ((n, out), values) in real.zip(values.chunks_exact(d)) {
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = T::from_f64(value * unscale);
                    }
                    if !is_finite(out) {
                        let channel = out.iter().position(|x| !x.to_f64().is_finite()).unwrap_or(0);
                        let (batch, token) = self.position(first + n);
                        let value = values[channel] * unscale;
                        return Err(Error::Overflow {
                            dtype: T::DTYPE,
                            value,
                            batch,
                            token,
                            channel,
                        });
                    }
                }
                Ok(())
            },
        )
    }

    /// Gives the rows of padding in `out` those of `xs`; whether the others are finite.
    pub(crate) fn keep_padding<T: WithDType>(&self, xs: &[T], first: usize, out: &mut [T]) -> bool {
        let d = self.channels.max(1);
        vectorised(
            #[inline(always)]
            || {
                let mut finite = true;
                let rows = out.chunks_exact_mut(d).zip(xs.chunks_exact(d)).enumerate();
                for (n, (out, x)) in rows {
                    if self.is_real(first + n) {
                        finite &= is_finite(out);
                    } else {
                        out.copy_from_slice(x);
                    }
                }
                finite
            },
        )
    }
}

/// Runs `work`, whose plain `for` loops are compiled for each set of vector instructions, with the
/// widest that the processor has.
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// One block of real tokens in f64.
pub(crate) struct Block {
    values: Vec<f64>,
    rows: usize,
    channels: usize,
    /// The power of two by which the values were multiplied: squares of scaled values neither
    /// overflow nor vanish.
    pub(crate) scale: f64,
}

impl Block {
    /// X: (n, d), the scaled real tokens.
    pub(crate) fn matrix(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.values, self.rows, self.channels)
    }

    /// The entries of X, row by row.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }
}

/// Maxima and sums side by side: the compiler may not reorder one, and so would not vectorise it.
const LANES: usize = 16;

/// Whether all values are finite.
#[inline(always)]
fn is_finite<T: WithDType>(values: &[T]) -> bool {
    let mut zeros = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            zeros[lane] += chunk[lane].to_f64() * 0.0; // NaN for NaN and infinity, for good
        }
    }
    for value in rest {
        zeros[0] += value.to_f64() * 0.0;
    }
    zeros == [0.0; LANES]
}

/// The largest magnitude, or `None` where a value is not finite.
#[inline(always)]
fn finite_peak(values: &[f64]) -> Option<f64> {
    let (mut peaks, mut zeros) = ([0.0; LANES], [0.0; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let magnitude = chunk[lane].abs();
            peaks[lane] = if magnitude > peaks[lane] { magnitude } else { peaks[lane] };
            zeros[lane] += magnitude * 0.0;
        }
    }
    for value in rest {
        peaks[0] = value.abs().max(peaks[0]);
        zeros[0] += value * 0.0;
    }
    (zeros == [0.0; LANES]).then(|| peaks.into_iter().fold(0.0, f64::max))
}

/// 1 where squares of values up to `peak` are far from the ends of f64, as those of f32 always are; else the power of
/// two that brings `peak` into [1, 2), as far as f64 has one.
pub(crate) fn power_of_two_below_inverse(peak: f64) -> f64 {
    if peak == 0.0 || (1e-50..1e50).contains(&peak) {
        return 1.0;
    }
    // 2^1000 and 2^-1000 are far from the ends of f64, and so is their square times any f64 input
    // that needs more than them.
    let exponent = peak.log2().floor().clamp(-1000.0, 1000.0);
    2f64.powi(-(exponent as i32))
}

/// That x is (..., N, d).
pub(crate) fn check_channels(x: &Tensor, d: usize) -> Result<()> {
    match x.dims() {
        [.., _, channels] if *channels == d => Ok(()),
        _ => Err(shape_error(x, &format!("(..., tokens, {d})"))),
    }
}

/// That mask is (..., N) u8 for x: (..., N, d).
pub(crate) fn check_mask(mask: &Tensor, x: &Tensor) -> Result<()> {
    let leading = &x.dims()[..x.rank() - 1];
    if mask.dims() != leading {
        return Err(Error::Shape {
            tensor: "mask",
            found: mask.shape().clone(),
            expected: format!("{leading:?}, one entry a token"),
        });
    }
    if mask.dtype() != DType::U8 {
        return Err(Error::Dtype { tensor: "mask", found: mask.dtype(), expected: "u8" });
    }
    Ok(())
}

fn read_mask(mask: &Tensor, x: &Tensor) -> Result<Vec<u8>> {
    check_mask(mask, x)?;
    Ok(mask.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

fn shape_error(x: &Tensor, expected: &str) -> Error {
    Error::Shape { tensor: "x", found: x.shape().clone(), expected: expected.to_string() }
}
