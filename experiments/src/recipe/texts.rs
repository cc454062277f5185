//! Fine-tuning of a checkpoint on labelled texts.

use anyhow::{Result, ensure};
use conditioned_data::LabelledData;
use conditioned_models::bert::BertConfig;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::network::Network;
use conditioned_train::{FitConfig, Length};
use serde::{Deserialize, Serialize};

use super::{Recipe, Shared, Training, at_least_one};
use crate::checkpoint::Checkpoint;
use crate::job::{Init, Job, TaskConfig};
use crate::table::{Request, Stage, Table};
use crate::task::texts::{TextsConfig, TokenizerFile};

/// Every number of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextRecipe {
    /// Passes over the training texts.
    pub epochs: usize,
    /// Texts per step.
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
        ensure!(
            self.layer_decay > 0.0 && self.layer_decay <= 1.0,
            "--set layer_decay={}: must be above 0 and at most 1",
            self.layer_decay
        );
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
    /// Learning rates of embedding and layers over that of the head.
    fn rates(&self, depth: usize) -> Vec<(String, f64)> {
        let name = |layer| match layer {
            0 => "bert.embeddings.*".to_string(),
            layer => format!("bert.encoder.layer.{}.*", layer - 1),
        };
        let rate =
            |layer: usize| match layer < self.frozen_layers + usize::from(self.frozen_layers > 0) {
                true => 0.0,
                false => self.layer_decay.powi((depth + 1 - layer) as i32),
            };
        let rates = (0..=depth).map(|layer| (name(layer), rate(layer)));
        rates.filter(|(_, rate)| *rate != 1.0).collect()
    }

    /// What a cell trains.
    ///
    /// # Errors
    /// When recipe, network and texts do not fit together.
    pub fn job<T: Table<Recipe = Self>>(
        request: &Request<'_, T>,
        data: &TextData,
        stage: &Stage<'_>,
    ) -> Result<Job> {
        let (recipe, TextData { network, texts, .. }) = (request.recipe, data);
        let Self { epochs, batch_size, max_length, frozen_layers, .. } = *recipe;
        for (key, value, most, of) in [
            ("max_length", max_length, network.context, "the position table"),
            ("frozen_layers", frozen_layers, network.depth, "the network"),
        ] {
            let folder = data.checkpoint.folder.display();
            ensure!(value <= most, "--set {key}={value}: more than {of} of {folder} has, {most}");
        }
        let search = stage.cell.is_search();
        let steps = epochs * texts.train_rows(search).div_ceil(batch_size);
        let mut fit = recipe.training.fit(stage, Length::Epochs(epochs), epochs);
        fit.groups.rates = recipe.rates(network.depth);
        Ok(Job {
            network: Network::Encoder(EncoderConfig::Bert(BertConfig {
                dropout: recipe.dropout.unwrap_or(network.dropout),
                conditioning: request.conditioning(stage.cell.arm, steps)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_near_the_input_learn_slower_or_not_at_all() {
        let recipe = |layer_decay, frozen_layers| TextRecipe {
            epochs: 1,
            batch_size: 1,
            max_length: 8,
            dropout: None,
            layer_decay,
            frozen_layers,
            train_rows: None,
            tune: 0.0,
            training: Training::default(),
            shared: Shared::default(),
        };
        assert!(recipe(1.0, 0).rates(2).is_empty());
        let wanted = [
            ("bert.embeddings.*", 0.0),
            ("bert.encoder.layer.0.*", 0.0),
            ("bert.encoder.layer.1.*", 0.5),
        ];
        let wanted = wanted.map(|(name, rate)| (name.to_string(), rate));
        assert_eq!(recipe(0.5, 1).rates(2), wanted);
    }
}
