//! A seeded permutation of 0..n that is never written out.

use rand::Rng;

const ROUNDS: usize = 8;

/// A balanced Feistel network on the smallest even number of bits that holds n, walked along its
/// cycles back into 0..n: fewer than four steps on average.
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    pub(crate) fn new(n: usize, rng: &mut impl Rng) -> Self {
        let n = n as u64;
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { n, half: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.random()) }
    }

    /// Where `i`, below n, goes.
    pub(crate) fn at(&self, i: usize) -> usize {
        debug_assert!((i as u64) < self.n);
        let mut x = self.step(i as u64);
        while x >= self.n {
            x = self.step(x);
        }
        x as usize
    }

    fn step(&self, x: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// The finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, stream};

    #[test]
    fn every_number_comes_once() {
        for n in (1..300).chain([4095, 4096, 4097, 100_003]) {
            let permutation = Permutation::new(n, &mut stream(n as u64, 0, 0, Purpose::Windows));
            let mut seen: Vec<usize> = (0..n).map(|i| permutation.at(i)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n), "{n}");
        }
    }

    #[test]
    fn every_number_is_as_likely_everywhere() {
        // 5 numbers, 20,000 seeds: each cell expects 4,000 and deviates by 57; five deviations.
        let mut counts = [[0; 5]; 5];
        for seed in 0..20_000 {
            let permutation = Permutation::new(5, &mut stream(seed, 0, 0, Purpose::Windows));
            for (i, row) in counts.iter_mut().enumerate() {
                row[permutation.at(i)] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|&c: &i32| (c - 4000).abs() < 285), "{counts:?}");
    }
}
