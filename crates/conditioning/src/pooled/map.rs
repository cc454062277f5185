//! Where pooled conditioning gathers its tokens, makes M and applies it: on the host, or on the device of the tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use faer::Mat;

use super::{GRAM, Pooled, PooledConfig, Source};
use crate::blocks::check_channels;
use crate::flat::{flatten, restore};
use crate::gram::{DeviceGram, GramSum};
use crate::iterative_map::iterative_map;
use crate::map::{inverse_root_map, tensor};
use crate::op::{Backward, attach};
use crate::product::{check_finite, product};
use crate::running::check_device;
use crate::{Error, Result};

/// What is known of an optimiser step under way.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The tokens collected since the running average last moved.
    pub(super) collected: Option<Collected>,
    /// M of the running average on its device: the host cannot see there whether that has changed.
    M: Option<Tensor>,
}

/// The outer products of tokens, where their sum is taken.
#[derive(Debug)]
pub(super) enum Collected {
    Host(GramSum),
    Device(DeviceGram),
}

/// M, where it is applied.
#[derive(Debug)]
pub(super) enum Map {
    Host(Arc<Mat<f64>>),
    /// (d, d) f64, on the device of the tokens.
    Device(Tensor),
}

/// M of the running average, kept until that changes.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<Option<(Vec<f64>, T)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Kept<T> {
    /// M of `gram`: the one that is kept, or what `make` gives.
    fn of(&self, gram: Vec<f64>, make: impl FnOnce(&[f64]) -> Result<T>) -> Result<T> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The whole Gram matrix is the key: its storage is shared, so no counter of ours could
        // know of every write.
        if let Some((_, M)) = lock().as_ref().filter(|(known, _)| *known == gram) {
            return Ok(M.clone());
        }
        // Not under the lock, which others would wait for as long as the root takes.
        let M = make(&gram)?;
        *lock() = Some((gram, M.clone()));
        Ok(M)
    }
}

impl Pooled {
    /// The outer products of the real tokens of x.
    pub(super) fn sum(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Collected> {
        if x.elem_count() == 0 {
            check_channels(x, self.channels)?;
            return Err(Error::NoTokens);
        }
        if self.on_device {
            check_device("x", x, GRAM, self.running.device())?;
            return Ok(Collected::Device(DeviceGram::of(x, mask, self.channels)?));
        }
        let sum = GramSum::of(x, mask, self.channels)?;
        if sum.is_empty() { Err(Error::NoTokens) } else { Ok(Collected::Host(sum)) }
    }

    /// Adds a sum of tokens to those collected.
    pub(super) fn add(&self, sum: Collected) -> Result<()> {
        let collected = &mut self.lock_step().collected;
        *collected = Some(match (collected.take(), sum) {
            (Some(Collected::Host(mut known)), Collected::Host(sum)) => {
                known.add(&sum);
                Collected::Host(known)
            }
            (Some(Collected::Device(known)), Collected::Device(sum)) => {
                Collected::Device(known.plus(&sum)?)
            }
            (_, first) => first,
        });
        Ok(())
    }

    /// Replaces the running average by a Gram matrix, row by row.
    pub(super) fn replace(&self, gram: Vec<f64>) -> Result<()> {
        self.discard_map();
        self.running.replace([gram])
    }

    /// Forgets M of the step, as the running average has changed.
    pub(super) fn discard_map(&self) {
        self.lock_step().M = None;
    }

    pub(super) fn lock_step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn training_map(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Option<Map>> {
        match self.config.source {
            _ if self.config.strength == 0.0 => Ok(None),
            Source::Earlier if self.on_device => {
                Ok(Some(Map::Device(self.device_running_matrix()?)))
            }
            Source::Earlier => self.running_map(),
            Source::Current => Ok(Some(self.map_of(&self.sum(x, mask)?)?)),
        }
    }

    /// M of the tokens that were summed.
    pub(super) fn map_of(&self, sum: &Collected) -> Result<Map> {
        Ok(match sum {
            Collected::Host(sum) => Map::Host(self.matrix(&sum.clone().mean()?)?),
            Collected::Device(sum) => Map::Device(self.device_matrix(&sum.mean()?)?),
        })
    }

    /// M of the running average, `None` for the identity.
    pub(super) fn running_map(&self) -> Result<Option<Map>> {
        if !self.on_device {
            return Ok(self.running_matrix()?.map(Map::Host));
        }
        // Reading the key waits for the device, which evaluations can afford: else each would make M anew.
        let Some(gram) = self.running_gram()? else { return Ok(None) };
        let shape = (self.channels, self.channels);
        let make = |gram: &[f64]| {
            self.device_matrix(&Tensor::from_slice(gram, shape, self.running.device())?)
        };
        Ok(Some(Map::Device(self.resident.of(gram, make)?)))
    }

    /// M of the running average on the host, `None` for the identity.
    pub(super) fn running_matrix(&self) -> Result<Option<Arc<Mat<f64>>>> {
        let Some(gram) = self.running_gram()? else { return Ok(None) };
        self.folded.of(gram, |gram| self.matrix(gram)).map(Some)
    }

    /// The running average as it is now, row by row; `None` where M is the identity.
    fn running_gram(&self) -> Result<Option<Vec<f64>>> {
        if self.config.strength == 0.0 {
            return Ok(None);
        }
        Ok(self.running.averages()?.map(|[gram]| gram))
    }

    fn device_running_matrix(&self) -> Result<Tensor> {
        let [gram] = self.running.tensors()?;
        self.device_matrix(&gram)
    }

    /// M of the running average on its device, made once for all micro-batches of a step: nothing waits for the device.
    pub(super) fn step_map(&self) -> Result<Option<Map>> {
        if self.config.strength == 0.0 {
            return Ok(None);
        }
        if let Some(M) = &self.lock_step().M {
            return Ok(Some(Map::Device(M.clone())));
        }
        let M = self.device_running_matrix()?;
        self.lock_step().M = Some(M.clone());
        Ok(Some(Map::Device(M)))
    }

    fn matrix(&self, gram: &[f64]) -> Result<Arc<Mat<f64>>> {
        let PooledConfig { strength, floor, .. } = self.config;
        inverse_root_map(GRAM, gram, self.channels, strength, floor)
    }

    fn device_matrix(&self, gram: &Tensor) -> Result<Tensor> {
        let PooledConfig { strength, floor, .. } = self.config;
        iterative_map(gram, strength, floor)
    }

    pub(super) fn apply(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        M: Option<Map>,
    ) -> Result<Tensor> {
        check_channels(x, self.channels)?;
        let M = match M {
            None => {
                // What M would refuse, the identity before the first observation refuses too.
                if self.config.strength > 0.0 && x.device().is_cpu() {
                    check_finite("x", x, mask)?;
                }
                return Ok(x.clone());
            }
            Some(Map::Host(M)) if x.device().is_cpu() => {
                let values = product("x", x, mask, &M)?;
                return attach(x, values, Backward::Product { M, mask: mask.cloned() });
            }
            Some(Map::Host(M)) => tensor(&M)?,
            Some(Map::Device(M)) => M,
        };
        let tokens = flatten(x, self.channels)?;
        let M = M.to_dtype(tokens.dtype())?.to_device(x.device())?;
        restore(&tokens.matmul(&M)?, x, mask)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// How M is made on a device: UNRESOLVED of `iterative_map`, and crowded sigma_1.
    const TOLERANCE: f64 = 2e-3;

    /// The way of CUDA is tensor operations alone, so it can be taken on a CPU.
    fn two_ways(source: Source) -> Result<[Pooled; 2]> {
        let config = PooledConfig { strength: 0.7, source, ..Default::default() };
        let host = Pooled::new(config, 5, &Device::Cpu)?;
        let device = Pooled { on_device: true, ..Pooled::new(config, 5, &Device::Cpu)? };
        Ok([host, device])
    }

    fn assert_close(got: &Tensor, want: &Tensor) -> Result<()> {
        let largest =
            |x: &Tensor| -> Result<f64> { Ok(x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?) };
        let error = largest(&(got - want)?)? / largest(want)?;
        assert!(error < TOLERANCE, "{error}");
        Ok(())
    }

    #[test]
    fn made_on_a_device_it_goes_through_the_same_steps() -> Result<()> {
        let x = |seed: u32, tokens: usize| {
            let value = |i: u32| (f64::from((i + seed) * (i + seed) * 37 % 101) - 50.0) / 20.0;
            let values = (0..tokens as u32 * 10).map(value).collect::<Vec<_>>();
            Tensor::from_vec(values, (2, tokens, 5), &Device::Cpu)
        };
        let mask = Tensor::new(&[[1u8, 1, 1, 0], [1, 0, 0, 0]], &Device::Cpu)?;
        let nothing = mask.zeros_like()?;
        for source in [Source::Earlier, Source::Current] {
            let [host, device] = two_ways(source)?;
            // Before the first observation, two steps of two micro-batches, one of padding alone on the device.
            assert_close(&device.forward(&x(1, 4)?)?, &host.forward(&x(1, 4)?)?)?;
            for step in 0..2 {
                let (first, second) = (x(3 + step, 6)?, x(8 + step, 4)?);
                let ys = [&host, &device].map(|layer| -> Result<Tensor> {
                    let y = layer.forward_train_collected(&first)?;
                    let z = layer.forward_train_collected_masked(&second, &mask)?;
                    layer.commit()?;
                    Ok(Tensor::cat(&[y, z], 1)?)
                });
                let [want, got] = ys;
                assert_close(&got?, &want?)?;
                device.collect_masked(&second, &nothing)?;
                device.commit()?;
            }
            for ((_, want), (_, got)) in host.named_tensors().iter().zip(device.named_tensors()) {
                assert_close(&got.reshape(((), 1))?, &want.reshape(((), 1))?)?;
            }
            assert_close(
                &device.forward_masked(&x(1, 4)?, &mask)?,
                &host.forward_masked(&x(1, 4)?, &mask)?,
            )?;
            let ratio = device.norm_matched_scale()? / host.norm_matched_scale()?;
            assert!((ratio - 1.0).abs() < TOLERANCE, "{ratio}");
            device.recalibrate([Ok::<_, Error>(x(2, 7)?)])?;
            host.recalibrate([Ok::<_, Error>(x(2, 7)?)])?;
            assert_close(&device.forward_train(&x(1, 4)?)?, &host.forward_train(&x(1, 4)?)?)?;
        }
        Ok(())
    }

    #[test]
    fn made_on_a_device_its_gradient_is_that_of_a_constant() -> Result<()> {
        let x = Var::new(&[[1.0, -2.0, 0.5, 3.0, 1.0], [0.2, 1.0, 1.0, -1.0, 2.0]], &Device::Cpu)?;
        for source in [Source::Earlier, Source::Current] {
            let gradients = two_ways(source)?.map(|layer| -> Result<Tensor> {
                layer.observe(&x)?;
                let grads = layer.forward_train(&x)?.sqr()?.sum_all()?.backward()?;
                Ok(grads.get(&x).expect("a gradient").clone())
            });
            let [want, got] = gradients;
            assert_close(&got?, &want?)?;
        }
        Ok(())
    }
}
