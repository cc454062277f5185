//! How cells are run: in worker processes, side by side, each in a folder of its own.

pub mod folder;
pub mod log;
pub mod queue;
pub mod timing;
pub mod worker;
