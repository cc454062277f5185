//! Work on the sequences of a tensor, on the host and in parallel.
//!
//! Every sequence is read, decomposed and written by one thread, with serial linear algebra: its
//! bits depend neither on the number of threads nor on the batch in which it stands.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, WithDType};
use conditioned_threads as threads;
use faer::{Mat, MatRef};

use crate::blocks::{Block, Layout};
use crate::{Error, Result};

/// `f` of every block of `x`, in order; a block without a real token gives `None`.
pub(crate) fn each_block<R: Send>(
    tensor: &'static str,
    x: &Tensor,
    layout: &Layout,
    f: impl Fn(&Block) -> Result<R> + Sync,
) -> Result<Vec<Option<R>>> {
    fn run<T: WithDType, R: Send>(
        tensor: &'static str,
        xs: &[T],
        layout: &Layout,
        f: impl Fn(&Block) -> Result<R> + Sync,
    ) -> Result<Vec<Option<R>>> {
        let size = layout.block_size();
        let results = threads::map(xs.chunks(size).enumerate(), |(index, xs)| {
            layout.read(tensor, xs, index * layout.block)?.as_ref().map(&f).transpose()
        });
        // Collected first, so that the error reported is always the earliest.
        results.into_iter().collect()
    }
    let x = on_host(x)?;
    let (storage, l) = x.storage_and_layout();
    let (storage, range) = cpu_range(&storage, l)?;
    match storage {
        CpuStorage::F32(v) => run(tensor, &v[range], layout, f),
        CpuStorage::F64(v) => run(tensor, &v[range], layout, f),
        CpuStorage::F16(v) => run(tensor, &v[range], layout, f),
        CpuStorage::BF16(v) => run(tensor, &v[range], layout, f),
        _ => Err(dtype_error(tensor, x.dtype())),
    }
}

/// The last of `tensors` with every block's real rows replaced by the row-major values of `f`,
/// which are in the scale of the last block; rows of padding keep their bits.
///
/// The tensors have one shape and dtype; `names` are theirs.
pub(crate) fn map_blocks<const K: usize>(
    names: [&'static str; K],
    tensors: [&Tensor; K],
    layout: &Layout,
    f: impl Fn([&Block; K]) -> Result<Vec<f64>> + Sync,
) -> Result<CpuStorage> {
    let mut hosted = Vec::with_capacity(K);
    for tensor in tensors {
        hosted.push(on_host(tensor)?);
    }
    let guards: Vec<_> = hosted.iter().map(Tensor::storage_and_layout).collect();
    let mut parts = Vec::with_capacity(K);
    for (storage, l) in &guards {
        parts.push(cpu_range(storage, l)?);
    }
    let job = Job { names, parts, layout, f };
    match job.parts[K - 1].0 {
        CpuStorage::F32(_) => Ok(CpuStorage::F32(job.run()?)),
        CpuStorage::F64(_) => Ok(CpuStorage::F64(job.run()?)),
        CpuStorage::F16(_) => Ok(CpuStorage::F16(job.run()?)),
        CpuStorage::BF16(_) => Ok(CpuStorage::BF16(job.run()?)),
        _ => Err(dtype_error(names[K - 1], tensors[K - 1].dtype())),
    }
}

/// The rows of tokens in f32 by a function in f32 of each row alone; rows of padding keep their bits.
///
/// `None` for another dtype, and where a row is not finite then: f64, by [`map_blocks`], finds the number that
/// is to blame or, with its range, a result.
pub(crate) fn map_single_rows(
    x: &Tensor,
    layout: &Layout,
    f: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<Option<CpuStorage>> {
    let x = on_host(x)?;
    let (storage, l) = x.storage_and_layout();
    let (CpuStorage::F32(values), range) = cpu_range(&storage, l)? else { return Ok(None) };
    let (xs, size) = (&values[range], layout.block_size());
    let (out, finite) = build(xs.len(), size, |index, out| {
        let xs = &xs[index * size..][..out.len()];
        f(xs, out);
        layout.keep_padding(xs, index * layout.block, out)
    });
    let finite = finite.into_iter().all(|finite| finite);
    Ok(finite.then_some(CpuStorage::F32(out)))
}

/// A vector of `len` numbers made in blocks of `size`, on all threads, and what `work` returns for each block:
/// it gets the index of a block and zeros to fill.
///
/// A block is zeroed in the cache of the thread that goes on to fill it.
#[allow(unsafe_code)]
fn build<T: WithDType, R: Send>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let mut out = Vec::with_capacity(len);
    let blocks = out.spare_capacity_mut()[..len].chunks_mut(size).enumerate();
    let results = threads::map(blocks, |(index, block)| {
        block.fill(MaybeUninit::new(T::zero()));
        // SAFETY: filled in the line above.
        work(index, unsafe { block.assume_init_mut() })
    });
    // SAFETY: the blocks are all of the first `len` numbers, and each was filled.
    unsafe { out.set_len(len) };
    (out, results)
}

struct Job<'a, const K: usize, F> {
    names: [&'static str; K],
    parts: Vec<(&'a CpuStorage, Range<usize>)>,
    layout: &'a Layout,
    f: F,
}

impl<const K: usize, F> Job<'_, K, F>
where
    F: Fn([&Block; K]) -> Result<Vec<f64>> + Sync,
{
    fn run<T: WithDType>(&self) -> Result<Vec<T>> {
        let mut slices = Vec::with_capacity(K);
        for (storage, range) in &self.parts {
            slices.push(&T::cpu_storage_as_slice(storage)?[range.clone()]);
        }
        let size = self.layout.block_size();
        let (out, results) = build(slices[K - 1].len(), size, |index, out| {
            let first = index * size;
            let inputs: Vec<_> = slices.iter().map(|s| &s[first..first + out.len()]).collect();
            self.block(&inputs, index * self.layout.block, out)
        });
        results.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }

    fn block<T: WithDType>(&self, inputs: &[&[T]], row: usize, out: &mut [T]) -> Result<()> {
        if self.layout.has_padding() {
            out.copy_from_slice(inputs[K - 1]);
        }
        let mut blocks = Vec::with_capacity(K);
        for (name, xs) in self.names.iter().zip(inputs) {
            match self.layout.read(name, xs, row)? {
                Some(block) => blocks.push(block),
                None => return Ok(()),
            }
        }
        let values = (self.f)(std::array::from_fn(|k| &blocks[k]))?;
        self.layout.write(&values, 1.0 / blocks[K - 1].scale, row, out)
    }
}

/// Tokens (N, d) as one matrix in f64, the numbers as they stand.
pub(crate) fn matrix(name: &'static str, x: &Tensor) -> Result<Mat<f64>> {
    let &[n, d] = x.dims() else {
        let (found, expected) = (x.shape().clone(), "two dimensions".to_string());
        return Err(Error::Shape { tensor: name, found, expected });
    };
    each_block(name, x, &Layout::rows(x, None, n)?, |_| Ok(()))?;
    let values: Vec<f64> = on_host(x)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(MatRef::from_row_major_slice(&values, n, d).to_owned())
}

/// A tensor like x, on its device, of values on the host.
pub(crate) fn from_host(values: CpuStorage, x: &Tensor) -> candle_core::Result<Tensor> {
    let y = Tensor::from_storage(Storage::Cpu(values), x.shape(), BackpropOp::none(), false);
    y.to_device(x.device())
}

/// The tensor without its graph, contiguous, on the CPU; no copy if it is so already.
fn on_host(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach().to_device(&Device::Cpu)?.contiguous()?)
}

fn cpu_range<'a>(
    storage: &'a Storage,
    layout: &candle_core::Layout,
) -> Result<(&'a CpuStorage, Range<usize>)> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok((storage, start..end)),
        _ => Err(candle_core::Error::RequiresContiguous { op: "conditioning" }.into()),
    }
}

fn dtype_error(tensor: &'static str, found: DType) -> Error {
    Error::Dtype { tensor, found, expected: "f16, bf16, f32 or f64" }
}
