//! What a text costs a language model.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::Mode;
use conditioned_nn::loss::IGNORED;

use crate::gpt2::Gpt2;

/// Tokens that go through the model at a time, in windows of equal length.
const BATCH: usize = 4096;

/// The mean negative log-likelihood of a text in nats per token; its exponential is the perplexity.
///
/// A window of `window` tokens moves over `ids` in steps of `stride`, as in the perplexity recipe of
/// transformers. Each token but the first is scored once, in the first window that holds it: behind
/// at least `window - stride` tokens where the text has them.
///
/// # Errors
/// When there are fewer than two ids, the stride is not in `1..window`, a window without its last
/// token is longer than the context, or as [`Gpt2::loss`].
pub fn mean_nll(model: &Gpt2, ids: &[u32], window: usize, stride: usize) -> Result<f64> {
    let context = model.context();
    if ids.len() < 2 {
        candle_core::bail!(
            "mean-nll: {} tokens; the first is not scored, give at least 2",
            ids.len()
        );
    }
    if stride == 0 || stride >= window {
        candle_core::bail!(
            "mean-nll: stride {stride} must be at least 1 and below the window of {window}, so that \
             every token is scored once"
        );
    }
    if window - 1 > context {
        candle_core::bail!(
            "mean-nll: a window of {window} tokens, the last only scored, does not fit into the \
             context of {context}"
        );
    }
    let windows = windows(ids.len(), window, stride);
    let mut total = 0.0;
    for equal in windows.chunk_by(|a, b| a.len() == b.len()) {
        for batch in equal.chunks((BATCH / window).max(1)) {
            total += nll(model, ids, batch)?;
        }
    }
    Ok(total / (ids.len() - 1) as f64)
}

/// Part of a text: the tokens `start..end`, of which those from `scored` on are scored.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: usize,
    scored: usize,
    end: usize,
}

impl Window {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The windows over a text of `len` tokens. All but the last have the same length.
fn windows(len: usize, window: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut scored = 1;
    for start in (0..).step_by(stride) {
        let end = (start + window).min(len);
        windows.push(Window { start, scored, end });
        scored = end;
        if end == len {
            break;
        }
    }
    windows
}

/// The sum over the scored tokens of windows of equal length.
fn nll(model: &Gpt2, ids: &[u32], windows: &[Window]) -> Result<f64> {
    let (mut inputs, mut targets, mut count) = (Vec::new(), Vec::new(), 0);
    for &Window { start, scored, end } in windows {
        inputs.extend_from_slice(&ids[start..end - 1]);
        targets.extend((start + 1..scored).map(|_| IGNORED));
        targets.extend_from_slice(&ids[scored..end]);
        count += end - scored;
    }
    let shape = (windows.len(), inputs.len() / windows.len());
    let device = model.head().device();
    let inputs = Tensor::from_vec(inputs, shape, device)?;
    let targets = Tensor::from_vec(targets, shape, &Device::Cpu)?;
    let mean = model.loss(&inputs, &targets, Mode::Eval)?;
    // Not every device has f64.
    let mean = mean.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    Ok(mean * count as f64)
}
