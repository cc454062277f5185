//! Parameter groups: which parameters decay, and which learn at another rate.

use candle_core::Var;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// Name patterns of the tables in the models that we know: position tables, class and distillation
/// tokens (ViT, DeiT, XCiT), relative position biases (Swin), token tables (GPT-2, BERT).
const TABLES: [&str; 7] = [
    "*pos_embed",
    "*cls_token",
    "*dist_token",
    "*relative_position_bias_table",
    "*wte.weight",
    "*wpe.weight",
    "*_embeddings.weight",
];

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
/// | *table*: its name matches one of `tables` | 0 | `table_rate` |
/// | *vector*: at most one axis, or a name that ends in `.bias` (biases, norms, scales) | 0 | 1 |
/// | *matrix*: all else | `weight_decay` | 1 |
///
/// This is the common rule of timm and GPT-2 trainers, with a rate of its own for the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// The decay of matrices.
    pub weight_decay: f64,
    /// The rate of tables as a multiple of the scheduled rate.
    pub table_rate: f64,
    /// Patterns of table names; `*` stands for any characters, dots included.
    pub tables: Vec<String>,
}

impl Default for GroupRule {
    /// Decay 0.05, rate 1 for tables, and the table names of the models in this workspace.
    fn default() -> Self {
        let tables = TABLES.map(str::to_string).to_vec();
        Self { weight_decay: 0.05, table_rate: 1.0, tables }
    }
}

impl GroupRule {
    /// The groups of `parameters`: matrices, vectors, tables; an empty one is left out.
    pub fn groups(&self, parameters: &[(String, Var)]) -> Vec<Group> {
        let [mut matrices, mut vectors, mut tables] = [const { Vec::new() }; 3];
        for (name, var) in parameters {
            let kind = if self.tables.iter().any(|pattern| matches(pattern, name)) {
                &mut tables
            } else if var.rank() <= 1 || name.ends_with(".bias") {
                &mut vectors
            } else {
                &mut matrices
            };
            kind.push(name.clone());
        }
        let groups = [
            Group { names: matrices, weight_decay: self.weight_decay, rate: 1.0 },
            Group { names: vectors, weight_decay: 0.0, rate: 1.0 },
            Group { names: tables, weight_decay: 0.0, rate: self.table_rate },
        ];
        groups.into_iter().filter(|group| !group.names.is_empty()).collect()
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
        Ok(())
    }
}

/// For each parameter, in its order, the index of its group.
///
/// # Errors
/// Unless the groups hold every parameter exactly once and nothing else; all offenders are named.
pub(crate) fn assign(parameters: &[(String, Var)], groups: &[Group]) -> Result<Vec<usize>> {
    let mut found = vec![None; parameters.len()];
    let (mut repeated, mut unknown) = (Vec::new(), Vec::new());
    for (index, group) in groups.iter().enumerate() {
        for name in &group.names {
            match parameters.iter().position(|(other, _)| other == name) {
                None => unknown.push(name.clone()),
                Some(at) if found[at].is_some() => repeated.push(name.clone()),
                Some(at) => found[at] = Some(index),
            }
        }
    }
    let uncovered: Vec<String> = (parameters.iter().zip(&found))
        .filter(|(_, group)| group.is_none())
        .map(|((name, _), _)| name.clone())
        .collect();
    if uncovered.is_empty() && repeated.is_empty() && unknown.is_empty() {
        Ok(found.into_iter().flatten().collect())
    } else {
        Err(TrainError::Groups { uncovered, repeated, unknown })
    }
}

/// Whether `name` matches `pattern` as a whole, where `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}
