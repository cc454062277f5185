//! The operation behind a [`Sequence`](crate::Sequence): forward, backward, and what is kept in between.
//!
//! candle's custom ops have at most three inputs. A parameter therefore enters through a *carrier*:
//! an op whose value is a zero and whose gradient is whatever the sequence has left for it. The
//! carriers side by side are the second input of the sequence; backward visits the sequence first, then
//! its carriers, which hand the gradients to the parameters.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use crate::backward;
use crate::kernel::{self, Reads, dispatch};
use crate::layer::{At, Input, Layer, Scalar, Wanted};
use crate::sequence::Branch;
use crate::{Mode, Padding, Pass};

/// Gradients of the parameters of every layer on their way from the sequence to the carriers.
type Parcel = Arc<Mutex<Vec<Vec<Option<Tensor>>>>>;

/// Results of the layers but the last, as far as they are kept for backward.
type Kept = Vec<Option<Arc<CpuStorage>>>;

/// Layers with their parameters, and what the forward pass keeps.
pub(crate) struct SequenceOp {
    layers: Vec<Arc<dyn Layer>>,
    /// Which layers each branch has, and whether its input is added to its result.
    branches: Vec<(Range<usize>, bool)>,
    /// The parameters of each layer, contiguous.
    parameters: Vec<Vec<Tensor>>,
    /// The dimensions of the input and of every result.
    shapes: Vec<Vec<usize>>,
    mode: Mode,
    padding: Option<Padding>,
    /// The lowest layer that a backward pass goes through, if one can come.
    lowest: Option<usize>,
    kept: Mutex<Kept>,
    parcel: Parcel,
}

impl SequenceOp {
    /// The result of branches with layers, of `shapes` the dimensions of x and of every layer's result.
    pub(crate) fn apply(
        x: &Tensor,
        branches: Vec<Branch>,
        shapes: Vec<Vec<usize>>,
        pass: Pass<'_>,
    ) -> Result<Tensor> {
        let Pass { mode, padding, .. } = pass;
        let (mut layers, mut ranges) = (Vec::new(), Vec::new());
        for branch in branches {
            let start = layers.len();
            layers.extend(branch.layers);
            ranges.push((start..layers.len(), branch.residual));
        }
        let parameters = layers
            .iter()
            .map(|layer| layer.parameters(mode).into_iter().map(Tensor::contiguous).collect())
            .collect::<Result<Vec<Vec<Tensor>>>>()?;
        let parcel = Parcel::default();
        let mut carriers = Vec::new();
        for (layer, parameters) in parameters.iter().enumerate() {
            for (index, parameter) in parameters.iter().enumerate() {
                if parameter.track_op() {
                    let op = Carrier { layer, index, parcel: parcel.clone() };
                    carriers.push(parameter.apply_op1(op)?);
                }
            }
        }
        let carrier = match carriers.is_empty() {
            true => Tensor::zeros(1, DType::F32, x.device())?,
            false => Tensor::cat(&carriers, 0)?,
        };
        let is_tracked = |layer: &Vec<Tensor>| layer.iter().any(Tensor::track_op);
        let lowest = if x.track_op() { Some(0) } else { parameters.iter().position(is_tracked) };
        let op = Self {
            layers,
            branches: ranges,
            parameters,
            shapes,
            mode,
            padding: padding.cloned(),
            lowest,
            kept: Mutex::default(),
            parcel,
        };
        x.contiguous()?.apply_op2(&carrier, op)
    }

    /// Where a layer runs.
    fn at(&self, layer: usize) -> At<'_> {
        let pass = Pass { mode: self.mode, padding: self.padding.as_ref(), probe: None };
        At { dims: &self.shapes[layer], pass }
    }

    /// The result of a layer, added to `base` where there is one.
    fn result<T: Scalar>(&self, i: usize, x: &[T], base: Option<&[T]>) -> Result<Vec<T>> {
        let (layer, reads) = (&*self.layers[i], Reads::of(&self.parameters[i]));
        let parameters = reads.slices(layer.name())?;
        T::forward(layer, Input { x, parameters: &parameters, at: self.at(i) }, base)
    }

    fn forward<T: Scalar>(&self, x: &[T]) -> Result<CpuStorage> {
        let mut kept = Vec::with_capacity(self.layers.len());
        // What the next layer takes; nothing stands for x.
        let mut current: Option<Arc<CpuStorage>> = None;
        for (layers, residual) in &self.branches {
            let base = current.clone();
            for i in layers.clone() {
                let of = |storage| slice_or(storage, x);
                let added = (*residual && i + 1 == layers.end).then(|| of(&base)).transpose()?;
                let y = self.result(i, of(&current)?, added)?;
                let input = current.replace(Arc::new(T::to_cpu_storage_owned(y)));
                if i > 0 {
                    // Computing goes on from here: the input of a branch has another one added, and that of
                    // the lowest layer has none before it.
                    let first = i == layers.start || Some(i) == self.lowest;
                    let keep = first || !self.layers[i - 1].is_cheap();
                    let passed = self.lowest.is_some_and(|lowest| i >= lowest);
                    kept.push(input.filter(|_| passed && keep));
                }
            }
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let y = current.and_then(Arc::into_inner);
        y.ok_or_else(|| candle_core::Error::msg("sequence: it has no layers"))
    }

    /// The input of a layer: kept, or computed again.
    fn input<'a, T: Scalar>(
        &self,
        layer: usize,
        x: &'a [T],
        kept: &'a Kept,
    ) -> Result<Cow<'a, [T]>> {
        let Some(before) = layer.checked_sub(1) else { return Ok(Cow::Borrowed(x)) };
        if kept[before].is_some() {
            return Ok(Cow::Borrowed(slice_or(&kept[before], x)?));
        }
        let input = self.input(before, x, kept)?;
        Ok(Cow::Owned(self.result(before, &input, None)?))
    }

    /// What the forward pass kept; for the last time in a pass that is final.
    fn take_kept(&self, last: bool) -> Result<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() + 1 != self.layers.len() {
            candle_core::bail!(
                "sequence: what its backward pass needs was freed by the first one; run the forward \
                 pass again"
            );
        }
        Ok(if last { std::mem::take(&mut *kept) } else { kept.clone() })
    }

    /// dx, if wanted; the gradients of the parameters go into the parcel.
    fn backward<T: Scalar>(
        &self,
        x: &[T],
        g: &[T],
        kept: Kept,
        input: bool,
    ) -> Result<Option<Vec<T>>> {
        let parcel = vec![Vec::new(); self.layers.len()];
        let mut pass = Backward { op: self, x, kept, input, parcel };
        let mut current = Some(Cow::Borrowed(g));
        for (layers, residual) in self.branches.iter().rev() {
            // Nobody below waits for a gradient.
            let Some(g) = current.take() else { break };
            let dx = match residual {
                false => pass.through(layers.clone(), g)?,
                true => pass.through(layers.clone(), Cow::Borrowed(&g))?.map(|mut dx| {
                    kernel::add_parallel(&mut dx, &g);
                    dx
                }),
            };
            current = dx.map(Cow::Owned);
        }
        *self.parcel.lock().unwrap_or_else(PoisonError::into_inner) = pass.parcel;
        Ok(current.filter(|_| input).map(Cow::into_owned))
    }
}

/// One backward pass.
struct Backward<'a, T> {
    op: &'a SequenceOp,
    x: &'a [T],
    kept: Kept,
    /// Whether somebody waits for the gradient of x.
    input: bool,
    parcel: Vec<Vec<Option<Tensor>>>,
}

impl<T: Scalar> Backward<'_, T> {
    /// From the gradient of the result of some layers to that of their input, if somebody waits for it.
    fn through(&mut self, layers: Range<usize>, g: Cow<'_, [T]>) -> Result<Option<Vec<T>>> {
        let Self { op, x, kept, input, parcel } = self;
        let mut current = Some(g);
        for i in layers.rev() {
            let Some(g) = current.take() else { break };
            let (layer, parameters) = (&*op.layers[i], &op.parameters[i]);
            let tracked: Vec<bool> = parameters.iter().map(Tensor::track_op).collect();
            let below = *input || op.lowest.is_some_and(|lowest| lowest < i);
            let wanted = Wanted { input: below, parameters: &tracked };
            let found = {
                let x = op.input(i, x, kept)?;
                let reads = Reads::of(parameters);
                let slices = reads.slices(layer.name())?;
                T::backward(layer, Input { x: &x, parameters: &slices, at: op.at(i) }, g, wanted)
            };
            // In a final pass nobody else holds the input.
            kept.truncate(i.saturating_sub(1));
            parcel[i] = vec![None; parameters.len()];
            let gradients = found.parameters.into_iter().zip(parameters).zip(&mut parcel[i]);
            for ((gradient, parameter), place) in gradients.filter(|((_, p), _)| p.track_op()) {
                *place = Some(Tensor::from_vec(gradient, parameter.shape(), parameter.device())?);
            }
            current = found.input.filter(|_| below).map(Cow::Owned);
        }
        Ok(current.map(Cow::into_owned))
    }
}

/// The elements of a storage, or those of x.
fn slice_or<'a, T: Scalar>(storage: &'a Option<Arc<CpuStorage>>, x: &'a [T]) -> Result<&'a [T]> {
    storage.as_deref().map_or(Ok(x), CpuStorage::as_slice)
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
            Ok((self.forward(x)?, shape))
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
        let kept = self.take_kept(backward::is_final())?;
        let dx = self.backward(slices[0], slices[1], kept, input)?;
        dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}

/// Brings the gradient of one parameter from the sequence to the parameter.
struct Carrier {
    /// The layer, and the place of the parameter among its parameters.
    layer: usize,
    index: usize,
    parcel: Parcel,
}

impl CustomOp1 for Carrier {
    fn name(&self) -> &'static str {
        "carrier"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        kernel::output(vec![0f32], 1)
    }

    fn bwd(&self, parameter: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        let mut parcel = self.parcel.lock().unwrap_or_else(PoisonError::into_inner);
        let place = parcel.get_mut(self.layer).and_then(|layer| layer.get_mut(self.index));
        let Some(gradient) = place.and_then(Option::take) else {
            candle_core::bail!("sequence: a parameter was visited before its sequence");
        };
        backward::take(parameter, gradient)
    }
}
