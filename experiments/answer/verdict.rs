//! The tests of `docs/PLAN.md`: paired differences, Holm's correction, and what counts as yes.

use std::collections::BTreeMap;

use conditioned_report::statistics::{Sample, holm};
use experiments::arm::Arm;
use experiments::cell::Budget;
use experiments::column::values;
use experiments::groups;
use experiments::results::Finished;
use experiments::search::Block;

use crate::cells::Cell;

/// The level of the corrected tests.
const ALPHA: f64 = 0.05;

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    PerSequence,
    Pooled,
    Factor,
    Muon,
    PooledOnMuon,
    PooledOrFactor,
}

impl Question {
    pub(crate) const ALL: [Self; 6] = [
        Self::PerSequence,
        Self::Pooled,
        Self::Factor,
        Self::Muon,
        Self::PooledOnMuon,
        Self::PooledOrFactor,
    ];

    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::PerSequence => "the paper's tokens (`per-sequence`) against the baseline",
            Self::Pooled => "`pooled` tokens against the baseline",
            Self::Factor => "a mere `factor` against the baseline",
            Self::Muon => "conditioned updates (`muon`) against the baseline",
            Self::PooledOnMuon => "`muon+pooled` against `muon`",
            Self::PooledOrFactor => "`pooled` against `factor`",
        }
    }

    /// The arm, and what it is compared with.
    pub(crate) fn arms(self, cell: &Cell) -> (Arm, Arm) {
        let [pooled, muon_pooled] = cell.pooled;
        match self {
            Self::PerSequence => (Arm::PER_SEQUENCE, Arm::BASELINE),
            Self::Pooled => (pooled, Arm::BASELINE),
            Self::Factor => (Arm::FACTOR, Arm::BASELINE),
            Self::Muon => (Arm::MUON, Arm::BASELINE),
            Self::PooledOnMuon => (muon_pooled, Arm::MUON),
            Self::PooledOrFactor => (pooled, Arm::FACTOR),
        }
    }
}

/// What an arm gains over another in a cell, above 0 where it is better.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gain {
    /// Tuned, equal steps: what is tested.
    pub(crate) tuned: Sample,
    /// Tuned, equal time.
    pub(crate) time: Option<Sample>,
    /// Embedding tables as published, equal steps.
    pub(crate) published: Option<Sample>,
}

impl Gain {
    /// From the runs of a cell; `None` where it has not both arms.
    pub(crate) fn of(cell: &Cell, results: &[Finished], (arm, other): (Arm, Arm)) -> Option<Self> {
        let of = |block, budget, arm| -> BTreeMap<u64, f64> {
            // The baseline sets the time: its runs at equal steps are those at equal time.
            let budget = if arm == Arm::BASELINE { Budget::Steps } else { budget };
            let runs = groups::runs(results, (cell.row, block, budget, arm));
            values(&runs, cell.outcome.metric())
        };
        let gain = |block, budget| {
            let (own, others) = (of(block, budget, arm), of(block, budget, other));
            let pairs = own.iter().filter_map(|(seed, value)| Some(value - others.get(seed)?));
            // No gain is 0, not -0.
            let gains = pairs.map(|gain| cell.outcome.sign() * gain + 0.0);
            Sample::of(&gains.collect::<Vec<_>>())
        };
        Some(Self {
            tuned: gain(Block::Tuned, Budget::Steps)?,
            time: gain(Block::Tuned, Budget::Time),
            published: gain(Block::Published, Budget::Steps),
        })
    }
}

/// A comparison in a cell, tested.
#[derive(Debug, Clone)]
pub(crate) struct Tested {
    pub(crate) question: Question,
    pub(crate) cell: Cell,
    pub(crate) gain: Gain,
    /// The p value after Holm's correction over all questions and cells.
    pub(crate) p: f64,
}

impl Tested {
    /// 1 where it is better, -1 where worse, 0 where the test does not tell.
    pub(crate) fn direction(&self) -> i32 {
        match self.p <= ALPHA {
            true if self.gain.tuned.mean > 0.0 => 1,
            true => -1,
            false => 0,
        }
    }
}

/// All comparisons of the finished cells.
pub(crate) fn tested(cells: &[(Cell, Vec<Finished>)]) -> Vec<Tested> {
    let mut tested = Vec::new();
    for question in Question::ALL {
        for (cell, results) in cells {
            let gain = Gain::of(cell, results, question.arms(cell));
            let Some((gain, p)) = gain.and_then(|gain| Some((gain, gain.tuned.p_value()?))) else {
                continue;
            };
            tested.push(Tested { question, cell: *cell, gain, p });
        }
    }
    let p: Vec<f64> = tested.iter().map(|tested| tested.p).collect();
    for (tested, p) in tested.iter_mut().zip(holm(&p)) {
        tested.p = p;
    }
    tested
}

/// The answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    Depends,
}

/// In how many cells an arm is better, worse, and not told apart, and what follows by the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) better: usize,
    pub(crate) worse: usize,
    pub(crate) cells: usize,
}

impl Count {
    /// Over the cells of a question.
    pub(crate) fn of(question: Question, tested: &[Tested]) -> Self {
        let own: Vec<i32> =
            tested.iter().filter(|t| t.question == question).map(Tested::direction).collect();
        let count = |direction| own.iter().filter(|&&own| own == direction).count();
        Self { better: count(1), worse: count(-1), cells: own.len() }
    }

    pub(crate) fn verdict(self) -> Verdict {
        let Self { better, worse, cells } = self;
        if worse == 0 && 2 * better > cells {
            Verdict::Yes
        } else if better == 0 || worse >= better {
            Verdict::No
        } else {
            Verdict::Depends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_yes_is_what_the_plan_says() {
        let verdict = |better, worse, cells| Count { better, worse, cells }.verdict();
        assert_eq!(verdict(5, 0, 9), Verdict::Yes);
        assert_eq!(verdict(4, 0, 8), Verdict::Depends);
        assert_eq!(verdict(6, 1, 8), Verdict::Depends);
        assert_eq!(verdict(0, 0, 8), Verdict::No);
        assert_eq!(verdict(2, 2, 8), Verdict::No);
    }
}
