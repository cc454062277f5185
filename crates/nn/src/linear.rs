//! The affine map y = x W^T + b, with the bias added inside the matrix product.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real, Rows, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, init, reference, sequence};

/// The affine map y = x W^T + b.
///
/// `weight` W is (out, in), `bias` b is (out,): PyTorch's names and layout. A layer of
/// [`Linear::conv1d`] stores W^T, (in, out), as GPT-2 does.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Whether `weight` is (in, out).
    transposed: bool,
}

impl Linear {
    /// A layer over given tensors: `weight` (out, in), `bias` (out,).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, transposed: false }
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

    /// The same without bias.
    ///
    /// # Errors
    /// As [`Linear::with_std`].
    pub fn with_std_no_bias(
        vb: VarBuilder,
        inputs: usize,
        outputs: usize,
        std: f64,
    ) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs), "weight", init::normal(std))?;
        Ok(Self::new(weight, None))
    }

    /// The `Conv1D` of GPT-2: `weight` (in, out) from a truncated normal of deviation `std`, zero
    /// bias.
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn conv1d(vb: VarBuilder, inputs: usize, outputs: usize, std: f64) -> Result<Self> {
        let weight = vb.get_with_hints((inputs, outputs), "weight", init::normal(std))?;
        let bias = vb.get_with_hints(outputs, "bias", candle_nn::init::ZERO)?;
        Ok(Self { weight, bias: Some(bias), transposed: true })
    }

    /// The weight as it is stored: (out, in), or (in, out) of a layer of [`Linear::conv1d`].
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The same layer with another weight, stored as its own is, such as one computed from it: its
    /// gradient finds its way back through whatever made it.
    pub fn with_weight(&self, weight: Tensor) -> Self {
        Self { weight, bias: self.bias.clone(), transposed: self.transposed }
    }

    /// One layer whose outputs are those of all `layers`, side by side.
    ///
    /// The parameters are copied, and the gradients find their way back: for layers that are stored
    /// one by one and multiplied as one, such as queries, keys and values.
    ///
    /// # Errors
    /// When the layers differ in input width, layout, or in having a bias.
    pub fn stacked(layers: &[Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = layers.iter().map(|layer| &layer.weight).collect();
        let biases: Vec<&Tensor> = layers.iter().filter_map(|layer| layer.bias.as_ref()).collect();
        let transposed = layers.first().is_some_and(|layer| layer.transposed);
        let layouts = layers.iter().all(|layer| layer.transposed == transposed);
        if !layouts || !(biases.is_empty() || biases.len() == layers.len()) {
            candle_core::bail!("linear: layers of different layout cannot be stacked");
        }
        let bias = (!biases.is_empty()).then(|| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Self { weight: Tensor::cat(&weights, usize::from(transposed))?, bias, transposed })
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
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// Sizes of one product: M rows, K inputs, O outputs.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    k: usize,
    o: usize,
    transposed: bool,
}

impl Sizes {
    fn new(rows: Rows, weight_len: usize, transposed: bool) -> Self {
        let k = rows.width;
        Self { m: rows.rows(), k, o: weight_len / k.max(1), transposed }
    }

    fn x(self) -> View {
        View::rows(self.m, self.k, 0, self.k)
    }

    fn y(self) -> View {
        View::rows(self.m, self.o, 0, self.o)
    }

    /// W (O, K), however it is stored.
    fn w(self) -> View {
        match self.transposed {
            false => View::rows(self.o, self.k, 0, self.k),
            true => View::rows(self.k, self.o, 0, self.o).t(),
        }
    }
}

impl Linear {
    /// y = base + b + x W^T, in this order.
    fn affine<T: Real>(&self, input: Input<'_, T>, base: Option<&[T]>) -> Vec<T> {
        let Input { x, parameters, at } = input;
        let sizes = Sizes::new(at.rows(), parameters[0].len(), self.transposed);
        let (x, w) = ((x, sizes.x()), (parameters[0], sizes.w().t()));
        let bias = parameters.get(1).copied();
        if base.is_none() && bias.is_none() {
            return kernel::product_of(x, w, T::ONE);
        }
        kernel::product_onto(x, w, &|row, columns, y| {
            if let Some(base) = base {
                let row = row * sizes.o;
                y.copy_from_slice(&base[row + columns.start..row + columns.end]);
            }
            if let Some(bias) = bias {
                kernel::vectorised(
                    #[inline(always)]
                    || kernel::add(y, &bias[columns]),
                );
            }
        })
    }
}

impl Kernel for Linear {
    const NAME: &'static str = "linear";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        let (outputs, inputs) = match (self.weight.dims2()?, self.transposed) {
            ((outputs, inputs), false) | ((inputs, outputs), true) => (outputs, inputs),
        };
        let bias_fits = self.bias.as_ref().is_none_or(|bias| bias.dims() == [outputs]);
        match dims {
            [leading @ .., width] if *width == inputs && bias_fits => {
                Ok([leading, &[outputs]].concat())
            }
            _ => candle_core::bail!(
                "linear: input {dims:?}, weight {:?} and bias {:?} do not fit",
                self.weight.dims(),
                self.bias.as_ref().map(Tensor::dims)
            ),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let precision = pass.mode.precision();
        let weight = precision.factor(&self.weight)?;
        let weight = if self.transposed { weight.t()? } else { weight };
        let y = reference::linear(&precision.factor(x)?, &weight, None)?;
        device::add_bias(&y, self.bias.as_ref(), precision)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        Ok(self.affine(input, None))
    }

    fn forward_onto<T: Real>(&self, input: Input<'_, T>, base: &[T]) -> Result<Vec<T>> {
        Ok(self.affine(input, Some(base)))
    }

    /// dx = g W, dW = g^T x, db = 1^T g.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let sizes = Sizes::new(at.rows(), parameters[0].len(), self.transposed);
        let (x, g) = ((x, sizes.x()), (&*g, sizes.y()));
        let mut gradients = Gradients::default();
        gradients.parameters.push(match (wanted.parameters[0], self.transposed) {
            (false, _) => Vec::new(),
            (true, false) => kernel::product_of((g.0, g.1.t()), x, T::ONE),
            (true, true) => kernel::product_of((x.0, x.1.t()), g, T::ONE),
        });
        if wanted.parameters.get(1) == Some(&true) {
            gradients.parameters.push(kernel::column_sums(g.0, sizes.o));
        }
        if wanted.input {
            gradients.input = Some(kernel::product_of(g, (parameters[0], sizes.w()), T::ONE));
        }
        gradients
    }
}
