//! Kernels of our own on CUDA devices, for what candle lacks there or does in many passes over memory.
//!
//! | kernel | in place of |
//! | --- | --- |
//! | layer norm and RMS norm, forward and backward | a copy forward, a dozen operations backward |
//! | bias | a copy in bf16, a slow sum backward |
//! | rows of a table by index, forward and backward | sums backward by one thread a column |
//! | attention in bf16, heads of 32 or 64, padded or not, without its matrix of scores, forward and backward | products, softmax, transposes |
//! | softmax of scaled and hidden scores, forward and backward | scale, mask, softmax, four operations backward |
//! | GELU, forward and backward | a dozen operations backward |
//! | dropout and drop path, the mask drawn in place | masks drawn on the host |
//! | cross-entropy of labels, forward and backward | log softmax in f32, gather, scatter |
//! | AdamW, three launches a parameter | a dozen operations |
//!
//! Inputs are f32 or bf16, sums are f32. NVRTC compiles them when the first one runs (no toolkit is needed to build them);
//! everything else falls to [`crate::device`] and [`crate::reference`]. The tests run the very same kernels on the CPU
//! ([`emulate`]); **none of them has run on a GPU yet**.

mod device;
mod launch;
mod op;
mod rows;
#[cfg(feature = "cuda")]
pub(crate) mod staging;

use candle_core::{DType, Result, Shape, Tensor, Var};

pub use device::{keep_memory, name};
pub use launch::{Host, Launch, SOURCES, emulate};

pub(crate) use launch::{has_tensor_cores, serves};
use op::Op;
pub(crate) use rows::rows;

use crate::device::sum_rows;
use crate::{Gelu, Padding};

/// The kernel for the dtype of x.
fn typed(kernel: &str, x: &Tensor) -> String {
    let dtype = if x.dtype() == DType::BF16 { "bf16" } else { "float" };
    format!("{kernel}_{dtype}")
}

/// Whether kernels can run on x (.., C) with these vectors (C,) of its dtype.
pub(crate) fn serves_with(x: &Tensor, vectors: &[&Tensor]) -> bool {
    let of_width = |v: &&Tensor| v.rank() == 1 && v.dims().last() == x.dims().last();
    serves(x) && vectors.iter().all(|v| of_width(v) && v.dtype() == x.dtype())
}

/// (x - mean) r w + b of f32 over the last dimension, r = 1/sqrt(var + eps).
pub(crate) fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut launch = Launch::of_rows("layer_norm_rows".to_string(), &x);
    launch.numbers[0] = eps as f32;
    let backward = move |[x, w, _]: [&Tensor; 3], _: &Tensor, g: &Tensor| {
        let (dx, dw, db) = norm_gradients("layer_norm_input", [x, w, g], eps)?;
        Ok([Some(dx), Some(dw), Some(db)])
    };
    x.apply_op3(&w.contiguous()?, &b.contiguous()?, Op { launch, backward })
}

/// x r w of f32 over the last dimension, r = 1/sqrt(mean(x^2) + eps).
pub(crate) fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut launch = Launch::of_rows("rms_norm_rows".to_string(), &x);
    launch.numbers[0] = eps as f32;
    let backward = move |[x, w]: [&Tensor; 2], _: &Tensor, g: &Tensor| {
        let (dx, dw, _) = norm_gradients("rms_norm_input", [x, w, g], eps)?;
        Ok([Some(dx), Some(dw)])
    };
    x.apply_op2(&w.contiguous()?, Op { launch, backward })
}

/// Rows whose sums one block takes.
const PART: usize = 256;

/// (dx, dw, db) of a norm, of which `input` is the kernel for dx.
fn norm_gradients(
    input: &str,
    [x, w, g]: [&Tensor; 3],
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (x, w, g) = (x.detach(), w.detach(), g.detach().contiguous()?);
    let mut launch = Launch::of_rows(input.to_string(), &x);
    let (rows, width, n) = (launch.rows, launch.width, x.elem_count());
    let parts = rows.div_ceil(PART);
    let parameters = Launch {
        kernel: "norm_parameters".to_string(),
        numbers: [PART as f32, 0.0, 0.0, 0.0],
        blocks: parts * width.div_ceil(32),
        threads: 256,
        shape: Shape::from((parts, 2 * width)),
        ..launch.clone()
    };
    launch.numbers[0] = eps as f32;
    launch.shape = Shape::from(n + 2 * rows);
    let found = launch.run(&[&x, &w, &g])?;
    let (dx, statistics) = (found.narrow(0, 0, n)?, found.narrow(0, n, 2 * rows)?);
    let sums = sum_rows(&parameters.run(&[&x, &g, &statistics])?)?;
    Ok((dx.reshape(x.shape())?, sums.narrow(0, 0, width)?, sums.narrow(0, width, width)?))
}

/// y + b for y (.., C) and b (C,).
pub(crate) fn add_bias(y: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = y.contiguous()?;
    let (rows, width) = (y.elem_count() / b.elem_count(), b.elem_count());
    let elements = Launch::of_elements(typed("add_bias", &y), &y);
    let backward =
        |_: [&Tensor; 2], _: &Tensor, g: &Tensor| Ok([Some(g.clone()), Some(sum_rows(g)?)]);
    y.apply_op2(&b.contiguous()?, Op { launch: Launch { rows, width, ..elements }, backward })
}

/// softmax(scale x) over the last dimension.
///
/// With `queries` x are scores (.., queries, N) of the last ones of N tokens, each of which sees those up to itself.
pub(crate) fn softmax(x: &Tensor, scale: f64, queries: Option<usize>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut launch = Launch::of_rows(typed("softmax_rows", &x), &x);
    launch.numbers[..2].copy_from_slice(&[scale as f32, queries.unwrap_or(0) as f32]);
    // dx = scale y (g - sum(g y)).
    let backward = move |_: [&Tensor; 1], y: &Tensor, g: &Tensor| {
        let mut launch = Launch::of_rows(typed("softmax_gradient", y), y);
        launch.numbers[0] = scale as f32;
        Ok([Some(launch.run(&[&y.detach(), &g.contiguous()?])?)])
    };
    x.apply_op1(Op { launch, backward })
}

/// Rows of a tile of [`attention`].
const TILE: usize = 64;

/// Whether [`attention`] takes packed tokens (B, N, 3C) with this many heads.
pub(crate) fn serves_attention(qkv: &Tensor, heads: usize) -> bool {
    let width = qkv.dims().last().copied().unwrap_or(0);
    let is_taken = [32, 64].iter().any(|d| width == 3 * heads * d);
    is_taken && qkv.dtype() == DType::BF16 && serves(qkv) && has_tensor_cores(qkv)
}

/// x contiguous, from a place on where eight numbers can be read at once.
fn aligned(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.layout().start_offset() % 8 == 0 { Ok(x) } else { x.force_contiguous() }
}

/// Self-attention of packed queries, keys and values in bf16, (B, N, 3C) to (B, N, C), without its matrix of scores;
/// padding is not seen and gets zeros.
pub(crate) fn attention(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    padding: Option<&Padding>,
) -> Result<Tensor> {
    let (batch, n, width) = qkv.dims3()?;
    let (c, d) = (width / 3, width / 3 / heads);
    let qkv = aligned(qkv)?;
    let lengths = padding.map(|padding| padding.lengths_on(qkv.device())).transpose()?;
    let form = if lengths.is_some() { "attention_padded" } else { "attention" };
    let launch = Launch {
        kernel: format!("{form}_{d}"),
        rows: n,
        width: c,
        numbers: [1.0 / (d as f32).sqrt(), f32::from(causal), heads as f32, 0.0],
        blocks: batch * heads * n.div_ceil(TILE),
        threads: 2 * TILE,
        shape: Shape::from((batch, n, c)),
        // What the gradient needs, in f32: (B, H, N) and (B,).
        behind: 2 * batch * (heads * n + 1),
        dtype: DType::BF16,
    };
    let of_gradient = Launch {
        kernel: format!("attention_gradient_{d}"),
        blocks: 2 * launch.blocks,
        shape: qkv.shape().clone(),
        behind: 0,
        ..launch.clone()
    };
    let gradient = move |x: &Tensor, y: &Tensor, g: &Tensor| {
        of_gradient.clone().run(&[&x.detach(), &y.detach(), &aligned(g)?]).map(Some)
    };
    match lengths {
        None => {
            let backward = move |[x]: [&Tensor; 1], y: &_, g: &_| Ok([gradient(x, y, g)?]);
            qkv.apply_op1(Op { launch, backward })
        }
        Some(lengths) => {
            let backward = move |[x, _]: [&Tensor; 2], y: &_, g: &_| Ok([gradient(x, y, g)?, None]);
            qkv.apply_op2(&lengths, Op { launch, backward })
        }
    }
}

/// The GELU of x.
pub(crate) fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    let by_tanh = f32::from(form == Gelu::Tanh);
    let x = x.contiguous()?;
    let mut launch = Launch::of_elements(typed("gelu_forward", &x), &x);
    launch.numbers[0] = by_tanh;
    let backward = move |[x]: [&Tensor; 1], _: &Tensor, g: &Tensor| {
        let mut launch = Launch::of_elements(typed("gelu_gradient", x), x);
        launch.numbers[0] = by_tanh;
        Ok([Some(launch.run(&[&x.detach(), &g.contiguous()?])?)])
    };
    x.apply_op1(Op { launch, backward })
}

/// x with each group of `group` elements dropped with probability p, or divided by 1 - p: the mask of [`crate::dropout`]
/// for the stream `key`, drawn where it is used.
pub(crate) fn masked(x: &Tensor, p: f64, key: u64, group: usize) -> Result<Tensor> {
    let x = x.contiguous()?;
    let launch_on = move |x: &Tensor| {
        // 24 random bits are kept from here on: the numbers below p 2^24 are dropped.
        let least = (p * f64::from(1 << 24)).ceil() as f32;
        let (low, high) = (f32::from_bits(key as u32), f32::from_bits((key >> 32) as u32));
        Launch {
            width: group,
            numbers: [least, (1.0 / (1.0 - p)) as f32, low, high],
            ..Launch::of_elements(typed("masked", x), x)
        }
    };
    let backward = move |_: [&Tensor; 1], _: &Tensor, g: &Tensor| {
        let g = g.contiguous()?;
        Ok([Some(launch_on(&g).run(&[&g])?)])
    };
    x.apply_op1(Op { launch: launch_on(&x), backward })
}

/// Threads for a row of logits.
const LOGITS: usize = 1024;

/// -log softmax(logits)_label of every row, over the first `classes` of its logits (rows, V): labels (rows,) u32 below
/// `classes`, to f32 (rows,).
pub(crate) fn label_losses(logits: &Tensor, labels: &Tensor, classes: usize) -> Result<Tensor> {
    let (logits, rows) = (logits.contiguous()?, logits.dim(0)?);
    let launch = Launch {
        rows: classes,
        blocks: rows,
        threads: LOGITS,
        shape: Shape::from((rows, 2)),
        dtype: DType::F32,
        ..Launch::of_rows(typed("cross_entropy_rows", &logits), &logits)
    };
    // Column 0 holds losses, column 1 what backward needs of the row.
    let backward = move |[x, labels]: [&Tensor; 2], y: &Tensor, g: &Tensor| {
        let scales = Tensor::cat(&[g.narrow(1, 0, 1)?, y.detach().narrow(1, 1, 1)?], 1)?;
        let launch = Launch {
            rows: classes,
            blocks: rows,
            threads: LOGITS,
            ..Launch::of_rows(typed("cross_entropy_gradient", x), x)
        };
        Ok([Some(launch.run(&[&x.detach(), labels, &scales])?), None])
    };
    logits.apply_op2(&labels.contiguous()?, Op { launch, backward })?.narrow(1, 0, 1)?.squeeze(1)
}

/// One step of AdamW of an f32 parameter and its moments, in place; `false` where no kernel serves it.
///
/// ```text
/// m     <- m + a1 (s g - m),   v <- b2 v + a2 (s g)^2
/// theta <- decay theta - rate m / (sqrt(v) / root + eps)
/// ```
///
/// # Errors
/// When shapes do not fit, or the device fails.
pub fn adamw(
    theta: &Var,
    (m, v): (&Tensor, &Tensor),
    g: &Tensor,
    step: &AdamWStep,
) -> Result<bool> {
    let ours = [theta.as_tensor(), m, v, g].iter().all(|x| serves(x) && x.dtype() == DType::F32);
    if !ours {
        return Ok(false);
    }
    if [m, v, g].iter().any(|x| x.dims() != theta.dims()) {
        candle_core::bail!("adamw: {:?} for a parameter {:?}", g.dims(), theta.dims());
    }
    let AdamWStep { s, a1, b2, a2, decay, rate, root, eps } = *step;
    let g = g.detach().contiguous()?;
    let launch = |kernel: &str, numbers: [f64; 4]| Launch {
        numbers: numbers.map(|number| number as f32),
        ..Launch::of_elements(kernel.to_string(), theta)
    };
    m.inplace_op2(&g, &launch("adamw_first", [a1, s, 0.0, 0.0]))?;
    v.inplace_op2(&g, &launch("adamw_second", [b2, a2, s, 0.0]))?;
    theta.inplace_op3(m, v, &launch("adamw_parameter", [decay, rate, root, eps]))?;
    Ok(true)
}

/// The numbers of a step of [`adamw`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the symbols of its formula
pub struct AdamWStep {
    pub s: f64,
    pub a1: f64,
    pub b2: f64,
    pub a2: f64,
    pub decay: f64,
    pub rate: f64,
    pub root: f64,
    pub eps: f64,
}
