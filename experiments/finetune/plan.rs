//! What will be run: the validated form of the options.

use anyhow::{Result, bail, ensure};
use conditioned_data::Tokenizer;
use conditioned_models::conditioning::{Method, Placement};
use conditioned_models::hugging_face::bert;
use experiments::checkpoint::Checkpoint;
use experiments::names::parse;
use experiments::options::Place;
use experiments::{hub, overrides};

use crate::arm::Arm;
use crate::cell::{Cell, Init, RunConfig};
use crate::data::DataConfig;
use crate::options::Options;
use crate::recipe::Recipe;

/// Seeds per arm unless another number is asked for.
const SEEDS: u64 = 3;

/// Seeds of each change of a sweep.
const SWEEP_SEEDS: u64 = 1;

/// The first seed of the table; sweeps begin at 0.
const FIRST_SEED: u64 = 100;

/// Arms, seeds, checkpoint and texts, all known to exist.
pub(crate) struct Plan {
    recipe: Recipe,
    arms: Vec<Arm>,
    seeds: Option<u64>,
    init: Init,
    data: DataConfig,
    device: String,
    /// Where and how cells are run.
    pub(crate) place: Place,
}

impl Plan {
    /// Checks the options before anything is written; `out` is where runs go by default.
    ///
    /// # Errors
    /// When something is missing, unknown or not as it should be.
    pub(crate) fn new(options: &Options, out: &str) -> Result<Self> {
        let Some(folder) = &options.init else {
            bail!(
                "--init is missing: give a BERT folder of Hugging Face with its tokenizer, or hub:ID"
            );
        };
        let place = options.common.place(out)?;
        let hub_id = hub::id(folder);
        let folder = std::path::absolute(hub::model(folder)?)?;
        let network = bert::read_config(&folder)?;
        ensure!(
            network.conditioning.method == Method::None,
            "--init {}: a conditioned checkpoint; the baseline would be another model. `export` a plain \
             one, or take the one that it was trained from",
            folder.display()
        );
        let recipe: Recipe = overrides::apply(Recipe::default(), &options.common.set)?;
        recipe.validate()?;
        let data = DataConfig::new(options, &recipe)?;
        ensure!(
            recipe.longest <= network.context,
            "--set longest={}: longer than the position table of {}, {}",
            recipe.longest,
            folder.display(),
            network.context
        );
        ensure!(
            recipe.frozen_layers <= network.depth,
            "--set frozen_layers={}: the network has {}",
            recipe.frozen_layers,
            network.depth
        );
        let arms = parse(options.common.arms.as_deref(), &[Arm::Baseline, Arm::Pooled])?;
        ensure!(
            !(arms.contains(&Arm::NormMatched) && recipe.placement == Placement::AfterPosition),
            "--arms norm-matched: the layer norm that follows takes any factor out again, so that this is \
             the baseline; take --set placement=after-norm or before-position"
        );
        Ok(Self {
            arms,
            seeds: options.common.seeds,
            data,
            init: Init {
                checkpoint: Checkpoint::read(&folder)?.of_hub(hub_id),
                tokenizer: Tokenizer::read(&folder)?.hash(),
                network,
            },
            recipe,
            device: options.common.device.clone(),
            place,
        })
    }

    /// The cells of the table.
    ///
    /// # Errors
    /// When an arm does not fit the network.
    pub(crate) fn table(&self) -> Result<Vec<RunConfig>> {
        self.cells(
            &self.arms,
            &self.recipe,
            None,
            FIRST_SEED..FIRST_SEED + self.seeds.unwrap_or(SEEDS),
        )
    }

    /// Cells of `arms` that read no dev set, with one `key=value` of the recipe changed.
    ///
    /// # Errors
    /// When the change cannot be.
    pub(crate) fn changed(&self, change: &str, arms: &[Arm]) -> Result<Vec<RunConfig>> {
        let recipe = overrides::apply(self.recipe.clone(), &[change.to_string()])?;
        let arms: Vec<Arm> = arms.iter().filter(|arm| self.arms.contains(arm)).copied().collect();
        self.cells(&arms, &recipe, Some(change), 0..self.seeds.unwrap_or(SWEEP_SEEDS))
    }

    /// Seeds outermost: whoever stops early has every arm with fewer seeds.
    fn cells(
        &self,
        arms: &[Arm],
        recipe: &Recipe,
        change: Option<&str>,
        seeds: std::ops::Range<u64>,
    ) -> Result<Vec<RunConfig>> {
        let mut cells = Vec::new();
        for seed in seeds {
            for &arm in arms {
                let cell = Cell { arm, change: change.map(str::to_string), seed };
                cells.push(RunConfig::new(cell, recipe, &self.init, &self.data, &self.device)?);
            }
        }
        Ok(self.place.shard.take(cells))
    }
}
