//! Fine-tuning of a ViT on labelled images.

use std::path::absolute;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{Augment, ImageData, ImageSizes, ImageSource, Preprocessing, Tuning};
use conditioned_models::Architecture;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::hugging_face::vit;
use conditioned_models::network::Network;
use experiments::checkpoint::Checkpoint;
use experiments::column::{self, Column};
use experiments::hub;
use experiments::recipe::image_tuning::{ImageTuning, TunedImages};
use experiments::recipe::{Shared, Training};
use experiments::results::Finished;
use experiments::table::Request;

use crate::{Finetune, Options};

/// Five epochs with crops and flips; the layers near the input learn slower.
pub(crate) fn recipe() -> ImageTuning {
    ImageTuning {
        epochs: 5,
        batch_size: 32,
        image_size: None,
        train_images: None,
        tune: 0.15,
        drop_path: 0.0,
        layer_decay: 0.75,
        frozen_layers: 0,
        augment: Augment { crop_scale: Some([0.35, 1.0]), flip: true, ..Augment::default() },
        training: Training { clip: Some(1.0), ..Training::default() },
        shared: Shared {
            learning_rate: Some(3e-4),
            strength: Some(0.1),
            ramp: Some(0.1),
            ..Shared::default()
        },
    }
}

/// Checkpoint and images, prepared as the checkpoint wants them.
pub(crate) fn data(request: &Request<'_, Finetune>, recipe: &ImageTuning) -> Result<TunedImages> {
    let init = request.init.context("--init is missing")?;
    let folder = absolute(hub::model(init)?)?;
    let mut network = vit::read_config(&folder)?;
    ensure!(
        network.conditioning == ConditioningConfig::default(),
        "--init {}: a conditioned checkpoint; the baseline would be another model. `export` a plain one, or take \
         the one that it was trained from",
        folder.display()
    );
    let side = recipe.image_size.unwrap_or(network.image_size);
    network.image_size = side;
    let Options { data, skip_broken, .. } = request.options;
    let Some(path) = data else {
        bail!("--data is missing: give a folder of images for each class, or hub:ID");
    };
    let source = ImageSource::Folder {
        path: hub::images(path)?,
        preprocessing: Preprocessing::read(&folder)?.with_side(side),
        skip_broken: *skip_broken,
    };
    let sizes = ImageSizes { train: recipe.train_images, tune: Tuning::Share(recipe.tune) };
    let (images, splits) = ImageData::read(source, sizes)?;
    let (shape, wanted) = (splits.train.shape(), [network.channels, side, side]);
    ensure!(
        shape == wanted,
        "{}: images are {shape:?} (channels, height, width), and {} takes {wanted:?}: only image files are \
         resized; --set image_size=N takes others of this size",
        images.name,
        folder.display()
    );
    network.classes = splits.train.classes();
    Network::Vit(network.clone()).validate()?;
    let checkpoint = Checkpoint::read(&folder, &Network::Vit(network.clone()))?;
    Ok(TunedImages { checkpoint: checkpoint.of_hub(hub::id(init)), network, images })
}

/// Accuracy, and what conditioning did.
pub(crate) fn columns() -> Vec<Column> {
    vec![
        column::start(),
        column::arm(false),
        column::strength(),
        column::setting(),
        column::spread("top-1, %", "test_accuracy", 1).answer(),
        column::difference("Δ to baseline", "test_accuracy", 1),
        column::kappa("κ(X) → κ(Y)", "sequence"),
        column::ms_per_step(),
    ]
}

/// What a reader must know.
pub(crate) fn notes(results: &[Finished]) -> Vec<String> {
    let broken = results.first().and_then(|run| run.metric("broken")).unwrap_or_default();
    vec![format!(
        "top-1: accuracy on the test images after the last step; files left out because they are no images: \
         {broken}. κ: median over images of the tuning slice of the condition number of the tokens that enter block \
         1, without and with the arm. ms: one thread, alone."
    )]
}
