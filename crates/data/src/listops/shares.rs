//! Which share of the trees is kept, and how long they are: the exact distribution, draws, and what was measured
//! with another implementation.

use super::*;

/// Deviations of a binomial share that a test allows: one in 150,000 seeds fails a check.
const DEVIATIONS: f64 = 4.5;

/// P(length of a tree = n), n from 0 to below `max_length`, by convolution: at the greatest depth x, above it
/// 3/4 x + 1/4 x² (P² + P³ + ...) / (number of counts), with P that of the depth below.
fn exact(settings: ListOps) -> Vec<f64> {
    let end = settings.max_length;
    let mut below = vec![0.0; end];
    below[1] = 1.0;
    for _ in 1..settings.max_depth {
        // 1 + P + P² + ... by Horner's rule, then P² times that.
        let mut sum = vec![0.0; end];
        for _ in 2..=settings.max_args {
            sum[0] += 1.0;
            sum = product(&sum, &below);
        }
        let sum = product(&sum, &below);
        let counts = (settings.max_args - 1) as f64;
        let mut this = vec![0.0; end];
        for n in 2..end {
            this[n] = 0.25 * sum[n - 2] / counts;
        }
        this[1] += 0.75;
        below = this;
    }
    below
}

/// The product of two power series.
fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; a.len()];
    for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x > 0.0) {
        for (sum, y) in product[i..].iter_mut().zip(b) {
            *sum += x * y;
        }
    }
    product
}

/// Settings, and what was measured of 1,500 trees that another implementation kept: percent kept, mean length.
fn measured() -> [(ListOps, f64, f64); 3] {
    let middle = ListOps { max_depth: 6, max_args: 6, min_length: 50, max_length: 200 };
    [(ListOps::published(), 8.3, 1067.0), (middle, 4.1, 76.0), (ListOps::short(), 3.6, 42.0)]
}

#[test]
fn as_many_trees_are_kept_as_must_be() {
    const TRIES: usize = 30_000;
    for (settings, kept_percent, mean) in measured() {
        let exact = &exact(settings)[settings.min_length + 1..];
        let share: f64 = exact.iter().sum();
        let moment = |k: i32| {
            let terms = exact.iter().zip(settings.min_length + 1..);
            terms.map(|(p, n)| p * (n as f64).powi(k)).sum::<f64>() / share
        };
        let (exact_mean, exact_sd) = (moment(1), (moment(2) - moment(1).powi(2)).sqrt());
        // The other implementation: 1,500 trees kept, rounded to a tenth of a percent and to a token.
        let tries = 1500.0 / share;
        let error = DEVIATIONS * (share * (1.0 - share) / tries).sqrt() + 0.0005;
        assert!((kept_percent / 100.0 - share).abs() < error, "{settings:?}: {share}");
        let error = DEVIATIONS * exact_sd / 1500f64.sqrt() + 0.5;
        assert!((mean - exact_mean).abs() < error, "{settings:?}: {exact_mean}");

        let mut rng = stream(7, 0, 0, Purpose::ListOps);
        let (mut tokens, mut open) = (Vec::new(), Vec::new());
        let mut lengths: Vec<usize> = Vec::new();
        for _ in 0..TRIES {
            if settings.tree(&mut rng, &mut tokens, &mut open) {
                lengths.push(tokens.len());
            }
        }
        let found = lengths.len() as f64 / TRIES as f64;
        let error = DEVIATIONS * (share * (1.0 - share) / TRIES as f64).sqrt();
        assert!((found - share).abs() < error, "{settings:?}: {found}, {share}");
        // The share of the kept trees up to each length, at nine lengths.
        for tenth in 1..10 {
            let span = settings.max_length - settings.min_length - 1;
            let end = span * tenth / 10;
            let p = exact[..end].iter().sum::<f64>() / share;
            let up_to = |&&n: &&usize| n < settings.min_length + 1 + end;
            let found = lengths.iter().filter(up_to).count() as f64 / lengths.len() as f64;
            let error = DEVIATIONS * (p * (1.0 - p) / lengths.len() as f64).sqrt();
            // One tree more or less where nearly all are shorter.
            let error = error + 1.0 / lengths.len() as f64;
            assert!((found - p).abs() < error, "{settings:?} up to {end}: {found}, {p}");
        }
    }
}
