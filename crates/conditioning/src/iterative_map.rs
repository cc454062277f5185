//! The matrix M of pooled conditioning by matrix products alone, on the device of G.
//!
//! ```text
//! M = I + t sigma_1 L,   L = E diag(1 / max(sigma_i, floor sigma_1)) E^T,   G = E diag(sigma_i^2) E^T
//! ```
//!
//! With G scaled to sigma_1 = 1, the steps (a, b, c) of Polar Express for [floor, 1] ([`express`]) run in the coupled
//! form of the Newton-Schulz iteration:
//!
//! ```text
//! Y = G, Z = I;   A = Z Y,   Q = a I + b A + c A^2,   Y <- Y Q,   Z <- Q Z:   Z -> G^(-1/2)
//! ```
//!
//! Above the floor Z has 1 / sigma_i; below, something larger than 1 / floor. The smaller one of Z and 1 / floor follows
//! from the sign of their difference, which the same polynomials find:
//!
//! ```text
//! W = floor Z - I,   floor L = (W + 2 I - W sign(W)) / 2
//! ```
//!
//! Source: Higham, "Functions of Matrices", 2008, section 6.7 (coupled iterations) and 5.1 (minima by the sign).

use candle_core::{DType, Tensor};

use crate::Result;
use crate::express::{self, Quintic};
use crate::power::{Estimate, Rows, identity, one_if_zero};

/// How far Z may be from 1 / sigma_i, relatively. The steps converge cubically: the last one buys most of it.
const INVERSE_TOLERANCE: f64 = 1e-6;

/// Weights closer to 1 / floor than this, relatively, may come out as their mean with it.
const UNRESOLVED: f64 = 1e-3;

/// The steps begin a little below the floor, so that what lies below it certainly has a larger weight.
const MARGIN: f64 = 0.9;

/// The least floor that the iteration is taken for: it lifts what rounding leaves of a direction that G has not, 1e-16 to
/// 1e-15 sigma_1^2, by 1 / floor^2, and diverges where that comes near 1.
pub(crate) const LEAST_FLOOR: f64 = 1e-5;

/// M = I + t sigma_1 L of a Gram matrix (d, d) f64; symmetric. For zero it is I.
///
/// sigma_1 is that of a power iteration: at most ln(d) / 16384 too small, relatively, where singular values crowd below
/// the first. NaN and infinity pass through on a GPU.
pub(crate) fn iterative_map(G: &Tensor, t: f64, floor: f64) -> Result<Tensor> {
    let G = G.detach();
    let d = G.dim(0)?;
    let rows = Rows::new(&G, None, DType::F64)?;
    let square = (rows.top(Estimate::Rayleigh)? * &rows.scale)?.reshape((1, 1))?; // sigma_1^2
    let G = G.broadcast_div(&one_if_zero(&square)?)?;
    let eye = identity(d, DType::F64, G.device())?;
    let steps = express::steps(MARGIN * floor, INVERSE_TOLERANCE);
    let W = ((inverse_root(&G, &eye, &steps)? * floor)? - &eye)?;
    // L is sigma_1 L of the unscaled G.
    let L = ((&W + (&eye * 2.0)?)? - magnitude(&W, &eye, floor, &steps)?)?;
    let L = ((&L + L.t()?)? * (t / (4.0 * floor)))?;
    let is_zero = square.eq(&square.zeros_like()?)?.broadcast_as((d, d))?.contiguous()?;
    Ok((is_zero.where_cond(&L.zeros_like()?, &L)? + eye)?)
}

/// a I + b A + c A^2.
fn factor([a, b, c]: Quintic, A: &Tensor, eye: &Tensor) -> Result<Tensor> {
    Ok((((eye * a)? + (A * b)?)? + (A.matmul(A)? * c)?)?)
}

/// Z of G (d, d) with sigma_1 = 1.
fn inverse_root(G: &Tensor, eye: &Tensor, steps: &[Quintic]) -> Result<Tensor> {
    let (mut Y, mut Z) = (G.clone(), None::<Tensor>);
    for (at, step) in steps.iter().enumerate() {
        let A = match &Z {
            None => Y.clone(),
            Some(Z) => Z.matmul(&Y)?,
        };
        let Q = factor(*step, &A, eye)?;
        if at + 1 < steps.len() {
            Y = Y.matmul(&Q)?;
        }
        Z = Some(match Z {
            None => Q,
            Some(Z) => Q.matmul(&Z)?,
        });
    }
    Ok(Z.unwrap_or_else(|| eye.clone()))
}

/// |W| = W sign(W) of W = floor Z - I, whose eigenvalues lie above -1.
fn magnitude(W: &Tensor, eye: &Tensor, floor: f64, steps: &[Quintic]) -> Result<Tensor> {
    // Z is largest in directions of zero, where it is the product of all a.
    let largest = floor * steps.iter().map(|[a, ..]| a).product::<f64>();
    let scale = (largest - 1.0).max(1.0);
    let mut S = (W / scale)?;
    // A weight of 1 is the difference of two numbers of 1 / floor.
    for step in express::steps(UNRESOLVED / scale, floor * INVERSE_TOLERANCE) {
        S = factor(step, &S.matmul(&S)?, eye)?.matmul(&S)?;
    }
    Ok(W.matmul(&S)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use faer::Mat;

    use super::*;
    use crate::map::{inverse_root_map, tensor};

    /// The sigma_1 of a power iteration where singular values crowd, and UNRESOLVED.
    const TOLERANCE: f64 = 2e-3;

    /// G = H diag(sigma^2) H with a reflection H = I - 2 v v^T / v^T v.
    fn gram(sigma: &[f64]) -> Vec<f64> {
        let d = sigma.len();
        let v: Vec<f64> = (0..d).map(|i| (i * i * 37 % 101) as f64 - 49.5).collect();
        let square: f64 = v.iter().map(|v| v * v).sum();
        let H = Mat::from_fn(d, d, |i, j| f64::from(i == j) - 2.0 * v[i] * v[j] / square);
        let S = Mat::from_fn(d, d, |i, j| if i == j { sigma[i] * sigma[i] } else { 0.0 });
        let G = &H * &S * &H;
        (0..d * d).map(|at| G[(at / d, at % d)]).collect()
    }

    #[test]
    fn it_is_the_map_of_the_eigenproblem() -> Result<()> {
        let spread = |d: usize, least: f64| -> Vec<f64> {
            (0..d).map(|i| 7.0 * least.powf(i as f64 / (d - 1) as f64)).collect()
        };
        let crowded = (0..40).map(|i| 1.0 - 1e-5 * f64::from(i)).collect();
        let low_rank = [spread(9, 0.2), vec![0.0; 13]].concat();
        let large = [spread(100, 0.01), vec![0.0; 100]].concat();
        for sigma in
            [vec![3.0], vec![1.0; 8], spread(24, 0.1), spread(33, 1e-6), crowded, low_rank, large]
        {
            for floor in [1.0, 0.3, 1e-1, 1e-3, 1e-4, LEAST_FLOOR] {
                let (d, t) = (sigma.len(), 0.7);
                let gram = gram(&sigma);
                let want = tensor(&*inverse_root_map("G", &gram, d, t, floor)?)?;
                let found =
                    iterative_map(&Tensor::from_vec(gram, (d, d), &Device::Cpu)?, t, floor)?;
                let scale = (&want - Tensor::eye(d, DType::F64, &Device::Cpu)?)?;
                let largest = |x: &Tensor| -> Result<f64> {
                    Ok(x.abs()?.flatten_all()?.max(0)?.to_scalar()?)
                };
                let error = largest(&(&found - &want)?)? / largest(&scale)?;
                assert!(error < TOLERANCE, "{d} at {floor}: {error}");
            }
        }
        Ok(())
    }

    #[test]
    fn each_direction_gets_its_own_share() -> Result<()> {
        // A diagonal G keeps apart what one norm would hide: a weight of 1 beside one of 1000.
        let sigma = [1.0, 0.5, 0.1, 0.01, 0.002, 0.0005, 0.0];
        let G = Tensor::from_vec(gram_of_diagonal(&sigma), (7, 7), &Device::Cpu)?;
        let M = iterative_map(&G, 1.0, 1e-3)?.to_vec2::<f64>()?;
        for (i, sigma) in sigma.iter().enumerate() {
            let want = 1.0 + 1.0 / sigma.max(1e-3);
            assert!((M[i][i] / want - 1.0).abs() < TOLERANCE, "{sigma}: {} {want}", M[i][i]);
        }
        Ok(())
    }

    fn gram_of_diagonal(sigma: &[f64]) -> Vec<f64> {
        let d = sigma.len();
        let entry = |at| if at / d == at % d { sigma[at / d] * sigma[at / d] } else { 0.0 };
        (0..d * d).map(entry).collect()
    }

    #[test]
    fn of_zero_it_is_the_identity() -> Result<()> {
        let eye = Tensor::eye(3, DType::F64, &Device::Cpu)?;
        assert_eq!(
            iterative_map(&eye.zeros_like()?, 1.0, 1e-3)?.to_vec2::<f64>()?,
            eye.to_vec2::<f64>()?
        );
        Ok(())
    }
}
