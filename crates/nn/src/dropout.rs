//! Dropout (Srivastava et al. 2014) and drop path (Huang et al. 2016) from a counter-based
//! generator: the mask is a function of (seed, step, layer, element) and is never stored.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real};
use crate::mode::{Mode, layer_key, step_key, uniform};

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
        self.0.forward(x, 1, mode)
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
        let samples = branch.dim(0)?.max(1);
        self.0.forward(branch, branch.elem_count() / samples, mode)
    }
}

/// Groups of consecutive elements kept with probability 1 - p, scaled by its inverse.
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

    fn forward(&self, x: &Tensor, group: usize, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train { seed, step } if self.p > 0.0 => {
                let mask = MaskOp { p: self.p, group, key: step_key(seed, step, self.layer) };
                if kernel::serves(x) {
                    return x.contiguous()?.apply_op1(mask);
                }
                x * mask.tensor(x)?.detach()
            }
            _ => Ok(x.clone()),
        }
    }
}

/// x -> x keep(i / group) / (1 - p); linear, so its backward is itself.
#[derive(Clone, Copy)]
struct MaskOp {
    p: f64,
    group: usize,
    key: u64,
}

impl MaskOp {
    /// 0 or 1 / (1 - p) for a group.
    fn factor<T: Real>(self, group: usize) -> T {
        let kept = f64::from(uniform(self.key, group as u64)) >= self.p;
        T::from_f64(if kept { 1.0 / (1.0 - self.p) } else { 0.0 })
    }

    /// The factors as a tensor like `x`, for devices without the kernel.
    fn tensor(self, x: &Tensor) -> Result<Tensor> {
        let values = (0..x.elem_count()).map(|i| self.factor::<f32>(i / self.group));
        let mask = Tensor::from_vec(values.collect(), x.shape(), &candle_core::Device::Cpu)?;
        mask.to_dtype(x.dtype())?.to_device(x.device())
    }
}

impl CustomOp1 for MaskOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let x: &[T] = kernel::slice(x, layout, self.name())?;
            let mut y = x.to_vec();
            let piece = kernel::rows_per_piece(self.group) * self.group;
            kernel::for_pieces(&mut y, piece, |i, y| {
                for (j, group) in y.chunks_mut(self.group).enumerate() {
                    let factor = self.factor::<T>(i * piece / self.group + j);
                    group.iter_mut().for_each(|v| *v *= factor);
                }
            });
            kernel::output(y, layout.shape().clone())
        })
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.contiguous()?.apply_op1_no_bwd(self)?))
    }
}
