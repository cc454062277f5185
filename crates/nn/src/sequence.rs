//! Layers in sequence as one operation: what candle's graph sees is input, parameters and result.
//!
//! candle's backward allocates a zeroed gradient for every edge of the graph and adds to it, and
//! keeps every intermediate result. A [`Sequence`] runs its layers on the CPU without edges
//! between them, by a memory plan of its own:
//!
//! | result of | kept for backward |
//! | --- | --- |
//! | the last layer | it is the result |
//! | linear, attention, norms, GELU, gated GELU | yes |
//! | dropout | no: the mask is drawn again |
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

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Reads, Real, Rows, dispatch};
use crate::stage::{Kernel, Stage, Wanted, each};
use crate::{
    Attention, Cache, DropPath, Dropout, GatedGelu, Gelu, HeadNorm, LayerNorm, Linear, Mode,
    Padding, RmsNorm,
};

/// A layer of a [`Sequence`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Layer {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    Linear(Linear),
    Gelu(Gelu),
    GatedGelu(GatedGelu),
    Attention(Attention),
    HeadNorm(HeadNorm),
    Dropout(Dropout),
    DropPath(DropPath),
}

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
    layers: Vec<Layer>,
    residual: bool,
}

impl Sequence {
    /// f: the layers one after the other.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self { layers: layers.into_iter().collect(), residual: false }
    }

    /// x + f(x).
    pub fn residual(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self { layers: layers.into_iter().collect(), residual: true }
    }

    /// The result for `x`.
    ///
    /// # Errors
    /// When shapes or dtypes do not fit; names the layer.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_padded(x, None, mode)
    }

    /// The result for sequences of different lengths, `x` (B, N, C): attention sees real tokens only,
    /// and padding gets none from it. Other layers act on each token alone.
    ///
    /// # Errors
    /// As [`Sequence::forward`], or when the padding is of another batch.
    pub fn forward_padded(
        &self,
        x: &Tensor,
        padding: Option<&Padding>,
        mode: Mode,
    ) -> Result<Tensor> {
        let stages = self.layers.iter().filter_map(|layer| layer.stage(padding, mode)).collect();
        run(x, stages, self.residual)
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
            y = match layer {
                Layer::Attention(attention) => cache.attend(*attention, &y)?,
                layer => match layer.stage(None, Mode::Eval) {
                    Some(stage) => single(&y, stage)?,
                    None => y,
                },
            };
        }
        if self.residual { x + y } else { Ok(y) }
    }
}

/// x through one layer.
pub(crate) fn single(x: &Tensor, stage: Stage) -> Result<Tensor> {
    run(x, vec![stage], false)
}

macro_rules! layers {
    ($($name:ident),*) => {
        $(impl From<$name> for Layer {
            fn from(layer: $name) -> Self {
                Self::$name(layer)
            }
        })*
    };
}
layers!(LayerNorm, RmsNorm, Linear, Gelu, GatedGelu, Attention, HeadNorm, Dropout, DropPath);

impl Layer {
    /// What the layer does in a pass of this mode; nothing for dropout in evaluation.
    fn stage(&self, padding: Option<&Padding>, mode: Mode) -> Option<Stage> {
        match self.clone() {
            Self::LayerNorm(layer) => Some(Stage::LayerNorm(layer)),
            Self::RmsNorm(layer) => Some(Stage::RmsNorm(layer)),
            Self::Linear(layer) => Some(Stage::Linear(layer)),
            Self::Gelu(layer) => Some(Stage::Gelu(layer)),
            Self::GatedGelu(layer) => Some(Stage::GatedGelu(layer)),
            Self::Attention(layer) => Some(Stage::Attention(layer.padded(padding))),
            Self::HeadNorm(layer) => Some(Stage::HeadNorm(layer)),
            Self::Dropout(layer) => layer.mask(mode).map(Stage::Mask),
            Self::DropPath(layer) => layer.mask(mode).map(Stage::Mask),
        }
    }
}

/// Runs the stages on `x`.
fn run(x: &Tensor, stages: Vec<Stage>, residual: bool) -> Result<Tensor> {
    let mut shapes = vec![x.dims().to_vec()];
    for stage in &stages {
        let dims = each!(stage, layer: _L => layer.output(&shapes[shapes.len() - 1]))?;
        shapes.push(dims);
    }
    if residual && shapes[shapes.len() - 1] != x.dims() {
        candle_core::bail!("residual: {:?} cannot be added to {:?}", shapes.last(), x.dims());
    }
    if !kernel::serves(x) || x.elem_count() == 0 {
        let mut y = x.clone();
        for stage in &stages {
            y = each!(stage, layer: _L => layer.on_device(&y))?;
        }
        return if residual { x + y } else { Ok(y) };
    }
    if stages.is_empty() {
        return if residual { x + x } else { Ok(x.clone()) };
    }
    SequenceOp::apply(x, stages, shapes, residual)
}

/// Gradients of parameters on their way from the sequence to the carriers.
type Parcel = Arc<Mutex<Vec<Option<Tensor>>>>;

/// Stages with their parameters, and what the forward pass keeps.
struct SequenceOp {
    stages: Vec<Stage>,
    /// The parameters of each stage, contiguous.
    parameters: Vec<Vec<Tensor>>,
    /// The dimensions of the input and of every result.
    shapes: Vec<Vec<usize>>,
    residual: bool,
    /// Whether a backward pass can come.
    tracked: bool,
    /// Results of the stages but the last, as far as they are kept.
    kept: OnceLock<Vec<Option<CpuStorage>>>,
    parcel: Parcel,
}

impl SequenceOp {
    fn apply(
        x: &Tensor,
        stages: Vec<Stage>,
        shapes: Vec<Vec<usize>>,
        residual: bool,
    ) -> Result<Tensor> {
        let parameters = stages
            .iter()
            .map(|stage| stage.parameters().into_iter().map(Tensor::contiguous).collect())
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
        let kept = OnceLock::new();
        let op = Self { stages, parameters, shapes, residual, tracked, kept, parcel };
        x.contiguous()?.apply_op2(&carrier, op)
    }

    /// The shape of the input of a stage.
    fn rows(&self, stage: usize) -> Rows {
        Rows::of(&self.shapes[stage])
    }

    /// The parameters of all stages, locked.
    fn reads(&self) -> Vec<Reads<'_>> {
        self.parameters.iter().map(Reads::of).collect()
    }

    fn forward<T: Real>(&self, x: &[T]) -> Result<Vec<T>> {
        let reads = self.reads();
        let last = self.stages.len() - 1;
        let mut kept = Vec::with_capacity(last);
        let mut current = Cow::Borrowed(x);
        for (i, (stage, reads)) in self.stages.iter().zip(&reads).enumerate() {
            let (parameters, rows) = (reads.slices(stage.name())?, self.rows(i));
            let y = match stage {
                Stage::Linear(layer) if i == last && self.residual => {
                    layer.forward_onto(&current, &parameters, rows, Some(x))
                }
                stage => {
                    let y = each!(stage, layer: _L => layer.forward(&current, &parameters, rows));
                    if i == last && self.residual { sum(y, x) } else { y }
                }
            };
            let input = std::mem::replace(&mut current, Cow::Owned(y));
            if i > 0 {
                let keep = self.tracked && !self.stages[i - 1].cheap();
                kept.push(keep.then(|| T::to_cpu_storage_owned(input.into_owned())));
            }
        }
        // A custom op runs its forward once.
        let _ = self.kept.set(kept);
        Ok(current.into_owned())
    }

    /// The input of a stage: kept, or computed again.
    fn input<'a, T: Real>(
        &'a self,
        stage: usize,
        x: &'a [T],
        reads: &[Reads<'_>],
    ) -> Result<Cow<'a, [T]>> {
        let Some(before) = stage.checked_sub(1) else { return Ok(Cow::Borrowed(x)) };
        if let Some(Some(kept)) = self.kept.get().and_then(|kept| kept.get(before)) {
            return Ok(Cow::Borrowed(kept.as_slice()?));
        }
        let input = self.input(before, x, reads)?;
        let (stage, rows) = (&self.stages[before], self.rows(before));
        let parameters = reads[before].slices(stage.name())?;
        Ok(Cow::Owned(each!(stage, layer: _L => layer.forward(&input, &parameters, rows))))
    }

    /// dx, if wanted; the gradients of the parameters go into the parcel.
    fn backward<T: Real>(&self, x: &[T], g: &[T], input: bool) -> Result<Option<Vec<T>>> {
        let reads = self.reads();
        let mut gradients: Vec<Option<Tensor>> =
            vec![None; self.parameters.iter().flatten().count()];
        let mut end = gradients.len();
        let mut current = Some(Cow::Borrowed(g));
        for (i, stage) in self.stages.iter().enumerate().rev() {
            // Nobody below waits for a gradient.
            let Some(g) = current.take() else { break };
            let tracked: Vec<bool> = self.parameters[i].iter().map(Tensor::track_op).collect();
            let below = input || self.parameters[..i].iter().flatten().any(Tensor::track_op);
            let (parameters, rows) = (reads[i].slices(stage.name())?, self.rows(i));
            let at = self.input(i, x, &reads)?;
            let wanted = Wanted { input: below, parameters: &tracked };
            let found =
                each!(stage, layer: _L => layer.backward(&at, &parameters, rows, g, wanted));
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
        Ok(dx.map(|dx| if self.residual { sum(dx, g) } else { dx }))
    }
}

/// y + x.
fn sum<T: Real>(mut y: Vec<T>, x: &[T]) -> Vec<T> {
    kernel::add_parallel(&mut y, x);
    y
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
    fn gradient<T: Real>(&self, x: &Tensor, g: &Tensor, input: bool) -> Result<Option<Tensor>> {
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
