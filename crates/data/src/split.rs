//! Training, tuning and test images.
//!
//! Rates and strengths are chosen on `tune`; `test` is read once, at the end.

use rand::seq::SliceRandom;

use crate::stream::{Purpose, stream};
use crate::{Error, ImageSet, Result};

/// Three disjoint sets.
#[derive(Debug, Clone)]
pub struct Splits {
    /// Images to train on, and to take the [`Normalisation`](crate::Normalisation) of.
    pub train: ImageSet,
    /// Images to choose settings on.
    pub tune: ImageSet,
    /// Images for the reported number.
    pub test: ImageSet,
}

/// Draws `sizes = [train, tune, test]` images by `seed`, without stratification.
///
/// The test images are drawn first, then the tuning ones, so a smaller training size leaves both as
/// they are. Images beyond the three sizes stay unused.
///
/// # Errors
/// When the sizes sum to more than the images at hand.
///
/// ```
/// use conditioned_data::{DIGITS_SIZES, digits, split};
///
/// let splits = split(&digits()?.into(), 0, DIGITS_SIZES)?;
/// assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (1100, 200, 497));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
pub fn split(images: &ImageSet, seed: u64, sizes: [usize; 3]) -> Result<Splits> {
    let [train, tune, test] = sizes;
    let order = draw(images, seed, &[test, tune, train])?;
    let (test, order) = order.split_at(test);
    let (tune, train) = order.split_at(tune);
    Ok(Splits {
        train: images.subset(train)?,
        tune: images.subset(tune)?,
        test: images.subset(test)?,
    })
}

/// Splits files that bring their own test set: `tune` and `limit` training images by `seed`.
///
/// The tuning images are drawn first, so they do not depend on `limit`, and a smaller training set
/// is a part of a larger one; `None` takes all that are left.
///
/// # Errors
/// When `tune` and `limit` sum to more than the training images at hand.
pub fn hold_out(
    train: &ImageSet,
    test: ImageSet,
    seed: u64,
    limit: Option<usize>,
    tune: usize,
) -> Result<Splits> {
    let limit = limit.unwrap_or(train.len().saturating_sub(tune));
    let order = draw(train, seed, &[tune, limit])?;
    let (chosen, rest) = order.split_at(tune);
    Ok(Splits { train: train.subset(rest)?, tune: train.subset(chosen)?, test })
}

/// As many shuffled indices as `sizes` sum to.
fn draw(images: &ImageSet, seed: u64, sizes: &[usize]) -> Result<Vec<usize>> {
    let n = images.len();
    let wanted = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    let Some(wanted) = wanted.filter(|&wanted| wanted <= n) else {
        let problem = format!("cannot draw {sizes:?} disjoint images from {n}");
        return Err(Error::Images { name: images.name().into(), problem });
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, 0, 0, Purpose::Split));
    order.truncate(wanted);
    Ok(order)
}
