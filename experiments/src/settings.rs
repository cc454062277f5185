//! What a search looks for: settings, where it begins, and which of them lie beside each other.

use std::fmt;

use conditioned_models::conditioning::Placement;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Method};
use crate::recipe::Shared;
use crate::results::Line;

/// The published standard deviation of embedding tables.
pub const PUBLISHED_STD: f64 = 0.02;

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate of the embedding tables over it.
    pub embedding_lr_scale: f64,
    /// Standard deviation of the embedding tables at initialisation; null where the arm, or a checkpoint,
    /// has its own.
    pub embedding_std: Option<f64>,
    /// Strength t, or the factor; null where the recipe has it, or the arm none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Where the arm acts; null where the recipe or the arm says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Part of all steps over which tokens go from unconditioned to conditioned; null where the recipe has it,
    /// or the arm none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<f64>,
}

impl Setting {
    /// A learning rate with everything else as published.
    pub fn published(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            embedding_lr_scale: 1.0,
            embedding_std: Some(PUBLISHED_STD),
            strength: None,
            placement: None,
            ramp: None,
        }
    }

    /// Whether the embedding tables are as published.
    pub fn is_published(&self) -> bool {
        let std = self.embedding_std.unwrap_or(PUBLISHED_STD);
        (self.embedding_lr_scale, std) == (1.0, PUBLISHED_STD)
    }

    /// Whether a run of a table has this setting, as far as it says one.
    pub(crate) fn is_of(&self, run: &Line) -> bool {
        let finds_its_own = run.arm.method == Method::Init;
        (run.learning_rate, run.embedding_lr_scale) == (self.learning_rate, self.embedding_lr_scale)
            && (finds_its_own
                || self
                    .embedding_std
                    .is_none_or(|std| run.embedding_std.is_none_or(|of| of == std)))
            && self.strength.is_none_or(|t| run.strength == Some(t))
            && self.placement.is_none_or(|place| run.placement == Some(place))
            && self
                .ramp
                .is_none_or(|ramp| (ramp > 0.0) == run.ramp_steps.is_some_and(|steps| steps > 0))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lr{}-x{}", self.learning_rate, self.embedding_lr_scale)?;
        self.embedding_std.map_or(Ok(()), |std| write!(f, "-std{std}"))?;
        self.strength.map_or(Ok(()), |t| write!(f, "-t{t}"))?;
        self.placement.map_or(Ok(()), |place| write!(f, "-{}", place_name(place)))?;
        self.ramp.map_or(Ok(()), |ramp| write!(f, "-ramp{ramp}"))
    }
}

/// The name of a placement, as in a configuration.
pub fn place_name(place: Placement) -> String {
    serde_json::to_value(place).ok().and_then(|v| Some(v.as_str()?.to_string())).unwrap_or_default()
}

/// Where a search begins. Numbers of two and more values go on beyond them in the same ratio; one value alone
/// is fixed.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Peak learning rates, all with all choices for the embedding tables.
    pub learning_rates: &'static [f64],
    /// (learning rate of the embedding tables over the peak, their standard deviation); the first is the
    /// published one.
    pub embeddings: &'static [(f64, f64)],
    /// Further learning rates of the embedding tables over the peak, to go on to from the published one.
    pub table_rates: &'static [f64],
    /// Strengths t where the recipe leaves them open, from the first on.
    pub strengths: &'static [f64],
    /// Factors where the recipe leaves them open, from the first on.
    pub factors: &'static [f64],
    /// Places where the recipe leaves them open, from the first on; none are searched where this is empty.
    pub places: &'static [Placement],
    /// Ramps where the recipe leaves them open, from the first on, and no others.
    pub ramps: &'static [f64],
}

impl Grid {
    /// Learning rates and choices for embedding tables.
    pub const fn new(learning_rates: &'static [f64], embeddings: &'static [(f64, f64)]) -> Self {
        Self {
            learning_rates,
            embeddings,
            table_rates: &[],
            strengths: &[0.3, 0.1, 1.0],
            factors: &[3.0, 1.0, 10.0],
            places: &[],
            ramps: &[0.0, 0.1],
        }
    }

    /// What is searched for an arm under a recipe: the same for all, but for what an arm finds by itself or has
    /// not. Of a network without embedding `tables` nothing of tables is.
    pub fn axes(&self, arm: Arm, shared: &Shared, tables: bool) -> Axes {
        let method = arm.method;
        let scales = self.embeddings.iter().map(|(scale, _)| *scale);
        let scales = scales.chain(self.table_rates.iter().copied());
        let stds = self.embeddings.iter().map(|(_, std)| *std);
        let open = match method {
            Method::Table => shared.table_strength.is_none(),
            Method::Factor | Method::PooledDirections => shared.factor.is_none(),
            _ => shared.strength.is_none(),
        };
        let strengths = match method {
            Method::Factor | Method::PooledDirections => self.factors,
            _ => self.strengths,
        };
        let chosen = |has: bool, values: &'static [f64]| if has { values } else { &[] };
        let placed = method.has_place() && shared.placement.is_none() && tables;
        Axes {
            from: None,
            grid: *self,
            tables,
            own_std: method == Method::Init,
            learning_rates: Axis::new(self.learning_rates.iter().copied()),
            scales: Axis::new(scales),
            stds: Axis::new(stds),
            strengths: Axis::new(chosen(open && method.has_strength(), strengths).iter().copied()),
            places: if placed { self.places } else { &[] },
            ramps: chosen(method.has_place() && shared.ramp.is_none(), self.ramps),
        }
    }
}

/// What is searched for one arm.
#[derive(Debug, Clone)]
pub struct Axes {
    /// Where the search begins, if not with the grid.
    from: Option<Vec<Setting>>,
    grid: Grid,
    tables: bool,
    /// Whether the deviation of the tables is found by the arm, or given.
    own_std: bool,
    learning_rates: Axis,
    scales: Axis,
    stds: Axis,
    strengths: Axis,
    places: &'static [Placement],
    ramps: &'static [f64],
}

impl Axes {
    /// The same where the embedding tables are those of a checkpoint, whose deviation is given.
    pub fn with_given_tables(self) -> Self {
        Self { own_std: true, ..self }
    }

    /// The learning rates alone, from these settings on.
    pub fn rates_alone(self, from: Vec<Setting>) -> Self {
        let fixed = || Axis::new(std::iter::empty());
        Self {
            from: Some(from),
            scales: fixed(),
            stds: fixed(),
            strengths: fixed(),
            places: &[],
            ramps: &[],
            ..self
        }
    }

    /// The settings that are tried first.
    pub fn begin(&self) -> Vec<Setting> {
        if let Some(from) = &self.from {
            return from.clone();
        }
        let rates = self.grid.learning_rates.iter();
        let all = rates.flat_map(|&learning_rate| {
            self.grid.embeddings.iter().map(move |&(embedding_lr_scale, std)| Setting {
                learning_rate,
                embedding_lr_scale,
                embedding_std: Some(std),
                strength: self.strengths.first,
                placement: self.places.first().copied(),
                ramp: self.ramps.first().copied(),
            })
        });
        match (self.tables, self.own_std) {
            (false, _) => all.filter(Setting::is_published).collect(),
            (true, true) => all
                .filter(|setting| setting.embedding_std == Some(PUBLISHED_STD))
                .map(|setting| Setting { embedding_std: None, ..setting })
                .collect(),
            (true, false) => all.collect(),
        }
    }

    /// The settings that differ from `at` by one step of one number, or by the place.
    pub fn neighbours(&self, at: Setting) -> Vec<Setting> {
        let mut found = Vec::new();
        let rates = self.learning_rates.beside(at.learning_rate).into_iter();
        found.extend(rates.map(|learning_rate| Setting { learning_rate, ..at }));
        if self.tables {
            let scales = self.scales.beside(at.embedding_lr_scale).into_iter();
            found.extend(scales.map(|embedding_lr_scale| Setting { embedding_lr_scale, ..at }));
            let stds = at.embedding_std.into_iter().flat_map(|std| self.stds.beside(std));
            found.extend(stds.map(|std| Setting { embedding_std: Some(std), ..at }));
        }
        let strengths = at.strength.into_iter().flat_map(|t| self.strengths.beside(t));
        found.extend(strengths.map(|t| Setting { strength: Some(t), ..at }));
        let others = self.places.iter().filter(|place| Some(**place) != at.placement);
        found.extend(others.map(|place| Setting { placement: Some(*place), ..at }));
        let ramp = self.ramps.iter().position(|ramp| Some(*ramp) == at.ramp);
        let ramps = ramp.into_iter().flat_map(|i| [i.wrapping_sub(1), i + 1]);
        let ramps = ramps.filter_map(|i| self.ramps.get(i));
        found.extend(ramps.map(|ramp| Setting { ramp: Some(*ramp), ..at }));
        found
    }
}

/// The values of a number, in both directions without end.
#[derive(Debug, Clone)]
struct Axis {
    /// Where the search begins.
    first: Option<f64>,
    /// The values given, in order.
    values: Vec<f64>,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        let first = values.first().copied();
        values.sort_by(f64::total_cmp);
        values.dedup();
        Self { first, values }
    }

    /// The values below and above `at`; nothing of a number that is fixed.
    fn beside(&self, at: f64) -> Vec<f64> {
        let [low, second, ..] = self.values[..] else { return Vec::new() };
        let [.., before, high] = self.values[..] else { return Vec::new() };
        let mut ladder = self.values.clone();
        for rung in 1.. {
            if ladder[0] < at * CLOSE {
                break;
            }
            ladder.insert(0, rounded(low / (second / low).powi(rung)));
        }
        for rung in 1.. {
            if ladder[ladder.len() - 1] > at / CLOSE {
                break;
            }
            ladder.push(rounded(high * (high / before).powi(rung)));
        }
        let below = ladder.iter().rev().find(|value| **value < at * CLOSE);
        let above = ladder.iter().find(|value| **value > at / CLOSE);
        below.into_iter().chain(above).copied().collect()
    }
}

/// Values closer than this are the same one, rounded.
const CLOSE: f64 = 0.99;

/// A number to three digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::adamw;

    const GRID: Grid = Grid::new(&[3e-3, 6e-3], &[(1.0, 0.02), (1.0, 0.3), (10.0, 0.02)]);

    #[test]
    fn a_number_goes_on_in_both_directions_and_comes_back() {
        let axis = Axis::new([0.3, 0.1, 1.0].into_iter());
        assert_eq!(axis.first, Some(0.3));
        let beside = |at: f64| axis.beside(at);
        assert_eq!(beside(0.3), [0.1, 1.0]);
        assert_eq!(beside(1.0), [0.3, 3.33]);
        assert_eq!(beside(3.33), [1.0, 11.1]);
        assert_eq!(beside(11.1), [3.33, 37.0]);
        assert_eq!(beside(0.1), [0.0333, 0.3]);
        assert_eq!(beside(0.0333), [0.0111, 0.1]);
        assert!(Axis::new([2.0].into_iter()).beside(2.0).is_empty());
    }

    #[test]
    fn an_arm_is_searched_for_what_it_has_and_the_recipe_leaves_open() {
        let open = Shared { strength: None, ramp: None, ..Shared::default() };
        let count = |method, shared: &Shared, tables| {
            let axes =
                Grid { places: &[Placement::AfterPosition, Placement::BeforePosition], ..GRID }
                    .axes(adamw(method), shared, tables);
            let begin = axes.begin();
            (begin.len(), axes.neighbours(begin[0]).len())
        };
        // Rate, table rate, std up and down; strength up and down; the other place; one ramp.
        assert_eq!(count(Method::Baseline, &open, true), (6, 6));
        assert_eq!(count(Method::Pooled, &open, true), (6, 10));
        assert_eq!(count(Method::Pooled, &Shared::default(), true), (6, 7));
        assert_eq!(count(Method::Pooled, &open, false), (2, 5));
        assert_eq!(count(Method::Factor, &open, true), (6, 8));
        assert_eq!(count(Method::Table, &open, true), (6, 6));
        assert_eq!(count(Method::Init, &open, true), (4, 4));
    }

    #[test]
    fn the_rates_alone_go_on_from_where_they_are_given() {
        let open = Shared { strength: None, ramp: None, ..Shared::default() };
        let found = Setting { learning_rate: 6e-3, strength: Some(0.3), ..Setting::published(0.0) };
        let axes = GRID.axes(adamw(Method::Pooled), &open, true).rates_alone(vec![found]);
        assert_eq!(axes.begin(), [found]);
        let rates: Vec<f64> = axes.neighbours(found).iter().map(|s| s.learning_rate).collect();
        assert_eq!(rates, [3e-3, 0.012]);
    }

    #[test]
    fn init_finds_its_own_deviation_and_a_checkpoint_has_one() {
        let init = GRID.axes(adamw(Method::Init), &Shared::default(), true);
        let given = GRID.axes(Arm::BASELINE, &Shared::default(), true).with_given_tables();
        for axes in [init, given] {
            let begin = axes.begin();
            let all = begin.iter().flat_map(|at| axes.neighbours(*at)).chain(begin.clone());
            assert!(all.into_iter().all(|setting| setting.embedding_std.is_none()));
            assert_eq!(begin.len(), 4);
        }
    }
}
