//! The rectified linear unit.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// y = max(x, 0), with gradient 0 at 0, as in PyTorch; what is not a number stays so.
#[derive(Debug, Clone, Copy)]
pub struct Relu;

impl Module for Relu {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, *self, Mode::Eval)
    }
}

impl Kernel for Relu {
    const NAME: &'static str = "relu";
    const CHEAP: bool = true;

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        reference::relu(x)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        Ok(kernel::map(
            input.x,
            #[inline(always)]
            |x| if x <= T::ZERO { T::ZERO } else { x },
        ))
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let mut g = g.into_owned();
        kernel::zip_in_place(
            &mut g,
            input.x,
            #[inline(always)]
            |g, x| if x <= T::ZERO { T::ZERO } else { g },
        );
        g.into()
    }
}
