//! Muon: momentum whose matrices are orthogonalised before they are applied.

use candle_conditioning::{Polar, orthogonalise};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use conditioned_threads as threads;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::require_below_one;
use crate::error::{Result, TrainError};
use crate::groups::{self, Group, Member};

/// How long an update is: what U V^T of a matrix (m, n) is multiplied by beside the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateScale {
    /// sqrt(max(1, m / n)), of Jordan et al.; `"original"` in torch. Rates are near 0.02.
    #[default]
    Original,
    /// 0.2 sqrt(max(m, n)), of Liu et al. 2025 (arXiv:2502.16982): entries as large as those of AdamW's
    /// updates, so that its rates and decays can be kept; `"match_rms_adamw"` in torch.
    MatchAdamw,
}

impl UpdateScale {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let (m, n) = (rows as f64, columns as f64);
        match self {
            Self::Original => (m / n).max(1.0).sqrt(),
            Self::MatchAdamw => 0.2 * m.max(n).sqrt(),
        }
    }
}

/// A weight that holds several matrices: each is orthogonalised for itself, as if it were alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// The pattern of the names of such weights; `*` stands for any characters.
    pub names: String,
    /// The axis along which the matrices lie: 0 one below the other, 1 side by side.
    pub axis: usize,
    /// How many there are.
    pub parts: usize,
    /// Blocks along the axis, each with its share of every matrix: the heads, where each head has its rows of
    /// queries, keys and values; else 1.
    pub blocks: usize,
}

impl Packed {
    /// How the matrices of the weight `name` lie, by the first of `packed` that fits; else it is one matrix.
    fn of(name: &str, (rows, columns): (usize, usize), packed: &[Self]) -> Result<Self> {
        let Some(found) = packed.iter().find(|packed| groups::matches(&packed.names, name)) else {
            return Ok(Self { names: name.to_string(), axis: 0, parts: 1, blocks: 1 });
        };
        let &Self { axis, parts, blocks, .. } = found;
        let along = [rows, columns].get(axis).copied();
        let divides = |length: usize| parts * blocks > 0 && length.is_multiple_of(parts * blocks);
        if along.is_some_and(divides) {
            return Ok(found.clone());
        }
        let reason = format!(
            "`{name}` ({rows}, {columns}) cannot be divided along axis {axis} into {parts} matrices of {blocks} \
             blocks"
        );
        Err(TrainError::Config { field: "muon.packed", reason })
    }

    /// The matrices (parts, m, n) of a weight, side by side ones transposed.
    fn unpack(&self, weight: &Tensor) -> candle_core::Result<Tensor> {
        let rows = if self.axis == 0 { weight.clone() } else { weight.t()? };
        let (n, c) = rows.dims2()?;
        let share = n / (self.parts * self.blocks);
        let rows = rows.reshape((self.blocks, self.parts, share, c))?;
        rows.transpose(0, 1)?.reshape((self.parts, n / self.parts, c))
    }

    /// The inverse of [`Packed::unpack`].
    fn pack(&self, matrices: &Tensor) -> candle_core::Result<Tensor> {
        let (parts, m, c) = matrices.dims3()?;
        let rows = matrices.reshape((parts, self.blocks, m / self.blocks, c))?;
        let rows = rows.transpose(0, 1)?.reshape((parts * m, c))?;
        if self.axis == 0 { Ok(rows) } else { rows.t()?.contiguous() }
    }
}

/// The settings of [`Muon`]; momentum, Nesterov's form and scale are PyTorch's by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonConfig {
    /// Decay of the momentum, in [0, 1).
    pub momentum: f64,
    /// Whether the update looks one step ahead (Nesterov).
    pub nesterov: bool,
    /// How long an update is.
    pub scale: UpdateScale,
    /// The way to U V^T; the same code as that of conditioned tokens.
    pub polar: Polar,
    /// Weights that hold several matrices. The first pattern that fits decides; one that fits no parameter
    /// is no error, so that one list serves several models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packed: Vec<Packed>,
}

impl Default for MuonConfig {
    fn default() -> Self {
        let (scale, polar) = (UpdateScale::Original, Polar::Automatic);
        Self { momentum: 0.95, nesterov: true, scale, polar, packed: Vec::new() }
    }
}

impl MuonConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When the momentum lies outside [0, 1).
    pub fn validate(&self) -> Result<()> {
        require_below_one("muon.momentum", self.momentum)
    }
}

/// Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon>), in the arithmetic of
/// `torch.optim.Muon`, for the matrices of hidden layers; tables, heads and vectors are AdamW's.
///
/// For gradient `g` (times the clipping factor), momentum `mu`, rate `r` and decay `w` of the
/// parameter's group, and the factor `f` of [`UpdateScale`]:
///
/// ```text
/// b     <- mu b + (1 - mu) g
/// u     =  mu b + (1 - mu) g    (without Nesterov u = b)
/// theta <- (1 - r w) theta - r f U V^T,   u = U S V^T
/// ```
///
/// PyTorch takes five Newton-Schulz steps in bf16, which leave singular values between about 0.5 and 1.5;
/// here they are 1, to the precision of [`Polar`]. Directions without gradient stay without update.
/// The matrix of a convolution's kernel (out, in, height, width) is (out, in height width). A weight
/// that holds queries, keys and values is three matrices: [`Packed`].
///
/// ```
/// use candle_core::{Device, Var};
/// use conditioned_train::{Group, Muon, MuonConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let weight = Var::new(&[[3f32, 1.0], [1.0, 2.0], [0.0, 1.0]], &Device::Cpu)?;
/// let parameters = [("weight".to_string(), weight.clone())];
/// let groups = [Group { names: vec!["weight".to_string()], weight_decay: 0.0, rate: 1.0 }];
/// let mut muon = Muon::new(&parameters, &groups, MuonConfig::default())?;
/// for step in 0..200 {
///     let loss = weight.sqr()?.sum_all()?;
///     muon.step(&loss.backward()?, 0.05 * (1.0 - f64::from(step) / 200.0), 1.0)?;
/// }
/// assert!(weight.sqr()?.sum_all()?.to_scalar::<f32>()? < 1e-2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Muon {
    slots: Vec<Slot>,
    config: MuonConfig,
    steps: usize,
}

/// One parameter with what belongs to it.
#[derive(Debug)]
struct Slot {
    member: Member,
    /// The running mean of its gradients, (m, n).
    momentum: Tensor,
    packed: Packed,
}

impl Muon {
    /// An optimiser at step 0.
    ///
    /// # Errors
    /// When the groups do not hold every parameter exactly once, or a parameter is no matrix, or
    /// neither f32 nor f64, or cannot be divided as `packed` says.
    pub fn new(parameters: &[(String, Var)], groups: &[Group], config: MuonConfig) -> Result<Self> {
        config.validate()?;
        let mut slots = Vec::with_capacity(parameters.len());
        for member in groups::members(parameters, groups)? {
            let Member { name, var, .. } = &member;
            let field = "muon.parameters";
            if var.rank() < 2 {
                let reason = format!("`{name}` is no matrix: give it to AdamW");
                return Err(TrainError::Config { field, reason });
            }
            if !matches!(var.dtype(), DType::F32 | DType::F64) {
                let reason = format!("`{name}` is {:?}, Muon needs f32 or f64", var.dtype());
                return Err(TrainError::Config { field, reason });
            }
            let momentum = var.zeros_like()?.flatten_from(1)?;
            let packed = Packed::of(name, momentum.dims2()?, &config.packed)?;
            slots.push(Slot { member, momentum, packed });
        }
        Ok(Self { slots, config, steps: 0 })
    }

    /// Steps done so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One step along `scale * grads` at the scheduled `rate`.
    ///
    /// The direction of an update does not depend on the length of the gradient, so clipping acts
    /// through the momentum alone: a clipped step counts for less in the mean.
    ///
    /// # Errors
    /// Names a parameter that has no gradient, and nothing has moved then; or a gradient is not finite,
    /// and others may have moved.
    pub fn step(&mut self, grads: &GradStore, rate: f64, scale: f64) -> Result<()> {
        let total = self.slots.len();
        let grads = self.slots.iter().map(|slot| slot.member.gradient(grads, total));
        let grads = grads.collect::<Result<Vec<_>>>()?;
        self.steps += 1;
        let config = &self.config;
        let step = |(slot, grad): (&mut Slot, &Tensor)| slot.step(grad, rate, scale, config);
        if self.slots.iter().any(|slot| !slot.member.var.device().is_cpu()) {
            // A thread has a stream of its own on a GPU, which nothing orders among those of others.
            return self.slots.iter_mut().zip(grads).try_for_each(step);
        }
        // Every matrix is decomposed by one thread, so bits do not depend on their number.
        let slots = self.slots.par_iter_mut().zip(grads);
        slots.try_for_each(|work| threads::with_count(1, || step(work)))
    }

    /// The state to save, beside [`Muon::steps`]: `<name>.momentum_buffer` in the shape of the
    /// parameter.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let tensor = |slot: &Slot| {
            let Member { name, var, .. } = &slot.member;
            Ok((format!("{name}.momentum_buffer"), slot.momentum.reshape(var.shape())?))
        };
        self.slots.iter().map(tensor).collect()
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
        for Slot { member: Member { name, var, .. }, momentum, .. } in &mut self.slots {
            let saved = take(&format!("{name}.momentum_buffer"), var)?;
            *momentum = saved.to_device(var.device())?.flatten_from(1)?;
        }
        self.steps = steps;
        Ok(())
    }
}

impl Slot {
    fn step(&mut self, grad: &Tensor, rate: f64, scale: f64, config: &MuonConfig) -> Result<()> {
        let Member { var, weight_decay, rate: of_group, .. } = &self.member;
        let (mu, rate) = (config.momentum, rate * of_group);
        let fresh = (grad.detach().flatten_from(1)? * (scale * (1.0 - mu)))?;
        let momentum = ((&self.momentum * mu)? + &fresh)?;
        let ahead = if config.nesterov { ((&momentum * mu)? + fresh)? } else { momentum.clone() };
        let matrices = self.packed.unpack(&ahead)?;
        let directions =
            orthogonalise(&matrices, config.polar).map_err(candle_core::Error::from)?;
        let (_, rows, columns) = directions.dims3()?;
        // As each stands in the weight.
        let factor = match self.packed.axis {
            0 => config.scale.factor(rows, columns),
            _ => config.scale.factor(columns, rows),
        };
        let update = (self.packed.pack(&directions)? * (rate * factor))?;
        let kept = (var.as_detached_tensor() * (1.0 - rate * weight_decay))?;
        var.set(&(kept - update.reshape(var.shape())?)?)?;
        self.momentum = momentum;
        Ok(())
    }
}
