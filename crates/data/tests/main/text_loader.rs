use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Tensor};
use conditioned_data::{
    Labels, Text, TextBatch, TextEpoch, TextLoader, TextLoaderConfig, Texts, Tokenizer,
    entailments, stories,
};
use proptest::prelude::*;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train_wordpiece(stories(0, 100), 400).unwrap());

/// `n` texts of 1 to 20 words, text i with class i mod 3.
fn numbered(n: usize) -> Texts {
    let row = |i: usize| Text {
        text: "the dog ".repeat(1 + i * 7 % 20),
        second: Some(if i.is_multiple_of(2) { "" } else { "a cat" }.into()),
        label: (i % 3) as f32,
    };
    let classes = Labels::Classes(["a", "b", "c"].map(String::from).into());
    Texts::new("numbered", classes, (0..n).map(row).collect()).unwrap()
}

fn loader(texts: Texts, config: TextLoaderConfig) -> TextLoader {
    TextLoader::new(Arc::new(texts), &TOKENIZER, config, &Device::Cpu).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn batches(epoch: TextEpoch) -> Vec<TextBatch> {
    epoch.map(Result::unwrap).collect()
}

/// Ids, types and mask, labels, indices.
type Contents = ([Vec<Vec<u32>>; 3], Vec<u32>, Vec<usize>);

fn values(batch: &TextBatch) -> Contents {
    let tensors = [&batch.ids, &batch.types, &batch.mask].map(rows);
    (tensors, batch.labels.to_vec1().unwrap(), batch.indices.clone())
}

#[test]
fn a_batch_holds_its_texts_and_is_as_long_as_the_longest() {
    let texts = numbered(10);
    let config = TextLoaderConfig { buckets: false, ..TextLoaderConfig::evaluation(4, 24) };
    let loader = loader(texts.clone(), config);
    let batches = batches(loader.epoch(0));
    let sizes: Vec<usize> = batches.iter().map(|batch| batch.indices.len()).collect();
    assert_eq!(sizes, [4, 4, 2]);
    assert_eq!(batches[0].mask.dtype(), DType::U8);
    let mut truncated = 0;
    for (i, batch) in batches.iter().enumerate() {
        let ([ids, types, mask], labels, indices) = values(batch);
        assert_eq!(indices, (i * 4..i * 4 + sizes[i]).collect::<Vec<_>>());
        let mut longest = 0;
        for (row, &index) in indices.iter().enumerate() {
            let text = &texts.rows()[index];
            let pair = TOKENIZER.encode_pair(&text.text, text.second.as_deref(), 24).unwrap();
            let n = pair.ids.len();
            truncated += usize::from(pair.truncated);
            longest = longest.max(n);
            assert_eq!((&ids[row][..n], &types[row][..n]), (&pair.ids[..], &pair.types[..]));
            let pad = TOKENIZER.pad().unwrap();
            assert!(ids[row][n..].iter().all(|&id| id == pad));
            assert!(types[row][n..].iter().all(|&kind| kind == 0));
            assert!(mask[row].iter().enumerate().all(|(j, &real)| (real == 1) == (j < n)));
            assert_eq!(labels[row], text.label as u32);
        }
        assert_eq!(ids[0].len(), longest);
    }
    assert!(truncated > 0);
    assert_eq!(loader.truncated(), truncated);
    assert_eq!(loader.texts().name(), "numbered");
}

#[test]
fn scores_are_numbers() {
    let row = |label| Text { text: "a".into(), second: None, label };
    let texts = Texts::new("scores", Labels::Score, vec![row(2.5), row(-1.0)]).unwrap();
    let batch = &batches(loader(texts, TextLoaderConfig::evaluation(8, 16)).epoch(0))[0];
    assert_eq!(batch.labels.to_vec1::<f32>().unwrap(), [2.5, -1.0]);
}

#[test]
fn evaluation_is_sorted_by_length() {
    let loader = loader(numbered(100), TextLoaderConfig::evaluation(8, 128));
    let lengths: Vec<u32> = batches(loader.epoch(0))
        .iter()
        .flat_map(|batch| {
            rows(&batch.mask).into_iter().map(|row| row.iter().sum()).collect::<Vec<_>>()
        })
        .collect();
    assert!(lengths.is_sorted());
}

#[test]
fn buckets_leave_little_to_fill_up() {
    let share = |buckets| {
        let config = TextLoaderConfig { buckets, ..TextLoaderConfig::training(8, 128, 0) };
        let loader = loader(numbered(1000), config);
        let (mut real, mut all) = (0, 0);
        for batch in batches(loader.epoch(0)) {
            let mask = rows(&batch.mask).concat();
            real += mask.iter().filter(|&&real| real == 1).count();
            all += mask.len();
        }
        1.0 - real as f64 / all as f64
    };
    // Lengths are uniform from 5 to 45: the longest of 8 is far above the mean, of sorted ones it is not.
    assert!(share(false) > 0.3, "{}", share(false));
    assert!(share(true) < 0.05, "{}", share(true));
}

#[test]
fn epochs_seeds_and_their_order_differ() {
    let order = |seed, epoch, buckets| {
        let config = TextLoaderConfig { buckets, ..TextLoaderConfig::training(7, 64, seed) };
        let loader = loader(numbered(40), config);
        batches(loader.epoch(epoch)).into_iter().flat_map(|b| b.indices).collect::<Vec<_>>()
    };
    for buckets in [false, true] {
        assert_eq!(order(1, 0, buckets), order(1, 0, buckets));
        assert_ne!(order(1, 0, buckets), order(1, 1, buckets));
        assert_ne!(order(1, 0, buckets), order(2, 0, buckets));
        assert_ne!(order(1, 2, buckets), order(2, 1, buckets));
    }
    // Fixed order of draws: a change of it would change every recorded result.
    assert_eq!(order(0, 0, false)[..8], [23, 29, 21, 14, 12, 15, 39, 26]);
    assert_eq!(order(0, 0, true)[..7], [19, 2, 8, 5, 28, 25, 14]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = |tokenizer: &Tokenizer, config| {
        let texts = Arc::new(numbered(4));
        TextLoader::new(texts, tokenizer, config, &Device::Cpu).unwrap_err().to_string()
    };
    assert!(new(&TOKENIZER, TextLoaderConfig::evaluation(0, 16)).contains("batch_size = 0"));
    assert!(new(&TOKENIZER, TextLoaderConfig::evaluation(1, 4)).contains("max_length = 4"));
    let bpe = Tokenizer::train(stories(0, 20), 300).unwrap();
    assert!(new(&bpe, TextLoaderConfig::evaluation(1, 16)).contains("no token [PAD]"));
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let texts = entailments(0, 0..200).unwrap();
            let loader = loader(texts, TextLoaderConfig::training(16, 32, 0));
            batches(loader.epoch(0)).iter().map(values).collect::<Vec<_>>()
        })
    };
    assert!(run(1) == run(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_text_comes_exactly_once(
        n in 1usize..150, batch_size in 1usize..20, seed: u64, epoch in 0usize..5,
        shuffle: bool, buckets: bool,
    ) {
        let config = TextLoaderConfig { batch_size, max_length: 32, seed, shuffle, buckets };
        let loader = loader(numbered(n), config);
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
        buckets: bool,
    ) {
        let config = TextLoaderConfig { buckets, ..TextLoaderConfig::training(batch_size, 32, seed) };
        let loader = loader(numbered(n), config);
        let of = |epoch| batches(epoch).iter().map(values).collect::<Vec<_>>();
        let part = || loader.epoch_from(3, first, every);
        let want: Vec<_> = of(loader.epoch(3)).into_iter().skip(first).step_by(every).collect();
        prop_assert_eq!(part().size_hint().0, want.len());
        prop_assert_eq!(of(part()), want);
    }
}
