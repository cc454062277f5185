//! What a cell trains on: a file a task, each with its configuration, its batches and its evaluation.

pub mod detection;
pub mod images;
pub mod language;
pub mod masked;
pub mod sequences;
pub mod texts;
