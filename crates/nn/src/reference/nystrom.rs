//! The definition of [`crate::NystromAttention`].

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;

use super::{depthwise1d, scores};
use crate::nystrom_attention::InverseScale;
use crate::probe::{self, Heads};
use crate::pseudo_inverse::ITERATIONS;
use crate::{Padding, upload};

/// Attention by landmarks of a packed (B, N, 3C) tensor, with `convolution` (H, 1, taps, 1) of the values where
/// there is one, among the real tokens of padded sequences; see [`crate::NystromAttention`]. Linear in N.
///
/// # Errors
/// When shapes do not fit.
pub fn nystrom_attention(
    qkv: &Tensor,
    heads: usize,
    landmarks: usize,
    scale: InverseScale,
    convolution: Option<&Tensor>,
    padding: Option<&Padding>,
) -> Result<Tensor> {
    let n = qkv.dim(1)?;
    if qkv.elem_count() == 0 {
        // candle takes no maximum of nothing.
        return qkv.narrow(2, 0, qkv.dim(2)? / 3);
    }
    let output = |(factors, v): (Factors, Tensor)| {
        let mut y = factors.apply(&v)?; // (B', H, N', D)
        if let Some(weight) = convolution {
            y = (y + depthwise1d(&v, weight)?)?;
        }
        let (b, heads, real, d) = y.dims4()?;
        let y = y.transpose(1, 2)?.contiguous()?.reshape((b, real, heads * d))?;
        y.pad_with_zeros(1, 0, n - real)
    };
    let groups = groups(qkv, heads, landmarks, scale, padding)?;
    let outputs = groups.into_iter().map(|([.., v], factors)| output((factors, v)));
    Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)
}

/// Queries, keys, values and attention F Z B, without the convolution; see [`crate::NystromAttention`].
///
/// # Errors
/// When shapes do not fit.
pub(crate) fn nystrom_heads(
    qkv: &Tensor,
    heads: usize,
    landmarks: usize,
    scale: InverseScale,
    padding: Option<&Padding>,
) -> Result<Heads> {
    let n = qkv.dim(1)?;
    let full = |(_, factors): (_, Factors)| {
        let p = factors.matrix()?;
        let more = n - p.dim(2)?;
        p.pad_with_zeros(2, 0, more)?.pad_with_zeros(3, 0, more)
    };
    let groups = groups(qkv, heads, landmarks, scale, padding)?;
    let attention = groups.into_iter().map(full).collect::<Result<Vec<_>>>()?;
    Ok(Heads::new(Heads::split(qkv, heads)?, Tensor::cat(&attention, 0)?, probe::Among::Tokens))
}

/// What values are summed with.
enum Factors {
    /// softmax(s Q K^T).
    Exact(Tensor),
    /// F, Z and B.
    Landmarks([Tensor; 3]),
}

impl Factors {
    fn apply(&self, v: &Tensor) -> Result<Tensor> {
        match self {
            Self::Exact(p) => p.matmul(v),
            Self::Landmarks([f, z, b]) => f.matmul(&z.matmul(&b.matmul(v)?)?),
        }
    }

    fn matrix(&self) -> Result<Tensor> {
        match self {
            Self::Exact(p) => Ok(p.clone()),
            Self::Landmarks([f, z, b]) => f.matmul(&z.matmul(b)?),
        }
    }
}

/// Queries, keys, values (B', H, N', D) and factors of all sequences together, or of each alone without its
/// padding.
fn groups(
    qkv: &Tensor,
    heads: usize,
    landmarks: usize,
    scale: InverseScale,
    padding: Option<&Padding>,
) -> Result<Vec<([Tensor; 3], Factors)>> {
    let alone = match padding {
        None => vec![qkv.clone()],
        Some(padding) => {
            let lengths = padding.lengths().iter().enumerate();
            lengths.map(|(i, &n)| qkv.narrow(0, i, 1)?.narrow(1, 0, n)).collect::<Result<_>>()?
        }
    };
    let parts = alone.iter().map(|qkv| Heads::split(qkv, heads)).collect::<Result<Vec<_>>>()?;
    let among = parts.iter().map(|[q, k, _]| among(q, k, landmarks));
    let among = among.collect::<Result<Vec<_>>>()?;
    let common = match scale {
        InverseScale::Head => None,
        InverseScale::Batch => {
            let sums = among.iter().flatten().map(|Among { a, .. }| a.sum(2)?.flatten_all());
            let sums = sums.collect::<Result<Vec<_>>>()?;
            if sums.is_empty() { None } else { Some(Tensor::cat(&sums, 0)?.max(0)?) }
        }
    };
    let factors = |(parts, among): ([Tensor; 3], Option<Among>)| {
        let [q, k, _] = &parts;
        let factors = match among {
            None => Factors::Exact(softmax(&scores(q, k, false)?, D::Minus1)?),
            Some(Among { q: q_means, k: k_means, a }) => Factors::Landmarks([
                softmax(&scores(q, &k_means, false)?, D::Minus1)?,
                pseudo_inverse(&a, common.as_ref())?,
                softmax(&scores(&q_means, k, false)?, D::Minus1)?,
            ]),
        };
        Ok((parts, factors))
    };
    parts.into_iter().zip(among).map(factors).collect()
}

/// Q~, K~ (B, H, M, D) and A (B, H, M, M).
struct Among {
    q: Tensor,
    k: Tensor,
    a: Tensor,
}

/// Nothing for at most `landmarks` tokens.
fn among(q: &Tensor, k: &Tensor, landmarks: usize) -> Result<Option<Among>> {
    let (n, m) = (q.dim(2)?, landmarks);
    if n <= m {
        return Ok(None);
    }
    let mut means = vec![0.0; m * n];
    for j in 0..m {
        let segment = j * n / m..(j + 1) * n / m;
        let part = 1.0 / segment.len() as f64;
        means[j * n..(j + 1) * n][segment].fill(part);
    }
    let means = Tensor::from_vec(means, (m, n), &candle_core::Device::Cpu)?;
    let means = upload(&means.to_dtype(q.dtype())?, q.device())?;
    let (q, k) = (means.broadcast_matmul(q)?, means.broadcast_matmul(k)?);
    let a = softmax(&scores(&q, &k, false)?, D::Minus1)?;
    Ok(Some(Among { q, k, a }))
}

/// Z_6 of Z <- Z/4 (13 I - A Z (15 I - A Z (7 I - A Z))) from A^T / c, c given or the largest column sum.
fn pseudo_inverse(a: &Tensor, c: Option<&Tensor>) -> Result<Tensor> {
    let identity = Tensor::eye(a.dim(2)?, a.dtype(), a.device())?;
    let from = |multiple: f64, x: &Tensor| (&identity * multiple)?.broadcast_sub(x);
    let mut z = match c {
        Some(c) => a.t()?.contiguous()?.broadcast_div(c)?,
        None => {
            let c = a.sum(2)?.max_keepdim(2)?.unsqueeze(3)?; // (B, H, 1, 1)
            a.t()?.contiguous()?.broadcast_div(&c)?
        }
    };
    for _ in 0..ITERATIONS {
        let t = a.matmul(&z)?;
        let inner = from(15.0, &t.matmul(&from(7.0, &t)?)?)?;
        z = (z.matmul(&from(13.0, &t.matmul(&inner)?)?)? * 0.25)?;
    }
    Ok(z)
}
