//! `--init`: the folder of a checkpoint that cells start from, known by the hash of its weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::hugging_face::{bert, gpt2, timm, vit, weight_files};
use conditioned_models::network::Network;
use conditioned_nn::Store;
use serde::{Deserialize, Serialize};

/// A folder with weights. Two are equal when their weights are, wherever they lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Where it is.
    pub folder: PathBuf,
    /// Its id on the hub, if it came from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// BLAKE3 of its weights: a run does not go on from others.
    hash: String,
}

impl PartialEq for Checkpoint {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Checkpoint {
    /// The checkpoint in a folder, whose weights are those of `network`. Heads of other tasks are named in
    /// the log.
    ///
    /// # Errors
    /// When a file cannot be read, or the weights do not fit.
    pub fn read(folder: &Path, network: &Network) -> Result<Self> {
        let store = Store::new(0, DType::F32, &Device::Cpu);
        let others = match network {
            Network::Gpt2(config) => gpt2::read_weights(folder, config, &store)?,
            Network::Vit(config) => vit::read_encoder(folder, config, &store)?.unused,
            Network::Encoder(config @ EncoderConfig::Bert(_)) => {
                // The classifier is that of another task, however many classes it has.
                config.classifier(2, store.builder())?;
                bert::read_encoder(folder, &store)?.unused
            }
            Network::Xcit(config) => timm::read_backbone(folder, config, &store)?,
            _ => {
                bail!("{}: this network has no checkpoints of Hugging Face here", folder.display())
            }
        };
        if !others.is_empty() {
            let (folder, names) = (folder.display(), others.join(", "));
            tracing::info!("{folder}: heads of other tasks are passed over: {names}");
        }
        Ok(Self { folder: folder.to_path_buf(), hub: None, hash: hash(folder)? })
    }

    /// The weights of a finished stage in a folder.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of_stage(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_path_buf(), hub: None, hash: hash(folder)? })
    }

    /// The checkpoint, known by its id on the hub.
    pub fn of_hub(self, id: Option<&str>) -> Self {
        Self { hub: id.map(str::to_string), ..self }
    }

    /// The id on the hub, or the name of the folder.
    pub fn name(&self) -> String {
        let folder = || self.folder.file_name().unwrap_or_default().display().to_string();
        self.hub.clone().unwrap_or_else(folder)
    }

    /// Checks that the weights are those that the run was planned with.
    ///
    /// # Errors
    /// When they are others, or cannot be read.
    pub fn check(&self) -> Result<()> {
        ensure!(
            hash(&self.folder)? == self.hash,
            "{}: the weights are not those that this run was planned with; choose another --out",
            self.folder.display()
        );
        Ok(())
    }
}

/// BLAKE3 of the files that the weights are read from, in the order of their names.
fn hash(folder: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for file in weight_files(folder)? {
        let mut open = std::fs::File::open(&file).with_context(|| file.display().to_string())?;
        std::io::copy(&mut open, &mut hasher).with_context(|| file.display().to_string())?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
