//! The operation behind a [`Sequence`](crate::Sequence): forward, backward, and what is kept in between.
//!
//! candle's custom ops have at most three inputs. A parameter therefore enters through a *carrier*:
//! an op whose value is a zero and whose gradient is whatever the sequence has left for it. The
//! carriers form a chain that is the second input of the sequence; backward visits the sequence
//! first, then its carriers, which hand the gradients to the parameters.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::backward;
use crate::kernel::{self, Reads, Real, dispatch};
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
    /// Whether a backward pass can come.
    tracked: bool,
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
        let mut carrier = Tensor::zeros((), x.dtype(), x.device())?;
        for (layer, parameters) in parameters.iter().enumerate() {
            for (index, parameter) in parameters.iter().enumerate() {
                if parameter.track_op() {
                    let op = Carrier { layer, index, parcel: parcel.clone() };
                    carrier = parameter.apply_op2(&carrier, op)?;
                }
            }
        }
        let op = Self {
            layers,
            branches: ranges,
            parameters,
            shapes,
            mode,
            padding: padding.cloned(),
            tracked: x.track_op() || carrier.track_op(),
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

    fn forward<T: Scalar>(&self, x: &[T]) -> Result<CpuStorage> {
        let reads = self.reads();
        let mut kept = Vec::with_capacity(self.layers.len());
        // What the next layer takes; nothing stands for x.
        let mut current: Option<Arc<CpuStorage>> = None;
        for (layers, residual) in &self.branches {
            let base = current.clone();
            for i in layers.clone() {
                let of = |storage| slice_or(storage, x);
                let added = (*residual && i + 1 == layers.end).then(|| of(&base)).transpose()?;
                let y = self.result(i, of(&current)?, &reads, added)?;
                let input = current.replace(Arc::new(T::to_cpu_storage_owned(y)));
                if i > 0 {
                    // A branch begins with its input, which has its predecessor's input added.
                    let keep = i == layers.start || !self.layers[i - 1].is_cheap();
                    kept.push(input.filter(|_| self.tracked && keep));
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
        reads: &[Reads<'_>],
    ) -> Result<Cow<'a, [T]>> {
        let Some(before) = layer.checked_sub(1) else { return Ok(Cow::Borrowed(x)) };
        if kept[before].is_some() {
            return Ok(Cow::Borrowed(slice_or(&kept[before], x)?));
        }
        let input = self.input(before, x, kept, reads)?;
        Ok(Cow::Owned(self.result(before, &input, reads, None)?))
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
        let mut pass = Backward { op: self, x, reads: self.reads(), kept, input, parcel };
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
    reads: Vec<Reads<'a>>,
    kept: Kept,
    /// Whether somebody waits for the gradient of x.
    input: bool,
    parcel: Vec<Vec<Option<Tensor>>>,
}

impl<T: Scalar> Backward<'_, T> {
    /// From the gradient of the result of some layers to that of their input, if somebody waits for it.
    fn through(&mut self, layers: Range<usize>, g: Cow<'_, [T]>) -> Result<Option<Vec<T>>> {
        let Self { op, x, reads, kept, input, parcel } = self;
        let mut current = Some(g);
        for i in layers.rev() {
            let Some(g) = current.take() else { break };
            let (layer, parameters) = (&*op.layers[i], &op.parameters[i]);
            let tracked: Vec<bool> = parameters.iter().map(Tensor::track_op).collect();
            let below = *input || op.parameters[..i].iter().flatten().any(Tensor::track_op);
            let wanted = Wanted { input: below, parameters: &tracked };
            let found = {
                let x = op.input(i, x, kept, reads)?;
                let slices = reads[i].slices(layer.name())?;
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
            Ok((kernel::in_pool(|| self.forward(x))?, shape))
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
        let dx = kernel::in_pool(|| self.backward(slices[0], slices[1], kept, input))?;
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
        parameter: &Tensor,
        before: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut parcel = self.parcel.lock().unwrap_or_else(PoisonError::into_inner);
        let place = parcel.get_mut(self.layer).and_then(|layer| layer.get_mut(self.index));
        let Some(gradient) = place.and_then(Option::take) else {
            candle_core::bail!("sequence: a parameter was visited before its sequence");
        };
        let before = if before.track_op() { Some(before.zeros_like()?) } else { None };
        Ok((backward::take(parameter, gradient), before))
    }
}
