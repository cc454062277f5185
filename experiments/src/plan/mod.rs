//! What will be run: the validated form of the options, and the cells that follow from it.

mod warnings;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::arm::{Arm, Method};
use crate::cell::{Budget, Cell, FORMAT, RunConfig};
use crate::checkpoint::Checkpoint;
use crate::cli::Options;
use crate::device::{self, DeviceName};
use crate::given;
use crate::overrides;
use crate::recipe::Recipe;
use crate::run::queue::Workers;
use crate::search::{Effort, Found, Start, Tuned};
use crate::settings::{Axes, PUBLISHED_STD, Setting};
use crate::shard::Shard;
use crate::table::{Change, Preset, Request, Stage, Table};
use conditioned_models::Architecture;

/// The first seed of a table. Searches begin at 0: no network that helped to choose a setting is
/// counted in the table.
const FIRST_SEED: u64 = 100;

/// Seeds of each change of a sweep.
const SWEEP_SEEDS: u64 = 2;

/// How a cell starts, with which setting, and whether no other is better for its arm.
type Planned = (Start, Setting, bool);

/// Rows, arms, seeds and settings, all known to exist.
pub struct Plan<T: Table> {
    preset: Rc<Preset<T>>,
    options: T::Options,
    rows: Vec<(T::Row, T::Recipe)>,
    pub(crate) arms: Vec<Arm>,
    /// Whether the arms were asked for by name.
    arms_named: bool,
    /// The arms that are left out to save time.
    pub(crate) left_out: &'static [Arm],
    /// The changes of `--set`, which the recipes have.
    set: Vec<String>,
    seeds: Option<u64>,
    device: String,
    tuned: Tuned,
    init: Option<PathBuf>,
    purpose: Purpose,
    /// Whether a search begins at the settings of `--tuned`, for the learning rates alone.
    rates_alone: bool,
    /// Where runs and tables go.
    pub out: PathBuf,
    /// How the runs are trained.
    pub workers: Workers,
    /// Which of the cells are run here.
    pub shard: Shard,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A table.
    Table,
    /// To be read: nothing is trained, and later stages are left out.
    Plan,
    /// A search; reads no test data.
    Search,
    /// A sweep; reads no test data.
    Sweep,
}

/// The cells of a plan, with what their later stages need.
pub struct Cells<T: Table> {
    /// The first stage of every cell.
    pub runs: Vec<RunConfig>,
    settings: Vec<Setting>,
    /// The data by row.
    pub(crate) data: Vec<(String, T::Data)>,
}

impl<T: Table> Plan<T> {
    /// Checks the options before anything is read or written.
    ///
    /// # Errors
    /// When something is unknown, missing or contradicts something else, or the device is not there.
    pub fn new(options: &Options<T>, purpose: Purpose) -> Result<Self> {
        let name = options.preset.as_deref().unwrap_or(T::default_preset(&options.own));
        let preset = T::presets().into_iter().find(|preset| preset.name == name);
        let preset = preset.with_context(|| format!("unknown preset `{name}`"))?;
        device::open(&options.device, 0)?;
        ensure!(
            matches!(purpose, Purpose::Table | Purpose::Plan)
                || options.seeds.is_none_or(|seeds| seeds <= FIRST_SEED),
            "--seeds: at most {FIRST_SEED} here, as the seeds of the table begin there"
        );
        let mut arms = distinct(options.arms.as_deref().unwrap_or(preset.arms));
        let left_out = match purpose {
            Purpose::Table | Purpose::Plan if options.arms.is_none() => preset.left_out,
            _ => &[],
        };
        arms.retain(|arm| !left_out.contains(arm));
        let rows = distinct(options.models.as_deref().unwrap_or(preset.rows));
        let with_recipe =
            |row| Ok((row, recipe(&preset, row, options.init.is_some(), &options.set)?));
        let rows = rows.into_iter().map(with_recipe).collect::<Result<Vec<_>>>()?;
        let shared = rows.first().map(|(_, recipe)| recipe.shared());
        ensure!(
            options.tuned.is_none() || shared.is_none_or(|shared| shared.learning_rate.is_none()),
            "--tuned: the learning rate is set, so that nothing searched is used; --set learning_rate=null \
             takes it"
        );
        ensure!(
            options.init.is_none() || T::TAKES_INIT,
            "--init: the cells of {} train from scratch",
            T::NAME
        );
        let suffix = match purpose {
            Purpose::Table | Purpose::Plan => "",
            Purpose::Search => "-search",
            Purpose::Sweep => "-sweep",
        };
        // What was recorded is for training from scratch.
        let recorded = if options.init.is_some() { None } else { preset.tuned };
        let known: Vec<String> =
            T::Row::value_variants().iter().map(|row| self::name(*row)).collect();
        let plan = Self {
            tuned: Tuned::open(recorded, options.tuned.as_deref(), preset.name, &known)?,
            options: options.own.clone(),
            rows,
            arms,
            arms_named: options.arms.is_some(),
            left_out,
            set: options.set.clone(),
            seeds: options.seeds,
            device: options.device.clone(),
            init: options.init.clone(),
            purpose,
            rates_alone: purpose == Purpose::Search && options.tuned.is_some(),
            out: options.out.clone().unwrap_or_else(|| default_out::<T>(preset.name, suffix)),
            workers: Workers::new(options.threads, options.launch.clone(), &options.device),
            shard: options.shard.unwrap_or(Shard::WHOLE),
            preset: Rc::new(preset),
        };
        for (row, recipe) in &plan.rows {
            T::check(&plan.request(*row, recipe))?;
        }
        Ok(plan)
    }

    fn request<'a>(&'a self, row: T::Row, recipe: &'a T::Recipe) -> Request<'a, T> {
        Request {
            preset: self.preset.name,
            options: &self.options,
            row,
            rows: &self.rows,
            recipe,
            arms: &self.arms,
            set: &self.set,
            out: &self.out,
            init: self.init.as_deref(),
            first_stage_only: self.purpose != Purpose::Table,
            plan_only: self.purpose == Purpose::Plan,
        }
    }

    /// What is searched for an arm of a row, which an earlier search in the same folder may have had.
    ///
    /// # Errors
    /// When the search is to begin at settings that the arm has not, or the changes of `--set` are not for the row.
    pub fn axes(&self, row: &str, arm: Arm) -> Result<Axes> {
        let rows = T::Row::value_variants();
        let known = rows.iter().find(|known| name(**known) == row);
        let known = *known.with_context(|| format!("{row}: no row of {}", T::NAME))?;
        let recipe = recipe(&self.preset, known, self.init.is_some(), &self.set)?;
        let tables = T::has_embedding_tables(&recipe);
        let axes = self.preset.grid.axes(arm, recipe.shared(), tables);
        let axes = if self.init.is_some() { axes.with_given_tables() } else { axes };
        if !self.rates_alone {
            return Ok(axes);
        }
        let starts = self.tuned.best(row, arm)?.starts();
        Ok(axes.rates_alone(starts.into_iter().map(|(_, setting, _)| setting).collect()))
    }

    /// Writes the searches that the settings of `runs` come from beside them.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is of another preset.
    pub fn keep_settings(&self, runs: &[RunConfig]) -> Result<()> {
        given::keep::<T>(&self.out, &self.tuned, self.preset.name, runs)
    }

    /// How hard a search tries.
    pub fn effort(&self) -> Effort {
        let seeds = self.seeds.unwrap_or(self.preset.search_seeds);
        Effort { seeds, budget: self.preset.search_budget }
    }

    /// The preset.
    pub fn preset(&self) -> &Preset<T> {
        &self.preset
    }

    /// The cells of the table: every arm at its best setting for embedding tables as published, and at its
    /// best of all where that is another; or as set.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or data and recipe do not fit.
    pub fn table(&self) -> Result<Cells<T>> {
        let seeds = self.seeds.unwrap_or(self.preset.seeds);
        self.warn();
        self.cells(|row, arm, recipe| {
            Ok(with_seeds(FIRST_SEED..FIRST_SEED + seeds, self.starts(row, arm, recipe)?))
        })
    }

    /// The settings that an arm of a row trains with.
    fn starts(&self, row: &str, arm: Arm, recipe: &T::Recipe) -> Result<Vec<Planned>> {
        let shared = recipe.shared();
        let with_set = |setting: Setting| {
            let embedding_std = match arm.method {
                // It finds its own.
                Method::Init => None,
                _ => shared.embedding_std.or(setting.embedding_std),
            };
            let lr_scale = shared.embedding_lr_scale.unwrap_or(setting.embedding_lr_scale);
            vec![(
                Start::Set,
                Setting { embedding_lr_scale: lr_scale, embedding_std, ..setting },
                false,
            )]
        };
        if let Some(learning_rate) = shared.learning_rate {
            return Ok(with_set(Setting::published(learning_rate)));
        }
        let best = self.tuned.best(row, arm)?;
        match shared.is_set() {
            true => Ok(with_set(best.published)),
            false => Ok(best.starts()),
        }
    }

    /// The next cells of the search, after what was `found`; none when it is complete.
    ///
    /// # Errors
    /// When data and recipe do not fit, or the recipe fixes what is searched.
    pub fn search(&self, found: &Found) -> Result<Cells<T>> {
        for (_, recipe) in &self.rows {
            ensure!(
                !recipe.shared().is_set(),
                "the recipe fixes what `tune` searches; --set learning_rate=null, embedding_lr_scale=null \
                 and embedding_std=null free it"
            );
        }
        let effort = self.effort();
        self.cells(|row, arm, _| {
            let missing = found.missing(row, arm, &self.axes(row, arm)?, effort).into_iter();
            let point = |(setting, seed)| (seed, (Start::Point(setting), setting, false));
            Ok(missing.map(point).collect())
        })
    }

    /// The cells of a change of a sweep, at the best setting of each arm; they read no test data.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or the change cannot be.
    pub fn changed(&self, change: &str, of: &Change) -> Result<Cells<T>> {
        let set: Vec<String> = change.split(' ').map(str::to_string).collect();
        let mut changed = self.with_arms(of.arms);
        changed.rows.retain(|(row, _)| of.rows.is_empty() || of.rows.contains(&&*name(*row)));
        for (_, recipe) in &mut changed.rows {
            *recipe = overrides::apply(recipe.clone(), &set)?;
            recipe.shared().validate()?;
            recipe.validate()?;
        }
        changed.cells(|row, arm, recipe| {
            let best = changed.starts(row, arm, recipe)?.pop().into_iter();
            let points = best.map(|(_, best, _)| (Start::Point(best), best, false)).collect();
            Ok(with_seeds(0..self.seeds.unwrap_or(SWEEP_SEEDS), points))
        })
    }

    /// The same plan for those of its arms that are among `arms`.
    fn with_arms(&self, arms: &[Arm]) -> Self {
        Self {
            preset: self.preset.clone(),
            options: self.options.clone(),
            rows: self.rows.clone(),
            set: self.set.clone(),
            arms: self.arms.iter().filter(|arm| arms.contains(arm)).copied().collect(),
            device: self.device.clone(),
            tuned: self.tuned.clone(),
            init: self.init.clone(),
            out: self.out.clone(),
            workers: self.workers.clone(),
            ..*self
        }
    }

    /// All cells of this shard, seeds outermost within a row: whoever stops early has every arm with fewer
    /// seeds.
    fn cells(
        &self,
        planned: impl Fn(&str, Arm, &T::Recipe) -> Result<Vec<(u64, Planned)>>,
    ) -> Result<Cells<T>> {
        // Before the data are prepared, which may take a while.
        let mut wanted = Vec::new();
        for (row, recipe) in &self.rows {
            // What was asked for by name is refused where it cannot be.
            let can = |arm: &Arm| arm.method != Method::Init || T::has_embedding_tables(recipe);
            let mut cells = Vec::new();
            for &arm in self.arms.iter().filter(|arm| self.arms_named || can(arm)) {
                let planned = planned(&name(*row), arm, recipe)?.into_iter();
                cells.extend(planned.map(|(seed, start)| (seed, arm, start)));
            }
            cells.sort_by_key(|(seed, ..)| *seed);
            wanted.push(cells);
        }
        let mut cells = Cells { runs: Vec::new(), settings: Vec::new(), data: Vec::new() };
        let mut count = 0;
        for ((row, recipe), wanted) in self.rows.iter().zip(wanted) {
            if wanted.is_empty() {
                continue;
            }
            let request = self.request(*row, recipe);
            let data = T::data(&request)?;
            for (seed, arm, (start, setting, best)) in wanted {
                let cell = Cell { row: name(*row), arm, start, budget: Budget::Steps, seed };
                count += 1;
                if !self.shard.takes(&cell, count - 1) {
                    continue;
                }
                let run = self.run(&request, &data, cell, setting, 0, None)?;
                cells.runs.push(RunConfig { best, ..run });
                cells.settings.push(setting);
            }
            self.warn_of_data(&name(*row), &cells.runs);
            cells.data.push((name(*row), data));
        }
        Ok(cells)
    }

    /// The configuration of a stage of a cell.
    fn run(
        &self,
        request: &Request<'_, T>,
        data: &T::Data,
        cell: Cell,
        setting: Setting,
        number: usize,
        earlier: Option<Checkpoint>,
    ) -> Result<RunConfig> {
        let stage = Stage { cell: &cell, setting, number, earlier };
        let mut job = T::job(request, data, &stage).with_context(|| cell.to_string())?;
        if cell.arm.method == Method::Init && number == 0 {
            let std = job.smallest_kappa_std(cell.seed).with_context(|| cell.to_string())?;
            job.network.set_init_std(std).with_context(|| cell.to_string())?;
        }
        // Later stages are the same for all.
        if number == 0 {
            job.fit.muon = request.recipe.shared().muon(cell.arm, &job.network);
        }
        // A search looks for numbers, not for pictures.
        job.fit.probe_every = match cell.is_search() {
            true => None,
            false => request.recipe.shared().probe_every,
        };
        job.fit.precision = request.recipe.shared().precision;
        job.validate().with_context(|| cell.to_string())?;
        Ok(RunConfig {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_string(),
            table: T::NAME.to_string(),
            preset: self.preset.name.to_string(),
            cell,
            stage: T::stages(data).get(number).cloned(),
            best: false,
            job,
            device: DeviceName(self.device.clone()),
        })
    }

    /// The later stages of `runs`, whose first stage is complete, in order.
    ///
    /// # Errors
    /// When a run has left no weights.
    pub fn later_stages(&self, cells: &Cells<T>, runs: &[RunConfig]) -> Result<Vec<RunConfig>> {
        self.stages(cells, runs, |folder| Ok(Some(Checkpoint::of_stage(folder)?)))
    }

    /// The later stages of `runs` before any is trained, all but the weights that they start from.
    ///
    /// # Errors
    /// When a stage cannot be planned.
    pub fn stages_to_come(&self, cells: &Cells<T>, runs: &[RunConfig]) -> Result<Vec<RunConfig>> {
        self.stages(cells, runs, |_| Ok(None))
    }

    fn stages(
        &self,
        cells: &Cells<T>,
        runs: &[RunConfig],
        left: impl Fn(&Path) -> Result<Option<Checkpoint>>,
    ) -> Result<Vec<RunConfig>> {
        let mut later = Vec::new();
        for (row, recipe) in &self.rows {
            let (request, row) = (self.request(*row, recipe), name(*row));
            let Some((_, data)) = cells.data.iter().find(|(of, _)| *of == row) else { continue };
            for first in runs.iter().filter(|run| run.cell.row == row) {
                let stages = T::stages(data).len();
                if stages < 2 {
                    continue;
                }
                let setting = cells.setting(first).unwrap_or(Setting::published(0.0));
                let folder = std::path::absolute(first.folder(&self.out))?;
                let earlier = left(&folder)?;
                for number in 1..stages {
                    let (cell, earlier) = (first.cell.clone(), earlier.clone());
                    let run = self.run(&request, data, cell, setting, number, earlier)?;
                    later.push(RunConfig { best: first.best, ..run });
                }
            }
        }
        Ok(later)
    }
}

impl<T: Table> Cells<T> {
    fn setting(&self, run: &RunConfig) -> Option<Setting> {
        let same = |other: &RunConfig| {
            (&other.cell.row, other.cell.arm, other.cell.start, other.cell.seed)
                == (&run.cell.row, run.cell.arm, run.cell.start, run.cell.seed)
        };
        self.runs.iter().position(same).map(|at| self.settings[at])
    }
}

/// The recipe of a row with the changes of `--set`.
fn recipe<T: Table>(
    preset: &Preset<T>,
    row: T::Row,
    of_checkpoint: bool,
    set: &[String],
) -> Result<T::Recipe> {
    let recipe = match of_checkpoint {
        true => (preset.recipe)(row).for_checkpoint(),
        false => (preset.recipe)(row),
    };
    let recipe: T::Recipe = overrides::apply(recipe, set)?;
    recipe.shared().validate()?;
    recipe.validate()?;
    Ok(recipe)
}

/// The same settings for every seed.
fn with_seeds(seeds: Range<u64>, starts: Vec<Planned>) -> Vec<(u64, Planned)> {
    seeds.flat_map(|seed| starts.iter().map(move |start| (seed, *start))).collect()
}

/// Where the runs of a preset go unless told otherwise.
pub fn default_out<T: Table>(preset: &str, suffix: &str) -> PathBuf {
    let is_first = T::presets().first().is_some_and(|first| first.name == preset);
    let of_preset = if is_first { String::new() } else { format!("-{preset}") };
    format!("runs/{}{of_preset}{suffix}", T::NAME).into()
}

/// The name of a row.
pub fn name<R: ValueEnum>(row: R) -> String {
    row.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// The values without repetitions, in order.
pub(crate) fn distinct<V: PartialEq + Copy>(values: &[V]) -> Vec<V> {
    let first = values.iter().enumerate().filter(|(at, value)| !values[..*at].contains(value));
    first.map(|(_, value)| *value).collect()
}

/// The standard deviation that embedding tables have at a setting, until the arm finds its own.
pub fn embedding_std(setting: Setting) -> f64 {
    setting.embedding_std.unwrap_or(PUBLISHED_STD)
}
