//! Data for training: labelled images, and text as tokens. Readers, splits and seeded batches.
//!
//! Images:
//!
//! | to | use |
//! | --- | --- |
//! | read images | [`digits()`] (embedded), [`IdxFolder::read`] (MNIST, Fashion-MNIST, KMNIST), [`CifarFolder::read`], [`ImageFolder::read`] (JPEG, PNG and WebP files, a folder for each class, or in parquet files), [`Images::new`] |
//! | draw them | [`Pathfinder`] (Long Range Arena) |
//! | prepare images of any size | [`Preprocessing`] |
//! | choose training, tuning and test images | [`split()`], [`hold_out`] |
//! | know mean and spread | [`ImageSet::normalisation`], of the training images |
//! | crop, shift, flip, mix, smooth | [`Augment`] |
//! | make batches | [`Loader`] |
//!
//! Images with objects, for detection (`docs/detection.md`):
//!
//! | to | use |
//! | --- | --- |
//! | read them | [`CocoSet::read`] (a JSON file of annotations as COCO's, and a folder of images) |
//! | draw them | [`Shapes`] |
//! | have others in memory | [`ExampleSet`], of [`Example`] and [`Instance`] |
//! | give them by index | [`Examples`] |
//! | flip, crop, resize | [`DetectionAugment`] |
//! | make batches | [`DetectionLoader`] |
//! | make, join and compare masks | [`Rle`]: of runs, polygons, boxes and bitmaps, as those of pycocotools; [`box_iou`] of boxes |
//! | score detections | [`score_detections`]: AP and AR as COCOeval's |
//! | exchange detections with other programs | [`write_detections`], [`read_detections`] |
//!
//! Text:
//!
//! | to | use |
//! | --- | --- |
//! | read documents | [`stories()`] (embedded), [`Corpus::open`] (text, JSONL, parquet, folders of them) |
//! | make tokens of them | [`Tokenizer`]: read, trained as a byte-level BPE or a WordPiece, or of characters |
//! | keep tokens | [`write_shards`] and [`Tokens::open`] on disk, [`Tokens::encode`] in memory |
//! | choose training, tuning and test documents | [`Parts`], [`Sequence`] |
//! | make batches | [`Windows`]; [`prefixes`] for the loss of single next tokens |
//! | hide tokens of windows | [`MaskedWindows`] |
//! | know what an n-gram reaches | [`Ngram`] |
//!
//! Labelled texts:
//!
//! | to | use |
//! | --- | --- |
//! | read them | [`Texts::read`] (CSV, TSV, JSONL), [`Task::read`] (GLUE), [`entailments`] (generated pairs) |
//! | make tokens of a text or a pair | [`Tokenizer::encode_pair`] |
//! | make batches | [`TextLoader`] |
//! | score predictions | [`Metric`], [`Task::metrics`] |
//!
//! Labelled sequences of tokens, as those of the Long Range Arena:
//!
//! | to | use |
//! | --- | --- |
//! | generate them | [`ListOps`] |
//! | read released files, or make sequences of texts and images | [`SequenceSource`] |
//! | have them in memory | [`SequenceSet`] |
//! | make batches | [`SequenceLoader`] |
//!
//! Data by name and hash, written into a configuration by one process and read again, and checked, by another:
//!
//! | of | use |
//! | --- | --- |
//! | images | [`ImageData`] |
//! | running text, with its tokenizer and shards | [`TextConfig`], from a [`TextSource`] and a [`Preparation`] |
//! | labelled texts | [`LabelledData`], from a [`LabelledSource`] |
//! | labelled sequences | [`SequenceData`], from a [`SequenceSource`] |
//! | images with objects | [`DetectionData`], from a [`DetectionSource`] |
//!
//! Two features are off by default: `parquet` for corpora, tasks and images in parquet files, and `hub`, which
//! brings it too, for the module `hub`: data sets and models of the Hugging Face hub as local files, and for
//! images that candle-datasets has read (`Images::of_candle`).
//!
//! Letters: N images, B batch, C channels, H height, W width, K classes; T tokens of a window, M of them
//! hidden, V ids; in batches of texts and
//! sequences N tokens of the longest, and S sequences.
//! Images are (N, C, H, W) everywhere. All randomness comes from seeds: the same seed gives the same
//! batches, bit for bit, for any number of threads.
//!
//! ```
//! use candle_core::Device;
//! use conditioned_data::{Augment, Loader, LoaderConfig};
//! use conditioned_data::{DIGITS_SIZES, digits, split};
//!
//! let splits = split(&digits()?.into(), 0, DIGITS_SIZES)?;
//! let normalisation = splits.train.normalisation()?;
//!
//! let augment = Augment { crop_padding: 1, label_smoothing: 0.1, ..Augment::default() };
//! let config = LoaderConfig { augment, workers: 2, ..LoaderConfig::training(65, 1) };
//! let train = Loader::new(splits.train, config, &normalisation, &Device::Cpu)?;
//! assert_eq!(train.batches(), 17);
//! for batch in train.epoch(0).take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [65, 1, 8, 8]);
//!     assert_eq!(batch.targets.dims(), [65, 10]);
//! }
//!
//! // Tuning and test images: the same normalisation, no augmentation, nothing left out.
//! let tune = Loader::new(splits.tune, LoaderConfig::evaluation(128), &normalisation, &Device::Cpu)?;
//! let sizes = tune.epoch(0).map(|b| Ok(b?.labels.len())).collect::<conditioned_data::Result<Vec<_>>>()?;
//! assert_eq!(sizes, [128, 72]);
//! # Ok::<(), conditioned_data::Error>(())
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use candle_core::Device;
//! use conditioned_data::{Part, Parts, Sequence, Tokenizer, Tokens, Windows, prefixes, stories};
//!
//! let tokenizer = Tokenizer::train(stories(0, 200), 512)?;
//! let tokens = Arc::new(Tokens::encode(stories(0, 200), &tokenizer)?);
//! let parts = Parts { seed: 0, tune: 0.1, test: 0.1 };
//! let part = |part| Sequence::new(tokens.clone(), &parts, part);
//!
//! let train = Windows::new(part(Part::Train)?, 64, 8, 1)?;
//! let batch = train.batch(0, 0, &Device::Cpu)?;
//! assert_eq!((batch.inputs.dims(), batch.targets.dims()), (&[8, 64][..], &[8, 64][..]));
//!
//! let fixed = prefixes(&part(Part::Tune)?, 100, &[1, 8, 64], 0)?;
//! assert_eq!(fixed[2].tensors(&Device::Cpu)?.0.dims(), [33, 64]);
//! # Ok::<(), conditioned_data::Error>(())
//! ```

mod atomic;
mod augment;
mod bpe;
mod cifar;
mod coco;
mod corpus;
#[cfg(test)]
#[path = "../tests/support/corruption.rs"]
mod damage;
mod digits;
mod encoding;
mod entailments;
mod error;
mod glue;
#[cfg(feature = "hub")]
pub mod hub;
mod idx;
mod image;
mod image_data;
mod image_set;
mod images;
mod labelled_data;
mod labelled_source;
mod listops;
mod loader;
mod lra;
mod masking;
mod metrics;
mod mix;
mod ngram;
mod normalisation;
mod order;
mod parts;
mod pathfinder;
mod permutation;
mod prefetch;
mod preparation;
mod recipe;
#[cfg(feature = "parquet")]
mod rows;
mod sequence_data;
mod sequence_loader;
mod sequence_set;
mod sequence_shards;
mod sequence_source;
mod shard;
mod split;
mod stories;
mod stream;
mod table;
mod text_config;
mod text_loader;
mod text_source;
mod texts;
mod tokenizer;
mod tokenizer_apply;
mod tokenizer_settings;
mod tokens;
mod transform;
mod windows;
mod wordpiece;

pub use augment::Augment;
pub use cifar::CifarFolder;
pub use coco::{Category, CocoImage, CocoScores, CocoSet, Detection, DetectionKind, Instance, Rle};
pub use coco::{
    DetectionAugment, DetectionBatch, DetectionCrop, DetectionData, DetectionEpoch,
    DetectionLoader, DetectionLoaderConfig, DetectionResize, DetectionSource, DetectionSplits,
    DetectionTarget,
};
pub use coco::{Example, ExampleSet, Examples, ShapeImages, Shapes};
pub use coco::{box_iou, read_detections, score_detections, write_detections};
pub use corpus::{Corpus, Documents, Layout};
pub use digits::{DIGITS_SIZES, digits};
pub use encoding::Encoded;
pub use entailments::{PREMISES, entailments, premises};
pub use error::{Error, Result};
pub use glue::Task;
pub use idx::IdxFolder;
pub use image::files::ImageFiles;
pub use image::folder::ImageFolder;
pub use image::preprocessing::{Preprocessing, Resize};
pub use image::resize::Interpolation;
pub use image_data::{ImageData, ImageSizes, ImageSource, Tuning};
pub use image_set::ImageSet;
pub use images::Images;
pub use labelled_data::{LabelledData, LabelledTexts};
pub use labelled_source::LabelledSource;
pub use listops::ListOps;
pub use loader::{Batch, Epoch, Loader, LoaderConfig};
pub use masking::{MaskedBatch, MaskedWindows, Masking};
pub use metrics::Metric;
pub use ngram::{Ngram, Score};
pub use normalisation::Normalisation;
pub use parts::{Part, Parts, Sequence};
pub use pathfinder::{Pathfinder, PathfinderImage};
pub use preparation::Preparation;
pub use sequence_data::{SequenceData, SequenceSplits};
pub use sequence_loader::{SequenceBatch, SequenceEpoch, SequenceLoader, SequenceLoaderConfig};
pub use sequence_set::SequenceSet;
pub use sequence_source::SequenceSource;
pub use split::{Splits, hold_out, split};
pub use stories::{stories, story};
pub use table::read_text;
pub use text_config::{TextConfig, TextSplits};
pub use text_loader::{TextBatch, TextEpoch, TextLoader, TextLoaderConfig};
pub use text_source::TextSource;
pub use texts::{Labels, Text, Texts};
pub use tokenizer::{END_OF_TEXT, Tokenizer};
pub use tokens::{SHARD_BYTES, Tokens, Written, write_shards};
pub use transform::rand_augment::RandAugment;
pub use windows::{Prefixes, WindowBatch, Windows, prefixes};

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: damage::Counting = damage::Counting;
