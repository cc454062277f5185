//! One AdamW update of one parameter: fused and in place on the CPU, by kernels on CUDA, by tensor operations elsewhere.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var};
use conditioned_nn::cuda::{self, AdamWStep};
use conditioned_threads as threads;

/// Elements per parallel task. Every element is computed alone, so bits depend on neither this nor
/// the number of threads.
const CHUNK: usize = 1 << 14;

/// The numbers of one step that all elements of a parameter share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Coefficients {
    /// The factor on the gradient: clipping.
    pub(crate) scale: f64,
    /// `1 - rate * weight_decay`.
    pub(crate) decay: f64,
    /// `rate / (1 - beta1^t)`.
    pub(crate) rate: f64,
    /// `sqrt(1 - beta2^t)`.
    pub(crate) root: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
}

impl From<Coefficients> for AdamWStep {
    fn from(c: Coefficients) -> Self {
        let Coefficients { scale: s, decay, rate, root, beta1, beta2, eps } = c;
        Self { s, a1: 1.0 - beta1, b2: beta2, a2: 1.0 - beta2, decay, rate, root, eps }
    }
}

/// The running first and second moment of a parameter's gradient.
#[derive(Debug)]
pub(crate) enum Moments {
    /// On the CPU, in f32.
    F32(Vec<f32>, Vec<f32>),
    /// On the CPU, in f64.
    F64(Vec<f64>, Vec<f64>),
    /// On any other device.
    Device(Tensor, Tensor),
}

impl Moments {
    /// Takes over two tensors of the shape of `var`.
    pub(crate) fn new(var: &Var, first: &Tensor, second: &Tensor) -> Result<Self> {
        let (first, second) = (first.to_device(var.device())?, second.to_device(var.device())?);
        let flat = |t: &Tensor| t.flatten_all();
        match (var.device(), var.dtype()) {
            (Device::Cpu, DType::F32) => {
                Ok(Self::F32(flat(&first)?.to_vec1()?, flat(&second)?.to_vec1()?))
            }
            (Device::Cpu, DType::F64) => {
                Ok(Self::F64(flat(&first)?.to_vec1()?, flat(&second)?.to_vec1()?))
            }
            // In half precision the updates vanish by rounding (there are no master weights).
            // Copies: a kernel writes them in place.
            (_, DType::F32 | DType::F64) => {
                Ok(Self::Device(first.force_contiguous()?, second.force_contiguous()?))
            }
            (_, dtype) => candle_core::bail!("AdamW needs f32 or f64 parameters, found {dtype:?}"),
        }
    }

    /// Both moments as tensors on the CPU in the shape of `var`.
    pub(crate) fn tensors(&self, var: &Var) -> Result<(Tensor, Tensor)> {
        let (shape, cpu) = (var.shape(), &Device::Cpu);
        match self {
            Self::F32(m, v) => {
                Ok((Tensor::from_slice(m, shape, cpu)?, Tensor::from_slice(v, shape, cpu)?))
            }
            Self::F64(m, v) => {
                Ok((Tensor::from_slice(m, shape, cpu)?, Tensor::from_slice(v, shape, cpu)?))
            }
            Self::Device(m, v) => Ok((m.to_device(cpu)?, v.to_device(cpu)?)),
        }
    }

    /// Moves `var` and the moments by one step along `grad`.
    pub(crate) fn update(&mut self, var: &Var, grad: &Tensor, c: Coefficients) -> Result<()> {
        if let Self::Device(m, v) = self {
            if !cuda::adamw(var, (m, v), grad, &c.into())? {
                by_tensors(var, m, v, grad, c)?;
            }
            return Ok(());
        }
        let grad = grad.contiguous()?;
        var.inplace_op2(&grad, &Update { moments: Mutex::new(self), coefficients: c })
    }
}

/// The update in tensor operations, for devices that have no kernel here.
fn by_tensors(
    var: &Var,
    m: &mut Tensor,
    v: &mut Tensor,
    grad: &Tensor,
    c: Coefficients,
) -> Result<()> {
    let g = (grad * c.scale)?;
    *m = ((&*m * c.beta1)? + (&g * (1.0 - c.beta1))?)?;
    *v = ((&*v * c.beta2)? + (g.sqr()? * (1.0 - c.beta2))?)?;
    let denominator = ((v.sqrt()? / c.root)? + c.eps)?;
    let step = (m.div(&denominator)? * c.rate)?;
    var.set(&((var.as_detached_tensor() * c.decay)? - step)?)
}

/// The fused update. The moments sit behind a lock because an in-place op sees itself shared.
struct Update<'a> {
    moments: Mutex<&'a mut Moments>,
    coefficients: Coefficients,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        theta: &mut CpuStorage,
        theta_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let ranges = (theta_layout.contiguous_offsets(), grad_layout.contiguous_offsets());
        let (Some((t0, t1)), Some((g0, g1))) = ranges else {
            candle_core::bail!("adamw: parameter and gradient must be contiguous")
        };
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        match (theta, grad, &mut **moments) {
            (CpuStorage::F32(theta), CpuStorage::F32(grad), Moments::F32(m, v)) => {
                update_f32(&mut theta[t0..t1], &grad[g0..g1], m, v, self.coefficients);
            }
            (CpuStorage::F64(theta), CpuStorage::F64(grad), Moments::F64(m, v)) => {
                update_f64(&mut theta[t0..t1], &grad[g0..g1], m, v, self.coefficients);
            }
            _ => candle_core::bail!("adamw: parameter and gradient must have the same dtype"),
        }
        Ok(())
    }
}

/// The update in one element type: scalars are rounded to it once, as torch does.
macro_rules! update {
    ($name:ident, $t:ty) => {
        fn $name(theta: &mut [$t], grad: &[$t], m: &mut [$t], v: &mut [$t], c: Coefficients) {
            let (scale, decay, rate) = (c.scale as $t, c.decay as $t, c.rate as $t);
            let (root, eps, beta2) = (c.root as $t, c.eps as $t, c.beta2 as $t);
            let (rest1, rest2) = ((1.0 - c.beta1) as $t, (1.0 - c.beta2) as $t);
            let moments = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
            let values = theta.chunks_mut(CHUNK).zip(grad.chunks(CHUNK));
            threads::for_each(values.zip(moments), |_, ((theta, grad), (m, v))| {
                for (((theta, g), m), v) in theta.iter_mut().zip(grad).zip(m).zip(v) {
                    let g = g * scale;
                    *m += rest1 * (g - *m);
                    *v = beta2 * *v + rest2 * g * g;
                    *theta = decay * *theta - rate * *m / (v.sqrt() / root + eps);
                }
            });
        }
    };
}

update!(update_f32, f32);
update!(update_f64, f64);

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of a handful of f64 operations on values near 1.
    const ROUNDING: f64 = 1e-15;

    #[test]
    fn tensor_operations_equal_the_kernel() -> Result<()> {
        let c = Coefficients {
            scale: 0.7,
            decay: 0.99,
            rate: 0.1,
            root: 0.2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
        };
        let cpu = &Device::Cpu;
        let start = Tensor::new(&[0.5f64, -1.0, 2.0, 0.0], cpu)?;
        let grad = Tensor::new(&[0.3f64, -0.2, 0.0, 1.5], cpu)?;
        let (fused, plain) = (Var::from_tensor(&start)?, Var::from_tensor(&start)?);
        let mut moments = Moments::new(&fused, &start.zeros_like()?, &start.zeros_like()?)?;
        let (mut m, mut v) = (start.zeros_like()?, start.zeros_like()?);
        for _ in 0..3 {
            moments.update(&fused, &grad, c)?;
            by_tensors(&plain, &mut m, &mut v, &grad, c)?;
        }
        let worst = (fused.as_tensor() - plain.as_tensor())?.abs()?.max(0)?.to_scalar::<f64>()?;
        assert!(worst <= ROUNDING, "worst difference {worst}");
        Ok(())
    }
}
