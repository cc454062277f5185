//! Layers in sequence as one operation: what candle's graph sees is input, parameters and result.
//!
//! candle's backward allocates a zeroed gradient for every edge of the graph and adds to it, and
//! keeps every intermediate result. A [`Sequence`] runs its layers on the CPU without edges
//! between them, by a memory plan of its own:
//!
//! | result of | kept for backward |
//! | --- | --- |
//! | the last layer | it is the result |
//! | linear, convolutions, attention, norms, GELU, gated GELU | yes |
//! | layer scale | no: one multiplication |
//! | dropout | no: the mask is drawn again |
//! | inside a convolution | no: the patches are gathered again, piece by piece |
//! | inside attention | no: the probabilities are computed again, block by block |
//!
//! A residual connection is added inside the last matrix product. On other devices and in half
//! precision the layers run one after the other, by [`crate::device`] and [`crate::reference`].
//!
//! candle's custom ops have at most three inputs. A parameter therefore enters through a *carrier*:
//! an op whose value is a zero and whose gradient is whatever the sequence has left for it. The
//! carriers form a chain that is the second input of the sequence; backward visits the sequence
//! first, then its carriers, which hand the gradients to the parameters.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Reads, Real, dispatch};
use crate::layer::{At, Input, Kernel, Layer, Scalar, Wanted};
use crate::probe::{Among, Probe, Probed};
use crate::{Cache, Mode, Padding, Pass};

/// Layers one after the other, f, as one operation: y = f(x), or y = x + f(x).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use conditioned_nn::{Attention, LayerNorm, Mode, Sequence, Store, linear};
/// # fn main() -> candle_core::Result<()> {
/// let store = Store::new(0, DType::F32, &Device::Cpu);
/// let vb = store.builder();
/// let branch = Sequence::residual([
///     LayerNorm::new(vb.pp("norm"), 16, 1e-6)?.into(),
///     linear(vb.pp("qkv"), 16, 48)?.into(),
///     Attention { heads: 2, causal: false }.into(),
///     linear(vb.pp("proj"), 16, 16)?.into(),
/// ]);
/// let x = Tensor::ones((2, 5, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(branch.forward(&x, Mode::Eval)?.dims(), [2, 5, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sequence {
    layers: Vec<Arc<dyn Layer>>,
    residual: bool,
}

impl Sequence {
    /// f: the layers one after the other.
    pub fn new(layers: impl IntoIterator<Item = Box<dyn Layer>>) -> Self {
        Self::shared(layers.into_iter().map(Arc::from), false)
    }

    /// x + f(x).
    pub fn residual(layers: impl IntoIterator<Item = Box<dyn Layer>>) -> Self {
        Self::shared(layers.into_iter().map(Arc::from), true)
    }

    /// f, or x + f(x) when `residual`, of layers that may stand in other sequences too.
    pub fn shared(layers: impl IntoIterator<Item = Arc<dyn Layer>>, residual: bool) -> Self {
        Self { layers: layers.into_iter().collect(), residual }
    }

    /// The result for `x`, (B, N, C) or images (B, H, W, C).
    ///
    /// # Errors
    /// When shapes, dtypes or the padding do not fit; names the layer.
    pub fn forward<'a>(&self, x: &Tensor, pass: impl Into<Pass<'a>>) -> Result<Tensor> {
        let pass = pass.into();
        if let Some(probe) = pass.probe {
            if pass.mode.is_train() {
                candle_core::bail!(
                    "probe: it looks on to evaluations; a training pass moves statistics"
                );
            }
            self.show(x, probe, pass)?;
        }
        let layers = self.layers.iter().filter(|layer| !layer.is_identity(pass.mode));
        run(x, layers.cloned().collect(), pass, self.residual)
    }

    /// Runs the layers one by one and hands what attention does to `probe`.
    fn show(&self, x: &Tensor, probe: &Probe, pass: Pass<'_>) -> Result<()> {
        let mut y = x.clone();
        // What queries, keys and values are made of, and the layer that makes them.
        let mut before: Option<(Tensor, &Arc<dyn Layer>)> = None;
        for layer in &self.layers {
            let output = apply(&y, layer.clone(), pass)?;
            if let Some(heads) = layer.heads(&y, pass)? {
                let (input, value_weight) = match &before {
                    Some((input, projection)) if heads.among == Among::Tokens => {
                        (input, Some(value_weight(projection, input)?))
                    }
                    Some((input, _)) => (input, None),
                    None => (x, None),
                };
                let (tokens, input, output) = (x.clone(), input.clone(), output.clone());
                probe.push(Probed { tokens, input, value_weight, heads, output });
            }
            before = Some((std::mem::replace(&mut y, output), layer));
        }
        Ok(())
    }

    /// The result of an evaluation for `x` (B, N, C), the tokens that follow those in `cache`, as if
    /// all of them had been given at once.
    ///
    /// A cache belongs to one sequence of layers, with at most one attention, which is causal.
    ///
    /// # Errors
    /// As [`Sequence::forward`]; when the cache is full or has seen another number of sequences.
    pub fn forward_cached(&self, x: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let mut y = x.clone();
        for layer in &self.layers {
            y = match layer.cached() {
                Some(attention) => cache.attend(attention, &y)?,
                None => apply(&y, layer.clone(), Mode::Eval.into())?,
            };
        }
        if self.residual { x + y } else { Ok(y) }
    }
}

/// W_V (C, C) of a layer that maps tokens (.., C) to queries, keys and values side by side.
fn value_weight(projection: &Arc<dyn Layer>, like: &Tensor) -> Result<Tensor> {
    let c = like.dim(D::Minus1)?;
    let of = |x: Tensor| apply(&x.unsqueeze(0)?, projection.clone(), Mode::Eval.into())?.squeeze(0);
    let eye = Tensor::eye(c, like.dtype(), like.device())?;
    let bias = of(eye.zeros_like()?)?;
    let width = bias.dim(1)? / 3;
    (of(eye)? - bias)?.narrow(1, 2 * width, width)?.contiguous()
}

/// x through one layer.
pub(crate) fn single<'a>(
    x: &Tensor,
    layer: impl Kernel + 'static,
    pass: impl Into<Pass<'a>>,
) -> Result<Tensor> {
    apply(x, Arc::new(layer), pass.into())
}

fn apply(x: &Tensor, layer: Arc<dyn Layer>, pass: Pass<'_>) -> Result<Tensor> {
    match layer.is_identity(pass.mode) {
        true => Ok(x.clone()),
        false => run(x, vec![layer], pass, false),
    }
}

/// Runs the layers on `x`.
fn run(x: &Tensor, layers: Vec<Arc<dyn Layer>>, pass: Pass<'_>, residual: bool) -> Result<Tensor> {
    let mut shapes = vec![x.dims().to_vec()];
    for layer in &layers {
        let dims = layer.output(At { dims: &shapes[shapes.len() - 1], pass })?;
        shapes.push(dims);
    }
    if residual && shapes[shapes.len() - 1] != x.dims() {
        candle_core::bail!("residual: {:?} cannot be added to {:?}", shapes.last(), x.dims());
    }
    if !kernel::serves(x) || x.elem_count() == 0 {
        let mut y = x.clone();
        for layer in &layers {
            y = layer.on_device(&y, pass)?;
        }
        return if residual { x + y } else { Ok(y) };
    }
    if layers.is_empty() {
        return if residual { x + x } else { Ok(x.clone()) };
    }
    SequenceOp::apply(x, layers, shapes, pass, residual)
}

/// Gradients of parameters on their way from the sequence to the carriers.
type Parcel = Arc<Mutex<Vec<Option<Tensor>>>>;

/// Layers with their parameters, and what the forward pass keeps.
struct SequenceOp {
    layers: Vec<Arc<dyn Layer>>,
    /// The parameters of each layer, contiguous.
    parameters: Vec<Vec<Tensor>>,
    /// The dimensions of the input and of every result.
    shapes: Vec<Vec<usize>>,
    mode: Mode,
    padding: Option<Padding>,
    residual: bool,
    /// Whether a backward pass can come.
    tracked: bool,
    /// Results of the layers but the last, as far as they are kept.
    kept: OnceLock<Vec<Option<CpuStorage>>>,
    parcel: Parcel,
}

impl SequenceOp {
    fn apply(
        x: &Tensor,
        layers: Vec<Arc<dyn Layer>>,
        shapes: Vec<Vec<usize>>,
        pass: Pass<'_>,
        residual: bool,
    ) -> Result<Tensor> {
        let Pass { mode, padding, .. } = pass;
        let parameters = layers
            .iter()
            .map(|layer| layer.parameters(mode).into_iter().map(Tensor::contiguous).collect())
            .collect::<Result<Vec<Vec<Tensor>>>>()?;
        let parcel = Parcel::default();
        let mut carrier = Tensor::zeros((), x.dtype(), x.device())?;
        for (index, parameter) in parameters.iter().flatten().enumerate() {
            if parameter.track_op() {
                let op = Carrier { index, parcel: parcel.clone() };
                carrier = parameter.apply_op2(&carrier, op)?;
            }
        }
        let tracked = x.track_op() || carrier.track_op();
        let (kept, padding) = (OnceLock::new(), padding.cloned());
        let op =
            Self { layers, parameters, shapes, mode, padding, residual, tracked, kept, parcel };
        x.contiguous()?.apply_op2(&carrier, op)
    }

    /// Where a layer runs.
    fn at(&self, layer: usize) -> At<'_> {
        let pass = Pass { mode: self.mode, padding: self.padding.as_ref(), probe: None };
        At { dims: &self.shapes[layer], pass }
    }

    /// The parameters of all layers, locked.
    fn reads(&self) -> Vec<Reads<'_>> {
        self.parameters.iter().map(Reads::of).collect()
    }

    /// The result of a layer, added to `base` where there is one.
    fn result<T: Scalar>(
        &self,
        i: usize,
        x: &[T],
        reads: &[Reads<'_>],
        base: Option<&[T]>,
    ) -> Result<Vec<T>> {
        let layer = &*self.layers[i];
        let parameters = reads[i].slices(layer.name())?;
        T::forward(layer, Input { x, parameters: &parameters, at: self.at(i) }, base)
    }

    fn forward<T: Scalar>(&self, x: &[T]) -> Result<Vec<T>> {
        let reads = self.reads();
        let last = self.layers.len() - 1;
        let mut kept = Vec::with_capacity(last);
        let mut current = Cow::Borrowed(x);
        for i in 0..=last {
            let y = self.result(i, &current, &reads, (i == last && self.residual).then_some(x))?;
            let input = std::mem::replace(&mut current, Cow::Owned(y));
            if i > 0 {
                let keep = self.tracked && !self.layers[i - 1].is_cheap();
                kept.push(keep.then(|| T::to_cpu_storage_owned(input.into_owned())));
            }
        }
        // A custom op runs its forward once.
        let _ = self.kept.set(kept);
        Ok(current.into_owned())
    }

    /// The input of a layer: kept, or computed again.
    fn input<'a, T: Scalar>(
        &'a self,
        layer: usize,
        x: &'a [T],
        reads: &[Reads<'_>],
    ) -> Result<Cow<'a, [T]>> {
        let Some(before) = layer.checked_sub(1) else { return Ok(Cow::Borrowed(x)) };
        if let Some(Some(kept)) = self.kept.get().and_then(|kept| kept.get(before)) {
            return Ok(Cow::Borrowed(kept.as_slice()?));
        }
        let input = self.input(before, x, reads)?;
        Ok(Cow::Owned(self.result(before, &input, reads, None)?))
    }

    /// dx, if wanted; the gradients of the parameters go into the parcel.
    fn backward<T: Scalar>(&self, x: &[T], g: &[T], input: bool) -> Result<Option<Vec<T>>> {
        let reads = self.reads();
        let mut gradients: Vec<Option<Tensor>> =
            vec![None; self.parameters.iter().flatten().count()];
        let mut end = gradients.len();
        let mut current = Some(Cow::Borrowed(g));
        for (i, layer) in self.layers.iter().enumerate().rev() {
            // Nobody below waits for a gradient.
            let Some(g) = current.take() else { break };
            let tracked: Vec<bool> = self.parameters[i].iter().map(Tensor::track_op).collect();
            let below = input || self.parameters[..i].iter().flatten().any(Tensor::track_op);
            let parameters = reads[i].slices(layer.name())?;
            let x = self.input(i, x, &reads)?;
            let input_of = Input { x: &x, parameters: &parameters, at: self.at(i) };
            let found =
                T::backward(&**layer, input_of, g, Wanted { input: below, parameters: &tracked });
            let start = end - tracked.len();
            for (j, gradient) in
                found.parameters.into_iter().enumerate().filter(|(j, _)| tracked[*j])
            {
                let parameter = &self.parameters[i][j];
                let gradient = Tensor::from_vec(gradient, parameter.shape(), parameter.device())?;
                gradients[start + j] = Some(gradient);
            }
            end = start;
            current = found.input.filter(|_| below).map(Cow::Owned);
        }
        *self.parcel.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        let dx = current.filter(|_| input).map(Cow::into_owned);
        Ok(dx.map(|mut dx| {
            if self.residual {
                kernel::add_parallel(&mut dx, g);
            }
            dx
        }))
    }
}

impl CustomOp2 for SequenceOp {
    fn name(&self) -> &'static str {
        "sequence"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from(self.shapes[self.shapes.len() - 1].as_slice());
        dispatch!(x, self.name(), T => {
            let x = kernel::slice::<T>(x, layout, self.name())?;
            kernel::output(kernel::in_pool(|| self.forward(x))?, shape)
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        carrier: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (g, input) = (g.contiguous()?, x.track_op());
        let dx = match x.dtype() {
            candle_core::DType::F32 => self.gradient::<f32>(x, &g, input)?,
            _ => self.gradient::<f64>(x, &g, input)?,
        };
        let carrier = if carrier.track_op() { Some(carrier.zeros_like()?) } else { None };
        Ok((dx, carrier))
    }
}

impl SequenceOp {
    /// dx as a tensor.
    fn gradient<T: Scalar>(&self, x: &Tensor, g: &Tensor, input: bool) -> Result<Option<Tensor>> {
        let reads = Reads::of([x, g]);
        let slices = reads.slices::<T>(self.name())?;
        let dx = kernel::in_pool(|| self.backward(slices[0], slices[1], input))?;
        dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}

/// Brings the gradient of one parameter from the sequence to the parameter.
struct Carrier {
    /// The place of the parameter in the parcel.
    index: usize,
    parcel: Parcel,
}

impl CustomOp2 for Carrier {
    fn name(&self) -> &'static str {
        "carrier"
    }

    fn cpu_fwd(
        &self,
        parameter: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(parameter, self.name(), T => kernel::output(vec![T::ZERO], ()))
    }

    fn bwd(
        &self,
        _parameter: &Tensor,
        before: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut parcel = self.parcel.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gradient) = parcel.get_mut(self.index).and_then(Option::take) else {
            candle_core::bail!("sequence: a parameter was visited before its sequence");
        };
        let before = if before.track_op() { Some(before.zeros_like()?) } else { None };
        Ok((Some(gradient), before))
    }
}
