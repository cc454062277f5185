//! Which object a box stands for, and which boxes are trained on.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::boxes::{Corners, iou};

/// The overlaps with objects from which on a box is one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thresholds {
    /// Boxes that overlap an object by at least so much stand for it.
    pub(crate) object: f64,
    /// Boxes that overlap no object by so much are background.
    pub(crate) background: f64,
    /// The boxes that overlap an object most stand for it from so much on.
    pub(crate) best: f64,
}

/// Anchors (Ren et al. 2015, section 3.1.2).
pub(crate) const OF_ANCHORS: Thresholds = Thresholds { object: 0.7, background: 0.3, best: 0.3 };

/// Proposals (Girshick 2015, section 2.3).
pub(crate) const OF_PROPOSALS: Thresholds = Thresholds { object: 0.5, background: 0.5, best: 0.5 };

/// What a box stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// An object, by its place.
    Object(usize),
    /// None.
    Background,
    /// Neither: it is not trained on.
    Neither,
}

/// What each box stands for, as mmdetection's `MaxIoUAssigner`: the object that it overlaps most, of equals the
/// first; where an object is nobody's best, the boxes that overlap it most, of several objects the last.
pub(crate) fn matches(boxes: &[Corners], objects: &[Corners], by: Thresholds) -> Vec<Match> {
    let mut found = Vec::with_capacity(boxes.len());
    let mut best_of = vec![0.0_f64; objects.len()];
    for &corners in boxes {
        let (mut best, mut place) = (0.0, 0);
        for (i, &object) in objects.iter().enumerate() {
            let overlap = iou(corners, object);
            best_of[i] = best_of[i].max(overlap);
            if overlap > best {
                (best, place) = (overlap, i);
            }
        }
        found.push(match best {
            best if best >= by.object => Match::Object(place),
            best if best < by.background => Match::Background,
            _ => Match::Neither,
        });
    }
    for (i, (&object, &best)) in objects.iter().zip(&best_of).enumerate() {
        if best >= by.best {
            for (found, &corners) in found.iter_mut().zip(boxes) {
                if iou(corners, object) == best {
                    *found = Match::Object(i);
                }
            }
        }
    }
    found
}

/// At most `count` boxes to train on, objects first: at most `share` of them objects, the rest background, each drawn
/// at random; the places of both in order.
pub(crate) fn sample(
    matches: &[Match],
    count: usize,
    share: f64,
    rng: &mut ChaCha8Rng,
) -> (Vec<usize>, Vec<usize>) {
    let mut draw = |wanted: &dyn Fn(&Match) -> bool, most: usize| {
        let mut places: Vec<usize> = (0..matches.len()).filter(|&i| wanted(&matches[i])).collect();
        if places.len() <= most {
            return places;
        }
        let mut drawn = places.partial_shuffle(rng, most).0.to_vec();
        drawn.sort_unstable();
        drawn
    };
    let most = (count as f64 * share) as usize;
    let objects = draw(&|found| matches!(found, Match::Object(_)), most);
    let background = draw(&|found| *found == Match::Background, count - objects.len());
    (objects, background)
}
