//! Non-maximum suppression.

use std::collections::BTreeMap;

use super::boxes::{Corners, iou};

/// A box with its score, and what it competes with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) corners: Corners,
    pub(crate) score: f64,
    /// Boxes of other groups do not suppress each other: a class, or a level of the pyramid.
    pub(crate) group: usize,
}

/// The places of the `most` boxes of highest score that no better box of their group overlaps by more than
/// `threshold`, best first; of equal scores the first comes first.
pub(crate) fn keep(candidates: &[Candidate], threshold: f64, most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| candidates[b].score.total_cmp(&candidates[a].score));
    let mut kept: BTreeMap<usize, Vec<Corners>> = BTreeMap::new();
    let mut places = Vec::new();
    for place in order {
        if places.len() == most {
            break;
        }
        let Candidate { corners, group, .. } = candidates[place];
        let better = kept.entry(group).or_default();
        if better.iter().all(|&other| iou(corners, other) <= threshold) {
            better.push(corners);
            places.push(place);
        }
    }
    places
}
