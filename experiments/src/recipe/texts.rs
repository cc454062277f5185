//! Fine-tuning of a checkpoint on labelled texts.

use anyhow::{Result, ensure};
use conditioned_data::LabelledData;
use conditioned_models::bert::BertConfig;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::network::Network;
use conditioned_train::{FitConfig, Length};
use serde::{Deserialize, Serialize};

use super::{Layers, Recipe, Shared, Training, at_least_one};
use crate::checkpoint::Checkpoint;
use crate::job::{Init, Job, TaskConfig};
use crate::table::{Request, Stage, Table};
use crate::task::texts::{TextsConfig, TokenizerFile};

/// Every number of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextRecipe {
    /// Passes over the training texts.
    pub epochs: usize,
    /// Texts of a micro-batch.
    pub batch_size: usize,
    /// Tokens of the longest text, special ones included; longer ones are cut.
    pub max_length: usize,
    /// Dropout of hidden states; null is the checkpoint's.
    pub dropout: Option<f64>,
    /// Learning rate of a layer over that of the layer above; 1 for one rate.
    pub layer_decay: f64,
    /// Layers from the bottom, embedding included, that do not learn; 0 for none.
    pub frozen_layers: usize,
    /// The first so many training texts, in an order of their own; null is all.
    pub train_rows: Option<usize>,
    /// Share of the training texts that a search judges by and a table trains on.
    pub tune: f64,
    /// How the network is optimised.
    #[serde(flatten)]
    pub training: Training,
    /// What arms and search read.
    #[serde(flatten)]
    pub shared: Shared,
}

impl Recipe for TextRecipe {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn validate(&self) -> Result<()> {
        let rows = ("train_rows", self.train_rows.unwrap_or(1));
        at_least_one([("epochs", self.epochs), ("batch_size", self.batch_size), rows])?;
        self.layers().validate()?;
        ensure!((0.0..1.0).contains(&self.tune), "--set tune={}: must be in [0, 1)", self.tune);
        Ok(())
    }
}

/// What every cell starts from, and the texts.
pub struct TextData {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its tokenizer.
    pub tokenizer: TokenizerFile,
    /// Its network, without conditioning.
    pub network: BertConfig,
    /// The texts.
    pub texts: LabelledData,
}

impl TextRecipe {
    fn layers(&self) -> Layers {
        Layers { decay: self.layer_decay, frozen: self.frozen_layers }
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When recipe, network and texts do not fit together.
    pub fn job<T: Table>(
        &self,
        request: &Request<'_, T>,
        data: &TextData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let TextData { network, texts, .. } = data;
        let Self { epochs, batch_size, max_length, frozen_layers, .. } = *self;
        for (key, value, most, of) in [
            ("max_length", max_length, network.context, "the position table"),
            ("frozen_layers", frozen_layers, network.depth, "the network"),
        ] {
            let folder = data.checkpoint.folder.display();
            ensure!(value <= most, "--set {key}={value}: more than {of} of {folder} has, {most}");
        }
        let search = stage.cell.is_search();
        let steps = epochs * texts.train_rows(search).div_ceil(batch_size);
        let names = |layer| match layer {
            0 => vec!["bert.embeddings.*".to_string()],
            layer => vec![format!("bert.encoder.layer.{}.*", layer - 1)],
        };
        let mut fit = self.training.fit(stage, Length::Epochs(epochs), epochs);
        fit.groups.rates = self.layers().rates(network.depth, names);
        Ok(Job {
            network: Network::Encoder(EncoderConfig::Bert(BertConfig {
                dropout: self.dropout.unwrap_or(network.dropout),
                conditioning: request.conditioning(stage.cell.arm, &stage.setting, steps)?,
                ..network.clone()
            })),
            init: Some(Init::HuggingFace(data.checkpoint.clone())),
            task: TaskConfig::Texts(TextsConfig {
                data: texts.clone(),
                tokenizer: data.tokenizer.clone(),
                batch_size,
                max_length,
                search,
            }),
            fit: FitConfig { checkpoint_every: 1, ..fit },
        })
    }
}
