//! Coefficients of Polar Express: odd quintics that lift singular values to 1 as fast as possible.
//!
//! ```text
//! p(x) = a x + b x^3 + c x^5   with the smallest E for which |1 - p(x)| <= E on [l, u]
//! ```
//!
//! Each step solves this minimax problem on the interval that the step before has left; a
//! composition of such steps is the best one of its degree. p touches 1 - E, 1 + E, 1 - E, 1 + E at
//! l < q < r < u, where q and r are the extrema of p: four linear equations for (a, b, c, E) and one
//! quadratic for (q, r), solved in turn (a Remez iteration).
//!
//! Source: Amsel, Persson, Musco, Gower, "The Polar Express", 2025
//! ([arXiv 2505.16932](https://arxiv.org/abs/2505.16932)), Algorithm 3. As there, l is raised to
//! u / 10 for the coefficients where it is smaller: it costs one step and keeps values between l and
//! u from being thrown down to p(l), where f32 would lose their vectors; and u is raised by 1 %,
//! because p is steep at u: rounding there would grow tenfold a step. What differs: each p is
//! rescaled so that its whole range, the part below u / 10 included, has its middle at 1.

/// (a, b, c) of one step.
pub(crate) type Quintic = [f64; 3];

/// No interval of f64 needs more.
const MOST: usize = 64;

/// How far u is raised.
const SAFETY: f64 = 1.01;

/// From this l / u on p is flat at u, and rounding dies out.
const FLAT: f64 = 0.9;

/// The steps that bring [l, 1] to within `tolerance` of 1.
pub(crate) fn steps(l: f64, tolerance: f64) -> Vec<Quintic> {
    let (mut low, mut high) = (l, 1.0);
    let mut steps = Vec::new();
    while 1.0 - low > tolerance && steps.len() < MOST {
        if low < FLAT * high {
            high *= SAFETY;
        }
        let [a, b, c] = minimax(low.max(high / 10.0), high);
        // Below u / 10 the quintic rises steadily, so its range is [p(low), p(u) = 1 + E].
        let value = |x: f64| a * x + b * x.powi(3) + c * x.powi(5);
        let scale = 2.0 / (value(low) + value(high));
        (low, high) = (scale * value(low), scale * value(high));
        steps.push([scale * a, scale * b, scale * c]);
    }
    steps
}

/// The quintic closest to 1 on [l, u].
fn minimax(l: f64, u: f64) -> Quintic {
    // A narrow interval leaves the equations singular; its solution tends to the Newton-Schulz one.
    if l / u > 1.0 - 1e-5 {
        let m = (l + u) / 2.0;
        return [15.0 / 8.0 / m, -10.0 / 8.0 / m.powi(3), 3.0 / 8.0 / m.powi(5)];
    }
    let (mut q, mut r) = ((3.0 * l + u) / 4.0, (l + 3.0 * u) / 4.0);
    let mut quintic = [0.0; 3];
    // It converges quadratically: the fifth round is at rounding.
    for _ in 0..8 {
        quintic = equioscillation([l, q, r, u]);
        let [a, b, c] = quintic;
        let root = (9.0 * b * b - 20.0 * a * c).sqrt();
        (q, r) = (((-3.0 * b - root) / (10.0 * c)).sqrt(), ((-3.0 * b + root) / (10.0 * c)).sqrt());
    }
    quintic
}

/// (a, b, c) of p(x_i) + (-1)^i E = 1 at four points, by Gaussian elimination.
fn equioscillation(points: [f64; 4]) -> Quintic {
    let mut sign = -1.0;
    let mut rows = points.map(|x| {
        sign = -sign;
        [x, x.powi(3), x.powi(5), sign, 1.0]
    });
    for k in 0..4 {
        let best = (k..4).fold(k, |m, i| if rows[i][k].abs() > rows[m][k].abs() { i } else { m });
        rows.swap(k, best);
        let pivot = rows[k];
        for row in rows.iter_mut().skip(k + 1) {
            let factor = row[k] / pivot[k];
            row.iter_mut().zip(pivot).for_each(|(r, p)| *r -= factor * p);
        }
    }
    let mut solution = [0.0; 4];
    for k in (0..4).rev() {
        let known: f64 = (k + 1..4).map(|j| rows[k][j] * solution[j]).sum();
        solution[k] = (rows[k][4] - known) / rows[k][k];
    }
    [solution[0], solution[1], solution[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_coefficients() {
        // Algorithm 1 of the source, step 5: interval [0.44, 1.5604], above the cushion. Its values
        // carry the rounding of the interval given here to four digits.
        let [a, b, c] = minimax(0.44, 1.5604);
        for (found, published) in [(a, 2.3006), (b, -1.6689), (c, 0.4188)] {
            assert!((found - published).abs() < 2e-3, "{found} {published}");
        }
    }

    #[test]
    fn the_steps_reach_their_tolerance_over_the_whole_interval() {
        for (l, tolerance) in [(1e-3, 1e-3), (1e-6, 1e-3), (1e-6, 1e-10), (0.5, 0.1)] {
            let steps = steps(l, tolerance);
            for i in 0..=2000 {
                let x = l.powf(f64::from(i) / 2000.0);
                let y = steps.iter().fold(x, |x, [a, b, c]| x * (a + x * x * (b + x * x * c)));
                assert!((y - 1.0).abs() <= tolerance * 1.01 + 1e-14, "{l} {tolerance}: {x} -> {y}");
            }
        }
        assert_eq!(steps(1e-6, 1e-3).len(), 12);
    }
}
