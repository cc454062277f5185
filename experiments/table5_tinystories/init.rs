//! `--init`: whether a checkpoint can be trained by a recipe on a text.

use std::path::Path;

use anyhow::{Result, ensure};
use conditioned_models::gpt2::Gpt2Config;
use conditioned_models::hugging_face::gpt2;
use experiments::checkpoint::Checkpoint;

use crate::arm::Arm;
use crate::data::DataConfig;
use crate::recipe::Recipe;

/// The checkpoint in a folder, and its network.
///
/// # Errors
/// When a file cannot be read or the model is not a GPT-2.
pub(crate) fn read(folder: &Path) -> Result<(Checkpoint, Gpt2Config)> {
    let network = gpt2::read_config(folder)?;
    Ok((Checkpoint::read(folder)?, network))
}

/// Checks that a network of the checkpoint can be trained by a recipe on a text.
///
/// # Errors
/// When windows or token ids reach beyond its tables, or an arm needs tables of its own.
pub(crate) fn fits(
    checkpoint: &Checkpoint,
    network: &Gpt2Config,
    arm: Arm,
    recipe: &Recipe,
    data: &DataConfig,
) -> Result<()> {
    let folder = checkpoint.folder.display();
    ensure!(
        recipe.context <= network.context,
        "--set context={}: longer than the position table of {folder}, {}",
        recipe.context,
        network.context
    );
    ensure!(
        data.text.vocabulary <= network.vocabulary,
        "{folder}: the tokenizer knows {} tokens, the model {}: it belongs to another model; give \
         the model's own by --set tokenizer=",
        data.text.vocabulary,
        network.vocabulary
    );
    ensure!(
        arm != Arm::Init,
        "arm init draws a position table of its own, and --init {folder} has one; leave it out"
    );
    Ok(())
}
