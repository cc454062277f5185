//! Multi-head self-attention (Vaswani et al. 2017), parallel over sequences and heads, without
//! keeping the N x N matrix of probabilities.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use conditioned_threads as threads;

use crate::kernel::{self, Onto, Real, Rows, Shared, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::probe::{Among, Heads};
use crate::{Mode, Padding, Pass, device, reference, sequence};

/// softmax(Q K^T / sqrt(D)) V for each head.
///
/// The input is (B, N, 3C): for every token its queries, keys and values side by side, each split
/// into `heads` of width D = C / heads, as timm's `attn.qkv` and GPT-2's `c_attn` write them. The
/// result is (B, N, C).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Heads H.
    pub heads: usize,
    /// Whether a token attends to itself and the tokens before it only.
    pub causal: bool,
}

/// Self-attention of packed queries, keys and values, (B, N, 3C) -> (B, N, C); see [`Attention`].
///
/// # Errors
/// When 3 `heads` does not divide the last dimension.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    sequence::single(qkv, Attention { heads, causal: false }, Mode::Eval)
}

/// Causal self-attention of packed queries, keys and values; see [`Attention`].
///
/// # Errors
/// When 3 `heads` does not divide the last dimension.
pub fn causal_attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    sequence::single(qkv, Attention { heads, causal: true }, Mode::Eval)
}

/// Self-attention among the real tokens of padded sequences: padding is not seen and gets zeros.
///
/// # Errors
/// When 3 `heads` does not divide the last dimension of `qkv` (B, N, 3C), or the padding is of another
/// batch.
pub fn padded_attention(qkv: &Tensor, heads: usize, padding: &Padding) -> Result<Tensor> {
    let attention = Attention { heads, causal: false };
    sequence::single(qkv, attention, Pass::from(Mode::Eval).padded(Some(padding)))
}

/// Queries per block: their scores (80 x N) stay in the cache of a core. The blocks of a sequence
/// are as equal as can be.
const BLOCK: usize = 80;

/// One head of one sequence, in a slice that holds the whole sequence.
#[derive(Clone, Copy)]
struct Head {
    /// Tokens.
    n: usize,
    /// One past the last row of the slice: padding lies between.
    end: usize,
    /// The first query; outputs begin with it.
    first: usize,
    c: usize,
    d: usize,
    head: usize,
    causal: bool,
}

impl Head {
    /// The only head of a sequence.
    fn alone(n: usize, d: usize) -> Self {
        Self { n, end: n, first: 0, c: d, d, head: 0, causal: false }
    }

    /// 1 / sqrt(D).
    fn scale<T: Real>(self) -> T {
        T::from_f64(1.0 / (self.d as f64).sqrt())
    }

    /// Rows `from..to` of the queries (0), keys (1) or values (2) in a packed sequence (N, 3C).
    fn packed(self, which: usize, from: usize, to: usize) -> View {
        let stride = 3 * self.c;
        View::rows(to - from, self.d, from * stride + which * self.c + self.head * self.d, stride)
    }

    /// Rows `from..to` of the head in a sequence of outputs (N - first, C).
    fn output(self, from: usize, to: usize) -> View {
        let start = (from - self.first) * self.c + self.head * self.d;
        View::rows(to - from, self.d, start, self.c)
    }

    /// The blocks of queries: (first, one past the last, keys that they see).
    fn blocks(self) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> {
        let rows = self.block_rows();
        (self.first..self.n).step_by(rows).map(move |from| {
            let to = (from + rows).min(self.n);
            (from, to, if self.causal { to } else { self.n })
        })
    }

    /// Queries of the largest block.
    fn block_rows(self) -> usize {
        let queries = self.n - self.first;
        queries.div_ceil(queries.div_ceil(BLOCK))
    }

    /// Elements of the largest block of scores.
    fn block_len(self) -> usize {
        self.block_rows() * self.n
    }

    /// P = softmax(Q K^T / sqrt(D)) of a block of queries, (to - from, keys).
    fn probabilities<T: Real>(
        self,
        p: &mut [T],
        qkv: &[T],
        (from, to, keys): (usize, usize, usize),
    ) {
        kernel::matmul(
            (p, View::rows(to - from, keys, 0, keys)),
            (qkv, self.packed(0, from, to)),
            (qkv, self.packed(1, 0, keys).t()),
            self.scale(),
            Onto::Nothing,
        );
        kernel::vectorised(
            #[inline(always)]
            || {
                for (i, row) in p[..(to - from) * keys].chunks_exact_mut(keys).enumerate() {
                    let seen = if self.causal { from + i + 1 } else { keys };
                    kernel::softmax_in_place(&mut row[..seen]);
                    row[seen..].fill(T::ZERO);
                }
            },
        );
    }

    /// The output of the head into its columns of `y`.
    ///
    /// # Safety
    /// Nobody else touches these columns.
    #[allow(unsafe_code)]
    unsafe fn forward<T: Real>(self, y: Shared<T>, qkv: &[T]) {
        let mut p = vec![T::ZERO; self.block_len()];
        for (from, to, keys) in self.blocks() {
            self.probabilities(&mut p, qkv, (from, to, keys));
            let (p, v) =
                ((&*p, View::rows(to - from, keys, 0, keys)), (qkv, self.packed(2, 0, keys)));
            // SAFETY: the columns of this head are ours, as the caller promises.
            unsafe {
                kernel::matmul_shared((y, self.output(from, to)), p, v, T::ONE, Onto::Nothing);
            }
        }
        // SAFETY: as above.
        unsafe { y.zero(self.output(self.n, self.end)) }
    }

    /// The gradient of the head into its columns of `dqkv`: with P the probabilities, recomputed,
    /// and s = 1/sqrt(D): dV = P^T g, dP = g V^T, dS = P (dP - rowsum(dP P)), dQ = s dS K,
    /// dK = s dS^T Q.
    ///
    /// # Safety
    /// Nobody else touches these columns.
    #[allow(unsafe_code)]
    unsafe fn backward<T: Real>(self, dqkv: Shared<T>, qkv: &[T], g: &[T]) {
        let (mut p, mut ds) = (vec![T::ZERO; self.block_len()], vec![T::ZERO; self.block_len()]);
        // The last block sees all keys: it writes their gradients, the others add to them.
        for (from, to, keys) in self.blocks().rev() {
            let added = to < self.n;
            let block = View::rows(to - from, keys, 0, keys);
            let output = (g, self.output(from, to));
            self.probabilities(&mut p, qkv, (from, to, keys));
            let v = (qkv, self.packed(2, 0, keys));
            kernel::matmul((&mut ds, block), output, (v.0, v.1.t()), T::ONE, Onto::Nothing);
            kernel::vectorised(
                #[inline(always)]
                || {
                    let rows = p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys));
                    for (p, ds) in rows.take(to - from) {
                        kernel::softmax_backward(p, ds);
                    }
                },
            );
            let (p, ds) = ((&*p, block.t()), (&*ds, block));
            let (q, k) = ((qkv, self.packed(0, from, to)), (qkv, self.packed(1, 0, keys)));
            // SAFETY: the columns of this head are ours, as the caller promises.
            unsafe {
                kernel::matmul_shared((dqkv, v.1), p, output, T::ONE, Onto::itself_if(added));
                kernel::matmul_shared((dqkv, q.1), ds, k, self.scale(), Onto::Nothing);
                kernel::matmul_shared(
                    (dqkv, k.1),
                    (ds.0, block.t()),
                    q,
                    self.scale(),
                    Onto::itself_if(added),
                );
            }
        }
        for which in 0..3 {
            // SAFETY: as above.
            unsafe { dqkv.zero(self.packed(which, self.n, self.end)) }
        }
    }
}

/// Exact attention of one head, its queries, keys and values side by side in `qkv` (n, 3D): (n, D).
pub(crate) fn alone<T: Real>(qkv: &[T], n: usize, d: usize) -> Vec<T> {
    // SAFETY: the only head writes all columns.
    #[allow(unsafe_code)]
    unsafe {
        kernel::filled_by_products(n * d, |y| Head::alone(n, d).forward(y, qkv))
    }
}

/// The gradient of [`alone`] at `qkv` for `g` (n, D): (n, 3D).
pub(crate) fn alone_backward<T: Real>(qkv: &[T], g: &[T], n: usize, d: usize) -> Vec<T> {
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe {
        kernel::filled_by_products(qkv.len(), |dqkv| Head::alone(n, d).backward(dqkv, qkv, g))
    }
}

impl Attention {
    /// Runs `work(sequence, head)` for every head of every sequence, on all threads.
    fn for_heads(
        self,
        first: usize,
        rows: Rows,
        padding: Option<&Padding>,
        work: impl Fn(usize, Head) + Sync + Send,
    ) {
        let Self { heads, causal } = self;
        let (c, end) = (rows.width / 3, rows.tokens);
        let lengths = padding.map(Padding::lengths);
        threads::for_each(0..rows.batch * heads, |_, i| {
            let (sequence, head) = (i / heads, i % heads);
            let n = lengths.map_or(end, |lengths| lengths[sequence]);
            work(sequence, Head { n, end, first, c, d: c / heads, head, causal });
        });
    }

    /// The outputs of the tokens from `first` on; `sequence(i)` are the packed rows of sequence i.
    pub(crate) fn forward_from<'a, T: Real>(
        self,
        first: usize,
        rows: Rows,
        padding: Option<&Padding>,
        sequence: impl Fn(usize) -> &'a [T] + Sync + Send,
    ) -> Vec<T> {
        let len = (rows.tokens - first) * rows.width / 3;
        let work = |y: Shared<T>| {
            self.for_heads(first, rows, padding, |i, head| {
                // SAFETY: a head writes to columns of its own, in the part of its sequence.
                #[allow(unsafe_code)]
                unsafe {
                    head.forward(y.part(i * len, len), sequence(i));
                }
            });
        };
        // SAFETY: the heads write all columns of all sequences, zeros for padding.
        #[allow(unsafe_code)]
        unsafe {
            kernel::filled_by_products(rows.batch * len, work)
        }
    }
}

impl Kernel for Attention {
    const NAME: &'static str = "attention";

    fn output(&self, At { dims, pass }: At<'_>) -> Result<Vec<usize>> {
        let heads = self.heads;
        if let Some(padding) = pass.padding {
            padding.check(dims)?;
        }
        match dims {
            [b, n, width] if heads > 0 && width % (3 * heads) == 0 => Ok(vec![*b, *n, width / 3]),
            _ => candle_core::bail!(
                "attention: {dims:?} is not (batch, tokens, three times {heads} equal heads)"
            ),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        match pass.padding {
            None => device::attention(x, self.heads, self.causal),
            Some(padding) => device::padded_attention(x, self.heads, self.causal, padding),
        }
    }

    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Result<Option<Heads>> {
        let parts = Heads::split(x, self.heads)?;
        let seen = pass.padding.map(|padding| padding.mask(x.device())).transpose()?;
        reference::attention_probabilities(&parts[0], &parts[1], self.causal, seen.as_ref())
            .map(|attention| Some(Heads::new(parts, attention, Among::Tokens)))
    }

    fn cached(&self) -> Option<Attention> {
        Some(*self)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let (rows, padding) = (input.at.rows(), input.at.pass.padding);
        let len = rows.tokens * rows.width;
        Ok(self.forward_from(0, rows, padding, |i| &input.x[i * len..(i + 1) * len]))
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let (qkv, rows) = (input.x, input.at.rows());
        let len = rows.tokens * rows.width / 3;
        let work = |dqkv: Shared<T>| {
            self.for_heads(0, rows, input.at.pass.padding, |i, head| {
                let (qkv, g) = (&qkv[3 * i * len..3 * (i + 1) * len], &g[i * len..(i + 1) * len]);
                // SAFETY: a head writes to columns of its own, in the part of its sequence.
                #[allow(unsafe_code)]
                unsafe {
                    head.backward(dqkv.part(3 * i * len, 3 * len), qkv, g);
                }
            });
        };
        // SAFETY: the heads write all columns of all sequences: queries block by block, keys and
        // values with the last block, which sees every one of them and comes first; zeros for padding.
        #[allow(unsafe_code)]
        let dqkv = unsafe { kernel::filled_by_products(qkv.len(), work) };
        dqkv.into()
    }
}
