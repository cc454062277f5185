//! Images in files: decoding, resizing, folders of classes, parquet files.

pub(crate) mod decode;
pub(crate) mod files;
#[cfg(test)]
mod fixture;
pub(crate) mod folder;
#[cfg(feature = "parquet")]
mod parquet;
pub(crate) mod preprocessing;
pub(crate) mod resize;
pub(crate) mod shards;
