//! Multi-head self-attention (Vaswani et al. 2017), parallel over the batch, without keeping the
//! N x N matrix of probabilities.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Real, View};
use crate::reference;

/// softmax(Q K^T / sqrt(D)) V for each head.
///
/// `qkv` is (B, N, 3C): for every token its queries, keys and values side by side, each split into
/// `heads` of width D = C / heads, as timm's `attn.qkv` writes them. The result is (B, N, C).
///
/// # Errors
/// When 3 `heads` does not divide the last dimension.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, _, width) = qkv.dims3()?;
    if heads == 0 || width % (3 * heads) != 0 {
        candle_core::bail!("attention: {width} channels are not three times {heads} equal heads");
    }
    if !kernel::serves(qkv) {
        return reference::attention(qkv, heads);
    }
    qkv.contiguous()?.apply_op1(AttentionOp { heads })
}

/// Sizes and views of one sequence.
#[derive(Clone, Copy)]
struct Geometry {
    n: usize,
    c: usize,
    heads: usize,
}

impl Geometry {
    /// Sizes of a (B, N, 3C) tensor.
    fn new(layout: &Layout, heads: usize) -> Result<(usize, Self)> {
        let (b, n, c3) = layout.shape().dims3()?;
        Ok((b, Self { n, c: c3 / 3, heads }))
    }

    /// Head width.
    fn d(self) -> usize {
        self.c / self.heads
    }

    /// 1 / sqrt(D).
    fn scale<T: Real>(self) -> T {
        T::from_f64(1.0 / (self.d() as f64).sqrt())
    }

    /// Queries (0), keys (1) or values (2) of a head in a packed sequence (N, 3C).
    fn packed(self, which: usize, head: usize) -> View {
        View::rows(self.n, self.d(), which * self.c + head * self.d(), 3 * self.c)
    }

    /// A head in a sequence of outputs (N, C).
    fn output(self, head: usize) -> View {
        View::rows(self.n, self.d(), head * self.d(), self.c)
    }

    /// A matrix of scores (N, N).
    fn scores(self) -> View {
        View::rows(self.n, self.n, 0, self.n)
    }

    /// P = softmax(Q K^T / sqrt(D)) of a head.
    fn probabilities<T: Real>(self, p: &mut [T], qkv: &[T], head: usize) {
        kernel::matmul(
            (p, self.scores()),
            (qkv, self.packed(0, head)),
            (qkv, self.packed(1, head).t()),
            self.scale(),
            false,
            false,
        );
        kernel::vectorised(
            #[inline(always)]
            || p.chunks_exact_mut(self.n).for_each(kernel::softmax_in_place),
        );
    }
}

struct AttentionOp {
    heads: usize,
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, geometry) = Geometry::new(layout, self.heads)?;
        let Geometry { n, c, heads } = geometry;
        kernel::dispatch!(qkv, self.name(), T => {
            let qkv: &[T] = kernel::slice(qkv, layout, self.name())?;
            let mut y = vec![T::ZERO; b * n * c];
            kernel::for_pieces(&mut y, n * c, |i, y| {
                let qkv = &qkv[3 * i * n * c..3 * (i + 1) * n * c];
                let mut p = vec![T::ZERO; n * n];
                for head in 0..heads {
                    geometry.probabilities(&mut p, qkv, head);
                    kernel::matmul(
                        (y, geometry.output(head)),
                        (&p, geometry.scores()),
                        (qkv, geometry.packed(2, head)),
                        T::ONE,
                        false,
                        false,
                    );
                }
            });
            kernel::output(y, Shape::from((b, n, c)))
        })
    }

    fn bwd(&self, qkv: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let op = AttentionGradOp { heads: self.heads };
        Ok(Some(qkv.detach().apply_op2_no_bwd(&g.contiguous()?, &op)?))
    }
}

/// (qkv, g) -> d qkv. With P the probabilities, recomputed, and s = 1/sqrt(D):
/// dV = P^T g, dP = g V^T, dS = P (dP - rowsum(dP P)), dQ = s dS K, dK = s dS^T Q.
struct AttentionGradOp {
    heads: usize,
}

impl AttentionGradOp {
    /// The gradient of one head of one sequence, written into its three places of `dqkv`.
    fn head<T: Real>(
        geometry: Geometry,
        head: usize,
        dqkv: &mut [T],
        (qkv, g): (&[T], &[T]),
        (p, ds): (&mut [T], &mut [T]),
    ) {
        let (n, scores, scale) = (geometry.n, geometry.scores(), geometry.scale());
        let [q, k, v] = [0, 1, 2].map(|which| geometry.packed(which, head));
        let output = geometry.output(head);
        geometry.probabilities(p, qkv, head);
        kernel::matmul((dqkv, v), (p, scores.t()), (g, output), T::ONE, false, false);
        kernel::matmul((ds, scores), (g, output), (qkv, v.t()), T::ONE, false, false);
        kernel::vectorised(
            #[inline(always)]
            || {
                for (p, ds) in p.chunks_exact(n).zip(ds.chunks_exact_mut(n)) {
                    let inner = kernel::sum_map2(p, ds, |p, d| p * d);
                    for (&p, ds) in p.iter().zip(ds) {
                        *ds = p * (*ds - inner);
                    }
                }
            },
        );
        kernel::matmul((dqkv, q), (ds, scores), (qkv, k), scale, false, false);
        kernel::matmul((dqkv, k), (ds, scores.t()), (qkv, q), scale, false, false);
    }
}

impl CustomOp2 for AttentionGradOp {
    fn name(&self) -> &'static str {
        "attention-gradient"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, geometry) = Geometry::new(qkv_layout, self.heads)?;
        let (n, c) = (geometry.n, geometry.c);
        kernel::dispatch!(qkv, self.name(), T => {
            let qkv: &[T] = kernel::slice(qkv, qkv_layout, self.name())?;
            let g: &[T] = kernel::slice(g, g_layout, self.name())?;
            let mut dqkv = vec![T::ZERO; qkv.len()];
            kernel::for_pieces(&mut dqkv, 3 * n * c, |i, dqkv| {
                let qkv = &qkv[3 * i * n * c..3 * (i + 1) * n * c];
                let g = &g[i * n * c..(i + 1) * n * c];
                let mut p = vec![T::ZERO; n * n];
                let mut ds = vec![T::ZERO; n * n];
                for head in 0..geometry.heads {
                    Self::head(geometry, head, dqkv, (qkv, g), (&mut p, &mut ds));
                }
            });
            kernel::output(dqkv, qkv_layout.shape().clone())
        })
    }
}
