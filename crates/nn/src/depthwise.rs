//! Depthwise convolutions of tokens: every channel by a stencil of its own.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Reads, Real, Stencil};
use crate::{init, reference};

/// A depthwise convolution over an image of tokens, channels last: odd k x k taps, stride 1, zeros
/// around the image, so that the result has the size of the input.
///
/// `weight` is (C, 1, k, k) and `bias` (C,), as in PyTorch's `Conv2d(C, C, k, padding=k // 2,
/// groups=C)`, which sees the same tokens as (B, C, H, W).
#[derive(Debug, Clone)]
pub struct DepthwiseConv2d {
    weight: Tensor,
    bias: Tensor,
}

impl DepthwiseConv2d {
    /// A layer over given tensors: `weight` (C, 1, k, k), `bias` (C,).
    pub fn from_tensors(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// A layer of `channels` with `taps` x `taps` weights each, with PyTorch's default
    /// initialisation, uniform in +-1/taps.
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, channels: usize, taps: usize) -> Result<Self> {
        let default = init::torch_default(taps * taps);
        let weight = vb.get_with_hints((channels, 1, taps, taps), "weight", default)?;
        let bias = vb.get_with_hints(channels, "bias", default)?;
        Ok(Self { weight, bias })
    }

    /// (B, N, C) -> (B, N, C), the tokens of an image of `height` x `width` = N in row-major order.
    ///
    /// # Errors
    /// When shapes do not fit or the number of taps is even.
    pub fn forward(&self, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let (images, n, channels) = x.dims3()?;
        let (c, one, k, same) = self.weight.dims4()?;
        let fits = c == channels && self.bias.dims() == [c] && n == height * width;
        if !fits || one != 1 || k != same || k % 2 == 0 {
            candle_core::bail!(
                "depthwise: input {:?} as {height} x {width} tokens, weight {:?} and bias {:?} do \
                 not fit",
                x.dims(),
                self.weight.dims(),
                self.bias.dims()
            );
        }
        if !kernel::serves(x) {
            return reference::depthwise2d(x, &self.weight, &self.bias, (height, width));
        }
        let stencil = Stencil { images, groups: 1, height, width, channels, taps: (k, k) };
        let taps = self.weight.reshape((c, k * k))?.t()?.contiguous()?;
        x.contiguous()?.apply_op3(&taps, &self.bias.contiguous()?, Depthwise(stencil))
    }
}

/// A depthwise convolution along the tokens of each head: odd k taps per head, the same for all
/// of its channels, zeros beyond both ends; the residual of Nystromformer (Xiong et al. 2021).
///
/// `weight` is (heads, 1, k, 1), as in PyTorch's `Conv2d(heads, heads, (k, 1),
/// padding=(k // 2, 0), bias=False, groups=heads)`.
#[derive(Debug, Clone)]
pub struct DepthwiseConv1d {
    weight: Tensor,
}

impl DepthwiseConv1d {
    /// A layer over a given `weight` (heads, 1, k, 1).
    pub fn from_tensor(weight: Tensor) -> Self {
        Self { weight }
    }

    /// A layer of `heads` with `taps` weights each, with PyTorch's default initialisation, uniform
    /// in +-1/sqrt(taps).
    ///
    /// # Errors
    /// When the weight cannot be created or has another shape.
    pub fn new(vb: VarBuilder, heads: usize, taps: usize) -> Result<Self> {
        let default = init::torch_default(taps);
        Ok(Self { weight: vb.get_with_hints((heads, 1, taps, 1), "weight", default)? })
    }
}

impl candle_core::Module for DepthwiseConv1d {
    /// (B, heads, N, D) -> (B, heads, N, D).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, heads, n, d) = x.dims4()?;
        let k = self.weight.dim(2)?;
        if self.weight.dims() != [heads, 1, k, 1] || k % 2 == 0 {
            candle_core::bail!(
                "depthwise: input {:?} and weight {:?} do not fit",
                x.dims(),
                self.weight.dims()
            );
        }
        if !kernel::serves(x) {
            return reference::depthwise1d(x, &self.weight);
        }
        let (images, groups, taps) = (b * heads, heads, (1, k));
        let stencil = Stencil { images, groups, height: 1, width: n, channels: d, taps };
        let taps = self.weight.reshape((heads, k, 1))?.broadcast_as((heads, k, d))?;
        x.contiguous()?.apply_op2(&taps.contiguous()?, Depthwise(stencil))
    }
}

struct Depthwise(Stencil);

/// The op in errors; both custom ops have it.
const NAME: &str = "depthwise";

impl Depthwise {
    /// The gradients of x, taps and bias, each if its tensor is tracked.
    fn gradients<T: Real>(
        &self,
        x: &Tensor,
        taps: &Tensor,
        bias: Option<&Tensor>,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let g = g.contiguous()?;
        let reads = Reads::of([x, taps, &g]);
        let slices = reads.slices::<T>(NAME)?;
        let (x_values, w, g) = (slices[0], slices[1], slices[2]);
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        let tracked = |tensor: &Tensor| tensor.track_op();
        let (stencil, bias) = (self.0, bias.filter(|bias| tracked(bias)));
        let (dx, dw, db) = kernel::in_pool(|| {
            let dx = tracked(x).then(|| stencil.backward_input(g, w));
            let dw = tracked(taps).then(|| stencil.backward_taps(x_values, g));
            (dx, dw, bias.map(|_| kernel::column_sums(g, stencil.channels)))
        });
        Ok([
            dx.map(|dx| tensor(dx, x)).transpose()?,
            dw.map(|dw| tensor(dw, taps)).transpose()?,
            db.zip(bias).map(|(db, bias)| tensor(db, bias)).transpose()?,
        ])
    }
}

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        taps: &CpuStorage,
        taps_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, NAME, T => {
            let x = kernel::slice::<T>(x, x_layout, NAME)?;
            let taps = kernel::slice(taps, taps_layout, NAME)?;
            let bias = kernel::slice(bias, bias_layout, NAME)?;
            kernel::output(self.0.forward(x, taps, Some(bias)), x_layout.shape().clone())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        taps: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = match x.dtype() {
            DType::F32 => self.gradients::<f32>(x, taps, Some(bias), g)?,
            _ => self.gradients::<f64>(x, taps, Some(bias), g)?,
        };
        Ok((dx, dw, db))
    }
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        taps: &CpuStorage,
        taps_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, NAME, T => {
            let x = kernel::slice::<T>(x, x_layout, NAME)?;
            let taps = kernel::slice(taps, taps_layout, NAME)?;
            kernel::output(self.0.forward(x, taps, None), x_layout.shape().clone())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        taps: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = match x.dtype() {
            DType::F32 => self.gradients::<f32>(x, taps, None, g)?,
            _ => self.gradients::<f64>(x, taps, None, g)?,
        };
        Ok((dx, dw))
    }
}
