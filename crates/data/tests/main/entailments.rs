use std::collections::{BTreeMap, HashSet};

use conditioned_data::{PREMISES, Text, Texts, Tokenizer, entailments, premises};

fn second(row: &Text) -> &str {
    row.second.as_deref().unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '.']).filter(|word| !word.is_empty())
}

#[test]
fn a_row_follows_exactly_if_the_same_one_acts() {
    for row in entailments(3, 0..2000).unwrap().rows() {
        let premise: Vec<&str> = words(&row.text).collect();
        let hypothesis: Vec<&str> = words(second(row)).collect();
        let actor = match hypothesis.iter().position(|word| *word == "by") {
            Some(by) => hypothesis[by + 2],
            None => hypothesis[1],
        };
        assert_eq!(row.label == 0.0, actor == premise[1], "{row:?}");
        // Both are in both, whoever acts.
        assert!(hypothesis.contains(&premise[1]) && hypothesis.contains(&premise[4]), "{row:?}");
        assert!(premise[1] != premise[4] && row.text.ends_with('.') && second(row).ends_with('.'));
    }
}

#[test]
fn labels_are_balanced_and_premises_differ() {
    let (train, dev) =
        (entailments(0, 0..20_000).unwrap(), entailments(0, 20_000..22_000).unwrap());
    for texts in [&train, &dev] {
        let first = texts.rows().iter().filter(|row| row.label == 0.0).count();
        assert_eq!(first, texts.len() / 2);
        assert!(texts.rows().chunks(2).all(|pair| pair[0].label + pair[1].label == 1.0));
    }
    let all = train.rows().iter().chain(dev.rows());
    assert_eq!(all.map(|row| &row.text).collect::<HashSet<_>>().len(), 22_000);
    let every = entailments(1, 0..PREMISES).unwrap();
    let distinct = every.rows().iter().map(|row| &row.text).collect::<HashSet<_>>().len();
    assert_eq!(distinct, PREMISES);
}

#[test]
fn a_row_depends_on_seed_and_number_alone() {
    let all = entailments(3, 0..20).unwrap();
    assert_eq!(entailments(3, 13..15).unwrap().rows(), &all.rows()[13..15]);
    assert_ne!(entailments(4, 0..20).unwrap().rows(), all.rows());
    // A change of words or draws would change every recorded result: it shows here.
    let rows = entailments(0, 0..1000).unwrap();
    let text = rows.rows().iter().map(|row| format!("{row:?}")).collect::<String>();
    assert_eq!(blake3::hash(text.as_bytes()).to_hex().as_str(), HASH);
    let message = entailments(0, 0..PREMISES + 1).unwrap_err().to_string();
    assert!(message.contains("expected an end of at most 105984"), "{message}");
    assert!(entailments(0, 5..5).is_err());
    assert!(premises(0, 0..PREMISES + 1).next().unwrap().is_err());
}

const HASH: &str = "0941db8ddcd30cab8e5b5b0d43541cec5eac659e41e0de464607ce19eeffb7ba";

#[test]
fn the_premises_hold_every_word_and_nothing_that_is_false() {
    let documents: Vec<String> = premises(0, 0..3000).map(Result::unwrap).collect();
    let rows = entailments(0, 0..3000).unwrap();
    let known: HashSet<&str> = documents.iter().flat_map(|document| words(document)).collect();
    for (row, document) in rows.rows().iter().zip(&documents) {
        assert!(words(second(row)).all(|word| known.contains(word)), "{row:?}");
        let told = document.strip_prefix(&row.text).unwrap();
        let (premise, told): (Vec<_>, Vec<_>) = (words(&row.text).collect(), words(told).collect());
        let actor = told.iter().position(|word| *word == "by").map_or(told[1], |by| told[by + 2]);
        assert_eq!(actor, premise[1], "{document}");
    }
    // A small vocabulary has a token for every word; with 251 tokens no pair is left.
    let tokenizer = Tokenizer::train_wordpiece(premises(0, 0..3000), 251).unwrap();
    for word in known {
        assert_eq!(tokenizer.encode(word).unwrap().len(), 1, "{word}");
    }
}

/// Counts of the words of both sentences, each sentence's for itself.
fn bags<'a>(texts: &'a Texts, ids: &mut BTreeMap<(u8, &'a str), usize>) -> Vec<Vec<usize>> {
    let bag = |row: &'a Text| {
        let first = words(&row.text).map(|word| (0, word));
        let all = first.chain(words(second(row)).map(|word| (1, word)));
        all.map(|key| {
            let next = ids.len();
            *ids.entry(key).or_insert(next)
        })
        .collect()
    };
    texts.rows().iter().map(bag).collect()
}

/// Logistic regression on bags of words by stochastic gradient descent; its accuracy on both sets.
fn bag_of_words(train: &Texts, dev: &Texts) -> (f64, f64) {
    let mut ids = BTreeMap::new();
    let (bags_train, bags_dev) = (bags(train, &mut ids), bags(dev, &mut ids));
    let (mut weights, mut bias) = (vec![0.0f64; ids.len()], 0.0f64);
    let score = |bag: &[usize], weights: &[f64], bias: f64| {
        bias + bag.iter().map(|&i| weights[i]).sum::<f64>()
    };
    for epoch in 0..30 {
        let rate = 0.1 / f64::from(1 + epoch);
        for (bag, row) in bags_train.iter().zip(train.rows()) {
            let p = 1.0 / (1.0 + (-score(bag, &weights, bias)).exp());
            let step = rate * (f64::from(row.label) - p);
            bias += step;
            bag.iter().for_each(|&i| weights[i] += step);
        }
    }
    let accuracy = |bags: &[Vec<usize>], texts: &Texts| {
        let right = bags
            .iter()
            .zip(texts.rows())
            .filter(|(bag, row)| (score(bag, &weights, bias) > 0.0) == (row.label == 1.0));
        right.count() as f64 / texts.len() as f64
    };
    (accuracy(&bags_train, train), accuracy(&bags_dev, dev))
}

#[test]
fn bags_of_words_do_not_tell_the_label() {
    let (train, dev) =
        (entailments(0, 0..10_000).unwrap(), entailments(0, 10_000..12_000).unwrap());
    let (on_train, on_dev) = bag_of_words(&train, &dev);
    assert!(on_dev < 0.6 && on_train < 0.6, "{on_train} {on_dev}");
    // The same regression finds what a bag does tell: whether the hypothesis is in the passive voice.
    let voice = |texts: &Texts| {
        let rows = texts.rows().iter().cloned().map(|row| {
            let label = if second(&row).contains(" by ") { 1.0 } else { 0.0 };
            Text { label, ..row }
        });
        Texts::new("voices", texts.labels().clone(), rows.collect()).unwrap()
    };
    assert!(bag_of_words(&voice(&train), &voice(&dev)).1 > 0.99);
}
