//! [`Normalisation`]: the mean and spread of each channel, measured on the training split.

use serde::{Deserialize, Serialize};

use crate::{Error, ImageSet, Images, Result};

/// Mean and standard deviation of each channel, on the scale from black = 0 to white = 1.
///
/// The loader gives `(p / white - mean) / std` for a byte `p`. Measure on the training split alone
/// and use the same numbers for tuning and test images.
///
/// ```
/// use conditioned_data::{Images, Normalisation};
///
/// let images = Images::new("demo", [1, 1, 2], 1, 4, vec![1, 3], vec![0])?;
/// let normalisation = Normalisation::measure(&images)?;
/// assert_eq!((normalisation.mean[0], normalisation.std[0]), (0.5, 0.25));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Population standard deviation of each channel; 1 for a channel that never changes.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// Measures a set, by exact integer sums, so that the order of the images plays no part.
    ///
    /// # Errors
    /// When the set is empty.
    pub fn measure(images: &Images) -> Result<Self> {
        if images.is_empty() {
            let problem = "no images to measure mean and spread on".into();
            return Err(Error::Images { name: images.name().into(), problem });
        }
        let [channels, height, width] = images.shape();
        let mut sums = vec![(0u64, 0u64); channels];
        for (i, plane) in images.pixels().chunks_exact(height * width).enumerate() {
            let (sum, squares) = &mut sums[i % channels];
            *sum += plane.iter().map(|&p| u64::from(p)).sum::<u64>();
            *squares += plane.iter().map(|&p| u64::from(p) * u64::from(p)).sum::<u64>();
        }
        let count = (images.len() * height * width) as u64;
        let (mean, std) = sums.into_iter().map(|s| moments(s, count, images.white())).unzip();
        Ok(Self { mean, std })
    }

    /// For each channel, the normalised value of every byte.
    pub(crate) fn tables(&self, images: &ImageSet) -> Result<Vec<[f32; 256]>> {
        let [channels, ..] = images.shape();
        self.tables_of(channels, images.white())
    }

    /// The same for images of so many channels and this white.
    pub(crate) fn tables_of(&self, channels: usize, white: u8) -> Result<Vec<[f32; 256]>> {
        if self.mean.len() != channels || self.std.len() != channels {
            let value = format!("{} means, {} deviations", self.mean.len(), self.std.len());
            return Err(Error::config(
                "normalisation",
                value,
                format!("one for each of {channels} channels"),
            ));
        }
        let usable = |(mean, std): (&f32, &f32)| mean.is_finite() && std.is_finite() && *std > 0.0;
        if !self.mean.iter().zip(&self.std).all(usable) {
            let value = format!("{self:?}");
            return Err(Error::config("normalisation", value, "finite means, deviations above 0"));
        }
        let white = f32::from(white);
        let table = |(mean, std)| std::array::from_fn(|p| (p as f32 / white - mean) / std);
        Ok(self.mean.iter().zip(&self.std).map(table).collect())
    }
}

/// Mean and standard deviation from the sums of pixels and of their squares.
fn moments((sum, squares): (u64, u64), count: u64, white: u8) -> (f32, f32) {
    let (sum, squares, n) = (u128::from(sum), u128::from(squares), u128::from(count));
    let scale = count as f64 * f64::from(white);
    // n * squares - sum^2 is exact in integers; in floats the two would cancel.
    let std = ((n * squares - sum * sum) as f64).sqrt() / scale;
    ((sum as f64 / scale) as f32, if std > 0.0 { std as f32 } else { 1.0 })
}
