//! [`RandAugment`]: a few random operations on each image.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use image::RgbImage;
use rand::Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::op::{HIGHEST, Op, Step};
use crate::{Error, Result};

/// RandAugment by timm's name for it, as in `rand-m9-mstd0.5-inc1`.
///
/// N operations are drawn, with replacement, from fifteen of colour and shape. Each acts with probability
/// 1/2, at the level `max(0, min(10, M + S z))` with `z ~ N(0, 1)`; higher levels change more.
/// A shear, translation or rotation is bilinear or bicubic at random and fills with the mean of ImageNet, as with
/// timm's default `interpolation='random'`.
///
/// | part | stands for | without it |
/// | --- | --- | --- |
/// | `mM` | M, 0 to 10 | 10 |
/// | `nN` | N, 1 to 255 | 2 |
/// | `mstdS` | S, 0 to 100 | 0 |
/// | `inc1` | operations whose change grows with the level | an error |
///
/// Other parts of timm's names are errors. serde reads and writes the name.
///
/// E. D. Cubuk et al., *RandAugment*, arXiv 1909.13719. Code reference: `timm/data/auto_augment.py` of
/// huggingface/pytorch-image-models, `_RAND_INCREASING_TRANSFORMS`.
///
/// ```
/// use conditioned_data::RandAugment;
///
/// let augment: RandAugment = "rand-m9-mstd0.5-inc1".parse()?;
/// assert_eq!(augment.to_string(), "rand-m9-mstd0.5-inc1");
/// assert!("rand-m9-p0.3-inc1".parse::<RandAugment>().unwrap_err().to_string().contains("`p0.3`"));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RandAugment {
    layers: u8,
    magnitude: u8,
    std: f64,
}

impl FromStr for RandAugment {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let refuse = |problem: String| {
            let expected = "expected `rand-mM-nN-mstdS-inc1`, as in `rand-m9-mstd0.5-inc1`, with M 0 \
                            to 10, N 1 to 255 and S 0 to 100";
            Error::config("rand_augment", name, format!("{problem}; {expected}"))
        };
        let mut parts = name.split('-');
        if parts.next() != Some("rand") {
            return Err(refuse("no `rand` at its start".into()));
        }
        let mut read = Self { layers: 2, magnitude: 10, std: 0.0 };
        let mut increasing = false;
        for part in parts {
            let digits = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
            let known = match part.split_at(digits) {
                ("m", value) => parse(value, 0..=10).map(|m| read.magnitude = m),
                ("n", value) => parse(value, 1..=u8::MAX).map(|n| read.layers = n),
                ("mstd", value) => parse(value, 0.0..=100.0).map(|std| read.std = std),
                ("inc", "1") => Some(()),
                _ => None,
            };
            increasing |= part == "inc1";
            known.ok_or_else(|| refuse(format!("the part `{part}` is not supported")))?;
        }
        if !increasing {
            return Err(refuse("no `inc1`, and only its operations are here".into()));
        }
        Ok(read)
    }
}

fn parse<T: FromStr + PartialOrd>(value: &str, range: RangeInclusive<T>) -> Option<T> {
    value.parse().ok().filter(|value| range.contains(value))
}

impl fmt::Display for RandAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rand-m{}", self.magnitude)?;
        if self.layers != 2 {
            write!(f, "-n{}", self.layers)?;
        }
        if self.std > 0.0 {
            write!(f, "-mstd{}", self.std)?;
        }
        write!(f, "-inc1")
    }
}

impl TryFrom<String> for RandAugment {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<RandAugment> for String {
    fn from(augment: RandAugment) -> Self {
        augment.to_string()
    }
}

impl RandAugment {
    /// `rand-m9-mstd0.5-inc1`, with which DeiT and most that came after it train.
    pub const DEIT: Self = Self { layers: 2, magnitude: 9, std: 0.5 };

    /// Draws the operations and sends the image through them.
    pub(crate) fn apply(&self, image: &mut RgbImage, rng: &mut impl Rng) {
        for _ in 0..self.layers {
            if let Some(step) = self.draw(rng) {
                step.run(image);
            }
        }
    }

    /// One operation, or nothing with probability 1/2.
    fn draw(&self, rng: &mut impl Rng) -> Option<Step> {
        let op = Op::ALL[rng.random_range(0..Op::ALL.len())];
        let acts: bool = rng.random();
        acts.then(|| {
            let level = f64::from(self.magnitude) + self.std * rng.sample::<f64, _>(StandardNormal);
            op.draw(level.clamp(0.0, HIGHEST), rng)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::transform::affine::Filter;
    use crate::transform::fixture::{Mean, assert_mean};

    /// By the law itself, without an error of its own.
    const EVEN: Mean = (0.5, 0.0);

    #[test]
    fn steps_are_distributed_as_timms() {
        let augment: RandAugment = "rand-m9-mstd0.5-inc1".parse().unwrap();
        let mut rng = stream(0, 0, 0, Purpose::Image);
        let layers: Vec<Option<Step>> = (0..600_000).map(|_| augment.draw(&mut rng)).collect();
        let share = |steps: &[Step], f: &dyn Fn(&Step) -> bool| -> Vec<f64> {
            steps.iter().map(|step| f64::from(u8::from(f(step)))).collect()
        };
        let acts: Vec<f64> = layers.iter().map(|l| f64::from(u8::from(l.is_some()))).collect();
        assert_mean("act", &acts, EVEN);
        let steps: Vec<Step> = layers.into_iter().flatten().collect();
        for op in Op::ALL {
            assert_mean(&format!("{op:?}"), &share(&steps, &|s| s.op == op), (1.0 / 15.0, 0.0));
        }
        let of = |op| -> Vec<Step> { steps.iter().copied().filter(|step| step.op == op).collect() };
        let shears = of(Op::ShearX);
        assert_mean("bilinear", &share(&shears, &|s| s.filter == Filter::Bilinear), EVEN);
        assert_mean("negative", &share(&shears, &|s| s.argument < 0.0), EVEN);
        // Means of timm 1.0.31 with their standard errors, by `fixture/print_distributions.py`.
        let sizes: Vec<f64> = shears.iter().map(|step| step.argument.abs()).collect();
        assert_mean("size of a shear", &sizes, (0.26992, 0.00013));
        assert_mean("highest", &share(&shears, &|s| s.argument.abs() == 0.3), (0.02183, 0.00126));
        let bits: Vec<f64> = of(Op::Posterize).iter().map(|step| step.argument).collect();
        assert_mean("bits", &bits, (0.97706, 0.00137));
    }

    #[test]
    fn names_are_read_and_written() {
        for name in
            ["rand-m9-mstd0.5-inc1", "rand-m5-n3-inc1", "rand-m10-inc1", "rand-m0-n255-inc1"]
        {
            let augment: RandAugment = name.parse().unwrap();
            assert_eq!(augment.to_string(), name);
            let json = serde_json::to_string(&augment).unwrap();
            assert_eq!(json, format!("{name:?}"));
            assert_eq!(serde_json::from_str::<RandAugment>(&json).unwrap(), augment);
        }
        let plain: RandAugment = "rand-inc1".parse().unwrap();
        assert_eq!(plain, RandAugment { layers: 2, magnitude: 10, std: 0.0 });
    }

    #[test]
    fn other_names_are_refused_by_the_part() {
        for (name, part) in [
            ("", "no `rand` at its start"),
            ("augmix-m3-inc1", "no `rand` at its start"),
            ("rand-m9-mstd0.5", "no `inc1`"),
            ("rand-m9-inc0", "`inc0`"),
            ("rand-m11-inc1", "`m11`"),
            ("rand-m9.5-inc1", "`m9.5`"),
            ("rand-m-inc1", "`m`"),
            ("rand-n0-inc1", "`n0`"),
            ("rand-n300-inc1", "`n300`"),
            ("rand-mstd101-inc1", "`mstd101`"),
            ("rand-mstdinf-inc1", "`mstdinf`"),
            ("rand-mmax15-inc1", "`mmax15`"),
            ("rand-p0.3-inc1", "`p0.3`"),
            ("rand-t3a-inc1", "`t3a`"),
            ("rand--inc1", "``"),
            ("rand-mé9-inc1", "`mé9`"),
        ] {
            let error = name.parse::<RandAugment>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("rand-m9-mstd0.5-inc1"), "{error}");
            let json = serde_json::from_str::<RandAugment>(&format!("{name:?}")).unwrap_err();
            assert!(json.to_string().contains(part), "{json}");
        }
    }
}
