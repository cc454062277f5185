//! What a method of tokens is to the models.

use std::fmt::Debug;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::Mode;

/// What can be asked of the configuration of a method.
pub(super) trait TokenMethod {
    /// Strength t, or the factor; `None` where the method has neither.
    fn strength(&self) -> Option<f64> {
        None
    }

    /// How a token comes to depend on later ones, for an error; `None` of a causal method.
    fn leak(&self) -> Option<&'static str>;

    /// Whether an evaluation applies one linear map to every token.
    fn is_frozen_map(&self) -> bool;

    /// Checks what the types of its settings cannot.
    ///
    /// # Errors
    /// When a setting is out of its range.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The method at work.
    ///
    /// # Errors
    /// When a setting is out of its range or the state cannot be created.
    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>>;
}

/// What is done to the tokens of one model at full strength, with its state.
pub(super) trait TokenMap: Debug + Send + Sync {
    /// X -> Y, (.., N, C); mask: (.., N) u8, 1 = real. Padding takes no part and is left alone.
    ///
    /// A training pass adds its tokens to the statistics of the optimiser step, and the last one of a step
    /// moves the running averages by them; an evaluation changes nothing.
    ///
    /// # Errors
    /// Those of the method.
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor>;

    /// Replaces the running averages by those over `batches` of X.
    ///
    /// # Errors
    /// The first error among the batches, or when the state is read-only.
    fn recalibrate(&self, _batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<()> {
        Ok(())
    }

    /// Drops what was collected of an optimiser step that does not go on.
    fn discard(&self) {}

    /// Whether evaluation uses running averages.
    fn has_state(&self) -> bool {
        false
    }
}

/// y where tokens are real, and x as it came where they are padding; mask: (.., N) u8, 1 = real.
pub(super) fn on_tokens(y: Tensor, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(y) };
    mask.unsqueeze(D::Minus1)?.broadcast_as(x.shape())?.contiguous()?.where_cond(&y, x)
}

/// What a forward pass knows beside its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    /// The tables whose rows add up to X, where X is such a sum.
    pub(super) tables: &'a [&'a Tensor],
    /// Training or evaluation.
    pub(super) mode: Mode,
}

impl Pass<'_> {
    /// Whether running averages move after this pass.
    pub(super) fn ends_step(self) -> bool {
        matches!(self.mode, Mode::Train { last: true, .. })
    }
}

/// Where the state of a method lies: buffers of the model's store, f64, on the CPU unless said otherwise.
pub(super) struct State<'a> {
    vb: VarBuilder<'a>,
    /// Where the parameters of the model lie.
    parameters: VarBuilder<'a>,
    /// Token width C.
    pub(super) channels: usize,
}

impl<'a> State<'a> {
    pub(super) fn new(vb: VarBuilder<'a>, channels: usize) -> Self {
        Self { vb: vb.clone().set_device(Device::Cpu), parameters: vb, channels }
    }

    /// The same with buffers where `place` wants them for parameters on a device.
    pub(super) fn on(&self, place: impl Fn(&Device) -> &Device) -> Self {
        let Self { parameters, channels, .. } = self;
        let vb = parameters.clone().set_device(place(parameters.device()).clone());
        Self { vb, parameters: parameters.clone(), channels: *channels }
    }

    /// The trainable weight `name`, (C, C), which begins with zeros.
    pub(super) fn weight(&self, name: &str) -> Result<Tensor> {
        let shape = (self.channels, self.channels);
        self.parameters.get_with_hints(shape, name, Init::Const(0.0))
    }

    /// The buffer `name`, which begins with `value` everywhere.
    pub(super) fn buffer(&self, name: &str, dims: &[usize], value: f64) -> Result<Tensor> {
        self.vb.get_with_hints_dtype(dims, name, Init::Const(value), DType::F64)
    }
}
