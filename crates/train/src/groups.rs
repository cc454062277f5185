//! Parameter groups: which parameters decay, and which learn at another rate.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// Parameters that share a weight decay and a multiple of the scheduled rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The parameters, by name.
    pub names: Vec<String>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The rate of this group as a multiple of the scheduled rate.
    pub rate: f64,
}

/// The rule that sorts parameters into groups; the first line that fits decides:
///
/// | parameter | decay | rate |
/// | --- | --- | --- |
/// | *embedding table*: its name matches one of `tables` | 0 | `table_rate` |
/// | *vector*: at most one axis, or a name that ends in `.bias` (biases, norms, scales) | 0 | 1 |
/// | *matrix*: all else | `weight_decay` | 1 |
///
/// This is the common rule of timm and GPT-2 trainers, with a rate of its own for the embedding tables:
/// tokens, positions and whatever else is looked up or added rather than multiplied. Their names are
/// the model's, so whoever knows the model gives them; there is no default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// The decay of matrices.
    pub weight_decay: f64,
    /// The rate of embedding tables as a multiple of the scheduled rate.
    pub table_rate: f64,
    /// Patterns of the names of embedding tables; `*` stands for any characters, dots included. A
    /// pattern that fits no parameter is no error, so that one list serves several models.
    pub tables: Vec<String>,
    /// Rates of the parameters whose names match a pattern, as multiples of what they would have; the
    /// first pattern that fits decides. Layers near the input may learn slower, and with 0 not at all;
    /// their gradients are computed and count in the global norm all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<(String, f64)>,
}

/// What a parameter is, in the order of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Matrix,
    Vector,
    Table,
}

impl GroupRule {
    /// The rule with these embedding tables, which learn at the scheduled rate.
    ///
    /// ```
    /// use conditioned_train::GroupRule;
    ///
    /// let rule = GroupRule::new(0.05, ["*pos_embed", "*cls_token"]);
    /// assert_eq!((rule.table_rate, rule.rates.len()), (1.0, 0));
    /// ```
    pub fn new<S: Into<String>>(weight_decay: f64, tables: impl IntoIterator<Item = S>) -> Self {
        let tables = tables.into_iter().map(Into::into).collect();
        Self { weight_decay, table_rate: 1.0, tables, rates: Vec::new() }
    }

    /// The groups of `parameters`: matrices, vectors, embedding tables, each once for every rate that
    /// it has.
    ///
    /// # Errors
    /// When a pattern of `rates` decides for no parameter: a name that has changed must not go unseen.
    pub fn groups(&self, parameters: &[(String, Var)]) -> Result<Vec<Group>> {
        let mut used = vec![false; self.rates.len()];
        let mut groups: Vec<(Kind, Group)> = Vec::new();
        for (name, var) in parameters {
            let kind = self.kind(name, var);
            let (weight_decay, rate) = match kind {
                Kind::Matrix => (self.weight_decay, 1.0),
                Kind::Vector => (0.0, 1.0),
                Kind::Table => (0.0, self.table_rate),
            };
            let decides = self.rates.iter().position(|(pattern, _)| matches(pattern, name));
            let rate = rate * decides.map_or(1.0, |at| self.rates[at].1);
            if let Some(at) = decides {
                used[at] = true;
            }
            match groups.iter_mut().find(|(of, group)| (*of, group.rate) == (kind, rate)) {
                Some((_, group)) => group.names.push(name.clone()),
                None => {
                    let group = Group { names: vec![name.clone()], weight_decay, rate };
                    groups.push((kind, group));
                }
            }
        }
        if let Some(at) = used.iter().position(|used| !used) {
            let reason = format!("`{}` decides for no parameter", self.rates[at].0);
            return Err(TrainError::Config { field: "groups.rates", reason });
        }
        groups.sort_by_key(|(kind, _)| *kind);
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// What a parameter is.
    pub(crate) fn kind(&self, name: &str, var: &Var) -> Kind {
        if self.tables.iter().any(|table| matches(table, name)) {
            Kind::Table
        } else if var.rank() <= 1 || name.ends_with(".bias") {
            Kind::Vector
        } else {
            Kind::Matrix
        }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When decay or rate is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        let numbers =
            [("groups.weight_decay", self.weight_decay), ("groups.table_rate", self.table_rate)];
        for (field, value) in numbers {
            if !(value >= 0.0 && value.is_finite()) {
                let reason = format!("must be finite and not negative, is {value}");
                return Err(TrainError::Config { field, reason });
            }
        }
        for (pattern, rate) in &self.rates {
            if !(*rate >= 0.0 && rate.is_finite()) {
                let reason = format!("`{pattern}` must be finite and not negative, is {rate}");
                return Err(TrainError::Config { field: "groups.rates", reason });
            }
        }
        Ok(())
    }
}

/// A parameter with what its group says.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) var: Var,
    pub(crate) weight_decay: f64,
    pub(crate) rate: f64,
}

impl Member {
    /// Its gradient.
    ///
    /// # Errors
    /// When there is none, of one of `total` parameters.
    pub(crate) fn gradient<'a>(&self, grads: &'a GradStore, total: usize) -> Result<&'a Tensor> {
        let names = || vec![self.name.clone()];
        grads.get(&self.var).ok_or_else(|| TrainError::MissingGradients { names: names(), total })
    }
}

/// The parameters, in their order, each with what its group says.
///
/// # Errors
/// Unless the groups hold every parameter exactly once and nothing else; all offenders are named.
pub(crate) fn members(parameters: &[(String, Var)], groups: &[Group]) -> Result<Vec<Member>> {
    let mut found = vec![None; parameters.len()];
    let (mut repeated, mut unknown) = (Vec::new(), Vec::new());
    for group in groups {
        for name in &group.names {
            match parameters.iter().position(|(other, _)| other == name) {
                None => unknown.push(name.clone()),
                Some(at) if found[at].is_some() => repeated.push(name.clone()),
                Some(at) => found[at] = Some(group),
            }
        }
    }
    let (mut members, mut uncovered) = (Vec::with_capacity(parameters.len()), Vec::new());
    for ((name, var), group) in parameters.iter().zip(found) {
        let (name, var) = (name.clone(), var.clone());
        match group {
            Some(&Group { weight_decay, rate, .. }) => {
                members.push(Member { name, var, weight_decay, rate });
            }
            None => uncovered.push(name),
        }
    }
    if uncovered.is_empty() && repeated.is_empty() && unknown.is_empty() {
        Ok(members)
    } else {
        Err(TrainError::Groups { uncovered, repeated, unknown })
    }
}

/// Whether `name` matches `pattern` as a whole, where `*` stands for any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}
