//! Random streams, one for each purpose and position, so that no draw depends on another's order.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Membership of a split.
    Split,
    /// Order of an epoch.
    Order,
    /// Augmentation of one image, by its index in the set.
    Image,
    /// Mixing of one batch, by its position in the epoch.
    Batch,
    /// Order and offset of the windows of an epoch.
    Windows,
    /// Places of prefixes, by their length.
    Prefixes,
    /// One story, by its index.
    Story,
    /// Masks of one window of an epoch, by its place in it.
    Mask,
    /// Masks of one window of an evaluation, by its place in it.
    EvaluationMask,
    /// The order of the premises.
    Premise,
    /// How a pair of sentences is told, by its index.
    Telling,
    /// Which of two neighbours is the true one, by the index of the two.
    Truth,
    /// One image of paths, by its index.
    Pathfinder,
    /// One tree of ListOps, by its index.
    ListOps,
    /// Which texts a pair of halves is of, by the part of the data.
    Halves,
    /// One image of shapes, by its index.
    Shapes,
}

/// The stream of (`seed`, `epoch`, `position`): the four numbers are the generator's 256-bit key, so
/// different ones never share a stream.
pub(crate) fn stream(seed: u64, epoch: usize, position: usize, purpose: Purpose) -> ChaCha8Rng {
    let mut key = [0; 32];
    let numbers = [seed, epoch as u64, position as u64, purpose as u64];
    for (bytes, number) in key.chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
