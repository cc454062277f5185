//! What causal attention remembers of the tokens before, so that the next ones cost their own work
//! only.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Real};
use crate::{Attention, device};

/// The queries, keys and values of the tokens that one attention layer has seen.
///
/// They are kept packed, (B, capacity, 3C), as the projection writes them: attention then runs over
/// the same layout as in training, for the last queries only. The price is that the queries before,
/// a third of it, are kept and never read. Evaluation only: nothing here has a gradient.
#[derive(Debug)]
pub struct Cache {
    capacity: usize,
    len: usize,
    /// Made with the first tokens, which say how many sequences and channels there are.
    packed: Option<Tensor>,
}

impl Cache {
    /// An empty cache for sequences of at most `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, len: 0, packed: None }
    }

    /// Tokens seen so far, in every sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Attention of the next tokens, `qkv` (B, N, 3C), to all tokens so far: (B, N, C).
    pub(crate) fn attend(&mut self, attention: Attention, qkv: &Tensor) -> Result<Tensor> {
        let (batch, count, width) = qkv.dims3()?;
        let end = self.len + count;
        if !attention.causal {
            candle_core::bail!(
                "cache: attention that is not causal would change for earlier tokens"
            );
        }
        if attention.heads == 0 || !width.is_multiple_of(3 * attention.heads) {
            candle_core::bail!("cache: {width} is not three times {} equal heads", attention.heads);
        }
        if end > self.capacity {
            candle_core::bail!(
                "cache: {end} tokens are more than its capacity of {}",
                self.capacity
            );
        }
        if qkv.elem_count() == 0 {
            return qkv.narrow(2, 0, width / 3);
        }
        let packed = match self.packed.take() {
            Some(packed) => packed,
            None => Tensor::zeros((batch, self.capacity, width), qkv.dtype(), qkv.device())?,
        };
        let written = packed.slice_set(&qkv.detach().contiguous()?, 1, self.len);
        let seen = packed.narrow(1, 0, end);
        self.packed = Some(packed);
        written?;
        let first = std::mem::replace(&mut self.len, end);
        let seen = seen?;
        if kernel::serves(&seen) {
            seen.apply_op1_no_bwd(&AttentionFrom { attention, first })
        } else {
            device::attention_from(&seen, attention.heads, attention.causal, first)
        }
    }
}

/// Attention of the tokens from `first` on.
struct AttentionFrom {
    attention: Attention,
    first: usize,
}

impl AttentionFrom {
    fn forward<T: Real>(&self, qkv: &[T], layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, width) = layout.shape().dims3()?;
        // A sequence is contiguous; the next one lies behind the rest of the capacity.
        let (start, stride) = (layout.start_offset(), layout.stride()[0]);
        let sequence = |i: usize| &qkv[start + i * stride..][..tokens * width];
        let rows = kernel::Rows { batch, tokens, width };
        let y = self.attention.forward_from(self.first, rows, None, sequence);
        kernel::output(y, (batch, tokens - self.first, width / 3))
    }
}

impl CustomOp1 for AttentionFrom {
    fn name(&self) -> &'static str {
        "attention-from"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(qkv, self.name(), T => self.forward(qkv.as_slice::<T>()?, layout))
    }
}
