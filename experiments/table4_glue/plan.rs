//! What will be run: the validated form of the options.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{Task, premises};
use conditioned_models::conditioning::Placement;
use experiments::corpus::{Preparation, Source, TextConfig};
use experiments::names::parse;
use experiments::options::Place;
use experiments::search::{PUBLISHED_STD, Setting, Start, Tuned, unsearched};
use experiments::table::Table;
use experiments::{hub, overrides};

use crate::arm::{Arm, Model};
use crate::budget::Shares;
use crate::cell::{Budget, Cell, FineTuning, Pretraining, RunConfig};
use crate::options::Options;
use crate::recipe::{ARMS, Preset, Recipe, grid};
use crate::tasks::{self, TaskConfig};

/// Seeds of a search unless another number is asked for.
const SEARCH_SEEDS: u64 = 1;

/// Seeds of each change of a sweep.
const CHANGE_SEEDS: u64 = 2;

/// The first seed of the table. Searches begin at 0: no network that helped to choose a setting is
/// counted in the table.
const FIRST_SEED: u64 = 100;

/// The first generated document: far from the pairs, to which it would tell the answers.
const FIRST_DOCUMENT: usize = 40_000;

/// Models, arms, seeds and settings, all known to exist.
#[derive(Clone)]
pub(crate) struct Plan {
    preset: Preset,
    recipe: Recipe,
    models: Vec<Model>,
    arms: Vec<Arm>,
    seeds: Option<u64>,
    device: String,
    corpus: Option<PathBuf>,
    data: Option<PathBuf>,
    tuned: Option<Tuned>,
    /// Where and how cells are run.
    pub(crate) place: Place,
}

impl Plan {
    /// Checks the options before anything is written; `out` is where runs go by default.
    ///
    /// # Errors
    /// When a name is unknown, a number is zero, files are missing, or the device is not there.
    pub(crate) fn new(options: &Options, out: &str) -> Result<Self> {
        let Options { corpus, data, common, .. } = options;
        let preset = match &options.preset {
            Some(name) => name.parse()?,
            None if data.is_some() || corpus.is_some() => Preset::GlueCpu,
            None => Preset::Short,
        };
        match (preset.is_generated(), corpus, data) {
            (true, None, None) | (false, Some(_), _) => {}
            (true, ..) => bail!(
                "preset {preset} generates its text and its task; leave out --corpus and --data, or \
                 take another preset"
            ),
            (false, None, _) => {
                bail!("preset {preset} needs --corpus with the text to pre-train on")
            }
        }
        let place = common.place(out)?;
        let recipe: Recipe = overrides::apply(preset.recipe(), &common.set)?;
        recipe.validate()?;
        let arms = parse(common.arms.as_deref(), ARMS)?;
        for &arm in &arms {
            let conditioning = arm.conditioning(&recipe)?;
            ensure!(
                arm != Arm::NormMatched || conditioning.placement != Placement::AfterPosition,
                "--arms norm-matched: the layer norm that follows takes any factor out again, so that this \
                 is the baseline; take --set placement=after-norm or before-position"
            );
        }
        let pairs = recipe.first_pair..recipe.first_pair + recipe.task_rows + recipe.task_dev_rows;
        ensure!(
            !preset.is_generated()
                || pairs.end <= FIRST_DOCUMENT
                || pairs.start >= FIRST_DOCUMENT + recipe.documents,
            "--set first_pair={}: the pairs {pairs:?} reach into the pre-training text, which starts at \
             {FIRST_DOCUMENT} and would tell their answers",
            recipe.first_pair
        );
        ensure!(
            options.tuned.is_none() || recipe.rate.is_none(),
            "--tuned: the rate is set, so that nothing searched is used; --set rate=null takes it"
        );
        let file = options.tuned.as_deref();
        Ok(Self {
            models: parse(options.models.as_deref(), &[Model::CrammedBert])?,
            arms,
            seeds: common.seeds,
            device: common.device.clone(),
            corpus: corpus.clone(),
            data: data.clone(),
            tuned: Tuned::open(recorded(preset), file, preset.name())?,
            place,
            preset,
            recipe,
        })
    }

    /// The pre-trainings of the table at the budget in tokens: every arm at its best setting with tables
    /// as published, and at its best of all where that is another; or as set.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or text and recipe do not fit.
    pub(crate) fn pretrainings(&self) -> Result<Vec<Pretraining>> {
        self.cells(&self.text()?, FIRST_SEED, self.preset.seeds(), |model, arm| {
            self.starts(model, arm)
        })
    }

    fn starts(&self, model: Model, arm: Arm) -> Result<Vec<(Start, Setting, bool)>> {
        let Recipe { rate, table_rate, table_std, .. } = self.recipe;
        let set = |setting: Setting| {
            let setting = Setting {
                rate: rate.unwrap_or(setting.rate),
                table_rate: table_rate.unwrap_or(setting.table_rate),
                table_std: table_std.or(setting.table_std),
            };
            Ok(vec![(Start::Set, setting, false)])
        };
        if let Some(rate) = rate {
            return set(Setting { rate, table_rate: 1.0, table_std: Some(PUBLISHED_STD) });
        }
        let key = key(model, arm);
        let best = self.tuned.as_ref().and_then(|tuned| tuned.best(&key));
        let flags = format!("--models {model} --arms {arm}");
        let best = best.ok_or_else(|| unsearched(&key, &flags))?;
        if table_rate.is_some() || table_std.is_some() {
            return set(best.published);
        }
        Ok(best.starts())
    }

    /// Of `cells`, those that other arms than the baseline have at the budget in time: each at its best
    /// setting. Where no baseline was timed there is no such budget.
    pub(crate) fn at_equal_time(cells: &[Pretraining], shares: &Shares) -> Vec<Pretraining> {
        let best = cells.iter().filter(|run| run.best || run.cell.start == Start::Set);
        let others = best.filter(|run| run.cell.arm != Arm::Baseline);
        let with_time = |run: &Pretraining| {
            let Cell { model, arm, .. } = run.cell;
            Some(Pretraining {
                cell: Cell { budget: Budget::Time, ..run.cell },
                micro_batches: shares.of((model, arm), run.micro_batches, run.fit.epochs)?,
                ..run.clone()
            })
        };
        others.filter_map(with_time).collect()
    }

    /// The tasks to fine-tune on.
    ///
    /// # Errors
    /// When there is none, or its files are not as they should be.
    pub(crate) fn tasks(&self) -> Result<Vec<TaskConfig>> {
        match &self.data {
            _ if self.preset.is_generated() => Ok(vec![TaskConfig::generated(&self.recipe)?]),
            Some(folder) => TaskConfig::find(&hub::glue(folder, &Task::ALL)?),
            None => bail!("preset {} needs --data with the folders of GLUE's tasks", self.preset),
        }
    }

    /// The fine-tunings of pre-trained cells on every task.
    ///
    /// # Errors
    /// When a cell has left no weights.
    pub(crate) fn fine_tunings(
        &self,
        cells: &[Pretraining],
        tasks: &[TaskConfig],
    ) -> Result<Vec<RunConfig>> {
        let mut all = Vec::new();
        for run in cells {
            for task in tasks {
                let tuning = FineTuning::new(run, &self.place.out, task, &self.recipe)?;
                all.push(RunConfig::FineTuning(Box::new(tuning)));
            }
        }
        Ok(all)
    }

    /// The cells of the search: the same grid for every arm.
    ///
    /// # Errors
    /// When text and recipe do not fit, or the recipe fixes what is searched.
    pub(crate) fn search(&self) -> Result<Vec<Pretraining>> {
        let Recipe { rate, table_rate, table_std, .. } = self.recipe;
        if rate.is_some() || table_rate.is_some() || table_std.is_some() {
            bail!(
                "the recipe fixes what `tune` searches; --set rate=null, table_rate=null and \
                 table_std=null free it"
            );
        }
        self.cells(&self.text()?, 0, SEARCH_SEEDS, |_, _| {
            let points = grid(self.preset).into_iter();
            Ok(points.map(|setting| (Start::Point(setting), setting, false)).collect())
        })
    }

    /// Cells that read no test document, of `arms` at their tuned settings with one `key=value` of
    /// the recipe changed.
    ///
    /// # Errors
    /// When an arm has no recorded settings, or the change cannot be.
    pub(crate) fn changed(
        &self,
        text: &TextConfig,
        change: &[&str],
        arms: &[Arm],
    ) -> Result<Vec<Pretraining>> {
        let change: Vec<String> = change.iter().map(ToString::to_string).collect();
        let recipe: Recipe = overrides::apply(self.recipe.clone(), &change)?;
        let arms = arms.iter().filter(|arm| self.arms.contains(arm)).copied();
        let plan = Self { recipe, arms: arms.collect(), ..self.clone() };
        plan.cells(text, 0, CHANGE_SEEDS, |model, arm| {
            let starts = plan.starts(model, arm)?;
            let best = starts.last().map(|&(_, setting, _)| setting);
            Ok(best.map(|setting| (Start::Point(setting), setting, false)).into_iter().collect())
        })
    }

    /// The text of the recipe, prepared in the output folder.
    ///
    /// # Errors
    /// When there is none, or it cannot be prepared.
    pub(crate) fn text(&self) -> Result<TextConfig> {
        let Recipe { documents, tune, test, window, .. } = self.recipe;
        let source = match &self.corpus {
            Some(path) => Source::open(path, &self.recipe.separator)?,
            None => {
                ensure!(
                    documents > 0,
                    "--set documents=0: at least one is needed without --corpus"
                );
                let rows = FIRST_DOCUMENT..FIRST_DOCUMENT + documents;
                Source::Generated {
                    name: format!("{documents} generated premises and what follows"),
                    documents: Box::new(move || Box::new(premises(tasks::SEED, rows.clone()))),
                }
            }
        };
        let how = Preparation { tokenizer: &self.recipe.tokenizer, tune, test, window };
        TextConfig::prepare(&source, &how, &self.place.out.join("data"))
    }

    /// All pre-trainings of this shard, seeds outermost: whoever stops early has every arm with fewer
    /// seeds.
    fn cells(
        &self,
        text: &TextConfig,
        first_seed: u64,
        seeds: u64,
        starts: impl Fn(Model, Arm) -> Result<Vec<(Start, Setting, bool)>>,
    ) -> Result<Vec<Pretraining>> {
        let mut cells = Vec::new();
        for seed in first_seed..first_seed + self.seeds.unwrap_or(seeds) {
            for &model in &self.models {
                for &arm in &self.arms {
                    for (start, setting, best) in starts(model, arm)? {
                        let cell = Cell { model, arm, start, budget: Budget::Tokens, seed };
                        let run = Pretraining::new(
                            self.preset,
                            cell,
                            (setting, best),
                            &self.recipe,
                            text,
                            &self.device,
                        );
                        cells.push(run.with_context(|| cell.to_string())?);
                    }
                }
            }
        }
        Ok(self.place.shard.take(cells))
    }
}

/// What a search calls an arm of a model.
pub(crate) fn key(model: Model, arm: Arm) -> String {
    format!("{model} {arm}")
}

/// The settings recorded with this table for a preset.
fn recorded(preset: Preset) -> Option<&'static str> {
    match preset {
        Preset::Smoke => Some(include_str!("tuned/smoke.json")),
        Preset::Short => Some(include_str!("tuned/short.json")),
        Preset::GlueCpu | Preset::Paper => None,
    }
}

/// What the pre-trainings of a plan cost: a row per model, arm and setting.
pub(crate) fn describe(cells: &[Pretraining]) -> Table {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for run in cells {
        let Cell { model, arm, start, seed, .. } = run.cell;
        let name = format!("{model} {arm} {start}");
        if let Some(row) = rows.iter_mut().find(|row| row[0] == name) {
            row[1] = format!("{} {seed}", row[1]);
            continue;
        }
        let parameters = run.network.parameter_count();
        // A multiply-accumulate is two operations; backward takes two forward passes.
        let windows = (run.micro_batches * run.batch_size) as f64;
        let operations = 6.0 * run.network.macs(run.window) as f64 * windows;
        rows.push(vec![
            name,
            seed.to_string(),
            format!("{}, x{}", run.fit.schedule.peak, run.fit.groups.table_rate),
            parameters.to_string(),
            run.tokens().to_string(),
            format!("{:.3}", operations * 1e-15),
            // Weights, gradient and AdamW's two moments in f32.
            format!("{:.0}", 16.0 * parameters as f64 / (1 << 20) as f64),
            format!("{:.2}", operations * 1e-12 / 3600.0),
        ]);
    }
    let columns = [
        "pre-training",
        "seeds",
        "rate, rate of tables",
        "parameters",
        "tokens",
        "PFLOP a seed",
        "MiB of parameters and their state",
        "hours a seed at 1 TFLOP/s",
    ];
    Table {
        title: format!("{} pre-trainings", cells.len()),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: vec![
            "Activations, heads, evaluation, data and fine-tuning are not counted; those at equal time \
             come later, when the steps have been timed."
                .to_string(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_of_the_default_table_has_recorded_settings() {
        for preset in Preset::ALL {
            let Some(tuned) = Tuned::open(recorded(preset), None, preset.name()).unwrap() else {
                continue;
            };
            for &arm in ARMS {
                let search = tuned.best(&key(Model::CrammedBert, arm)).unwrap();
                assert!(search.covers(&grid(preset)), "{preset} {arm}");
            }
        }
    }
}
