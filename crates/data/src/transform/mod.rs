//! Training transforms of single images, as timm 1.0.31 has them on Pillow.
//!
//! Every transform draws its numbers first and then acts without chance, so that the action is compared with
//! Pillow's bytes and the draws with timm's law.

pub(crate) mod affine;
pub(crate) mod colour;
pub(crate) mod colour_jitter;
pub(crate) mod erase;
#[cfg(test)]
mod fixture;
mod op;
pub(crate) mod rand_augment;
pub(crate) mod random_resized_crop;
pub(crate) mod rect;
#[cfg(test)]
mod sheet;
