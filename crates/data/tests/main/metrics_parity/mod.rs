//! `fixture.json` is written by `make_fixture.py`; nothing in it is edited by hand.

use std::collections::BTreeMap;

use conditioned_data::Metric;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    predictions: Vec<f32>,
    labels: Vec<f32>,
    scores: BTreeMap<String, Option<f64>>,
}

/// Sums of a hundred products in f64, in another order: a few hundred times 2.2e-16.
const TOLERANCE: f64 = 1e-13;

const ALL: [Metric; 5] =
    [Metric::Accuracy, Metric::F1, Metric::Matthews, Metric::Pearson, Metric::Spearman];

#[test]
fn numbers_are_those_of_scikit_learn_and_scipy() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixture.json")).unwrap();
    let (mut checked, mut undefined) = (0, 0);
    for Case { predictions, labels, scores } in fixture.cases {
        for (name, wanted) in scores {
            let metric = ALL.into_iter().find(|metric| metric.name() == name).unwrap();
            let found = metric.compute(&predictions, &labels).unwrap();
            let context = format!("{name} of {predictions:?}, {labels:?}: {found:?}, {wanted:?}");
            match (found, wanted) {
                (Some(found), Some(wanted)) => {
                    assert!((found - wanted).abs() <= TOLERANCE, "{context}");
                }
                (None, None) => undefined += 1,
                _ => panic!("{context}"),
            }
            checked += 1;
        }
    }
    assert_eq!((checked, undefined), (70, 6));
}

#[test]
fn predictions_that_cannot_be_scored_are_refused() {
    for metric in ALL {
        let fail = |p: &[f32], l: &[f32]| metric.compute(p, l).unwrap_err().to_string();
        assert!(fail(&[], &[]).contains("predictions = 0"));
        assert!(fail(&[1.0], &[1.0, 0.0]).contains("each of the 2 labels"));
        assert!(fail(&[1.0, f32::NAN], &[1.0, 0.0]).contains("predictions = NaN"));
        assert!(fail(&[1.0, 1.0], &[1.0, f32::INFINITY]).contains("(row 1)"));
    }
}
