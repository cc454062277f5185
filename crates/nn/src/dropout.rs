//! Dropout (Srivastava et al. 2014) and drop path (Huang et al. 2016) from a counter-based
//! generator: the mask is a function of (seed, step, layer, element) and is never stored.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real, Rows};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::mode::{Mode, layer_key, step_key, uniform};
use crate::{Pass, cuda, device, sequence};

/// Dropout: in training each element is kept with probability 1 - p and divided by it.
#[derive(Debug, Clone)]
pub struct Dropout(Bernoulli);

impl Dropout {
    /// A layer that drops with probability `p`; its random stream is keyed by the path of `vb`.
    ///
    /// # Errors
    /// When `p` is not in [0, 1).
    pub fn new(vb: &VarBuilder, p: f64) -> Result<Self> {
        Ok(Self(Bernoulli::new(vb, p)?))
    }

    /// The masked input; in evaluation the input itself.
    ///
    /// # Errors
    /// When the mask cannot be applied.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        sequence::single(x, self.clone(), mode)
    }
}

/// Drop path (stochastic depth): in training each *sample* of a residual branch is kept with
/// probability 1 - p and divided by it.
#[derive(Debug, Clone)]
pub struct DropPath(Bernoulli);

impl DropPath {
    /// A layer that drops with probability `p`; its random stream is keyed by the path of `vb`.
    ///
    /// # Errors
    /// When `p` is not in [0, 1).
    pub fn new(vb: &VarBuilder, p: f64) -> Result<Self> {
        Ok(Self(Bernoulli::new(vb, p)?))
    }

    /// The branch (B, ...) with whole samples dropped; in evaluation the branch itself.
    ///
    /// # Errors
    /// When the mask cannot be applied.
    pub fn forward(&self, branch: &Tensor, mode: Mode) -> Result<Tensor> {
        sequence::single(branch, self.clone(), mode)
    }
}

/// A layer that multiplies by a mask.
trait Masked: std::fmt::Debug + Send + Sync {
    /// The mask of a pass, if there is one.
    fn mask(&self, mode: Mode) -> Option<Mask>;
}

impl Masked for Dropout {
    fn mask(&self, mode: Mode) -> Option<Mask> {
        self.0.mask(mode, false)
    }
}

impl Masked for DropPath {
    fn mask(&self, mode: Mode) -> Option<Mask> {
        self.0.mask(mode, true)
    }
}

/// A drop probability with the key of its layer.
#[derive(Debug, Clone)]
struct Bernoulli {
    p: f64,
    layer: u64,
}

impl Bernoulli {
    fn new(vb: &VarBuilder, p: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            candle_core::bail!("{}: drop probability {p} is not in [0, 1)", vb.prefix());
        }
        Ok(Self { p, layer: layer_key(&vb.prefix()) })
    }

    fn mask(&self, mode: Mode, samples: bool) -> Option<Mask> {
        match mode {
            Mode::Train { seed, step, .. } if self.p > 0.0 => {
                Some(Mask { p: self.p, samples, key: step_key(seed, step, self.layer) })
            }
            _ => None,
        }
    }
}

/// x -> x keep(i) / (1 - p) over elements or samples i; linear, so its backward is itself.
#[derive(Debug, Clone, Copy)]
struct Mask {
    p: f64,
    samples: bool,
    key: u64,
}

impl Mask {
    /// 0 or 1 / (1 - p) for a group.
    fn factor<T: Real>(self, group: usize) -> T {
        let kept = f64::from(uniform(self.key, group as u64)) >= self.p;
        T::from_f64(if kept { 1.0 / (1.0 - self.p) } else { 0.0 })
    }

    /// Consecutive elements that share a factor.
    fn group(self, rows: Rows) -> usize {
        if self.samples { (rows.tokens * rows.width).max(1) } else { 1 }
    }

    /// Multiplies by the factors.
    fn apply<T: Real>(self, y: &mut [T], rows: Rows) {
        let group = self.group(rows);
        let piece = kernel::rows_per_piece(group) * group;
        kernel::for_pieces(y, piece, |i, y| {
            for (j, group_y) in y.chunks_mut(group).enumerate() {
                let factor = self.factor::<T>(i * piece / group + j);
                group_y.iter_mut().for_each(|v| *v *= factor);
            }
        });
    }
}

/// Factors that one thread draws for another device.
const PIECE: usize = 1 << 14;

impl<M: Masked> Kernel for M {
    const NAME: &'static str = "dropout";
    const CHEAP: bool = true;

    fn is_identity(&self, mode: Mode) -> bool {
        self.mask(mode).is_none()
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        Ok(dims.to_vec())
    }

    /// The factors are the same on every device; without a kernel they are drawn on the host.
    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let Some(mask) = self.mask(pass.mode) else { return Ok(x.clone()) };
        let group = mask.group(Rows::of(x.dims()));
        if cuda::serves(x) {
            return cuda::masked(x, mask.p, mask.key, group);
        }
        let count = x.elem_count() / group;
        let factors = kernel::build(count, PIECE, |piece, factors| {
            for (i, factor) in factors.iter_mut().enumerate() {
                *factor = mask.factor::<f32>(piece * PIECE + i);
            }
        });
        let factors = Tensor::from_vec(factors, (count, 1), &candle_core::Device::Cpu)?;
        let factors = factors.to_device(x.device())?;
        // In bf16 1 / (1 - p) would be off by up to 0.4 %.
        device::widened(x, |x| {
            let factors = factors.to_dtype(x.dtype())?;
            x.reshape((count, group))?.broadcast_mul(&factors)?.reshape(x.shape())
        })
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let mut y = input.x.to_vec();
        if let Some(mask) = self.mask(input.at.pass.mode) {
            mask.apply(&mut y, input.at.rows());
        }
        Ok(y)
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let mut g = g.into_owned();
        if let Some(mask) = self.mask(input.at.pass.mode) {
            mask.apply(&mut g, input.at.rows());
        }
        g.into()
    }
}
