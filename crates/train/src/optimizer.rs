//! What moves the parameters: AdamW, and Muon for the hidden matrices where the settings say so.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::adamw::{AdamW, AdamWConfig};
use crate::error::{Result, TrainError};
use crate::groups::{Group, GroupRule, Kind, matches};
use crate::muon::{Muon, MuonConfig, UpdateScale};

/// Which parameters [`Muon`] takes over from AdamW, and how it moves them.
///
/// A parameter is a *hidden matrix* if [`GroupRule`] calls it a matrix, it has more than one input a row
/// (the kernel of a depthwise convolution is a filter a channel, and no matrix), and its name matches no
/// pattern of `adamw`, the first and the last matrices of a network, and none of `leaves`. Its weight decay and
/// its rate are those of its group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonRule {
    /// Momentum, scale, the way to U V^T, and weights that hold several matrices.
    pub constants: MuonConfig,
    /// The rate of hidden matrices as a multiple of the scheduled rate.
    pub rate: f64,
    /// Patterns of the names of matrices that stay with AdamW; `*` stands for any characters. A pattern
    /// that fits no parameter is no error, so that one list serves several models.
    pub adamw: Vec<String>,
    /// Patterns of further matrices that stay with AdamW. Each must fit one that Muon would move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<String>,
}

impl MuonRule {
    /// The rule with these matrices left to AdamW, and updates as large as AdamW's
    /// ([`UpdateScale::MatchAdamw`]), so that one rate serves both.
    ///
    /// ```
    /// use conditioned_train::MuonRule;
    ///
    /// let rule = MuonRule::new(["patch_embed.*", "head.weight"]);
    /// assert_eq!(rule.rate, 1.0);
    /// ```
    pub fn new<S: Into<String>>(adamw: impl IntoIterator<Item = S>) -> Self {
        let constants = MuonConfig { scale: UpdateScale::MatchAdamw, ..MuonConfig::default() };
        let adamw = adamw.into_iter().map(Into::into).collect();
        Self { constants, rate: 1.0, adamw, leaves: Vec::new() }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When the momentum lies outside [0, 1), or the rate is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        if !(self.rate >= 0.0 && self.rate.is_finite()) {
            let reason = format!("must be finite and not negative, is {}", self.rate);
            return Err(TrainError::Config { field: "muon.rate", reason });
        }
        self.constants.validate()
    }

    /// Whether a parameter is a hidden matrix, `leaves` among them.
    fn could_take(&self, groups: &GroupRule, name: &str, var: &Var) -> bool {
        groups.kind(name, var) == Kind::Matrix
            && var.dims()[1] > 1
            && !self.adamw.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether a hidden matrix is one of `leaves`.
    fn is_left(&self, name: &str) -> bool {
        self.leaves.iter().any(|pattern| matches(pattern, name))
    }
}

/// AdamW and Muon over one set of parameters, each with its own: what [`fit`](crate::fit()) steps with.
///
/// ```
/// use candle_core::{Device, Var};
/// use conditioned_train::{AdamWConfig, GroupRule, MuonRule, Optimizer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hidden = Var::new(&[[3f32, 1.0], [1.0, 2.0], [0.0, 1.0]], &Device::Cpu)?;
/// let head = Var::new(&[[1f32, -1.0, 0.5]], &Device::Cpu)?;
/// let parameters =
///     [("fc.weight".to_string(), hidden.clone()), ("head.weight".to_string(), head.clone())];
/// let rule = MuonRule::new(["head.*"]);
/// let groups = GroupRule::new(0.0, [""; 0]);
/// let mut optimizer = Optimizer::new(&parameters, &groups, AdamWConfig::default(), Some(&rule))?;
/// for step in 0..200 {
///     let loss = (head.matmul(&hidden)?.sqr()?.sum_all()? + hidden.sqr()?.sum_all()?)?;
///     optimizer.step(&loss.backward()?, 0.2 * (1.0 - f64::from(step) / 200.0), 1.0)?;
/// }
/// assert!(hidden.sqr()?.sum_all()?.to_scalar::<f32>()? < 0.1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Optimizer {
    adamw: AdamW,
    muon: Option<Muon>,
}

impl Optimizer {
    /// An optimiser at step 0; without a rule for Muon all parameters are AdamW's.
    ///
    /// # Errors
    /// Those of [`AdamW::new`] and [`Muon::new`]; when no parameter is left for Muon, or a pattern of
    /// [`MuonRule::leaves`] fits no hidden matrix.
    pub fn new(
        parameters: &[(String, Var)],
        groups: &GroupRule,
        adamw: AdamWConfig,
        muon: Option<&MuonRule>,
    ) -> Result<Self> {
        let sorted = groups.groups(parameters)?;
        let Some(rule) = muon else {
            return Ok(Self { adamw: AdamW::new(parameters, &sorted, adamw)?, muon: None });
        };
        let mut hidden = Vec::new();
        let mut others = Vec::new();
        let mut unused: Vec<&String> = rule.leaves.iter().collect();
        for (name, var) in parameters {
            let could_take = rule.could_take(groups, name, var);
            if could_take {
                unused.retain(|pattern| !matches(pattern, name));
            }
            let side = if could_take && !rule.is_left(name) { &mut hidden } else { &mut others };
            side.push((name.clone(), var.clone()));
        }
        if let Some(pattern) = unused.first() {
            let reason = format!("`{pattern}` fits no matrix that Muon would move");
            return Err(TrainError::Config { field: "muon.leaves", reason });
        }
        if hidden.is_empty() {
            let reason = "has no hidden matrix to move: leave it out".to_string();
            return Err(TrainError::Config { field: "muon", reason });
        }
        let share = |members: &[(String, Var)], rate: f64| -> Vec<Group> {
            let among = |name: &&String| members.iter().any(|(member, _)| member == *name);
            let group = |group: &Group| Group {
                names: group.names.iter().filter(among).cloned().collect(),
                rate: group.rate * rate,
                ..*group
            };
            sorted.iter().map(group).collect()
        };
        let muon = Muon::new(&hidden, &share(&hidden, rule.rate), rule.constants.clone())?;
        Ok(Self { adamw: AdamW::new(&others, &share(&others, 1.0), adamw)?, muon: Some(muon) })
    }

    /// One step along `scale * grads` at the scheduled `rate`.
    ///
    /// # Errors
    /// Those of [`AdamW::step`] and [`Muon::step`].
    pub fn step(&mut self, grads: &GradStore, rate: f64, scale: f64) -> Result<()> {
        if let Some(muon) = &mut self.muon {
            muon.step(grads, rate, scale)?;
        }
        self.adamw.step(grads, rate, scale)
    }

    /// The state to save, beside the number of steps: that of both.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = self.adamw.tensors()?;
        if let Some(muon) = &self.muon {
            tensors.extend(muon.tensors()?);
        }
        Ok(tensors)
    }

    /// Continues from a saved state, as [`AdamW::load`].
    ///
    /// # Errors
    /// Those of `take`.
    pub fn load(
        &mut self,
        steps: usize,
        mut take: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        self.adamw.load(steps, &mut take)?;
        self.muon.as_mut().map_or(Ok(()), |muon| muon.load(steps, take))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn optimizer(parameters: &[(String, Var)], rule: &MuonRule) -> Result<Optimizer> {
        let groups = GroupRule::new(0.1, ["*embed"]);
        Optimizer::new(parameters, &groups, AdamWConfig::default(), Some(rule))
    }

    fn parameters() -> Result<Vec<(String, Var)>> {
        let shapes: [(&str, &[usize]); 7] = [
            ("embed", &[1, 9, 4]),
            ("stem.weight", &[4, 3]),
            ("block.weight", &[4, 4]),
            ("block.bias", &[4]),
            ("block.kernel", &[4, 2, 3, 3]),
            ("block.depthwise", &[4, 1, 3, 3]),
            ("head.weight", &[2, 4]),
        ];
        let var = |&(name, shape): &(&str, &[usize])| {
            Ok((name.to_string(), Var::zeros(shape, DType::F32, &Device::Cpu)?))
        };
        shapes.iter().map(var).collect()
    }

    #[test]
    fn muon_takes_hidden_matrices_and_adamw_the_rest() -> Result<()> {
        let optimizer = optimizer(&parameters()?, &MuonRule::new(["stem.*", "head.*", "absent"]))?;
        let of = |state: &str| -> Result<Vec<String>> {
            let names = optimizer.tensors()?.into_iter();
            Ok(names.filter_map(|(name, _)| Some(name.strip_suffix(state)?.to_string())).collect())
        };
        assert_eq!(of(".momentum_buffer")?, ["block.weight", "block.kernel"]);
        let others = ["embed", "stem.weight", "block.bias", "block.depthwise", "head.weight"];
        assert_eq!(of(".exp_avg")?, others);
        Ok(())
    }

    #[test]
    fn what_muon_leaves_must_be_there() -> Result<()> {
        let with = |pattern: &str| {
            let leaves = vec![pattern.to_string()];
            optimizer(&parameters()?, &MuonRule { leaves, ..MuonRule::new(["stem.*", "head.*"]) })
        };
        let state: Vec<String> =
            with("*.kernel")?.tensors()?.into_iter().map(|(name, _)| name).collect();
        let has = |name: &str| state.iter().any(|known| known == name);
        assert!(has("block.weight.momentum_buffer") && has("block.kernel.exp_avg"), "{state:?}");
        for absent in ["blocks.*", "head.weight", "block.bias"] {
            let error = with(absent).unwrap_err().to_string();
            assert!(error.contains("muon.leaves") && error.contains(absent), "{error}");
        }
        Ok(())
    }

    #[test]
    fn each_part_moves_its_own_at_its_rate() -> Result<()> {
        let parameters = parameters()?;
        let rule = MuonRule { rate: 3.0, ..MuonRule::new(["head.*"]) };
        let mut optimizer = optimizer(&parameters, &rule)?;
        let mut grads = GradStore::default();
        for (_, var) in &parameters {
            grads.insert(var, var.ones_like()?);
        }
        optimizer.step(&grads, 0.1, 1.0)?;
        for (name, var) in &parameters {
            let first = var.flatten_all()?.get(0)?.to_scalar::<f32>()?;
            // AdamW's first step is the rate long. All entries of a matrix of ones over sqrt(4 4) are 1 / 4.
            let wanted = if name == "block.weight" { 0.3 * 0.2 * 2.0 / 4.0 } else { 0.1 };
            if ["block.weight", "block.depthwise", "head.weight", "block.bias"].contains(&&**name) {
                assert!((first + wanted).abs() < 1e-6, "{name}: {first}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_network_without_hidden_matrices_is_refused() -> Result<()> {
        let error = optimizer(&parameters()?, &MuonRule::new(["*"])).unwrap_err();
        assert!(error.to_string().contains("no hidden matrix"), "{error}");
        let rule = MuonRule { rate: f64::NAN, ..MuonRule::new(["head.*"]) };
        assert!(rule.validate().is_err());
        Ok(())
    }
}
