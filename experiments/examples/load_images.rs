//! Images per second of the loader on a folder of image files, prepared for 224 pixels; compared with
//! torchvision by `scripts/compare_loader.py`.
//!
//! ```sh
//! cargo run --release --example load-images -- --data FOLDER --workers 1 --training
//! ```

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use clap::Parser;
use conditioned_data::{
    Augment, ImageData, ImageSizes, ImageSource, Loader, LoaderConfig, Preprocessing, Tuning,
};
use experiments::cli::print;

#[derive(Parser)]
struct Options {
    /// Image files, a folder for each class.
    #[arg(long)]
    data: PathBuf,
    /// Threads that decode.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Passes over the images; the first is not timed.
    #[arg(long, default_value_t = 4)]
    epochs: usize,
    /// Random resized crops and flips, as in training; otherwise the centre of the resized image.
    #[arg(long)]
    training: bool,
}

fn main() -> Result<()> {
    let Options { data, workers, epochs, training } = Options::parse();
    let source = ImageSource::Folder {
        path: data,
        preprocessing: Preprocessing::imagenet(224),
        skip_broken: false,
    };
    let (_, splits) = ImageData::read(source, ImageSizes { train: None, tune: Tuning::Images(0) })?;
    let augment = Augment { crop_scale: Some([0.08, 1.0]), flip: true, ..Augment::default() };
    let config = match training {
        true => LoaderConfig { augment, workers, ..LoaderConfig::training(32, 0) },
        false => LoaderConfig { workers, ..LoaderConfig::evaluation(32) },
    };
    let normalisation = splits.train.normalisation()?;
    let loader = Loader::new(splits.train, config, &normalisation, &Device::Cpu)?;
    let (mut start, mut images) = (Instant::now(), 0);
    for epoch in 0..epochs {
        if epoch == 1 {
            (start, images) = (Instant::now(), 0);
        }
        for batch in loader.epoch(epoch) {
            images += batch?.labels.len();
        }
    }
    print(&format!("{:.1}", images as f64 / start.elapsed().as_secs_f64()))
}
