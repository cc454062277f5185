//! What will be run: the validated form of the options.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use experiments::names::parse;
use experiments::options::Place;
use experiments::search::{PUBLISHED_STD, Setting, Start, Tuned};
use experiments::table::Table;
use experiments::{hub, overrides};

use crate::arm::Arm;
use crate::cell::{Cell, RunConfig, Shared};
use crate::data::DataConfig;
use crate::init;
use crate::options::Options;
use crate::recipe::{Preset, Recipe};
use crate::tune;

/// Seeds of a search unless another number is asked for.
const SEARCH_SEEDS: u64 = 1;

/// Seeds of each change of a sweep.
const CHANGE_SEEDS: u64 = 2;

/// The first seed of the table. Searches begin at 0: no network that helped to choose a setting is
/// counted in the table.
const FIRST_SEED: u64 = 100;

/// Arms, seeds and settings, all known to exist.
#[derive(Clone)]
pub(crate) struct Plan {
    preset: Preset,
    recipe: Recipe,
    arms: Vec<Arm>,
    seeds: Option<u64>,
    shared: Shared,
    data: Option<PathBuf>,
    tuned: Option<Tuned>,
    /// Where and how cells are run.
    pub(crate) place: Place,
}

impl Plan {
    /// Checks the options before anything is read or written; `out` is where runs go by default.
    ///
    /// # Errors
    /// When a name is unknown, a number is zero, data are missing, an arm sees the future and may
    /// not, or the device is not there.
    pub(crate) fn new(options: &Options, out: &str) -> Result<Self> {
        let data = options.data.clone();
        let preset = match &options.preset {
            Some(name) => name.parse()?,
            None if data.is_some() => Preset::TinystoriesCpu,
            None => Preset::Short,
        };
        match (preset.is_generated(), &data) {
            (true, Some(_)) => bail!(
                "preset {preset} trains on generated stories; leave out --data, or take another \
                 preset"
            ),
            (false, None) => bail!(
                "preset {preset} needs --data with a text file, a .jsonl file, or a folder of them"
            ),
            _ => {}
        }
        let place = options.common.place(out)?;
        let init = options.init.as_deref().map(|init| init::read(&hub::model(init)?));
        let init = init.transpose()?;
        let mut recipe = preset.recipe();
        if let Some((checkpoint, _)) = &init {
            recipe.tokenizer = checkpoint.folder.display().to_string();
        }
        let recipe: Recipe = overrides::apply(recipe, &options.common.set)?;
        recipe.validate()?;
        if let Some((checkpoint, _)) = &init {
            ensure!(
                recipe.rate.is_some(),
                "--init {}: the recorded rates are for training from scratch; give one by --set rate=",
                checkpoint.folder.display()
            );
        }
        let arms = parse(options.common.arms.as_deref(), preset.arms())?;
        // Before the data are prepared; the vocabulary does not matter here.
        for &arm in &arms {
            let network = recipe.network(arm, 1, PUBLISHED_STD, options.allow_future_leak)?;
            network.validate().with_context(|| format!("arm {arm} (--allow-future-leak)"))?;
        }
        let file = options.tuned.as_deref();
        let tuned = Tuned::open(tune::recorded(preset), file, preset.name())?;
        Ok(Self {
            preset,
            recipe,
            arms,
            seeds: options.common.seeds,
            shared: Shared {
                device: options.common.device.clone(),
                allow_future_leak: options.allow_future_leak,
                init,
            },
            data,
            place,
            tuned,
        })
    }

    /// The cells of the table: every arm at its best setting with tables as published, and at its
    /// best of all where that is another; or as set on the command line or by the preset.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or text and recipe do not fit.
    pub(crate) fn table(&self) -> Result<Vec<RunConfig>> {
        let starts = |arm| self.starts(arm);
        self.cells(FIRST_SEED, self.preset.seeds(), starts)
    }

    fn starts(&self, arm: Arm) -> Result<Vec<(Start, Setting, bool)>> {
        let Recipe { rate, table_rate, table_std, .. } = self.recipe;
        let set = |setting: Setting| {
            let setting = Setting {
                rate: rate.unwrap_or(setting.rate),
                table_rate: table_rate.unwrap_or(setting.table_rate),
                // `init` finds its own.
                table_std: setting.table_std.and(table_std.or(setting.table_std)),
            };
            Ok(vec![(Start::Set, setting, false)])
        };
        if let Some(rate) = rate {
            let std = (arm != Arm::Init).then_some(PUBLISHED_STD);
            return set(Setting { rate, table_rate: 1.0, table_std: std });
        }
        let best = tune::best(self.tuned.as_ref(), arm)?;
        if table_rate.is_some() || table_std.is_some() {
            return set(best.published);
        }
        Ok(best.starts())
    }

    /// The cells of the search: the same grid for every arm.
    ///
    /// # Errors
    /// When text and recipe do not fit, or the recipe fixes what is searched.
    pub(crate) fn search(&self) -> Result<Vec<RunConfig>> {
        let Recipe { rate, table_rate, table_std, .. } = self.recipe;
        if self.tuned.is_some() && (rate.is_some() || table_rate.is_some() || table_std.is_some()) {
            bail!(
                "--set rate, --set table_rate and --set table_std fix what `tune` searches; leave \
                 them out"
            );
        }
        self.cells(0, SEARCH_SEEDS, |arm| {
            let points = tune::grid(self.preset, arm).into_iter();
            Ok(points.map(|setting| (Start::Point(setting), setting, false)).collect())
        })
    }

    /// Cells that read no test document, of `arms` at their tuned settings with one `key=value` of
    /// the recipe changed.
    ///
    /// # Errors
    /// When an arm has no recorded settings.
    pub(crate) fn changed(&self, change: &str, arms: &[Arm]) -> Result<Vec<RunConfig>> {
        let recipe = overrides::apply(self.recipe.clone(), &[change.to_string()])?;
        let arms = arms.iter().filter(|arm| self.arms.contains(arm)).copied();
        let plan = Self { recipe, arms: arms.collect(), ..self.clone() };
        plan.cells(0, CHANGE_SEEDS, |arm| {
            let best = tune::best(plan.tuned.as_ref(), arm)?;
            Ok(vec![(Start::Point(best.tuned), best.tuned, false)])
        })
    }

    /// All configurations of this shard, seeds outermost: whoever stops early has every arm with
    /// fewer seeds.
    fn cells(
        &self,
        first_seed: u64,
        seeds: u64,
        starts: impl Fn(Arm) -> Result<Vec<(Start, Setting, bool)>>,
    ) -> Result<Vec<RunConfig>> {
        let mut settings = Vec::new();
        for &arm in &self.arms {
            settings.extend(starts(arm)?.into_iter().map(|start| (arm, start)));
        }
        let data =
            DataConfig::prepare(self.data.as_deref(), &self.recipe, &self.place.out.join("data"))?;
        let mut cells = Vec::new();
        for seed in first_seed..first_seed + self.seeds.unwrap_or(seeds) {
            for &(arm, (start, setting, best)) in &settings {
                cells.push(RunConfig::new(
                    self.preset,
                    Cell { arm, start, seed },
                    (setting, best),
                    &self.recipe,
                    &data,
                    &self.shared,
                )?);
            }
        }
        Ok(self.place.shard.take(cells))
    }
}

/// What the cells of a plan cost: a row per arm and setting.
pub(crate) fn describe(cells: &[RunConfig]) -> Table {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in cells {
        let RunConfig { network, steps, batch_size, window, fit, .. } = cell;
        let name = format!("{} {}", cell.cell.arm, cell.cell.start);
        if let Some(row) = rows.iter_mut().find(|row| row[0] == name) {
            row[1] = format!("{} {}", row[1], cell.cell.seed);
            continue;
        }
        let parameters = network.parameter_count();
        // A multiply-accumulate is two operations; backward takes two forward passes.
        let operations = 6.0 * network.macs() as f64 * (steps * batch_size) as f64;
        rows.push(vec![
            name,
            cell.cell.seed.to_string(),
            format!("{}, x{}", fit.schedule.peak, fit.groups.table_rate),
            parameters.to_string(),
            (steps * batch_size * window).to_string(),
            format!("{:.3}", operations * 1e-15),
            // Weights, gradient and AdamW's two moments in f32.
            format!("{:.0}", 16.0 * parameters as f64 / (1 << 20) as f64),
            format!("{:.2}", operations * 1e-12 / 3600.0),
        ]);
    }
    let columns = [
        "cell",
        "seeds",
        "rate, rate of tables",
        "parameters",
        "tokens",
        "PFLOP a seed",
        "MiB of parameters and their state",
        "hours a seed at 1 TFLOP/s",
    ];
    Table {
        title: format!("{} cells", cells.len()),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: vec!["Activations, evaluation and data are not counted.".to_string()],
    }
}
