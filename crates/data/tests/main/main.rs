//! Tests of the public interface, one module for each topic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod augment;
mod coco;
mod corpus;
mod corruption;
#[path = "../support/corruption.rs"]
mod damage;
mod detection;
mod digits;
mod entailments;
mod glue;
#[cfg(feature = "parquet")]
mod glue_parquet;
#[cfg(feature = "hub")]
mod hub;
mod idx;
mod image_data;
mod image_folder;
#[cfg(feature = "parquet")]
mod image_parquet;
mod images;
mod labelled_data;
mod listops;
mod loader;
mod lra;
mod masking;
mod metrics_parity;
mod mix;
mod ngram;
#[cfg(feature = "parquet")]
mod parquet;
mod pathfinder;
mod preprocessing;
mod sequence_data;
mod sequence_loader;
mod split;
mod stories;
mod text_config;
mod text_loader;
mod texts;
mod tokenizer;
mod tokenizer_parity;
mod tokenizer_settings_parity;
mod tokens;
mod windows;
mod wordpiece;
mod wordpiece_parity;

use std::sync::Arc;

use candle_core::Device;
use conditioned_data::{Batch, Images, Loader, LoaderConfig, Normalisation};

#[global_allocator]
static ALLOCATOR: damage::Counting = damage::Counting;

/// Mean 0 and deviation 1: the loader then gives `p / white`.
fn plain(channels: usize) -> Normalisation {
    Normalisation { mean: vec![0.0; channels], std: vec![1.0; channels] }
}

/// `n` images of [C, H, W] without repeated bytes next to each other, image i with label i.
fn numbered(n: usize, shape: [usize; 3]) -> Images {
    let size: usize = shape.iter().product();
    let pixels = (0..n * size).map(|i| (1 + (i * 7 + i / size) % 255) as u8).collect();
    let labels = (0..n as u32).collect();
    Images::new("numbered", shape, n.max(1), 255, pixels, labels).unwrap()
}

fn loader(images: &Images, config: LoaderConfig) -> Loader {
    let normalisation = plain(images.shape()[0]);
    Loader::new(Arc::new(images.clone()), config, &normalisation, &Device::Cpu).unwrap()
}

/// Pixels and targets of a batch, flat.
fn values(batch: &Batch) -> (Vec<f32>, Vec<f32>) {
    let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (flat(&batch.images), flat(&batch.targets))
}
