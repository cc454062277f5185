//! What a layer is to a [`Sequence`](crate::Sequence): kernels on slices, forward and backward.
//!
//! A layer is one file: a type, its [`Kernel`], and its definition in [`crate::reference`].

use std::borrow::Cow;
use std::fmt::Debug;

use candle_core::{Result, Tensor};

use crate::kernel::{self, Real, Rows};
use crate::probe::Heads;
use crate::{Attention, Mode, Pass};

/// A layer of a [`Sequence`](crate::Sequence); `.into()` makes one of each layer of this crate.
///
/// The trait is sealed: its methods take the kernels of this crate.
pub trait Layer: Debug + Send + Sync {
    /// Its name in errors.
    fn name(&self) -> &'static str;

    /// Whether its result is computed again in backward rather than kept.
    #[doc(hidden)]
    fn is_cheap(&self) -> bool;

    /// Whether it hands on its input as it is.
    #[doc(hidden)]
    fn is_identity(&self, mode: Mode) -> bool;

    /// The tensors that its kernels read in a pass.
    #[doc(hidden)]
    fn parameters(&self, mode: Mode) -> Vec<&Tensor>;

    /// The dimensions of its result; an error when the input does not fit.
    #[doc(hidden)]
    fn output(&self, at: At<'_>) -> Result<Vec<usize>>;

    /// The same on other devices and in half or mixed precision.
    #[doc(hidden)]
    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor>;

    /// What a [`Probe`](crate::Probe) sees of it for an input; nothing of a layer that is no attention.
    #[doc(hidden)]
    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Result<Option<Heads>>;

    /// The layer, if it is one that a [`Cache`](crate::Cache) serves.
    #[doc(hidden)]
    fn cached(&self) -> Option<Attention>;

    #[doc(hidden)]
    fn forward_f32(&self, input: Input<'_, f32>, base: Option<&[f32]>) -> Result<Vec<f32>>;

    #[doc(hidden)]
    fn forward_f64(&self, input: Input<'_, f64>, base: Option<&[f64]>) -> Result<Vec<f64>>;

    #[doc(hidden)]
    fn backward_f32(
        &self,
        input: Input<'_, f32>,
        g: Cow<'_, [f32]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f32>;

    #[doc(hidden)]
    fn backward_f64(
        &self,
        input: Input<'_, f64>,
        g: Cow<'_, [f64]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f64>;
}

/// The input of a layer in one pass: its dimensions, and the pass.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub(crate) dims: &'a [usize],
    pub(crate) pass: Pass<'a>,
}

impl At<'_> {
    /// The input as (batch, tokens, width).
    pub(crate) fn rows(self) -> Rows {
        Rows::of(self.dims)
    }
}

/// What a kernel reads: its input, its parameters, and where it runs.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a, T> {
    /// The elements of x.
    pub(crate) x: &'a [T],
    /// The elements of the layer's parameters, in their order.
    pub(crate) parameters: &'a [&'a [T]],
    pub(crate) at: At<'a>,
}

/// Which gradients somebody waits for. A kernel may compute more.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub(crate) input: bool,
    pub(crate) parameters: &'a [bool],
}

/// The gradients of a layer. What is not wanted may be missing or empty.
#[derive(Debug)]
pub struct Gradients<T> {
    pub(crate) input: Option<Vec<T>>,
    pub(crate) parameters: Vec<Vec<T>>,
}

impl<T> Default for Gradients<T> {
    fn default() -> Self {
        Self { input: None, parameters: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Gradients<T> {
    /// The gradient of the input of a layer without parameters.
    fn from(dx: Vec<T>) -> Self {
        Self { input: Some(dx), parameters: Vec::new() }
    }
}

/// A layer in code: generic over the scalar, which a [`Layer`] cannot be.
pub(crate) trait Kernel: Debug + Send + Sync {
    /// Its name in errors.
    const NAME: &'static str;
    /// Whether its result is computed again in backward rather than kept.
    const CHEAP: bool = false;

    /// Whether it hands on its input as it is in a pass of this mode.
    fn is_identity(&self, _: Mode) -> bool {
        false
    }

    /// The tensors that a pass of this mode reads, in the order of the slices that the kernels get.
    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        Vec::new()
    }

    /// The dimensions of its result; an error when the input does not fit.
    fn output(&self, at: At<'_>) -> Result<Vec<usize>>;

    /// The same on other devices and in half or mixed precision, in candle's operations.
    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor>;

    /// Queries, keys, values and attention of an input; nothing of a layer that is no attention.
    fn heads(&self, _x: &Tensor, _: Pass<'_>) -> Result<Option<Heads>> {
        Ok(None)
    }

    /// The layer, if it is one that a [`Cache`](crate::Cache) serves.
    fn cached(&self) -> Option<Attention> {
        None
    }

    /// y = f(x).
    ///
    /// # Errors
    /// When statistics of a training pass cannot be kept.
    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>>;

    /// y = f(x) + base.
    ///
    /// # Errors
    /// As [`Kernel::forward`].
    fn forward_onto<T: Real>(&self, input: Input<'_, T>, base: &[T]) -> Result<Vec<T>> {
        let mut y = self.forward(input)?;
        kernel::add_parallel(&mut y, base);
        Ok(y)
    }

    /// The gradients at x for the gradient `g` of y.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T>;
}

/// Calls [`Kernel::forward`] or [`Kernel::forward_onto`].
fn forward<T: Real>(
    kernel: &impl Kernel,
    input: Input<'_, T>,
    base: Option<&[T]>,
) -> Result<Vec<T>> {
    match base {
        Some(base) => kernel.forward_onto(input, base),
        None => kernel.forward(input),
    }
}

impl<K: Kernel> Layer for K {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn is_cheap(&self) -> bool {
        K::CHEAP
    }

    fn is_identity(&self, mode: Mode) -> bool {
        Kernel::is_identity(self, mode)
    }

    fn parameters(&self, mode: Mode) -> Vec<&Tensor> {
        Kernel::parameters(self, mode)
    }

    fn output(&self, at: At<'_>) -> Result<Vec<usize>> {
        Kernel::output(self, at)
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Kernel::on_device(self, x, pass)
    }

    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Result<Option<Heads>> {
        Kernel::heads(self, x, pass)
    }

    fn cached(&self) -> Option<Attention> {
        Kernel::cached(self)
    }

    fn forward_f32(&self, input: Input<'_, f32>, base: Option<&[f32]>) -> Result<Vec<f32>> {
        forward(self, input, base)
    }

    fn forward_f64(&self, input: Input<'_, f64>, base: Option<&[f64]>) -> Result<Vec<f64>> {
        forward(self, input, base)
    }

    fn backward_f32(
        &self,
        input: Input<'_, f32>,
        g: Cow<'_, [f32]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f32> {
        self.backward(input, g, wanted)
    }

    fn backward_f64(
        &self,
        input: Input<'_, f64>,
        g: Cow<'_, [f64]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f64> {
        self.backward(input, g, wanted)
    }
}

impl<K: Kernel + 'static> From<K> for Box<dyn Layer> {
    fn from(layer: K) -> Self {
        Box::new(layer)
    }
}

/// The scalars that a [`Layer`] has kernels for.
pub(crate) trait Scalar: Real {
    /// The layer's result, added to `base` where there is one.
    fn forward(
        layer: &dyn Layer,
        input: Input<'_, Self>,
        base: Option<&[Self]>,
    ) -> Result<Vec<Self>>;

    /// The layer's gradients.
    fn backward(
        layer: &dyn Layer,
        input: Input<'_, Self>,
        g: Cow<'_, [Self]>,
        wanted: Wanted<'_>,
    ) -> Gradients<Self>;
}

impl Scalar for f32 {
    fn forward(layer: &dyn Layer, input: Input<'_, f32>, base: Option<&[f32]>) -> Result<Vec<f32>> {
        layer.forward_f32(input, base)
    }

    fn backward(
        layer: &dyn Layer,
        input: Input<'_, f32>,
        g: Cow<'_, [f32]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f32> {
        layer.backward_f32(input, g, wanted)
    }
}

impl Scalar for f64 {
    fn forward(layer: &dyn Layer, input: Input<'_, f64>, base: Option<&[f64]>) -> Result<Vec<f64>> {
        layer.forward_f64(input, base)
    }

    fn backward(
        layer: &dyn Layer,
        input: Input<'_, f64>,
        g: Cow<'_, [f64]>,
        wanted: Wanted<'_>,
    ) -> Gradients<f64> {
        layer.backward_f64(input, g, wanted)
    }
}
