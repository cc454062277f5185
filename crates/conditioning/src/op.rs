//! The candle op that carries a result computed on the host into the graph.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Shape, Tensor};
use faer::Mat;

use crate::Result;
use crate::correction::full_gradient;
use crate::host::from_host;
use crate::product::product;

/// How the graph continues behind a result that was computed on the host.
pub(crate) enum Backward {
    /// dL/dX = dL/dY.
    Identity,
    /// The derivative of Y = X + C at strength t over the real tokens of the mask.
    Correction { t: f64, mask: Option<Tensor> },
    /// dL/dX = dL/dY M at the real tokens of the mask, for Y = X M with a symmetric M.
    Product { M: Arc<Mat<f64>>, mask: Option<Tensor> },
}

/// Puts `values`, computed from `x`, on the device and into the graph of `x`.
pub(crate) fn attach(x: &Tensor, values: CpuStorage, backward: Backward) -> Result<Tensor> {
    let values = Mutex::new(Some(values));
    Ok(x.apply_op1(Computed { values, backward })?)
}

/// An op whose result is already there, so that its errors are ours and typed.
struct Computed {
    values: Mutex<Option<CpuStorage>>,
    backward: Backward,
}

impl Computed {
    fn take(&self) -> candle_core::Result<CpuStorage> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.take().ok_or_else(|| candle_core::Error::msg("conditioning: result used twice"))
    }
}

impl CustomOp1 for Computed {
    fn name(&self) -> &'static str {
        "conditioning"
    }

    fn cpu_fwd(&self, _: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((self.take()?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let storage = storage.device().storage_from_cpu_storage_owned(self.take()?)?;
        Ok((storage, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        storage: &MetalStorage,
        layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        let storage = storage.device().storage_from_cpu_storage_owned(self.take()?)?;
        Ok((storage, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, G: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let values = match &self.backward {
            Backward::Identity => return Ok(Some(G.clone())),
            Backward::Correction { t, mask } => full_gradient(x, G, mask.as_ref(), *t)?,
            Backward::Product { M, mask } => product("gradient", G, mask.as_ref(), M)?,
        };
        Ok(Some(from_host(values, x)?))
    }
}
