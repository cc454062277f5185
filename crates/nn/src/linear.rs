//! The affine map y = x W^T + b, with the bias added inside the matrix product.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real, View};
use crate::{init, reference};

/// The affine map y = x W^T + b.
///
/// `weight` W is (out, in), `bias` b is (out,): PyTorch's names and layout.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer over given tensors: `weight` (out, in), `bias` (out,).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// A layer with weights drawn from a truncated normal of deviation `std` and zero bias, as
    /// timm initialises a ViT.
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn with_std(vb: VarBuilder, inputs: usize, outputs: usize, std: f64) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", init::normal(std))?;
        let bias = vb.get_with_hints(outputs, "bias", candle_nn::init::ZERO)?;
        Ok(Self::new(weight, Some(bias)))
    }
}

/// A [`Linear`] with bias and PyTorch's default initialisation, uniform in +-1/sqrt(in).
///
/// # Errors
/// When the parameters cannot be created or have another shape.
pub fn linear(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", init::torch_default(inputs))?;
    let bias = vb.get_with_hints(outputs, "bias", init::torch_default(inputs))?;
    Ok(Linear::new(weight, Some(bias)))
}

impl candle_core::Module for Linear {
    /// (..., in) -> (..., out).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some(bias) = self.bias.as_ref().filter(|_| kernel::serves(x)) else {
            return reference::linear(x, &self.weight, self.bias.as_ref());
        };
        let (outputs, inputs) = self.weight.dims2()?;
        let mut dims = x.dims().to_vec();
        if dims.last() != Some(&inputs) || bias.dims() != [outputs] {
            candle_core::bail!(
                "linear: input {dims:?}, weight {:?} and bias {:?} do not fit",
                self.weight.dims(),
                bias.dims()
            );
        }
        let rows = x.elem_count() / inputs.max(1);
        let flat = x.reshape((rows, inputs))?.contiguous()?;
        let y = flat.apply_op3(&self.weight.contiguous()?, &bias.contiguous()?, AffineOp)?;
        dims.pop();
        dims.push(outputs);
        y.reshape(dims)
    }
}

/// y = x W^T + b of x (M, K), W (O, K), b (O,).
struct AffineOp;

impl AffineOp {
    fn forward<T: Real>(x: &[T], w: &[T], b: &[T], m: usize, k: usize) -> Vec<T> {
        let o = b.len();
        // Every row begins as the bias; the product is added to it.
        let mut y = Vec::with_capacity(m * o);
        for _ in 0..m {
            y.extend_from_slice(b);
        }
        kernel::matmul(
            (&mut y, View::rows(m, o, 0, o)),
            (x, View::rows(m, k, 0, k)),
            (w, View::rows(o, k, 0, k).t()),
            T::ONE,
            true,
            true,
        );
        y
    }
}

impl CustomOp3 for AffineOp {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (m, k) = x_layout.shape().dims2()?;
        let o = b_layout.shape().dims1()?;
        kernel::dispatch!(x, self.name(), T => {
            let y = Self::forward::<T>(
                kernel::slice(x, x_layout, self.name())?,
                kernel::slice(w, w_layout, self.name())?,
                kernel::slice(b, b_layout, self.name())?,
                m,
                k,
            );
            kernel::output(y, Shape::from((m, o)))
        })
    }

    /// dx = g W, dW = g^T x, db = 1^T g (a product with ones is 26 times faster than candle's sum
    /// over rows). No gradient is computed for a constant input, such as the patches of an image.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let dx = if x.track_op() { Some(g.matmul(&w.detach())?) } else { None };
        let dw = g.t()?.matmul(&x.detach())?;
        let ones = Tensor::ones((1, g.dim(0)?), g.dtype(), g.device())?;
        let db = ones.matmul(&g)?.flatten_all()?;
        Ok((dx, Some(dw), Some(db)))
    }
}
