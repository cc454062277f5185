//! The reduction of a symmetric matrix to tridiagonal form by reflections.
//!
//! ```text
//! A = Q T Q^T,   Q = H_0 H_1 .. H_(k-2),   H = I - s v v^T,   s = 2 / (v^T v)
//! p = s A v,   w = p - (s / 2) (p^T v) v,   H A H = A - v w^T - w v^T
//! ```
//!
//! The vector v of H_j is zero above row j and 1 in it. One pass over what is left of A subtracts the products of one
//! reflection and multiplies by the vector of the next.
//!
//! H_0 turns the first column of Q into that of A. So the columns of Q are those of the Krylov space of a vector in the
//! range of A: if A has rank r, nothing but rounding is left of it after r reflections, and T (r, r) is not singular.
//!
//! Source: Golub and Van Loan, Matrix Computations, 8.3.1.

use faer::{Mat, MatRef};

/// Rows side by side in a vector.
const LANES: usize = 8;

/// Columns in one pass.
const GROUP: usize = 4;

type Lanes = [f64; LANES];

/// Some rows of some columns, column by column.
type Tile = [Lanes; GROUP];

/// T (r, r) and the vectors of the reflections.
pub(crate) struct Reduction {
    pub(crate) diagonal: Vec<f64>,
    /// Entry i stands in row i + 1.
    pub(crate) below: Vec<f64>,
    /// V: (k, k - 1), or (k, r) where the reduction ended before; the vector of H_j in column j.
    pub(crate) V: Mat<f64>,
}

/// Reduces `scale` A, whose lower triangle is read.
///
/// It ends, with r < k, where no diagonal entry of what is left of A, and no coupling to it, is above `negligible` times
/// the largest diagonal entry of T: never for 0.
#[inline(always)]
pub(crate) fn reduce(A: MatRef<'_, f64>, scale: f64, negligible: f64) -> Reduction {
    let k = A.nrows();
    let height = k.div_ceil(LANES);
    let groups = height * LANES / GROUP;
    // A vector that straddles two lines of the cache is slow.
    let mut memory = vec![0.0; (groups * height * GROUP + 1) * LANES];
    let aligned = memory.as_ptr().align_offset(size_of::<Lanes>()) % LANES;
    let left = memory[aligned..].as_chunks_mut().0.as_chunks_mut().0;
    let left = &mut left[..groups * height];
    fill(left, A, scale);
    let mut V = Mat::zeros(k, k.saturating_sub(1));
    let (mut diagonal, mut below) = (Vec::with_capacity(k), Vec::with_capacity(k));
    let mut largest = 0f64;
    // Of the last reflection, whose products are still in what is left, and of the next.
    let [mut v, mut w, mut u, mut p] = [(); 4].map(|()| vec![[0.0; LANES]; height]);
    let mut mirrored = vec![[0.0; LANES]; height * LANES];
    for next in 0..=k {
        // The column that H_next works on: the one before, in which it leaves the coupling, or for H_0 the first.
        let j = next.saturating_sub(1);
        let tiles = &mut left[j / GROUP * height..][..height];
        let (v_j, w_j) = (v.as_flattened()[j], w.as_flattened()[j]);
        for r in j / LANES..height {
            u[r] = less_products(tiles[r][j % GROUP], v[r], w[r], v_j, w_j);
        }
        if next > 0 {
            diagonal.push(u.as_flattened()[j]);
            largest = largest.max(diagonal[j]);
        }
        if next + 1 >= k {
            below.extend(&u.as_flattened()[next.max(1)..k]);
            continue;
        }
        let (entry, s) = reflection(&mut u, next);
        if next > 0 {
            let is_zero = |x: f64| x.abs() < negligible * largest;
            if is_zero(entry) && (next..k).all(|i| is_zero(on_diagonal(left, height, &v, &w, i))) {
                V.truncate(k, next);
                break;
            }
            below.push(entry);
        }
        let start = next / LANES;
        p.fill([0.0; LANES]);
        for g in next / GROUP..groups {
            let b = g * GROUP / LANES;
            let tiles = &mut left[g * height..][b..height];
            let c = g * GROUP % LANES;
            mirrored.as_chunks_mut().0[g] = sweep(tiles, c, &v[b..], &w[b..], &u[b..], &mut p[b..]);
        }
        for (p, mirrored) in p.as_flattened_mut().iter_mut().zip(&mirrored).skip(next) {
            *p += total(*mirrored);
        }
        p.as_flattened_mut()[..next].fill(0.0);
        let along = 0.5 * s * s * dot(&p[start..], &u[start..]);
        for (p, u) in p[start..].iter_mut().zip(&u[start..]) {
            for lane in 0..LANES {
                p[lane] = s * p[lane] - along * u[lane];
            }
        }
        V.col_as_slice_mut(next)[next..].copy_from_slice(&u.as_flattened()[next..k]);
        (v, w, u, p) = (u, p, v, w);
    }
    Reduction { diagonal, below, V }
}

/// The lower triangle of scale A, and the whole tiles on its diagonal.
#[inline(always)]
fn fill(left: &mut [Tile], A: MatRef<'_, f64>, scale: f64) {
    let (k, height) = (A.nrows(), A.nrows().div_ceil(LANES));
    for j in 0..k {
        let tiles = &mut left[j / GROUP * height..][..height];
        for (i, entry) in A.col(j).iter().enumerate().skip(j) {
            tiles[i / LANES][j % GROUP][i % LANES] = scale * entry;
        }
        for i in j / LANES * LANES..j {
            tiles[j / LANES][j % GROUP][i % LANES] = scale * A[(j, i)];
        }
    }
}

/// The entry (i, i) of what is left of A, less the products of the last reflection.
#[inline(always)]
fn on_diagonal(left: &[Tile], height: usize, v: &[Lanes], w: &[Lanes], i: usize) -> f64 {
    let entry = left[i / GROUP * height + i / LANES][i % GROUP][i % LANES];
    entry - 2.0 * v.as_flattened()[i] * w.as_flattened()[i]
}

/// Turns a column into the vector of the reflection of its entries from row `first` on; what that leaves in the row,
/// and s.
#[inline(always)]
fn reflection(v: &mut [Lanes], first: usize) -> (f64, f64) {
    v.as_flattened_mut()[..first].fill(0.0);
    let start = first / LANES;
    let (entry, norm) = (v.as_flattened()[first], dot(&v[start..], &v[start..]).sqrt());
    let left = -norm.copysign(entry);
    let mut s = 2.0;
    // Below, squares are too small to have all their digits; and what is so small counts for nothing.
    if norm > 1e-140 {
        let scale = (entry - left).recip();
        v[start..].as_flattened_mut().iter_mut().for_each(|v| *v *= scale);
        // v^T v = 2 norm / (norm + |entry|).
        s = 1.0 + entry.abs() / norm;
    }
    v.as_flattened_mut()[first] = 1.0;
    (left, s)
}

#[inline(always)]
fn less_products(mut a: Lanes, v: Lanes, w: Lanes, v_c: f64, w_c: f64) -> Lanes {
    for lane in 0..LANES {
        a[lane] = v[lane].mul_add(-w_c, w[lane].mul_add(-v_c, a[lane]));
    }
    a
}

#[inline(always)]
fn add_product(sums: &mut Lanes, a: Lanes, b: Lanes) {
    for lane in 0..LANES {
        sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
    }
}

/// Subtracts the products v w^T + w v^T from columns `c` on, from their diagonal on, and adds to p what these columns,
/// and the rows that mirror them, give times u.
#[inline(always)]
fn sweep(
    tiles: &mut [Tile],
    c: usize,
    v: &[Lanes],
    w: &[Lanes],
    u: &[Lanes],
    p: &mut [Lanes],
) -> Tile {
    let of = |x: &[Lanes]| -> [f64; GROUP] { std::array::from_fn(|i| x[0][c + i]) };
    let (v_c, w_c, u_c) = (of(v), of(w), of(u));
    let mut mirrored = [[0.0; LANES]; GROUP];
    let mut rows = tiles.iter_mut().zip(v).zip(w).zip(u).zip(p);
    if let Some(((((tile, v), w), _), p)) = rows.next() {
        let (v, w, mut sums) = (*v, *w, *p);
        for i in 0..GROUP {
            let a = less_products(tile[i], v, w, v_c[i], w_c[i]);
            tile[i] = a;
            add_product(&mut sums, a, [u_c[i]; LANES]);
        }
        *p = sums;
    }
    for ((((tile, v), w), u), p) in rows {
        let (v, w, u, mut sums) = (*v, *w, *u, *p);
        for i in 0..GROUP {
            let a = less_products(tile[i], v, w, v_c[i], w_c[i]);
            tile[i] = a;
            add_product(&mut sums, a, [u_c[i]; LANES]);
            add_product(&mut mirrored[i], a, u);
        }
        *p = sums;
    }
    mirrored
}

/// The sum of all entries, in pairs.
#[inline(always)]
fn total(x: Lanes) -> f64 {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| x[i] + x[i + 4]);
    (a + c) + (b + d)
}

#[inline(always)]
fn dot(a: &[Lanes], b: &[Lanes]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        add_product(&mut sums, *a, *b);
    }
    total(sums)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::blocks::vectorised;

    /// Of the largest entry: a few roundings a reflection.
    const TOLERANCE: f64 = 1e-13;

    /// Q T Q^T, and the largest entry of Q Q^T - I.
    fn rebuilt(reduction: &Reduction) -> (Mat<f64>, f64) {
        let Reduction { diagonal, below, V } = reduction;
        let (k, r) = (V.nrows(), diagonal.len());
        let T = Mat::from_fn(k, k, |i, j| match i.abs_diff(j) {
            _ if i.max(j) >= r => 0.0,
            0 => diagonal[i],
            1 => below[i.min(j)],
            _ => 0.0,
        });
        let mut Q: Mat<f64> = Mat::identity(k, k);
        for v in V.col_iter() {
            let H: Mat<f64> = Mat::from_fn(k, k, |i, j| {
                f64::from(i == j) - 2.0 * v[i] * v[j] / v.squared_norm_l2()
            });
            Q = &Q * H;
        }
        let error = (&Q * Q.transpose() - Mat::<f64>::identity(k, k)).norm_max();
        (&Q * T * Q.transpose(), error)
    }

    /// Symmetric, with `rank` directions.
    fn matrix(rng: &mut ChaCha8Rng, k: usize, rank: usize) -> Mat<f64> {
        let X = Mat::from_fn(k, rank, |_, _| rng.random_range(-1.0..1.0));
        &X * X.transpose()
    }

    #[test]
    fn reflections_and_tridiagonal_form_give_the_matrix_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for k in 1..=41 {
            let diagonal = Mat::from_fn(k, k, |i, j| if i == j { i as f64 } else { 0.0 });
            let full = matrix(&mut rng, k, 2 * k);
            // Squares of these couplings have only some of their digits.
            let weak = Mat::from_fn(k, k, |i, j| if i == j { 1.0 } else { 1e-161 });
            let half = matrix(&mut rng, k, k.div_ceil(2));
            let one = matrix(&mut rng, k, 1);
            for (A, rank) in [(diagonal, k), (weak, k), (one, 1), (half, k.div_ceil(2)), (full, k)]
            {
                // What stands above the diagonal is not read.
                let lower = Mat::from_fn(k, k, |i, j| if i >= j { A[(i, j)] } else { f64::NAN });
                for negligible in [0.0, 1e-14] {
                    let reduction = vectorised(
                        #[inline(always)]
                        || reduce(lower.as_ref(), 0.25, negligible),
                    );
                    let (rebuilt, error) = rebuilt(&reduction);
                    assert!(error < TOLERANCE, "{k}: Q is off by {error:e}");
                    let error =
                        (rebuilt * faer::Scale(4.0) - &A).norm_max() / A.norm_max().max(1.0);
                    assert!(error < TOLERANCE, "{k}: off by {error:e}");
                    // Small couplings make rounding larger: one step more.
                    let most = if negligible > 0.0 { rank + 1 } else { k };
                    let r = reduction.diagonal.len();
                    assert!(r <= most, "{k}: {r} rows, rank {rank}");
                }
            }
        }
    }
}
