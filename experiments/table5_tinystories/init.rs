//! `--init`: a checkpoint that every cell starts from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use conditioned_models::gpt2::Gpt2Config;
use conditioned_models::hugging_face::gpt2;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::data::DataConfig;
use crate::recipe::Recipe;

/// A GPT-2 folder of Hugging Face.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkpoint {
    /// Where it is.
    pub(crate) folder: PathBuf,
    /// BLAKE3 of its weights: a run does not go on from others.
    hash: String,
}

impl Checkpoint {
    /// The checkpoint in a folder, and its network.
    ///
    /// # Errors
    /// When a file cannot be read or the model is not a GPT-2.
    pub(crate) fn read(folder: &Path) -> Result<(Self, Gpt2Config)> {
        let network = gpt2::read_config(folder)?;
        let hash = hash(folder)?;
        Ok((Self { folder: folder.to_path_buf(), hash }, network))
    }

    /// Checks that a network of the checkpoint can be trained by a recipe on a text.
    ///
    /// # Errors
    /// When windows or token ids reach beyond its tables, or an arm needs tables of its own.
    pub(crate) fn fits(
        &self,
        network: &Gpt2Config,
        arm: Arm,
        recipe: &Recipe,
        data: &DataConfig,
    ) -> Result<()> {
        let folder = self.folder.display();
        ensure!(
            recipe.context <= network.context,
            "--set context={}: longer than the position table of {folder}, {}",
            recipe.context,
            network.context
        );
        ensure!(
            data.vocabulary <= network.vocabulary,
            "{folder}: the tokenizer knows {} tokens, the model {}: it belongs to another model; give \
             the model's own by --set tokenizer=",
            data.vocabulary,
            network.vocabulary
        );
        ensure!(
            arm != Arm::Init,
            "arm init draws a position table of its own, and --init {folder} has one; leave it out"
        );
        Ok(())
    }

    /// Checks that the weights are those that the run was planned with.
    ///
    /// # Errors
    /// When they are others, or cannot be read.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            hash(&self.folder)? == self.hash,
            "{}: the weights are not those that this run was planned with; choose another --out",
            self.folder.display()
        );
        Ok(())
    }
}

/// BLAKE3 of all files of weights, in the order of their names.
fn hash(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors" || e == "bin") {
            files.push(path);
        }
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let mut open = std::fs::File::open(&file).with_context(|| file.display().to_string())?;
        std::io::copy(&mut open, &mut hasher).with_context(|| file.display().to_string())?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
