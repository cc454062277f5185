//! AdamW with parameter groups, in place, equal to `torch.optim.AdamW`.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::config::require_below_one;
use crate::error::{Result, TrainError};
use crate::groups::{self, Group, Member};
use crate::update::{Coefficients, Moments};

/// The constants of [`AdamW`]; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl AdamWConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When a beta lies outside [0, 1), or eps is not above 0 and finite in f32: the update of an element whose
    /// gradient was always 0 would be 0 / 0.
    pub fn validate(&self) -> Result<()> {
        for (field, beta) in [("adamw.beta1", self.beta1), ("adamw.beta2", self.beta2)] {
            require_below_one(field, beta)?;
        }
        let eps = self.eps as f32;
        if !(eps > 0.0 && eps.is_finite()) {
            let reason = format!("must be above 0 and finite in f32, is {:e}", self.eps);
            return Err(TrainError::Config { field: "adamw.eps", reason });
        }
        Ok(())
    }
}

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), in the arithmetic of `torch.optim.AdamW`.
///
/// For step `t` from 1, gradient `g` (times the clipping factor), rate `r` and decay `w` of the
/// parameter's group:
///
/// ```text
/// m     <- m + (1 - beta1) (g - m)
/// v     <- beta2 v + (1 - beta2) g^2
/// theta <- (1 - r w) theta - r/(1 - beta1^t) m / (sqrt(v)/sqrt(1 - beta2^t) + eps)
/// ```
///
/// candle-nn's `AdamW` decays every parameter alike, cannot save its state, and allocates a dozen
/// temporaries per parameter; here each element is read and written once.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    config: AdamWConfig,
    steps: usize,
}

/// One parameter with what belongs to it.
#[derive(Debug)]
struct Slot {
    member: Member,
    moments: Moments,
}

impl AdamW {
    /// An optimiser at step 0.
    ///
    /// # Errors
    /// When the groups do not hold every parameter exactly once, or a parameter is neither f32 nor
    /// f64.
    pub fn new(
        parameters: &[(String, Var)],
        groups: &[Group],
        config: AdamWConfig,
    ) -> Result<Self> {
        config.validate()?;
        let mut slots = Vec::with_capacity(parameters.len());
        for member in groups::members(parameters, groups)? {
            let zeros = member.var.zeros_like()?;
            let moments = Moments::new(&member.var, &zeros, &zeros)?;
            slots.push(Slot { member, moments });
        }
        Ok(Self { slots, config, steps: 0 })
    }

    /// Steps done so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One step along `scale * grads` at the scheduled `rate`.
    ///
    /// `scale` is the clipping factor: it is applied on the way instead of rewriting gradients.
    ///
    /// # Errors
    /// Names a parameter that has no gradient; the parameters before it have then moved.
    pub fn step(&mut self, grads: &GradStore, rate: f64, scale: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps } = self.config;
        let total = self.slots.len();
        self.steps += 1;
        let t = self.steps as f64;
        for Slot { member, moments } in &mut self.slots {
            let rate = rate * member.rate;
            let coefficients = Coefficients {
                scale,
                decay: 1.0 - rate * member.weight_decay,
                rate: rate / (1.0 - beta1.powf(t)),
                root: (1.0 - beta2.powf(t)).sqrt(),
                beta1,
                beta2,
                eps,
            };
            moments.update(&member.var, member.gradient(grads, total)?, coefficients)?;
        }
        Ok(())
    }

    /// The state to save, beside [`AdamW::steps`]: `<name>.exp_avg` and `<name>.exp_avg_sq`.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::with_capacity(2 * self.slots.len());
        for Slot { member: Member { name, var, .. }, moments } in &self.slots {
            let (first, second) = moments.tensors(var)?;
            tensors.push((format!("{name}.exp_avg"), first));
            tensors.push((format!("{name}.exp_avg_sq"), second));
        }
        Ok(tensors)
    }

    /// Continues from a saved state: `take` gives the tensor of a name, in the shape of the second
    /// argument.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn load(
        &mut self,
        steps: usize,
        mut take: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        for Slot { member: Member { name, var, .. }, moments } in &mut self.slots {
            let first = take(&format!("{name}.exp_avg"), var)?;
            let second = take(&format!("{name}.exp_avg_sq"), var)?;
            *moments = Moments::new(var, &first, &second)?;
        }
        self.steps = steps;
        Ok(())
    }
}
