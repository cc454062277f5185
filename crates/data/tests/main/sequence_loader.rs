use std::collections::HashSet;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use conditioned_data::{
    SequenceBatch, SequenceEpoch, SequenceLoader, SequenceLoaderConfig, SequenceSet,
};
use proptest::prelude::*;

/// `n` rows of 1 to 40 tokens, row i with class i mod 3; ids 1 to 9.
fn numbered(n: usize, pairs: bool) -> SequenceSet {
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    for i in 0..n * (1 + usize::from(pairs)) {
        tokens.extend((0..1 + i * 7 % 40).map(|j| 1 + ((i + j) % 9) as u16));
        ends.push(tokens.len());
    }
    let labels = (0..n as u32).map(|i| i % 3).collect();
    let new = if pairs { SequenceSet::of_pairs } else { SequenceSet::new };
    new("numbered", 10, 3, tokens, ends, labels).unwrap()
}

/// Single sequences with these tokens.
fn set(sequences: &[&[u16]]) -> SequenceSet {
    let ends = sequences.iter().scan(0, |end, sequence| {
        *end += sequence.len();
        Some(*end)
    });
    let labels = vec![0; sequences.len()];
    SequenceSet::new("made up", 10, 1, sequences.concat(), ends.collect(), labels).unwrap()
}

fn loader(set: SequenceSet, config: SequenceLoaderConfig) -> SequenceLoader {
    SequenceLoader::new(Arc::new(set), config, &Device::Cpu).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn batches(epoch: SequenceEpoch) -> Vec<SequenceBatch> {
    epoch.map(Result::unwrap).collect()
}

/// Ids, positions and mask, labels, indices.
type Contents = ([Vec<Vec<u32>>; 3], Vec<u32>, Vec<usize>);

fn values(batch: &SequenceBatch) -> Contents {
    let tensors = [&batch.ids, &batch.positions, &batch.mask].map(rows);
    (tensors, batch.labels.to_vec1().unwrap(), batch.indices.clone())
}

#[test]
fn a_batch_holds_its_sequences_and_is_as_long_as_the_longest() {
    for pairs in [false, true] {
        let set = numbered(10, pairs);
        let config = SequenceLoaderConfig { buckets: false, ..SequenceLoaderConfig::evaluation(4) };
        let loader = loader(set.clone(), config);
        assert_eq!(loader.set(), &set);
        let batches = batches(loader.epoch(0));
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.indices.len()).collect();
        assert_eq!(sizes, [4, 4, 2]);
        for (i, batch) in batches.iter().enumerate() {
            let dtypes = [&batch.ids, &batch.positions, &batch.mask, &batch.labels];
            assert_eq!(dtypes.map(Tensor::dtype), [DType::U32, DType::U32, DType::U8, DType::U32]);
            let ([ids, positions, mask], labels, indices) = values(batch);
            assert_eq!(indices, (i * 4..i * 4 + sizes[i]).collect::<Vec<_>>());
            assert_eq!(labels, indices.iter().map(|&i| i as u32 % 3).collect::<Vec<_>>());
            // Of pairs all the first sequences, then all the second.
            let mut expected: Vec<&[u16]> =
                indices.iter().map(|&i| set.sequence(i).unwrap()).collect();
            if pairs {
                expected.extend(indices.iter().map(|&i| set.pair(i).unwrap().1));
            }
            assert_eq!(ids.len(), expected.len());
            assert_eq!(ids[0].len(), expected.iter().map(|tokens| tokens.len()).max().unwrap());
            for (row, tokens) in expected.iter().enumerate() {
                let n = tokens.len();
                assert!(
                    ids[row][..n].iter().eq(tokens
                        .iter()
                        .map(|&id| u32::from(id))
                        .collect::<Vec<_>>()
                        .iter())
                );
                assert!(positions[row][..n].iter().copied().eq(0..n as u32));
                assert!(mask[row].iter().enumerate().all(|(j, &real)| (real == 1) == (j < n)));
                assert!(ids[row][n..].iter().chain(&positions[row][n..]).all(|&fill| fill == 0));
            }
        }
    }
}

#[test]
fn what_is_left_out_leaves_the_positions_of_the_others() {
    let set = set(&[&[1, 5, 1, 6, 7, 1], &[2, 3], &[1, 1, 1], &[1, 1, 1, 1, 1, 8]]);
    let config = SequenceLoaderConfig { leave_out: Some(1), ..SequenceLoaderConfig::evaluation(4) };
    let batch = &batches(loader(set.clone(), config).epoch(0))[0];
    let ([ids, positions, mask], _, indices) = values(batch);
    // Sorted by what is kept: 1 token (of the third its first), 1, 2 and 3.
    assert_eq!(indices, [2, 3, 1, 0]);
    assert_eq!(ids, [[1, 0, 0], [8, 0, 0], [2, 3, 0], [5, 6, 7]]);
    assert_eq!(positions, [[0, 0, 0], [5, 0, 0], [0, 1, 0], [1, 3, 4]]);
    assert_eq!(mask, [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]);
    // Nothing is left out of sequences without that token.
    let config = SequenceLoaderConfig { leave_out: Some(9), ..config };
    let whole = SequenceLoaderConfig { leave_out: None, ..config };
    let values = |config| values(&batches(loader(set.clone(), config).epoch(0))[0]);
    assert_eq!(values(config), values(whole));
}

#[test]
fn sequences_of_one_length_keep_the_order_that_was_drawn() {
    let all: Vec<[u16; 3]> = (0..40).map(|i| [1 + i % 9, 2, 3]).collect();
    let set = set(&all.iter().map(|tokens| &tokens[..]).collect::<Vec<_>>());
    let order = |buckets| {
        let config = SequenceLoaderConfig { buckets, ..SequenceLoaderConfig::training(7, 3) };
        let batches = batches(loader(set.clone(), config).epoch(1));
        batches.into_iter().map(|batch| batch.indices).collect::<Vec<_>>()
    };
    assert_eq!(order(true), order(false));
    // The last batch is the short one.
    assert_eq!(order(true).last().unwrap().len(), 5);
}

#[test]
fn evaluation_is_sorted_and_buckets_leave_little_to_fill_up() {
    let config = SequenceLoaderConfig::evaluation(8);
    let lengths: Vec<u32> = batches(loader(numbered(100, false), config).epoch(0))
        .iter()
        .flat_map(|batch| rows(&batch.mask).iter().map(|row| row.iter().sum()).collect::<Vec<_>>())
        .collect();
    assert!(lengths.is_sorted());
    let share = |buckets| {
        let config = SequenceLoaderConfig { buckets, ..SequenceLoaderConfig::training(8, 0) };
        let (mut real, mut all) = (0, 0);
        for batch in batches(loader(numbered(1000, false), config).epoch(0)) {
            let mask = rows(&batch.mask).concat();
            real += mask.iter().filter(|&&real| real == 1).count();
            all += mask.len();
        }
        1.0 - real as f64 / all as f64
    };
    // Lengths are even from 1 to 40: the longest of 8 is 36 or so where the mean is 20.5, of sorted ones it is
    // the next.
    assert!(share(false) > 0.35, "{}", share(false));
    assert!(share(true) < 0.06, "{}", share(true));
}

#[test]
fn epochs_seeds_and_their_order_differ() {
    let order = |seed, epoch, buckets| {
        let config = SequenceLoaderConfig { buckets, ..SequenceLoaderConfig::training(7, seed) };
        let batches = batches(loader(numbered(40, false), config).epoch(epoch));
        batches.into_iter().flat_map(|batch| batch.indices).collect::<Vec<_>>()
    };
    for buckets in [false, true] {
        assert_eq!(order(1, 0, buckets), order(1, 0, buckets));
        assert_ne!(order(1, 0, buckets), order(1, 1, buckets));
        assert_ne!(order(1, 0, buckets), order(2, 0, buckets));
        assert_ne!(order(1, 2, buckets), order(2, 1, buckets));
    }
    // The same draws as those of images and texts.
    assert_eq!(order(0, 0, false)[..8], [23, 29, 21, 14, 12, 15, 39, 26]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = |config| {
        let set = Arc::new(numbered(4, false));
        SequenceLoader::new(set, config, &Device::Cpu).unwrap_err().to_string()
    };
    assert!(new(SequenceLoaderConfig::evaluation(0)).contains("batch_size = 0"));
    for id in [0, 10] {
        let config =
            SequenceLoaderConfig { leave_out: Some(id), ..SequenceLoaderConfig::evaluation(2) };
        let error = new(config);
        assert!(
            error.contains(&format!("leave_out = {id}")) && error.contains("1 to 9"),
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_sequence_comes_exactly_once(
        n in 0usize..150, batch_size in 1usize..20, seed: u64, epoch in 0usize..5,
        shuffle: bool, buckets: bool, pairs: bool,
    ) {
        let config =
            SequenceLoaderConfig { batch_size, seed, shuffle, buckets, leave_out: None };
        let loader = loader(numbered(n, pairs), config);
        let batches = batches(loader.epoch(epoch));
        prop_assert_eq!(batches.len(), loader.batches());
        let short = batches.iter().filter(|batch| batch.indices.len() < batch_size).count();
        prop_assert!(short <= 1);
        let indices: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
        prop_assert_eq!(indices.len(), n);
        prop_assert_eq!(indices.into_iter().collect::<HashSet<_>>().len(), n);
    }

    #[test]
    fn a_part_of_an_epoch_has_its_batches(
        n in 1usize..60, batch_size in 1usize..20, first in 0usize..8, every in 1usize..5, seed: u64,
        buckets: bool, pairs: bool,
    ) {
        let config = SequenceLoaderConfig {
            buckets, leave_out: Some(2), ..SequenceLoaderConfig::training(batch_size, seed)
        };
        let loader = loader(numbered(n, pairs), config);
        let of = |epoch| batches(epoch).iter().map(values).collect::<Vec<_>>();
        let part = || loader.epoch_from(3, first, every);
        let want: Vec<_> = of(loader.epoch(3)).into_iter().skip(first).step_by(every).collect();
        prop_assert_eq!(part().size_hint().0, want.len());
        prop_assert_eq!(of(part()), want);
    }
}
