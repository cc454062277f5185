//! The part of a plan that one process takes.

use crate::cell::Cell;
use crate::search::Start;

/// Which part of a plan is run here: cells i, i + n, i + 2n, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        match parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?))) {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err("expected i/n with 0 <= i < n".to_string()),
        }
    }
}

impl Shard {
    /// All of a plan.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether other shards train other cells of the same plan.
    pub fn is_part(self) -> bool {
        self.count > 1
    }

    /// Whether it trains a cell, the one at `place` of its plan.
    ///
    /// What a search has left depends on what other shards have finished by now, and the places with it; so a point
    /// is taken by its name.
    pub(crate) fn takes(self, cell: &Cell, place: usize) -> bool {
        let number = match cell.start {
            Start::Point(_) => {
                let [a, b, c, d, ..] = *blake3::hash(cell.to_string().as_bytes()).as_bytes();
                u32::from_le_bytes([a, b, c, d]) as usize
            }
            _ => place,
        };
        number % self.count == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Arm;
    use crate::cell::Budget;
    use crate::settings::Setting;

    #[test]
    fn shards_share_a_search_whatever_is_left_of_it() {
        let cells: Vec<Cell> = (0..40)
            .map(|i| Cell {
                row: "vit".to_string(),
                arm: Arm::BASELINE,
                start: Start::Point(Setting::published(f64::from(i + 1))),
                budget: Budget::Steps,
                seed: 0,
            })
            .collect();
        let shards = [0, 1, 2].map(|index| Shard { index, count: 3 });
        let taken = |shard: Shard, from: usize| -> Vec<String> {
            let left = cells[from..].iter().enumerate();
            left.filter(|(at, cell)| shard.takes(cell, *at))
                .map(|(_, cell)| cell.to_string())
                .collect()
        };
        let whole = shards.map(|shard| taken(shard, 0));
        assert_eq!(whole.iter().map(Vec::len).sum::<usize>(), cells.len());
        assert!(whole.iter().all(|share| share.len() > 5), "{whole:?}");
        // Of what is left each takes what it would have taken of all.
        for (shard, whole) in shards.into_iter().zip(&whole) {
            assert!(taken(shard, 7).iter().all(|cell| whole.contains(cell)));
        }
    }
}
