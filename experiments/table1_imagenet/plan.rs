//! What will be run: the validated form of the options.

use std::path::PathBuf;

use anyhow::{Result, bail};
use experiments::names::parse;
use experiments::options::Place;
use experiments::overrides;

use crate::arm::{Arm, Row};
use crate::cell::{Cell, RunConfig, Start};
use crate::data::DataConfig;
use crate::options::Options;
use crate::recipe::{Preset, Recipe};
use crate::tune::{self, Setting, Tuned};

/// Seeds of a search unless another number is asked for.
const SEARCH_SEEDS: u64 = 3;

/// The first seed of the table. Searches begin at 0: no network that helped to choose a setting is
/// counted in the table.
const FIRST_SEED: u64 = 100;

/// Rows, arms, seeds and settings, all known to exist.
pub(crate) struct Plan {
    preset: Preset,
    rows: Vec<Row>,
    arms: Vec<Arm>,
    seeds: Option<u64>,
    device: String,
    data: Option<PathBuf>,
    set: Vec<String>,
    tuned: Tuned,
    /// Where and how cells are run.
    pub(crate) place: Place,
}

impl Plan {
    /// Checks the options before anything is read or written; `out` is where runs go by default.
    ///
    /// # Errors
    /// When a name is unknown, a number is zero, or the device is not there.
    pub(crate) fn new(options: &Options, out: &str) -> Result<Self> {
        let preset = Preset::choose(options.preset.as_deref(), options.data.as_deref())?;
        let place = options.common.place(out)?;
        let mut tuned = Tuned::recorded(preset)?;
        if let Some(path) = &options.tuned {
            tuned.merge(Tuned::read(path, preset)?);
        }
        Ok(Self {
            preset,
            rows: parse(options.models.as_deref(), preset.rows())?,
            arms: parse(options.common.arms.as_deref(), &Arm::DEFAULT)?,
            seeds: options.common.seeds,
            device: options.common.device.clone(),
            data: options.data.clone(),
            place,
            set: options.common.set.clone(),
            tuned,
        })
    }

    /// The cells of the table: every arm at its best setting for the published scale of the
    /// tables, and at its best of all where that is another; or as set on the command line.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or data and recipe do not fit.
    pub(crate) fn table(&self) -> Result<Vec<RunConfig>> {
        self.cells(
            FIRST_SEED,
            |row| self.preset.seeds(row),
            |row, arm, recipe| {
                if let Some(rate) = recipe.rate {
                    let setting = Setting { rate, table_std: recipe.table_std };
                    return Ok(vec![(Start::Set, setting, false)]);
                }
                let best = self.tuned.best(row, arm)?;
                if recipe.table_std.is_some() {
                    let setting =
                        Setting { rate: best.published.rate, table_std: recipe.table_std };
                    return Ok(vec![(Start::Set, setting, false)]);
                }
                let same = best.tuned == best.published;
                let mut starts = vec![(Start::Published, best.published, same)];
                if !same {
                    starts.push((Start::Tuned, best.tuned, true));
                }
                Ok(starts)
            },
        )
    }

    /// The cells of the search: the same grid for every arm.
    ///
    /// # Errors
    /// When data and recipe do not fit, or the recipe fixes what is searched.
    pub(crate) fn search(&self) -> Result<Vec<RunConfig>> {
        self.cells(
            0,
            |_| SEARCH_SEEDS,
            |_, arm, recipe| {
                if recipe.rate.is_some() || recipe.table_std.is_some() {
                    bail!(
                        "--set rate and --set table_std fix what `tune` searches; leave them out"
                    );
                }
                let points = tune::grid(self.preset, arm).into_iter();
                Ok(points.map(|setting| (Start::Point(setting), setting, false)).collect())
            },
        )
    }

    /// All configurations of this shard, seeds outermost within a row: whoever stops early has
    /// every arm with fewer seeds.
    fn cells(
        &self,
        first_seed: u64,
        seeds: impl Fn(Row) -> u64,
        starts: impl Fn(Row, Arm, &Recipe) -> Result<Vec<(Start, Setting, bool)>>,
    ) -> Result<Vec<RunConfig>> {
        let mut cells = Vec::new();
        for &row in &self.rows {
            let recipe = overrides::apply(self.preset.recipe(row), &self.set)?;
            let data = DataConfig::new(self.data.as_ref(), &recipe)?;
            let seeds = self.seeds.unwrap_or(seeds(row));
            for seed in first_seed..first_seed + seeds {
                for &arm in &self.arms {
                    for (start, setting, best) in starts(row, arm, &recipe)? {
                        let cell = Cell { row, arm, start, seed };
                        let (setting, device) = ((setting, best), self.device.as_str());
                        let config =
                            RunConfig::new(self.preset, cell, setting, &recipe, &data, device)?;
                        cells.push(config);
                    }
                }
            }
        }
        Ok(self.place.shard.take(cells))
    }
}
