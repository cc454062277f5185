use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use conditioned_data::{Part, Parts, Sequence, Tokenizer, Tokens, WindowBatch, Windows};
use conditioned_data::{prefixes, stories};
use proptest::prelude::*;

/// A sequence of `n` different tokens, cut into documents of `size` (the last ends the text).
fn counting(n: usize) -> Sequence {
    let text: String = (0..n as u32 - 1).filter_map(|i| char::from_u32(0x4e00 + i)).collect();
    let tokenizer = Tokenizer::characters([&text]).unwrap();
    Sequence::whole(Arc::new(Tokens::encode([Ok(text)], &tokenizer).unwrap()))
}

fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
    assert_eq!(tensor.dtype(), DType::U32);
    tensor.to_vec2().unwrap()
}

fn values(batch: &WindowBatch) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    (rows(&batch.inputs), rows(&batch.targets))
}

fn story_tokens(n: u64) -> Arc<Tokens> {
    let tokenizer = Tokenizer::train(stories(0, 50), 300).unwrap();
    Arc::new(Tokens::encode(stories(0, n), &tokenizer).unwrap())
}

#[test]
fn evaluation_is_the_text_in_order() {
    let windows = Windows::new(counting(18), 4, 3, 9).unwrap();
    let all: Vec<_> = (0..windows.evaluation_batches())
        .map(|i| values(&windows.evaluation(i, &Device::Cpu).unwrap()))
        .collect();
    // 17 targets: four windows, one target left out.
    assert_eq!(all[0].0, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]);
    assert_eq!(all[0].1, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]);
    assert_eq!(all[1], (vec![vec![12, 13, 14, 15]], vec![vec![13, 14, 15, 16]]));
    assert_eq!(all.len(), 2);
    assert!(windows.evaluation(2, &Device::Cpu).is_err());
}

#[test]
fn epochs_and_seeds_differ_and_stay() {
    let windows = |seed| Windows::new(counting(200), 5, 4, seed).unwrap();
    let batch = |seed, epoch| values(&windows(seed).batch(epoch, 3, &Device::Cpu).unwrap()).0;
    assert_eq!(batch(1, 0), batch(1, 0));
    assert_ne!(batch(1, 0), batch(1, 1));
    assert_ne!(batch(1, 0), batch(2, 0));
    assert_ne!(batch(1, 2), batch(2, 1));
    // Fixed order of draws: a change of it would change every recorded result.
    assert_eq!(batch(0, 0).concat()[..6], [115, 116, 117, 118, 119, 90]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = |length, batch| Windows::new(counting(10), length, batch, 0).map(|w| w.batches());
    assert_eq!(new(9, 1).unwrap(), 1);
    assert!(new(10, 1).unwrap_err().to_string().contains("less than the 10 tokens"));
    assert!(new(0, 1).is_err() && new(1, 0).is_err());
    let windows = Windows::new(counting(10), 3, 2, 0).unwrap();
    assert!(windows.batch(0, 1, &Device::Cpu).unwrap_err().to_string().contains("less than the 1"));
}

#[test]
fn parts_are_disjoint_complete_and_of_the_asked_size() {
    let tokens = story_tokens(1000);
    let parts = Parts { seed: 3, tune: 0.1, test: 0.2 };
    let of = |parts: &Parts, part| Sequence::new(tokens.clone(), parts, part).unwrap();
    let [train, tune, test] = [Part::Train, Part::Tune, Part::Test].map(|part| of(&parts, part));
    let mut all = [train.documents(), tune.documents(), test.documents()].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..1000));
    // Binomial: four standard deviations.
    assert!(tune.documents().len().abs_diff(100) < 4 * 10, "{}", tune.documents().len());
    assert!(test.documents().len().abs_diff(200) < 4 * 13, "{}", test.documents().len());
    assert_eq!(train.len() + tune.len() + test.len(), tokens.len());
    let other = Parts { seed: 4, ..parts };
    assert_ne!(of(&other, Part::Test).documents(), test.documents());
    let none = Parts { seed: 0, tune: 0.0, test: 0.0 };
    assert!(Sequence::new(tokens.clone(), &none, Part::Test).is_err());
    let over = Parts { seed: 0, tune: 0.6, test: 0.6 };
    assert!(Sequence::new(tokens.clone(), &over, Part::Test).is_err());
    assert!(Sequence::new(tokens, &Parts { test: f64::NAN, ..none }, Part::Test).is_err());
}

#[test]
fn a_repeated_document_stays_in_one_part_and_others_do_not_move_it() {
    let tokenizer = Tokenizer::train(stories(0, 50), 300).unwrap();
    let twice = stories(0, 100).chain(stories(0, 100)).chain(stories(1, 50));
    let tokens = Arc::new(Tokens::encode(twice, &tokenizer).unwrap());
    let parts = Parts { seed: 0, tune: 0.3, test: 0.3 };
    let test = Sequence::new(tokens, &parts, Part::Test).unwrap();
    let first: Vec<usize> = test.documents().iter().copied().filter(|&i| i < 100).collect();
    let second = test.documents().iter().filter(|i| (100..200).contains(*i)).map(|i| i - 100);
    assert!(first.iter().copied().eq(second));
    let alone = Arc::new(Tokens::encode(stories(0, 100), &tokenizer).unwrap());
    assert_eq!(Sequence::new(alone, &parts, Part::Test).unwrap().documents(), first);
}

#[test]
fn windows_of_a_part_hold_its_documents_alone() {
    let tokens = story_tokens(60);
    let parts = Parts { seed: 1, tune: 0.3, test: 0.3 };
    let tune = Sequence::new(tokens.clone(), &parts, Part::Tune).unwrap();
    let text: Vec<u32> =
        tune.documents().iter().flat_map(|&i| tokens.document(i).unwrap()).collect();
    let windows = Windows::new(tune, 16, 1000, 0).unwrap();
    let (inputs, targets) = values(&windows.evaluation(0, &Device::Cpu).unwrap());
    let n = (text.len() - 1) / 16 * 16;
    assert_eq!(inputs.concat(), text[..n]);
    assert_eq!(targets.concat(), text[1..n + 1]);
}

#[test]
fn prefixes_are_different_places_with_what_follows() {
    let sequence = counting(500);
    let fixed = prefixes(&sequence, 301, &[1, 4, 32], 5).unwrap();
    let sizes: Vec<_> = fixed.iter().map(|p| (p.length, p.next.len())).collect();
    assert_eq!(sizes, [(1, 101), (4, 100), (32, 100)]);
    for prefixes in &fixed {
        for (tokens, &next) in prefixes.tokens.chunks(prefixes.length).zip(&prefixes.next) {
            // The text counts upwards.
            assert!(tokens.iter().copied().eq(tokens[0]..next), "{tokens:?}");
            assert_eq!((next - tokens[0]) as usize, prefixes.length);
        }
        let mut places = prefixes.next.clone();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), prefixes.next.len());
    }
    let (tokens, next) = fixed[2].tensors(&Device::Cpu).unwrap();
    assert_eq!((tokens.dims(), next.dims()), (&[100, 32][..], &[100][..]));
    assert_eq!(fixed, prefixes(&sequence, 301, &[1, 4, 32], 5).unwrap());
    assert_ne!(fixed, prefixes(&sequence, 301, &[1, 4, 32], 6).unwrap());
    let message = prefixes(&sequence, 500, &[100], 0).unwrap_err().to_string();
    assert!(message.contains("500 places in 500 tokens"), "{message}");
    assert!(prefixes(&sequence, 5, &[], 0).is_err() && prefixes(&sequence, 5, &[0], 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_token_is_a_target_once_an_epoch(
        n in 3usize..400, length in 1usize..20, seed: u64, epoch in 0usize..4,
    ) {
        prop_assume!(length < n);
        let windows = Windows::new(counting(n), length, 1, seed).unwrap();
        prop_assert_eq!(windows.batches(), n / length);
        let mut seen = Vec::new();
        for i in 0..windows.batches() {
            let (inputs, targets) = values(&windows.batch(epoch, i, &Device::Cpu).unwrap());
            // The token after each, where the one after the last is the first.
            let after = |x: &u32| (x + 1) % n as u32;
            prop_assert!(inputs[0].iter().map(after).eq(targets[0].iter().copied()));
            seen.extend_from_slice(&targets[0]);
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), count);
        prop_assert_eq!(count, n - n % length);
    }

    #[test]
    fn batches_do_not_depend_on_how_they_are_asked_for(
        n in 20usize..200, size in 1usize..4, seed: u64,
    ) {
        let windows = Windows::new(counting(n), 3, size, seed).unwrap();
        let ones = Windows::new(counting(n), 3, 1, seed).unwrap();
        for i in (0..windows.batches()).rev() {
            let (inputs, _) = values(&windows.batch(7, i, &Device::Cpu).unwrap());
            for (j, row) in inputs.iter().enumerate() {
                let one = values(&ones.batch(7, i * size + j, &Device::Cpu).unwrap());
                prop_assert_eq!(row, &one.0[0]);
            }
        }
    }
}

#[test]
fn tokens_that_fill_no_batch_are_refused() {
    Windows::new(counting(18), 4, 4, 0).unwrap().fill_a_batch().unwrap();
    let error = Windows::new(counting(18), 4, 5, 0).unwrap().fill_a_batch().unwrap_err();
    let wanted = "18 tokens do not fill a batch of 5 windows of 4";
    assert!(error.to_string().contains(wanted), "{error}");
}
