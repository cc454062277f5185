//! Running averages whose tensors may belong to someone else.

use candle_core::{DType, Device, DeviceLocation, Tensor, Var};

use crate::{Error, Result};

/// Name of the tensor that counts the observations.
pub(crate) const WEIGHT: &str = "running_weight";

/// K statistics averaged over batches, and the number of observations that went in.
///
/// The tensors are f64, on the CPU or on CUDA, and shared with whoever supplied them: nothing is kept beside
/// them, so a write by anyone is seen by all. Tensors that are not variables can only be read.
#[derive(Debug)]
pub(crate) struct Running<const K: usize> {
    names: [&'static str; K],
    averages: [Tensor; K],
    weight: Tensor,
}

impl<const K: usize> Running<K> {
    /// Fresh variables on `device`, which has f64: no observation, averages zero.
    pub(crate) fn new(names: [&'static str; K], shape: &[usize], device: &Device) -> Result<Self> {
        let zeros = |shape: &[usize]| -> Result<Tensor> {
            Ok(Var::zeros(shape, DType::F64, device)?.into_inner())
        };
        let mut averages = Vec::with_capacity(K);
        for _ in names {
            averages.push(zeros(shape)?);
        }
        Ok(Self {
            names,
            averages: std::array::from_fn(|k| averages[k].clone()),
            weight: zeros(&[])?,
        })
    }

    /// The tensors given, not copies of them.
    pub(crate) fn shared(
        names: [&'static str; K],
        averages: [Tensor; K],
        weight: Tensor,
        shape: &[usize],
    ) -> Result<Self> {
        for (name, average) in names.into_iter().zip(&averages) {
            check(name, average, shape)?;
        }
        check(WEIGHT, &weight, &[])?;
        for (name, average) in names.into_iter().zip(&averages) {
            check_device(name, average, WEIGHT, weight.device())?;
        }
        Ok(Self { names, averages, weight })
    }

    /// Where the tensors lie.
    pub(crate) fn device(&self) -> &Device {
        self.weight.device()
    }

    /// The averages as they are now, constants for a gradient; zero before the first observation.
    pub(crate) fn tensors(&self) -> Result<[Tensor; K]> {
        let is_known = self.weight.detach().gt(0.0)?.to_dtype(DType::F64)?;
        let mut tensors = self.averages.clone();
        for tensor in &mut tensors {
            *tensor = tensor.detach().broadcast_mul(&is_known)?;
        }
        Ok(tensors)
    }

    /// [`Running::observe`] of means over `tokens` () f64 tokens, without waiting for the device; no tokens are no
    /// observation.
    pub(crate) fn observe_tensors(
        &self,
        batch: &[Tensor; K],
        tokens: &Tensor,
        momentum: f64,
    ) -> Result<()> {
        let weight = self.weight.detach();
        let counts = tokens.gt(0.0)?.to_dtype(DType::F64)?;
        let is_first = weight.eq(0.0)?.to_dtype(DType::F64)?;
        let share = (is_first.affine(1.0 - momentum, momentum)? * &counts)?;
        let mut tensors = Vec::with_capacity(K + 1);
        for (average, batch) in self.tensors()?.iter().zip(batch) {
            tensors.push((average + (batch - average)?.broadcast_mul(&share)?)?);
        }
        tensors.push((weight + counts)?);
        self.write(&tensors)
    }

    /// The number of observations so far.
    pub(crate) fn observations(&self) -> Result<f64> {
        Ok(self.weight.to_scalar()?)
    }

    /// The averages, row by row, or `None` before the first observation.
    pub(crate) fn averages(&self) -> Result<Option<[Vec<f64>; K]>> {
        if self.observations()? == 0.0 {
            return Ok(None);
        }
        let mut values = self.names.map(|_| Vec::new());
        for (values, average) in values.iter_mut().zip(&self.averages) {
            *values = average.flatten_all()?.to_vec1()?;
        }
        Ok(Some(values))
    }

    /// average <- (1 - momentum) average + momentum batch; the first batch becomes the average.
    pub(crate) fn observe(&self, batch: [Vec<f64>; K], momentum: f64) -> Result<()> {
        let Some(mut averages) = self.averages()? else {
            return self.replace(batch);
        };
        for (averages, batch) in averages.iter_mut().zip(&batch) {
            for (average, value) in averages.iter_mut().zip(batch) {
                *average += momentum * (value - *average);
            }
        }
        self.replace(averages)
    }

    /// Sets the averages and counts one observation more.
    pub(crate) fn replace(&self, averages: [Vec<f64>; K]) -> Result<()> {
        for (name, values) in self.names.into_iter().zip(&averages) {
            checked_finite(name, values)?;
        }
        let mut tensors = Vec::with_capacity(K + 1);
        for (values, target) in averages.into_iter().zip(&self.averages) {
            tensors.push(Tensor::from_vec(values, target.shape(), target.device())?);
        }
        tensors.push(Tensor::new(self.observations()? + 1.0, self.device())?);
        self.write(&tensors)
    }

    /// Every tensor under its name, the averages first.
    pub(crate) fn named_tensors(&self) -> Vec<(&'static str, Tensor)> {
        let averages = self.names.into_iter().zip(self.averages.iter().cloned());
        averages.chain([(WEIGHT, self.weight.clone())]).collect()
    }

    /// Sets every tensor from one of the same name, shape and dtype, on any device; others are errors.
    pub(crate) fn load<S: AsRef<str>>(
        &self,
        tensors: impl IntoIterator<Item = (S, Tensor)>,
    ) -> Result<()> {
        let own = self.named_tensors();
        let mut found = vec![None; own.len()];
        for (name, tensor) in tensors {
            let name = name.as_ref();
            let Some(index) = own.iter().position(|(own, _)| *own == name) else {
                let expected = own.iter().map(|(name, _)| *name).collect();
                return Err(Error::UnknownTensor { found: name.to_string(), expected });
            };
            check(own[index].0, &tensor, own[index].1.dims())?;
            found[index] = Some(tensor);
        }
        let mut tensors = Vec::with_capacity(own.len());
        for (tensor, (name, _)) in found.into_iter().zip(&own) {
            // A copy, because a variable refuses values that live in its own storage.
            let tensor = tensor.ok_or(Error::MissingTensor(name))?;
            tensors.push(tensor.to_device(self.device())?.copy()?);
        }
        self.write(&tensors)
    }

    /// Writes all or, where one is frozen, none; the tensors are no views of our own.
    fn write(&self, tensors: &[Tensor]) -> Result<()> {
        let own = self.named_tensors();
        if let Some((tensor, _)) = own.iter().find(|(_, own)| !own.is_variable()) {
            return Err(Error::ReadOnly { tensor });
        }
        for ((_, own), tensor) in own.iter().zip(tensors) {
            Var::from_tensor(own)?.set(tensor)?;
        }
        Ok(())
    }
}

fn check(tensor: &'static str, found: &Tensor, shape: &[usize]) -> Result<()> {
    if found.dims() != shape {
        let (found, expected) = (found.shape().clone(), format!("{shape:?}"));
        return Err(Error::Shape { tensor, found, expected });
    }
    if found.dtype() != DType::F64 {
        return Err(Error::Dtype { tensor, found: found.dtype(), expected: "f64" });
    }
    Ok(())
}

/// That a tensor lies where another does.
pub(crate) fn check_device(
    tensor: &'static str,
    found: &Tensor,
    other: &'static str,
    expected: &Device,
) -> Result<()> {
    // Two handles of one GPU are the same device to candle's operations.
    if found.device().location() == expected.location() {
        return Ok(());
    }
    let name = |device: &Device| match device.location() {
        DeviceLocation::Cpu => "the CPU".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    };
    let (found, expected) = (name(found.device()), name(expected));
    Err(Error::Device { tensor, found, other, expected })
}

/// That a setting is in (0, 1].
pub(crate) fn checked_fraction(setting: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(Error::Fraction { range: "(0, 1]", setting, value })
    }
}

/// That a statistic holds no NaN or infinity, on which an eigenproblem has no solution.
pub(crate) fn checked_finite(tensor: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::Statistic { tensor, value: values[index], index }),
        None => Ok(()),
    }
}
