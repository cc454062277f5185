//! `classify`: the classes of images by a checkpoint or an exported model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device};
use clap::Args;
use conditioned_data::Preprocessing;
use conditioned_models::Model;
use conditioned_models::hugging_face::vit;
use conditioned_models::vit::Vit;
use conditioned_nn::{Mode, Store};
use experiments::cli::print;
use experiments::hub;

#[derive(Args)]
pub(crate) struct Classify {
    /// A folder of Hugging Face or timm with a ViT, as `export` writes it, or hub:ID.
    #[arg(long)]
    model: PathBuf,
    /// Classes to print of each image.
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// JPEG, PNG or WebP files.
    #[arg(required = true)]
    images: Vec<PathBuf>,
}

impl Classify {
    pub(crate) fn run(&self) -> Result<()> {
        let folder = hub::model(&self.model)?;
        let config = vit::read_config(&folder)?;
        let preprocessing = Preprocessing::read(&folder)?.with_side(config.image_size);
        let store = Store::new(0, DType::F32, &Device::Cpu);
        let fresh = vit::read_weights(&folder, &config, &store)?.fresh;
        ensure!(
            fresh.is_empty(),
            "{}: no classifier in it ({} would be drawn at random); fine-tune it first",
            folder.display(),
            fresh.join(", ")
        );
        let model = Vit::new(&config, store.frozen()?)?;
        let names = vit::read_classes(&folder)?;
        let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
        for file in &self.images {
            let classes = self.classify(file, &model, &preprocessing)?;
            let classes =
                classes.into_iter().map(|(class, p)| format!("{} {:.1} %", name(class), 100.0 * p));
            print(&format!("{}: {}", file.display(), classes.collect::<Vec<_>>().join(", ")))?;
        }
        Ok(())
    }

    /// The likeliest classes and their probabilities, the first the likeliest.
    fn classify(
        &self,
        file: &Path,
        model: &Vit,
        preprocessing: &Preprocessing,
    ) -> Result<Vec<(usize, f32)>> {
        let image = preprocessing.read_image(file, &Device::Cpu)?.unsqueeze(0)?;
        let logits =
            model.forward(&image, Mode::Eval.into()).with_context(|| file.display().to_string())?;
        let p: Vec<f32> = candle_nn::ops::softmax(&logits, D::Minus1)?.squeeze(0)?.to_vec1()?;
        let mut classes: Vec<(usize, f32)> = p.into_iter().enumerate().collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        classes.truncate(self.top);
        Ok(classes)
    }
}
