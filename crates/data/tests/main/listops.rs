use std::collections::HashSet;

use conditioned_data::{ListOps, SequenceSet};
use proptest::prelude::*;

/// Deviations of a binomial share that a test allows.
const DEVIATIONS: f64 = 4.5;

/// Any list of 3 digits or less: 4 * (100 + 1000) sequences.
const TINY: ListOps = ListOps { max_depth: 2, max_args: 3, min_length: 3, max_length: 6 };

fn text(tokens: &[u16]) -> String {
    let words: Vec<&str> = tokens.iter().map(|&id| ListOps::TOKENS[usize::from(id) - 1]).collect();
    words.join(" ")
}

fn sequences(set: &SequenceSet) -> Vec<Vec<u16>> {
    (0..set.len()).map(|i| set.sequence(i).unwrap().to_vec()).collect()
}

/// An evaluator that shares nothing with that of the crate: it follows the grammar on words.
fn value<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<f64> {
    let word = words.next()?;
    if word == "]" {
        return None;
    }
    let Some(name) = word.strip_prefix('[') else { return word.parse().ok() };
    let mut arguments: Vec<f64> = Vec::new();
    while let Some(argument) = value(words) {
        arguments.push(argument);
    }
    arguments.sort_by(f64::total_cmp);
    let n = arguments.len();
    Some(match name {
        "MIN" => arguments[0],
        "MAX" => arguments[n - 1],
        "SM" => arguments.iter().sum::<f64>() % 10.0,
        "MED" => ((arguments[(n - 1) / 2] + arguments[n / 2]) / 2.0).floor(),
        _ => panic!("{name}"),
    })
}

#[test]
fn values_by_hand() {
    for (text, expected) in [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN [MAX 2 9 ] 4 7 ]", 4),
        ("[MED 1 9 3 ]", 3),
        // The mean of 3 and 4 is cut to a whole number.
        ("[MED 9 3 1 4 ]", 3),
        ("[MED 5 8 ]", 6),
        ("[SM 9 8 7 ]", 4),
        ("[SM 5 5 ]", 0),
        ("[SM [SM 9 9 ] [MED 0 9 ] 3 ]", 5),
        ("7", 7),
        ("[MIN 8 ]", 8),
        // As the released files write it.
        ("( ( ( [MAX 2 ) 9 ) ] )", 9),
        ("( ( ( ( [SM 4 ) ( ( ( [MED 7 ) 2 ) X ) ) 9 ) X )", 7),
    ] {
        let tokens = ListOps::parse(text).unwrap();
        assert_eq!(ListOps::evaluate(&tokens).unwrap(), expected, "{text}");
    }
    assert_eq!(
        ListOps::parse("[MIN [MAX [MED [SM 0 ] ] ] ]").unwrap(),
        [1, 2, 3, 4, 6, 5, 5, 5, 5]
    );
    assert_eq!(ListOps::parse("[SM 0 1 9 X").unwrap(), [4, 6, 7, 15, 5]);
}

#[test]
fn what_is_no_expression_is_named_with_its_place() {
    let parse = |text: &str| ListOps::parse(text).unwrap_err().to_string();
    for (text, problem) in [
        ("[MAX 2 [AVG 3 ] ]", "token 2 is \"[AVG\", which is none of [MIN, [MAX, [MED, [SM"),
        ("[MAX 2 10 ]", "token 2 is \"10\""),
        ("[MAX 2 3", "the bracket of token 0 is not closed"),
        ("[MAX 2 [MIN 3 ]", "the bracket of token 0 is not closed"),
        ("[MAX 2 ] ]", "token 3 comes after the end"),
        ("] 3", "token 0 closes a bracket that no operator opens"),
        ("[MAX 2 [MED ] 3 ]", "[MED of token 2 has no argument up to token 3"),
        ("3 4", "token 1 comes after the end"),
        ("( )", "no token"),
    ] {
        let error = parse(text);
        assert!(error.contains("ListOps") && error.contains(problem), "{text}: {error}");
    }
    for id in [0, 16] {
        let error = ListOps::evaluate(&[1, id, 5]).unwrap_err().to_string();
        assert!(error.contains(&format!("token 1 has id {id}")), "{error}");
    }
}

/// Lengths, depths and tokens against what the process must give, labels against what was measured of 1,500 trees
/// with another implementation.
#[test]
fn generated_sequences_are_as_measured_elsewhere() {
    const N: usize = 1500;
    let set = ListOps::published().sequences(3, 0..N).unwrap();
    assert_eq!((set.len(), set.vocabulary(), set.classes()), (N, 16, 10));
    let mut lengths: Vec<usize> = Vec::new();
    let mut counts = [0usize; 16];
    let (mut arguments, mut deepest) = ([0usize; 11], HashSet::new());
    for tokens in sequences(&set) {
        lengths.push(tokens.len());
        let (mut open, mut depth) = (vec![0], 0);
        for &id in &tokens {
            counts[usize::from(id)] += 1;
            match id {
                1..=4 => {
                    *open.last_mut().unwrap() += 1;
                    open.push(0);
                }
                5 => arguments[open.pop().unwrap()] += 1,
                _ => *open.last_mut().unwrap() += 1,
            }
            depth = depth.max(open.len());
        }
        deepest.insert(depth);
    }
    assert!(lengths.iter().all(|&n| 500 < n && n < 2000));
    // A tree of 501 tokens that stops before depth 10 is far rarer than one in 1,500.
    assert_eq!(deepest, HashSet::from([10]));
    // Operators, and digits, are drawn without a look at the length.
    for (ids, p) in [(1..5, 0.25), (6..16, 0.1)] {
        let all: usize = counts[ids.clone()].iter().sum();
        let error = DEVIATIONS * (p * (1.0 - p) / all as f64).sqrt();
        for id in ids {
            let found = counts[id] as f64 / all as f64;
            assert!((found - p).abs() < error, "id {id}: {found} of {all}, {p} ± {error}");
        }
    }
    assert_eq!(counts[1..5].iter().sum::<usize>(), counts[5]);
    assert!(arguments[..2] == [0, 0] && arguments[2..].iter().all(|&n| n > 0), "{arguments:?}");
    // Mean, deviation and median by convolution, which `src/listops/shares.rs` draws against; the other
    // implementation found 1,067 and 1,012 of 1,500 trees.
    const MEAN: f64 = 1035.0;
    const DEVIATION: f64 = 393.8;
    const MEDIAN: usize = 954;
    let mean = lengths.iter().sum::<usize>() as f64 / N as f64;
    assert!((mean - MEAN).abs() < DEVIATIONS * DEVIATION / (N as f64).sqrt(), "{mean}");
    let below = lengths.iter().filter(|&&n| n <= MEDIAN).count() as f64 / N as f64;
    assert!((below - 0.5).abs() < DEVIATIONS * (0.25 / N as f64).sqrt(), "{below}");
    let measured = [16.6, 9.7, 8.3, 7.7, 10.1, 8.7, 7.1, 7.5, 8.5, 15.7];
    check_labels(&set, &measured.map(|percent| percent / 100.0));
}

/// Shares of the labels, each of about 1,500 trees on both sides.
fn check_labels(set: &SequenceSet, measured: &[f64]) {
    for (label, &p) in measured.iter().enumerate() {
        let found = set.labels().iter().filter(|&&l| l as usize == label).count();
        let found = found as f64 / set.len() as f64;
        let error = DEVIATIONS * (p * (1.0 - p) * (1.0 / 1500.0 + 1.0 / set.len() as f64)).sqrt();
        assert!((found - p).abs() < error, "label {label}: {found}, {p} ± {error}");
    }
}

#[test]
fn the_commonest_label_of_small_variants_is_as_measured_elsewhere() {
    let middle = ListOps { max_depth: 6, max_args: 6, min_length: 50, max_length: 200 };
    for (config, top) in [(middle, 0.133), (ListOps::short(), 0.118)] {
        let set = config.sequences(5, 0..4000).unwrap();
        let share = |label| set.labels().iter().filter(|&&l| l == label).count() as f64 / 4000.0;
        let found = (0..10).map(share).fold(0.0, f64::max);
        let error = DEVIATIONS * (top * (1.0 - top) * (1.0 / 1500.0 + 1.0 / 4000.0f64)).sqrt();
        assert!((found - top).abs() < error, "{config:?}: {found}, {top} ± {error}");
    }
}

#[test]
fn labels_are_values() {
    for config in [ListOps::short(), ListOps::published()] {
        let set = config.sequences(1, 0..200).unwrap();
        for (tokens, &label) in sequences(&set).iter().zip(set.labels()) {
            let expected = value(&mut text(tokens).split(' ')).unwrap();
            assert_eq!(f64::from(label), expected, "{}", text(tokens));
        }
    }
}

#[test]
fn a_sequence_is_a_function_of_settings_seed_and_index() {
    let config = ListOps::short();
    let set = config.sequences(4, 10..60).unwrap();
    for (i, tokens) in (10..).zip(sequences(&set)) {
        assert_eq!(tokens, config.sequence(4, i).unwrap());
    }
    assert_ne!(config.sequence(4, 10).unwrap(), config.sequence(4, 11).unwrap());
    assert_ne!(config.sequence(4, 10).unwrap(), config.sequence(5, 10).unwrap());
    assert_eq!(set.subset(&[7]).unwrap(), config.sequences(4, 17..18).unwrap());
    assert!(config.sequences(4, 5..5).unwrap().is_empty());
    // Fixed order of draws: a change of it would change every recorded result.
    assert_eq!(
        text(&config.sequence(0, 0).unwrap()),
        "[MIN [MAX [MED 2 0 8 0 ] 5 4 6 ] [SM [MAX 0 [SM 9 4 5 1 0 ] 7 9 [MED 8 8 ] ] 0 ] 2 [MED [MIN 8 [MED 1 3 4 5 ] \
         1 7 ] 9 ] 9 ]"
    );
}

#[test]
fn no_sequence_comes_twice_and_threads_do_not_change_a_bit() {
    // Of 4,400 sequences 1,500 are drawn: many come twice at first.
    let run = |config: ListOps, threads, n| {
        let pool = rayon_pool(threads);
        pool.install(|| config.sequences(0, 0..n).unwrap())
    };
    let set = run(TINY, 1, 1500);
    let all = sequences(&set);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 1500);
    let again = (0..1500).filter(|&i| TINY.sequence(0, i).unwrap() != all[i]).count();
    assert!(again > 100, "{again}");
    // What is drawn again is a later one: of equal first draws the earliest index stays.
    let mut seen = HashSet::new();
    for (i, tokens) in all.iter().enumerate() {
        let first = TINY.sequence(0, i).unwrap();
        assert!(*tokens == first || seen.contains(&first), "{i}");
        seen.insert(tokens.clone());
    }
    assert!(set == run(TINY, 3, 1500));
    assert!(run(ListOps::published(), 1, 60) == run(ListOps::published(), 4, 60));
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let short = ListOps::short();
    for (config, problem) in [
        (ListOps { max_depth: 1, ..short }, "max_depth = 1"),
        (ListOps { max_args: 1, ..short }, "max_args = 1"),
        (ListOps { max_args: 1 << 20, ..short }, "max_args = 1048576"),
        (ListOps { max_length: 31, ..short }, "max_length = 31"),
        (ListOps { max_length: 0, ..short }, "max_length = 0"),
        (ListOps { max_depth: 2, ..short }, "has 7 tokens at most"),
        (ListOps { max_depth: 2, max_args: 28, ..short }, "has 30 tokens at most"),
    ] {
        let error = config.sequences(0, 0..1).unwrap_err().to_string();
        assert!(error.contains(problem), "{config:?}: {error}");
        assert!(config.validate().is_err() && config.sequence(0, 0).is_err());
    }
    assert!(ListOps { max_depth: 2, max_args: 29, ..short }.validate().is_ok());
    // Each operator has half an operator below it on average: none gets that long.
    let rare = ListOps { max_depth: 40, max_args: 2, min_length: 1000, max_length: 1100 };
    let error = rare.sequence(0, 0).unwrap_err().to_string();
    assert!(error.contains("none of") && error.contains("more than 1000"), "{error}");
    // There are 400 lists of two digits.
    let few = ListOps { max_args: 2, ..TINY };
    assert_eq!(few.sequences(0, 0..399).unwrap().len(), 399);
    let error = few.sequences(0, 0..401).unwrap_err().to_string();
    assert!(error.contains("after 400 of 401 sequences"), "{error}");
}

#[test]
fn json_names_the_settings() {
    let json = serde_json::to_value(ListOps::published()).unwrap();
    let expected = serde_json::json!(
        {"max_depth": 10, "max_args": 10, "min_length": 500, "max_length": 2000}
    );
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<ListOps>(json).unwrap(), ListOps::published());
}

/// An expression of any shape.
#[derive(Debug, Clone)]
enum Tree {
    Digit(u32),
    List(usize, Vec<Tree>),
}

const OPERATORS: [&str; 4] = ["[MIN", "[MAX", "[MED", "[SM"];

impl Tree {
    fn plain(&self) -> String {
        match self {
            Self::Digit(digit) => digit.to_string(),
            Self::List(operator, arguments) => {
                let arguments: Vec<String> = arguments.iter().map(Self::plain).collect();
                format!("{} {} ]", OPERATORS[*operator], arguments.join(" "))
            }
        }
    }

    /// Applied to one argument after the other, as the released files have it.
    fn nested(&self, end: &str) -> String {
        match self {
            Self::Digit(digit) => digit.to_string(),
            Self::List(operator, arguments) => {
                let apply = |text, argument: &Self| format!("( {text} {} )", argument.nested(end));
                let text = arguments.iter().fold(OPERATORS[*operator].to_string(), apply);
                format!("( {text} {end} )")
            }
        }
    }

    fn value(&self) -> u32 {
        let Self::List(operator, arguments) = self else {
            let Self::Digit(digit) = self else { unreachable!() };
            return *digit;
        };
        let mut values: Vec<u32> = arguments.iter().map(Self::value).collect();
        values.sort_unstable();
        let n = values.len();
        match operator {
            0 => values[0],
            1 => values[n - 1],
            2 => (values[(n - 1) / 2] + values[n / 2]) / 2,
            _ => values.iter().sum::<u32>() % 10,
        }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    (0..10u32).prop_map(Tree::Digit).prop_recursive(6, 60, 6, |tree| {
        (0..4usize, prop::collection::vec(tree, 1..6)).prop_map(|(op, args)| Tree::List(op, args))
    })
}

proptest! {
    #[test]
    fn every_way_of_writing_is_read_back(tree in trees()) {
        let tokens = ListOps::parse(&tree.plain()).unwrap();
        prop_assert_eq!(text(&tokens), tree.plain());
        prop_assert_eq!(&tokens, &ListOps::parse(&tree.nested("]")).unwrap());
        prop_assert_eq!(&tokens, &ListOps::parse(&tree.nested("X")).unwrap());
        prop_assert_eq!(ListOps::evaluate(&tokens).unwrap(), tree.value());
    }

    #[test]
    fn no_tokens_panic(tokens in prop::collection::vec(0u16..17, 0..30)) {
        if let Ok(value) = ListOps::evaluate(&tokens) {
            prop_assert!(value < 10);
            prop_assert_eq!(ListOps::parse(&text(&tokens)).unwrap(), tokens);
        }
    }
}

/// The page shows what is drawn.
#[test]
fn the_first_expressions_stand_in_the_page() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lra.md");
    let page = std::fs::read_to_string(path).unwrap();
    let set = ListOps::short().sequences(0, 0..5).unwrap();
    let line = |i| format!("{} = {}\n", text(set.sequence(i).unwrap()), set.label(i).unwrap());
    let lines: String = (0..5).map(line).collect();
    assert!(page.contains(&lines), "docs/lra.md should have\n{lines}");
}
