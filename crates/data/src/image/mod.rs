//! Images in files: decoding, resizing, folders of classes.

pub(crate) mod decode;
pub(crate) mod files;
#[cfg(test)]
mod fixture;
pub(crate) mod folder;
pub(crate) mod preprocessing;
pub(crate) mod resize;
