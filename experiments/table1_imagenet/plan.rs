//! What will be run: the validated form of the options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use experiments::folder::Folder;
use experiments::workers::{self, Job};
use experiments::{device, overrides};

use crate::arm::{Arm, Row};
use crate::cell::{Cell, RunConfig, Start};
use crate::data::DataConfig;
use crate::options::Options;
use crate::recipe::{Preset, Recipe};
use crate::train::Summary;
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
    threads: usize,
    data: Option<PathBuf>,
    out: PathBuf,
    shard: (usize, usize),
    set: Vec<String>,
    tuned: Tuned,
}

impl Plan {
    /// Checks the options before anything is read or written; `out` is where runs go by default.
    ///
    /// # Errors
    /// When a name is unknown, a number is zero, or the device is not there.
    pub(crate) fn new(options: &Options, out: &str) -> Result<Self> {
        let preset = Preset::choose(options.preset.as_deref(), options.data.as_deref())?;
        if options.seeds == Some(0) {
            bail!("--seeds 0: a cell needs at least one seed");
        }
        if options.threads == Some(0) {
            bail!("--threads 0: at least one thread is needed");
        }
        device::open(&options.device)?;
        let mut tuned = Tuned::recorded(preset)?;
        if let Some(path) = &options.tuned {
            tuned.merge(Tuned::read(path, preset)?);
        }
        Ok(Self {
            preset,
            rows: parse(options.models.as_deref(), preset.rows())?,
            arms: parse(options.arms.as_deref(), &Arm::DEFAULT)?,
            seeds: options.seeds,
            device: options.device.clone(),
            threads: options.threads.unwrap_or_else(cores),
            data: options.data.clone(),
            out: options.out.clone().unwrap_or_else(|| out.into()),
            shard: shard(options.shard.as_deref())?,
            set: options.set.clone(),
            tuned,
        })
    }

    /// Where runs and tables go.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// Whether other shards train other cells of the same plan.
    pub(crate) fn is_sharded(&self) -> bool {
        self.shard.1 > 1
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
        let (index, count) = self.shard;
        Ok(cells.into_iter().skip(index).step_by(count).collect())
    }

    /// Trains those cells that are not complete.
    ///
    /// # Errors
    /// When a folder holds another run, before anything is written; the first failure; or that the
    /// run was interrupted.
    pub(crate) fn train(&self, cells: &[RunConfig], stop: &AtomicBool) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("--out {}: cannot be created", self.out.display()))?;
        let folder = |config: &RunConfig| Folder::new(config.cell.folder(&self.out));
        for config in cells {
            folder(config).check(config)?;
        }
        let mut jobs = Vec::new();
        for config in cells {
            let folder = folder(config);
            folder.claim(config)?;
            if folder.summary::<Summary>()?.is_none() {
                let arguments = worker("train", folder.path());
                jobs.push(Job { name: config.cell.to_string(), arguments });
            }
        }
        let kept = cells.len() - jobs.len();
        if kept > 0 {
            eprintln!("{kept} of {} cells are complete and are kept", cells.len());
        }
        workers::run(jobs, self.threads, stop)
    }
}

/// The arguments that make this binary a worker on a run folder.
pub(crate) fn worker(command: &str, folder: &Path) -> Vec<OsString> {
    vec![command.into(), folder.into()]
}

/// The names given, each once, or the default.
fn parse<T>(names: Option<&[String]>, default: &[T]) -> Result<Vec<T>>
where
    T: FromStr<Err = anyhow::Error> + Copy + PartialEq,
{
    let Some(names) = names else { return Ok(default.to_vec()) };
    let mut parsed = Vec::new();
    for name in names {
        let value = name.parse()?;
        if !parsed.contains(&value) {
            parsed.push(value);
        }
    }
    Ok(parsed)
}

fn shard(text: Option<&str>) -> Result<(usize, usize)> {
    let Some(text) = text else { return Ok((0, 1)) };
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if i < n => Ok((i, n)),
        _ => bail!("--shard {text}: expected i/n with 0 <= i < n"),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}
