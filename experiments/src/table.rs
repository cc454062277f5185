//! What a table declares. Everything else is the engine's.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use conditioned_data::TextSource;
use conditioned_models::conditioning::{ConditioningConfig, Placement};

use crate::arm::{Arm, Method};
use crate::cell::Cell;
use crate::checkpoint::Checkpoint;
use crate::column::Column;
use crate::hub;
use crate::job::Job;
use crate::recipe::Recipe;
use crate::results::Finished;
use crate::settings::{Grid, Setting};

/// A table of the paper, or one of our own: one file.
pub trait Table: Sized + 'static {
    /// The name of its binary, such as `table1-imagenet`; runs go to `runs/NAME`.
    const NAME: &'static str;

    /// What it compares, in a sentence: the first line of `--help`.
    const ABOUT: &'static str;

    /// Its title, such as `Table 1`.
    const TITLE: &'static str;

    /// The paper's numbers, `row,arm,metric,value` with `*` for any row; nothing where it has none.
    const PAPER: &'static str = "row,arm,metric,value\n";

    /// The metric that a search goes by before the loss on the tuning slice, the higher the better.
    const SCORE: Option<&'static str> = None;

    /// Whether its cells can start from a checkpoint.
    const TAKES_INIT: bool = false;

    /// What the learning curves show: a metric of the evaluations, or the training loss.
    const CURVE: Curve;

    /// Its rows.
    type Row: ValueEnum + Copy + PartialEq + Send + Sync + 'static;

    /// Every number of a run but for the arm's own.
    type Recipe: Recipe;

    /// Options of its own, such as `--data`.
    type Options: Args + Clone;

    /// Commands of its own; [`NoCommands`] for none.
    type Commands: Subcommand + Command;

    /// The data of a row, named and hashed.
    type Data;

    /// Its presets; the first is the one whose runs go to `runs/NAME`, the others' to `runs/NAME-PRESET`.
    fn presets() -> Vec<Preset<Self>>;

    /// The preset that is taken where none is named.
    fn default_preset(options: &Self::Options) -> &'static str;

    /// Checks options, recipe and arms before anything is read or written.
    ///
    /// # Errors
    /// Names what is missing, unknown or contradicts something else.
    fn check(_: &Request<'_, Self>) -> Result<()> {
        Ok(())
    }

    /// The data of a row, read once; files that are made of them go to `request.data_folder()`.
    ///
    /// # Errors
    /// When they are missing, or not as they should be.
    fn data(request: &Request<'_, Self>) -> Result<Self::Data>;

    /// The names of the stages of a cell, in order; one without a name is all there is to most.
    fn stages(_: &Self::Data) -> Vec<String> {
        Vec::new()
    }

    /// Whether the network of a recipe has embedding tables in front of its first block: without, `init` has
    /// nothing to scale, and a search looks for learning rates alone.
    fn has_embedding_tables(_: &Self::Recipe) -> bool {
        true
    }

    /// Where a method acts unless the recipe says otherwise.
    fn placement(method: Method) -> Placement {
        match method {
            // A conditioned position table does harm: docs/LOG.md.
            Method::Table => Placement::BeforePosition,
            _ => Placement::AfterPosition,
        }
    }

    /// What a cell trains in a stage: network, task and training run.
    ///
    /// # Errors
    /// When the recipe contradicts itself, or does not fit the data.
    fn job(request: &Request<'_, Self>, data: &Self::Data, cell: &Stage<'_>) -> Result<Job>;

    /// The columns of the table of these results.
    fn columns(results: &[Finished]) -> Vec<Column>;

    /// A row behind the others whose numbers follow from theirs, such as a mean over tasks: cells of one row.
    fn derived(_: &[Finished]) -> Vec<Finished> {
        Vec::new()
    }

    /// What follows the title: the data, and what they stand in for.
    fn on(first: &Finished) -> String {
        first.data.clone()
    }

    /// What a reader must know beside what is said of every table, a sentence or two each.
    fn notes(_: &[Finished]) -> Vec<String> {
        Vec::new()
    }

    /// A row's name in the table.
    fn label(row: &str) -> String {
        row.to_string()
    }
}

/// What learning curves show.
#[derive(Debug, Clone, Copy)]
pub enum Curve {
    /// A metric of the evaluations on the way, and its name on the axis.
    Evaluation(&'static str, &'static str),
    /// The training loss, averaged over some steps.
    TrainingLoss,
}

/// A named recipe with all that goes with it.
pub struct Preset<T: Table> {
    /// Its name.
    pub name: &'static str,
    /// The recipe of a row.
    pub recipe: fn(T::Row) -> T::Recipe,
    /// Rows that run unless others are asked for.
    pub rows: &'static [T::Row],
    /// Arms that run unless others are asked for.
    pub arms: &'static [Arm],
    /// Those of them that are left out of the table then, to save time; a search tries all.
    pub left_out: &'static [Arm],
    /// Seeds per cell unless another number is asked for.
    pub seeds: u64,
    /// Where `tune` begins.
    pub grid: Grid,
    /// Seeds of the best settings of a search.
    pub search_seeds: u64,
    /// Runs of an arm after which a search goes on to no further setting.
    pub search_budget: usize,
    /// What `sweep` changes, one after the other.
    pub sweep: &'static [Change],
    /// The outcome of the search, `tuned/NAME.json`.
    pub tuned: Option<&'static str>,
    /// What a step took when the committed results were made, `timings.csv`: for an estimate of the time.
    pub timings: Option<&'static str>,
    /// Whether the arms run again at the time that the baseline takes.
    pub equal_time: bool,
}

impl<T: Table> Preset<T> {
    /// A preset of three seeds, whose search gives two to the best, with nothing recorded and nothing to sweep.
    pub fn new(
        name: &'static str,
        recipe: fn(T::Row) -> T::Recipe,
        rows: &'static [T::Row],
        arms: &'static [Arm],
        grid: Grid,
    ) -> Self {
        Self {
            name,
            recipe,
            rows,
            arms,
            left_out: &[],
            seeds: 3,
            grid,
            search_seeds: 2,
            search_budget: 60,
            sweep: &[],
            tuned: None,
            timings: None,
            equal_time: false,
        }
    }

    /// The same for a cell of the answer (docs/PLAN.md): eight seeds, equal steps and equal time.
    pub fn of_answer(self) -> Self {
        Self { seeds: 8, search_budget: 36, equal_time: true, ..self }
    }
}

/// The arms of a cell of the answer where a token may depend on all others.
pub const ANSWER_ARMS: &[Arm] = &[
    Arm::BASELINE,
    Arm::PER_SEQUENCE,
    Arm::POOLED_CURRENT,
    Arm::FACTOR,
    Arm::MUON,
    Arm::MUON_POOLED_CURRENT,
];

/// The same where pooled tokens are those of earlier batches.
pub const SEQUENCE_ANSWER_ARMS: &[Arm] =
    &[Arm::BASELINE, Arm::PER_SEQUENCE, Arm::POOLED, Arm::FACTOR, Arm::MUON, Arm::MUON_POOLED];

/// The same of a causal model.
pub const CAUSAL_ANSWER_ARMS: &[Arm] =
    &[Arm::BASELINE, Arm::POOLED, Arm::FACTOR, Arm::MUON, Arm::MUON_POOLED, Arm::MUON_FACTOR];

/// Places that the search of an arm chooses from.
pub const ANSWER_PLACES: &[Placement] = &[Placement::AfterPosition, Placement::BeforePosition];

/// Changes of the recipe that a sweep tries one at a time, and the arms that they concern.
pub struct Change {
    /// Each as by `--set`: `key=value`, or several of them after a space.
    pub one_of: &'static [&'static str],
    /// The arms.
    pub arms: &'static [Arm],
    /// The rows whose models take them; empty for all.
    pub rows: &'static [&'static str],
}

/// What was asked for, of one row.
pub struct Request<'a, T: Table> {
    /// The preset.
    pub preset: &'static str,
    /// The options of the table.
    pub options: &'a T::Options,
    /// The row.
    pub row: T::Row,
    /// All rows that were asked for, this one among them.
    pub rows: &'a [(T::Row, T::Recipe)],
    /// The recipe of the row, with what was set on the command line.
    pub recipe: &'a T::Recipe,
    /// The arms.
    pub arms: &'a [Arm],
    /// The changes of `--set`.
    pub set: &'a [String],
    /// Where runs go.
    pub out: &'a Path,
    /// A checkpoint that every cell starts from.
    pub init: Option<&'a Path>,
    /// Whether the first stage alone is run, as in a search or a sweep, which read no test data.
    pub first_stage_only: bool,
    /// Whether nothing is trained: data that are known by their sizes are enough.
    pub plan_only: bool,
}

impl<T: Table> Request<'_, T> {
    /// Where files go that are made of the data.
    pub fn data_folder(&self) -> PathBuf {
        self.out.join("data")
    }

    /// The documents of a file, a folder or `hub:ID`, `separator` the line between two of them.
    ///
    /// # Errors
    /// When there are none, the hub cannot give them, or what is written here would be read as text.
    pub fn text(&self, path: &Path, separator: &str) -> Result<TextSource> {
        let inside = path.is_dir() && absolute(self.out)?.starts_with(absolute(path)?);
        ensure!(
            !inside,
            "--out {}: in the folder {} of the texts, where what is written would be read as one; choose another",
            self.out.display(),
            path.display()
        );
        hub::text(path, separator)
    }

    /// What an arm does under the recipe at a setting, over a run of `steps` micro-batches.
    ///
    /// # Errors
    /// When a strength is negative or not finite, or a factor not above 0.
    pub fn conditioning(
        &self,
        arm: Arm,
        setting: &Setting,
        steps: usize,
    ) -> Result<ConditioningConfig> {
        let shared = self.recipe.shared().at(setting);
        let placement = match arm.method {
            Method::Table => T::placement(arm.method),
            _ => shared.placement.unwrap_or(T::placement(arm.method)),
        };
        arm.method.conditioning(&shared, placement, steps)
    }

    /// Refuses norm-matched tokens in front of the layer norm of an embedding.
    ///
    /// # Errors
    /// When an arm would be the baseline there.
    pub fn check_norm_matched(&self) -> Result<()> {
        for &arm in self.arms {
            let placement = self.conditioning(arm, &Setting::published(0.0), 1)?.placement;
            let scales = matches!(
                arm.method,
                Method::PooledNormMatched | Method::PerSequenceNormMatched | Method::Factor
            );
            ensure!(
                !scales || placement != Placement::AfterPosition,
                "--arms {arm}: the layer norm that follows takes any factor out again, so that this is the \
                 baseline; take --set placement=after-norm or before-position"
            );
        }
        Ok(())
    }

    /// Refuses sizes of generated data that were set although the data are those of files.
    ///
    /// # Errors
    /// Names the first of `keys` that was set.
    pub fn refuse_sizes(&self, keys: &[&str]) -> Result<()> {
        match self.first_set(keys) {
            None => Ok(()),
            Some(pair) => bail!(
                "--set {pair}: is for generated data, and these have their own sizes; leave it out"
            ),
        }
    }

    /// Says that sizes of generated data that were set are for other rows than this one.
    pub fn warn_of_sizes(&self, keys: &[&str]) {
        if let Some(pair) = self.first_set(keys) {
            tracing::warn!(
                "row {}: --set {pair} is for generated data, and these have their own sizes",
                crate::plan::name(self.row)
            );
        }
    }

    /// The first change of `--set` to one of `keys`.
    fn first_set(&self, keys: &[&str]) -> Option<&str> {
        let is_of = |pair: &&String| pair.split('=').next().is_some_and(|key| keys.contains(&key));
        self.set.iter().find(is_of).map(String::as_str)
    }

    /// Checks that data are given where the preset needs them, and only there: `embedded` are the presets that
    /// bring their own, `needed` is what the others take.
    ///
    /// # Errors
    /// When they are missing, or not wanted.
    pub fn check_data(&self, given: bool, embedded: &[&str], needed: &str) -> Result<()> {
        match (embedded.contains(&self.preset), given) {
            (true, true) => bail!(
                "preset {} trains on data of its own; leave out the files, or take another preset",
                self.preset
            ),
            (false, false) => bail!("preset {} needs {needed}", self.preset),
            _ => Ok(()),
        }
    }
}

/// A stage of a cell, and the setting that it trains with.
pub struct Stage<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// Its setting; an `embedding_std` that is null is found by the arm, or given by a checkpoint.
    pub setting: Setting,
    /// The number of the stage, from 0.
    pub number: usize,
    /// What the first stage has left; nothing for the first, and before it is trained.
    pub earlier: Option<Checkpoint>,
}

/// A command of a table's own.
pub trait Command {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever it fails with.
    fn run(self) -> Result<()>;
}

/// For tables without commands of their own.
#[derive(Subcommand)]
pub enum NoCommands {}

impl Command for NoCommands {
    fn run(self) -> Result<()> {
        match self {}
    }
}

/// For tables without options of their own.
#[derive(Args, Clone)]
pub struct NoOptions {}
