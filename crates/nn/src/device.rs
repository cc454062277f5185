//! What the layers run on CUDA, on Metal and in half or mixed precision: candle's fused forward kernels with
//! a backward in tensor operations.
//!
//! candle's fused layer norm, RMS norm and softmax cut the graph. Here their result goes through a
//! custom op whose forward hands it on and whose backward is the formula. Everything else is the
//! definition in [`crate::reference`].

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Device, Layout,
    MetalStorage, Result, Shape, Storage, Tensor,
};
use candle_nn::ops;

use crate::{Gelu, Padding, Precision, cuda, reference, upload};

/// The result of a fused kernel, until the op that gives it a backward has taken it.
struct Finished(Mutex<Option<Tensor>>);

impl Finished {
    fn new(result: Tensor) -> Self {
        Self(Mutex::new(Some(result)))
    }

    /// A copy of the result in its own storage.
    fn take(&self) -> Result<(Storage, Shape)> {
        let Some(result) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            candle_core::bail!("a fused result was taken twice");
        };
        let (storage, layout) = result.storage_and_layout();
        let copy = match &*storage {
            Storage::Cpu(storage) => Storage::Cpu(storage.try_clone(layout)?),
            Storage::Cuda(storage) => Storage::Cuda(storage.try_clone(layout)?),
            Storage::Metal(storage) => Storage::Metal(storage.try_clone(layout)?),
        };
        Ok((copy, layout.shape().clone()))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("a fused result is not on the CPU"),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("a fused result is not on a CUDA device"),
        }
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        match self.take()? {
            (Storage::Metal(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("a fused result is not on a Metal device"),
        }
    }
}

/// The sum over all rows of `x` (..., C) as (C,): a product with ones, which is faster than candle's
/// sum over leading dimensions.
pub(crate) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let x = x.reshape(((), width))?;
    let ones = Tensor::ones((1, x.dim(0)?), x.dtype(), x.device())?;
    ones.matmul(&x)?.flatten_all()
}

/// In f32 at least: statistics of rows are not summed in half precision.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// f of x in f32 at least, in the dtype of x.
pub(crate) fn widened(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&wide(x)?)?.to_dtype(x.dtype())
}

/// The result of a fused kernel of two tensors, with the formula of its backward.
struct Fused<B> {
    name: &'static str,
    finished: Finished,
    backward: B,
}

impl<B> Fused<B>
where
    B: Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync,
{
    /// `backward(x, w, g)` is (dx, dw).
    fn new(name: &'static str, result: Tensor, backward: B) -> Self {
        Self { name, finished: Finished::new(result), backward }
    }
}

impl<B> CustomOp2 for Fused<B>
where
    B: Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.finished.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.finished.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.finished.metal()
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = (self.backward)(x, w, g)?;
        Ok((Some(dx), Some(dw)))
    }
}

/// y + b for `y` (..., C) and, where there is one, `b` (C,).
///
/// # Errors
/// When shapes do not fit.
pub fn add_bias(y: &Tensor, b: Option<&Tensor>, precision: Precision) -> Result<Tensor> {
    let Some(b) = b else { return Ok(y.clone()) };
    let b = precision.factor(b)?;
    if cuda::serves_with(y, &[&b]) {
        return cuda::add_bias(y, &b);
    }
    if !matches!(y.dtype(), DType::BF16 | DType::F16) {
        return y.broadcast_add(&b);
    }
    let sum = y.detach().broadcast_add(&b.detach())?;
    // dy = g, db = sum over rows of g: a product, which adds in f32 where candle's sum would in bf16.
    let op = Fused::new("add-bias", sum, |_, _, g| Ok((g.clone(), sum_rows(g)?)));
    y.apply_op2(&b, op)
}

/// The rows `ids` of a table (V, C): (ids, C).
///
/// # Errors
/// When an id is not below V.
pub fn rows(table: &Tensor, ids: Vec<u32>) -> Result<Tensor> {
    let count = table.dim(0)?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= count) {
        candle_core::bail!("row {id} of a table of {count} rows");
    }
    if table.dtype() == DType::F32 && cuda::serves(table) && !ids.is_empty() {
        return cuda::rows(table, ids);
    }
    let n = ids.len();
    table.index_select(&upload(&Tensor::from_vec(ids, n, &Device::Cpu)?, table.device())?, 0)
}

/// softmax(x) over the last dimension.
///
/// # Errors
/// When the dtype is not a float.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::softmax(x, 1.0, None);
    }
    let x = x.contiguous()?;
    let y = match x.device().is_cpu() {
        // candle's kernel adds in the dtype of x there.
        true => widened(&x.detach(), ops::softmax_last_dim)?,
        false => ops::softmax_last_dim(&x.detach())?,
    };
    x.apply_op1(SoftmaxOp(Finished::new(y)))
}

struct SoftmaxOp(Finished);

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.0.metal()
    }

    /// dx = y (g - sum(g y)).
    fn bwd(&self, x: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (y, g) = (wide(&y.detach())?, wide(g)?);
        let yg = (&y * g)?;
        let dx = (&yg - y.broadcast_mul(&yg.sum_keepdim(D::Minus1)?)?)?;
        Ok(Some(dx.to_dtype(x.dtype())?))
    }
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        // candle's kernel has no f64.
        return reference::layer_norm(x, weight, bias, eps);
    }
    if x.dtype() == DType::F32 && cuda::serves_with(x, &[weight, bias]) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let y = ops::layer_norm(&x.detach(), &weight.detach(), &bias.detach(), eps as f32)?;
    x.apply_op3(&weight, &bias, LayerNormOp { finished: Finished::new(y), eps })
}

struct LayerNormOp {
    finished: Finished,
    eps: f64,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.finished.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.finished.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.finished.metal()
    }

    /// With n = (x - mean) r, r = 1/sqrt(var + eps) and h = g w:
    /// dx = r (h - mean(h) - n mean(h n)), dw = sum over rows of g n, db = sum over rows of g.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dtype = x.dtype();
        let (x, w, g) = (wide(&x.detach())?, wide(&w.detach())?, wide(g)?);
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let r = (variance + self.eps)?.sqrt()?.recip()?;
        let n = centred.broadcast_mul(&r)?;
        let h = g.broadcast_mul(&w)?;
        let along = n.broadcast_mul(&(&h * &n)?.mean_keepdim(D::Minus1)?)?;
        let dx = (h.broadcast_sub(&h.mean_keepdim(D::Minus1)?)? - along)?.broadcast_mul(&r)?;
        let (dw, db) = (sum_rows(&(&g * &n)?)?, sum_rows(&g)?);
        Ok((Some(dx.to_dtype(dtype)?), Some(dw.to_dtype(dtype)?), Some(db.to_dtype(dtype)?)))
    }
}

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        // candle's kernel has no f64.
        return reference::rms_norm(x, weight, eps);
    }
    if x.dtype() == DType::F32 && cuda::serves_with(x, &[weight]) {
        return cuda::rms_norm(x, weight, eps);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let y = ops::rms_norm(&x.detach(), &weight.detach(), eps as f32)?;
    x.apply_op2(&weight, Fused::new("rms-norm", y, move |x, w, g| rms_norm_backward(x, w, g, eps)))
}

/// With n = x r, r = 1/sqrt(mean(x^2) + eps) and h = g w: dx = r (h - n mean(h n)),
/// dw = sum over rows of g n.
fn rms_norm_backward(x: &Tensor, w: &Tensor, g: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let dtype = x.dtype();
    let (x, w, g) = (wide(&x.detach())?, wide(&w.detach())?, wide(g)?);
    let r = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let n = x.broadcast_mul(&r)?;
    let h = g.broadcast_mul(&w)?;
    let along = n.broadcast_mul(&(&h * &n)?.mean_keepdim(D::Minus1)?)?;
    let dx = (h - along)?.broadcast_mul(&r)?;
    Ok((dx.to_dtype(dtype)?, sum_rows(&(&g * &n)?)?.to_dtype(dtype)?))
}

/// Multi-head self-attention of a packed (B, N, 3C) tensor; see [`crate::Attention`].
///
/// # Errors
/// When shapes do not fit.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    attention_from(qkv, heads, causal, 0)
}

/// The same among the real tokens of padded sequences: padding is not seen and gets zeros.
///
/// # Errors
/// When shapes do not fit.
pub fn padded_attention(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    padding: &Padding,
) -> Result<Tensor> {
    padding.check(qkv.dims())?;
    if cuda::serves_attention(qkv, heads) {
        return cuda::attention(qkv, heads, causal, Some(padding));
    }
    let mask = padding.mask(qkv.device())?;
    let keys = mask.unsqueeze(1)?.unsqueeze(1)?; // (B, 1, 1, N)
    let probabilities = |q: &Tensor, k: &Tensor| {
        let scores = reference::scores(q, k, causal)?;
        widened(&scores, |scores| reference::softmax(scores, 1.0, Some(&keys)))
    };
    let y = reference::attention_with(qkv, heads, 0, probabilities)?;
    y.broadcast_mul(&mask.unsqueeze(2)?.to_dtype(y.dtype())?)
}

/// The same for the tokens from `first` on: (B, N, 3C) to (B, N - first, C).
pub(crate) fn attention_from(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    first: usize,
) -> Result<Tensor> {
    if first == 0 && cuda::serves_attention(qkv, heads) {
        return cuda::attention(qkv, heads, causal, None);
    }
    reference::attention_with(qkv, heads, first, |q, k| {
        if !cuda::serves(q) {
            return softmax(&reference::scores(q, k, causal)?);
        }
        let queries = if causal { Some(q.dim(D::Minus2)?) } else { None };
        let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
        cuda::softmax(&q.matmul(&k.t()?)?, scale, queries)
    })
}

/// The GELU.
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    match form {
        _ if cuda::serves(x) => cuda::gelu(x, form),
        Gelu::Erf => reference::gelu(x),
        Gelu::Tanh => reference::gelu_tanh(x),
    }
}

/// The gated GELU; see [`crate::GatedGelu`].
///
/// # Errors
/// When the last dimension is odd or the dtype is not a float.
pub fn gated_gelu(x: &Tensor) -> Result<Tensor> {
    let [a, b] = &x.chunk(2, D::Minus1)?[..] else {
        candle_core::bail!("gated-gelu: {:?} has no two halves", x.dims());
    };
    a * gelu(b, Gelu::Erf)?
}

/// The classes of a head on CUDA are a multiple of it.
const CLASSES: usize = 64;

/// That candle's CUDA kernels, which count elements in 32 bits and would go on for ever, can take the logits.
fn require_countable(rows: usize, width: usize) -> Result<()> {
    if rows.saturating_mul(width) > u32::MAX as usize {
        candle_core::bail!(
            "linear-cross-entropy: {rows} tokens with {width} classes make 2^32 logits or more, which candle's CUDA \
             kernels cannot count; take a smaller micro-batch, and accumulate several"
        );
    }
    Ok(())
}

/// Mean over labelled rows of -log softmax(x W^T)_label; see [`crate::linear_cross_entropy`].
///
/// # Errors
/// When shapes do not fit, or there are more logits than candle's CUDA kernels can count.
pub fn linear_cross_entropy(x: &Tensor, weight: &Tensor, labels: &[u32]) -> Result<Tensor> {
    if !cuda::serves(x) {
        return reference::linear_cross_entropy(x, weight, labels);
    }
    let classes = weight.dim(0)?;
    let (x, labels) = reference::labelled(x, labels, classes)?;
    // Tensor cores are fast where rows begin at multiples of their tiles; GPT-2 has 50,257 classes.
    let width = classes.next_multiple_of(CLASSES);
    require_countable(x.dim(0)?, width)?;
    let padding = width - classes;
    let logits = x.matmul(&weight.pad_with_zeros(0, 0, padding)?.t()?)?;
    cuda::label_losses(&logits, &labels, classes)?.mean_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_beyond_32_bits_are_refused() {
        assert!(require_countable(84 << 10, 50_304 - CLASSES * 12).is_ok());
        let error = require_countable(84 << 10, 50_304).unwrap_err().to_string();
        assert!(error.contains("86016 tokens with 50304 classes"), "{error}");
    }
}
