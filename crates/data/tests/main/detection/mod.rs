//! Images with objects: generated ones, and batches of any.

mod loader;
mod shapes;
