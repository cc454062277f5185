use std::collections::{BTreeMap, BTreeSet};

use conditioned_data::{Ngram, Tokenizer, stories};
use proptest::prelude::*;

/// Sums of at most a few hundred terms in f64.
const TOLERANCE: f64 = 1e-12;

fn train(order: usize, vocab: usize, documents: &[Vec<u32>]) -> Ngram {
    Ngram::train(order, vocab, documents.iter().map(Ok::<_, conditioned_data::Error>)).unwrap()
}

#[test]
fn a_case_by_hand() {
    let model = train(2, 3, &[vec![0, 1], vec![0, 2]]);
    // Each token follows one kind of token; no counts of counts, so D = 0.5, 1, 1.5 for both orders.
    // Unigrams: (1 - 0.5) / 3 + 0.5 * 3 / 3 * 1 / 3 = 1 / 3. At the start, 0 twice:
    // (2 - 1) / 2 + 1 / 2 * 1 / 3. After 0, 1 and 2 once each: (1 - 0.5) / 2 + 0.5 * 2 / 2 * 1 / 3.
    let expected = [[2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0], [1.0 / 6.0, 5.0 / 12.0, 5.0 / 12.0]];
    for (document, expected) in [&[][..], &[0]].into_iter().zip(expected) {
        for (p, expected) in model.next(document).unwrap().into_iter().zip(expected) {
            assert!((p - expected).abs() < TOLERANCE, "{p} {expected}");
        }
    }
    let score = model.score([[0, 1]]).unwrap();
    assert_eq!(score.tokens, 2);
    assert!((score.nats + (2.0f64 / 3.0 * 5.0 / 12.0).ln()).abs() < TOLERANCE);
    assert!(
        (score.bits_per_byte(4) - score.nats_per_token() * 2.0 / 4.0 / 2f64.ln()).abs() < TOLERANCE
    );
}

/// The formulas over lists of n-grams, with `vocab` as the start of a document.
struct Oracle {
    order: usize,
    vocab: u32,
    /// a of each n-gram of at most `order` tokens.
    a: BTreeMap<Vec<u32>, u64>,
}

impl Oracle {
    fn new(order: usize, vocab: u32, documents: &[Vec<u32>]) -> Self {
        let mut counts: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        for document in documents {
            let text = [&[vocab], &document[..]].concat();
            for end in 2..=text.len() {
                for start in end.saturating_sub(order)..end {
                    *counts.entry(text[start..end].to_vec()).or_default() += 1;
                }
            }
        }
        let before = |g: &[u32]| counts.keys().filter(|k| k[1..] == *g).count() as u64;
        let a = |(g, &count): (&Vec<u32>, &u64)| {
            let raw = g.len() == order || g[0] == vocab;
            (g.clone(), if raw { count } else { before(g) })
        };
        Self { order, vocab, a: counts.iter().map(a).collect() }
    }

    fn discount(&self, order: usize, a: u64) -> f64 {
        let n = |i| self.a.iter().filter(|(g, a)| g.len() == order && **a == i).count() as f64;
        let y = n(1) / (n(1) + 2.0 * n(2));
        let d =
            [1.0 - 2.0 * y * n(2) / n(1), 2.0 - 3.0 * y * n(3) / n(2), 3.0 - 4.0 * y * n(4) / n(3)];
        let usable =
            d[0] > 0.0 && d[1] > 0.0 && d[2] > 0.0 && d[0] <= 1.0 && d[1] <= 2.0 && d[2] <= 3.0;
        let d = if usable { d } else { [0.5, 1.0, 1.5] };
        if a == 0 { 0.0 } else { d[(a.min(3) - 1) as usize] }
    }

    fn probability(&self, history: &[u32], token: u32) -> f64 {
        let lower = match history {
            [] => 1.0 / f64::from(self.vocab),
            [_, shorter @ ..] => self.probability(shorter, token),
        };
        let a = |w| self.a.get(&[history, &[w]].concat()).copied().unwrap_or(0);
        let seen: Vec<u64> = (0..self.vocab).map(a).filter(|&a| a > 0).collect();
        let sum = seen.iter().sum::<u64>() as f64;
        if sum == 0.0 {
            return lower;
        }
        let order = history.len() + 1;
        let spread: f64 = seen.iter().map(|&a| self.discount(order, a)).sum();
        let kept = a(token) as f64 - self.discount(order, a(token));
        (kept + spread * lower) / sum
    }

    fn next(&self, document: &[u32]) -> Vec<f64> {
        let text = [&[self.vocab], document].concat();
        let history = &text[text.len().saturating_sub(self.order - 1)..];
        (0..self.vocab).map(|token| self.probability(history, token)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn probabilities_are_those_of_the_formulas_and_sum_to_one(
        documents in prop::collection::vec(prop::collection::vec(0u32..4, 0..25), 1..6),
        history in prop::collection::vec(0u32..5, 0..6), order in 1usize..5,
    ) {
        prop_assume!(documents.iter().any(|d| !d.is_empty()));
        let (model, oracle) = (train(order, 5, &documents), Oracle::new(order, 5, &documents));
        let (p, expected) = (model.next(&history).unwrap(), oracle.next(&history));
        prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < TOLERANCE);
        for (p, expected) in p.iter().zip(&expected) {
            prop_assert!(*p > 0.0 && (p - expected).abs() < TOLERANCE, "{p} {expected}");
        }
    }
}

#[test]
fn a_longer_history_helps_on_stories_and_does_not_say_all() {
    let tokenizer = Tokenizer::train(stories(0, 300), 1000).unwrap();
    let encode = |range: std::ops::Range<u64>| -> Vec<Vec<u32>> {
        range.map(|i| tokenizer.encode(&conditioned_data::story(0, i)).unwrap()).collect()
    };
    let (seen, held_out) = (encode(0..2000), encode(2000..2200));
    let cost = |order| train(order, 1000, &seen).score(&held_out).unwrap().nats_per_token();
    let costs = [1, 2, 3, 5].map(cost);
    assert!(costs.is_sorted_by(|a, b| a > b), "{costs:?}");
    let same = train(5, 1000, &seen).score(&held_out).unwrap();
    assert_eq!(same, train(5, 1000, &seen).score(&held_out).unwrap());
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let fail = |order, documents: &[Vec<u32>]| {
        let documents = documents.iter().map(Ok::<_, conditioned_data::Error>);
        Ngram::train(order, 3, documents).unwrap_err().to_string()
    };
    assert!(fail(0, &[vec![1]]).contains("order = 0"));
    assert!(fail(2, &[vec![]]).contains("at least one token"));
    assert!(fail(2, &[vec![1, 3]]).contains("token = 3: expected less than the vocabulary, 3"));
    let model = train(2, 3, &[vec![1]]);
    assert!(model.next(&[3]).is_err() && model.score([[0, 5]]).is_err());
    let unique: BTreeSet<u64> = model.next(&[]).unwrap().iter().map(|p| p.to_bits()).collect();
    assert_eq!(unique.len(), 2);
}
