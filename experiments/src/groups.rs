//! Which finished runs are shown together: the one place that tables, figures and the answer ask.

use clap::ValueEnum;

use crate::arm::{Arm, Method};
use crate::cell::Budget;
use crate::results::Finished;
use crate::search::Block;

/// The runs of a line of a table, a seed each.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// The row of the table.
    pub row: &'a str,
    /// Which question it answers.
    pub block: Block,
    /// What limited the runs.
    pub budget: Budget,
    /// The arm.
    pub arm: Arm,
    /// Its runs; there is one.
    pub runs: Vec<&'a Finished>,
}

impl Group<'_> {
    /// Whether its model has embedding tables in front of the first block.
    pub fn has_embedding_tables(&self) -> bool {
        self.runs.iter().any(|run| run.has_embedding_tables())
    }

    /// Whether it says nothing new beside the block of published tables. Nothing of the tables is searched where
    /// there are none, nor of those that `init` scales by itself.
    fn repeats(&self) -> bool {
        let same = |run: &&Finished| {
            (run.cell.start, run.cell.budget) == (Block::Published, Budget::Steps)
        };
        let nothing_searched = self.arm.method == Method::Init || !self.has_embedding_tables();
        self.block == Block::Tuned && nothing_searched && self.runs.iter().all(same)
    }
}

/// All groups of `rows` that have runs and say something new, in the order of a table.
pub fn groups<'a>(results: &'a [Finished], rows: &[String]) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    for row in rows {
        let Some(first) = results.iter().find(|run| run.cell.row == *row) else { continue };
        let row = first.cell.row.as_str();
        for &block in Block::value_variants() {
            for &budget in Budget::value_variants() {
                groups.extend(Arm::all().into_iter().filter_map(|arm| {
                    let runs = runs(results, (row, block, budget, arm));
                    let group = Group { row, block, budget, arm, runs };
                    (!group.runs.is_empty() && !group.repeats()).then_some(group)
                }));
            }
        }
    }
    groups
}

/// The runs of a cell of the table. Where the best of all settings has embedding tables as published, its
/// runs stand in both blocks; those at equal time have their best setting.
pub fn runs<'a>(
    results: &'a [Finished],
    (row, block, budget, arm): (&str, Block, Budget, Arm),
) -> Vec<&'a Finished> {
    let belongs = |r: &&Finished| {
        let shared = block == Block::Tuned && r.cell.start == Block::Published && r.cell.best;
        let own = r.cell.start == block && (budget, block) != (Budget::Time, Block::Published);
        (r.cell.row.as_str(), r.cell.budget, r.cell.arm) == (row, budget, arm) && (own || shared)
    };
    results.iter().filter(belongs).collect()
}

/// The mean of a metric over all rows, seed by seed, as cells of a row `name`: of the blocks, arms and seeds that
/// every row has.
pub fn mean_over_rows(results: &[Finished], name: &str, metric: &str) -> Vec<Finished> {
    let mut rows: Vec<String> = results.iter().map(|run| run.cell.row.clone()).collect();
    rows.dedup();
    let mut means = Vec::new();
    if rows.len() < 2 {
        return means;
    }
    let groups = groups(results, &rows);
    let arms = Arm::all();
    for (block, arm) in
        Block::value_variants().iter().flat_map(|&block| arms.iter().map(move |&arm| (block, arm)))
    {
        let of = (block, Budget::Steps, arm);
        if !groups.iter().any(|group| (group.block, group.budget, group.arm) == of) {
            continue;
        }
        let by_row: Vec<Vec<&Finished>> =
            rows.iter().map(|row| runs(results, (row, block, Budget::Steps, arm))).collect();
        for first in by_row.first().into_iter().flatten() {
            let of_seed = |runs: &Vec<&Finished>| {
                let run = runs.iter().find(|run| run.cell.seed == first.cell.seed);
                run.and_then(|run| run.metric(metric))
            };
            let values: Option<Vec<f64>> = by_row.iter().map(of_seed).collect();
            let Some(values) = values else { continue };
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let mut derived = (*first).clone();
            derived.cell.row = name.to_string();
            (derived.cell.start, derived.cell.best) = (block, false);
            derived.metrics = [(metric.to_string(), Some(mean))].into();
            means.push(derived);
        }
    }
    means
}
