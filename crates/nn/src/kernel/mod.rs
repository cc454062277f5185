//! What the CPU kernels share: scalars with vectorisable functions, slices of storage, work split
//! over threads in a way that does not depend on their number, and matrix products.

mod copy;
mod matmul;
mod packed;
mod real;
mod stencil;
mod tiles;
mod view;

pub(crate) use matmul::{
    Onto, filled_by_products, matmul, matmul_shared, product_of, product_onto,
};
pub(crate) use real::Real;
pub(crate) use stencil::Stencil;
pub(crate) use view::{Shared, View};

use std::mem::MaybeUninit;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, WithDType};
use conditioned_threads as threads;

/// Elements per parallel piece of work. Pieces depend on the shape only, so sums over pieces have
/// the same bits for any number of threads.
const PIECE: usize = 1 << 14;

/// Whether the CPU kernels serve this tensor; other devices and precisions take
/// [`crate::device`].
pub(crate) fn serves(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Calls a generic kernel with the scalar type of a CPU storage.
macro_rules! dispatch {
    ($storage:expr, $name:expr, $T:ident => $call:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $T = f32;
                $call
            }
            candle_core::CpuStorage::F64(_) => {
                type $T = f64;
                $call
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(
                candle_core::backend::BackendStorage::dtype(other),
                $name,
            )
            .bt()),
        }
    };
}
pub(crate) use dispatch;

/// The contiguous elements that a storage and its layout describe.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }.bt()),
    }
}

/// Tensors on the CPU, locked for reading.
pub(crate) struct Reads<'a>(Vec<(Guard<'a>, &'a Layout)>);

/// A lock on a storage; the type of candle's own is not public.
type Guard<'a> = Box<dyn Deref<Target = Storage> + 'a>;

impl<'a> Reads<'a> {
    /// Locks the storage of `tensors`.
    pub(crate) fn of(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let locked = tensors.into_iter().map(|tensor| {
            let (storage, layout) = tensor.storage_and_layout();
            (Box::new(storage) as Guard<'a>, layout)
        });
        Self(locked.collect())
    }

    /// Their elements, in order.
    pub(crate) fn slices<T: WithDType>(&self, op: &'static str) -> Result<Vec<&[T]>> {
        let slices = self.0.iter().map(|(storage, layout)| match &***storage {
            Storage::Cpu(storage) => slice(storage, layout, op),
            _ => candle_core::bail!("{op}: a parameter is on another device than the input"),
        });
        slices.collect()
    }
}

/// A finished result as storage.
pub(crate) fn output<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<Shape>,
) -> Result<(CpuStorage, Shape)> {
    Ok((T::to_cpu_storage_owned(values), shape.into()))
}

/// Runs `work` with the widest vector instructions that the processor has.
///
/// The closure must be `#[inline(always)]`, so that its loops are compiled for them.
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Partial sums of a reduction; enough for two vectors of 8 or one of 16 lanes.
const LANES: usize = 16;

/// Sum of `f(x_i, y_i)` in a fixed order that vectorises.
#[inline(always)]
pub(crate) fn sum_map2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    let mut sum = T::ZERO;
    for (&x, &y) in x_tail.iter().zip(y_tail) {
        sum += f(x, y);
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// Sum of `f(x_i)` in a fixed order that vectorises.
#[inline(always)]
pub(crate) fn sum_map<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    sum_map2(x, x, |x, _| f(x))
}

/// The largest element (`-inf` of an empty slice).
#[inline(always)]
pub(crate) fn maximum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::from_f64(f64::NEG_INFINITY); LANES];
    let (xs, tail) = x.as_chunks::<LANES>();
    for x in xs {
        for l in 0..LANES {
            lanes[l] = lanes[l].larger(x[l]);
        }
    }
    let lanes = lanes.into_iter().chain(tail.iter().copied());
    lanes.fold(T::from_f64(f64::NEG_INFINITY), T::larger)
}

/// x <- softmax(x), stable.
#[inline(always)]
pub(crate) fn softmax_in_place<T: Real>(x: &mut [T]) {
    let max = maximum(x);
    for v in x.iter_mut() {
        *v = (*v - max).exp();
    }
    let scale = T::ONE / sum_map(x, |v| v);
    for v in x.iter_mut() {
        *v *= scale;
    }
}

/// d <- p (d - sum(p d)): from the gradient of p = softmax(s) to that of s.
#[inline(always)]
pub(crate) fn softmax_backward<T: Real>(p: &[T], d: &mut [T]) {
    let inner = sum_map2(p, d, |p, d| p * d);
    for (&p, d) in p.iter().zip(d) {
        *d = p * (*d - inner);
    }
}

/// Rows per piece for rows of `width` elements.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work(piece, out_piece)` over consecutive pieces of `out` of `piece_len` elements, on all
/// threads.
pub(crate) fn for_pieces<T: Send>(
    out: &mut [T],
    piece_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    threads::for_each(out.chunks_mut(piece_len.max(1)), work);
}

/// A vector of `len` elements made piece by piece, on all threads: `work(piece, out_piece)` gets
/// pieces of zeros.
///
/// A piece is zeroed just before its work, in the cache of the thread that goes on to fill it;
/// zeroing the whole vector first would be one more pass over memory, on one thread.
#[allow(unsafe_code)]
pub(crate) fn build<T: Real>(
    len: usize,
    piece_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    for_pieces(&mut out.spare_capacity_mut()[..len], piece_len, |i, piece| {
        piece.fill(MaybeUninit::new(T::ZERO));
        // SAFETY: filled in the line above.
        work(i, unsafe { piece.assume_init_mut() });
    });
    // SAFETY: every piece was filled.
    unsafe { out.set_len(len) };
    out
}

/// Like [`for_pieces`] over the rows of `out`, each piece of them with `sums` partial sums of its
/// own; returns the partial sums added in order of the pieces.
pub(crate) fn for_pieces_with_sums<T: Real>(
    out: &mut [T],
    width: usize,
    sums: usize,
    work: impl Fn(usize, &mut [T], &mut [T]) + Sync + Send,
) -> Vec<T> {
    let piece_len = (rows_per_piece(width) * width).max(1);
    let mut partial = vec![T::ZERO; out.len().div_ceil(piece_len) * sums];
    if sums > 0 {
        let pieces = out.chunks_mut(piece_len).zip(partial.chunks_mut(sums));
        threads::for_each(pieces, |i, (piece, sums)| work(i * piece_len, piece, sums));
    }
    add_rows(&partial, sums)
}

/// The sum over rows of `x`, `width` elements each, in a fixed order.
pub(crate) fn column_sums<T: Real>(x: &[T], width: usize) -> Vec<T> {
    if width > PIECE {
        // Long rows: a piece is some of the columns.
        return build(width, PIECE, |i, sums| {
            for row in x.chunks_exact(width) {
                vectorised(
                    #[inline(always)]
                    || add(sums, &row[i * PIECE..]),
                );
            }
        });
    }
    let piece_len = (rows_per_piece(width) * width).max(1);
    let mut partial = vec![T::ZERO; x.len().div_ceil(piece_len) * width];
    for_pieces(&mut partial, width, |i, sums| {
        let end = ((i + 1) * piece_len).min(x.len());
        sums.copy_from_slice(&add_rows(&x[i * piece_len..end], width));
    });
    add_rows(&partial, width)
}

/// The sum over rows on one thread.
fn add_rows<T: Real>(x: &[T], width: usize) -> Vec<T> {
    let mut sums = vec![T::ZERO; width];
    vectorised(
        #[inline(always)]
        || {
            for row in x.chunks_exact(width.max(1)) {
                add(&mut sums, row);
            }
        },
    );
    sums
}

/// y += x.
#[inline(always)]
pub(crate) fn add<T: Real>(y: &mut [T], x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// y += x on all threads.
pub(crate) fn add_parallel<T: Real>(y: &mut [T], x: &[T]) {
    for_pieces(y, PIECE, |i, y| {
        vectorised(
            #[inline(always)]
            || add(y, &x[i * PIECE..]),
        );
    });
}

/// f(x_i) for every i, on all threads; f should be `#[inline(always)]`.
#[allow(unsafe_code)]
pub(crate) fn map<T: Real>(x: &[T], f: impl Fn(T) -> T + Sync + Send) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for_pieces(&mut out.spare_capacity_mut()[..x.len()], PIECE, |i, y| {
        vectorised(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(&x[i * PIECE..]) {
                    y.write(f(x));
                }
            },
        );
    });
    // SAFETY: every element was written.
    unsafe { out.set_len(x.len()) };
    out
}

/// y = f(x) row by row, `width` elements each, on all threads: `f(x_row, y_row)` fills a row and should be
/// `#[inline(always)]`.
pub(crate) fn map_rows<T: Real>(
    x: &[T],
    width: usize,
    f: impl Fn(&[T], &mut [T]) + Sync + Send,
) -> Vec<T> {
    let piece = rows_per_piece(width) * width;
    build(x.len(), piece, |i, y| {
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x[i * piece..].chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                    f(x, y);
                }
            },
        );
    })
}

/// y_i <- f(y_i, x_i) on all threads; f should be `#[inline(always)]`.
pub(crate) fn zip_in_place<T: Real>(y: &mut [T], x: &[T], f: impl Fn(T, T) -> T + Sync + Send) {
    for_pieces(y, PIECE, |i, y| {
        vectorised(
            #[inline(always)]
            || {
                // A loop: `for_each` is a call that misses the vector instructions.
                for (y, &x) in y.iter_mut().zip(&x[i * PIECE..]) {
                    *y = f(*y, x);
                }
            },
        );
    });
}

/// The shape of a batch as the kernels see it: (batch, tokens, width), row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The first dimension.
    pub(crate) batch: usize,
    /// The product of those between.
    pub(crate) tokens: usize,
    /// The last dimension.
    pub(crate) width: usize,
}

impl Rows {
    /// The view of a tensor with these dimensions.
    pub(crate) fn of(dims: &[usize]) -> Self {
        match dims {
            [] => Self { batch: 1, tokens: 1, width: 1 },
            [width] => Self { batch: 1, tokens: 1, width: *width },
            [batch, between @ .., width] => {
                Self { batch: *batch, tokens: between.iter().product(), width: *width }
            }
        }
    }

    /// Rows in all.
    pub(crate) fn rows(self) -> usize {
        self.batch * self.tokens
    }
}
