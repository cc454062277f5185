//! What will be run: the validated form of the options.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use experiments::folder::Folder;
use experiments::worker::interrupted_flag;
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
    /// Checks the options before anything is read or written.
    ///
    /// # Errors
    /// When a name is unknown, a number is zero, or the device is not there.
    pub(crate) fn new(options: &Options) -> Result<Self> {
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
            tuned.merge(Tuned::read(path)?);
        }
        Ok(Self {
            preset,
            rows: parse(options.models.as_deref(), preset.rows())?,
            arms: parse(options.arms.as_deref(), &Arm::DEFAULT)?,
            seeds: options.seeds,
            device: options.device.clone(),
            threads: options.threads.unwrap_or_else(cores),
            data: options.data.clone(),
            out: options.out.clone(),
            shard: shard(options.shard.as_deref())?,
            set: options.set.clone(),
            tuned,
        })
    }

    /// Where runs and tables go.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// The cells of the table: every arm at its best setting for the published scale of the
    /// tables, and at its best of all where that is another.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or the data cannot be read.
    pub(crate) fn table(&self) -> Result<Vec<RunConfig>> {
        let starts = |row, arm, recipe: &Recipe| {
            let best = self.tuned.best(row, arm)?;
            let set = |setting: Setting| Setting {
                rate: recipe.rate.unwrap_or(setting.rate),
                table_std: recipe.table_std.or(setting.table_std),
            };
            let (published, tuned) = (set(best.published), set(best.tuned));
            let mut starts = vec![(Start::Published, published)];
            if tuned != published {
                starts.push((Start::Tuned, tuned));
            }
            Ok(starts)
        };
        self.cells(|row| self.seeds.unwrap_or(self.preset.seeds(row)), starts)
    }

    /// The cells of the search: the same grid for every arm.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub(crate) fn search(&self) -> Result<Vec<RunConfig>> {
        let starts = |_, arm, recipe: &Recipe| {
            if recipe.rate.is_some() || recipe.table_std.is_some() {
                bail!("--set rate and --set table_std fix what `tune` searches; leave them out");
            }
            let points = tune::grid(self.preset, arm).into_iter();
            Ok(points.map(|setting| (Start::Point(setting), setting)).collect())
        };
        self.cells(|_| self.seeds.unwrap_or(SEARCH_SEEDS), starts)
    }

    /// All configurations of this shard, seeds outermost within a row: whoever stops early has
    /// every arm with fewer seeds.
    fn cells(
        &self,
        seeds: impl Fn(Row) -> u64,
        starts: impl Fn(Row, Arm, &Recipe) -> Result<Vec<(Start, Setting)>>,
    ) -> Result<Vec<RunConfig>> {
        let mut cells = Vec::new();
        for &row in &self.rows {
            let recipe = overrides::apply(self.preset.recipe(row), &self.set)?;
            let data = DataConfig::new(self.data.as_ref(), &recipe)?;
            for seed in 0..seeds(row) {
                for &arm in &self.arms {
                    for (start, setting) in starts(row, arm, &recipe)? {
                        let cell = Cell { row, arm, start, seed };
                        cells.push(RunConfig::new(
                            self.preset,
                            cell,
                            setting,
                            &recipe,
                            &data,
                            &self.device,
                        )?);
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
    /// The first failure; or that the run was interrupted.
    pub(crate) fn train(&self, cells: &[RunConfig]) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("--out {}: cannot be created", self.out.display()))?;
        let mut jobs = Vec::new();
        for config in cells {
            let folder = Folder::new(config.cell.folder(&self.out));
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
        workers::run(jobs, self.threads, &*interrupted_flag()?)
    }
}

/// The arguments that make this binary a worker on a run folder.
pub(crate) fn worker(command: &str, folder: &Path) -> Vec<String> {
    vec![command.to_string(), folder.display().to_string()]
}

fn parse<T>(names: Option<&[String]>, default: &[T]) -> Result<Vec<T>>
where
    T: FromStr<Err = anyhow::Error> + Copy,
{
    match names {
        None => Ok(default.to_vec()),
        Some(names) => names.iter().map(|name| name.parse()).collect(),
    }
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
