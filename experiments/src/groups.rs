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
    for &block in Block::value_variants() {
        for arm in Arm::all() {
            let of = (block, Budget::Steps, arm);
            if groups.iter().any(|group| (group.block, group.budget, group.arm) == of) {
                let cells = |row: &String| runs(results, (row, block, Budget::Steps, arm));
                let by_row: Vec<Vec<&Finished>> = rows.iter().map(cells).collect();
                let of_block = means_of_seeds(&by_row, metric).into_iter().map(|(first, mean)| {
                    let mut derived = first.clone();
                    derived.cell.row = name.to_string();
                    (derived.cell.start, derived.cell.best) = (block, false);
                    derived.metrics = [(metric.to_string(), Some(mean))].into();
                    derived
                });
                means.extend(of_block);
            }
        }
    }
    means
}

/// The mean of a metric over all rows for each seed that every row has, with the run of the first.
fn means_of_seeds<'a>(by_row: &[Vec<&'a Finished>], metric: &str) -> Vec<(&'a Finished, f64)> {
    let mean = |first: &&'a Finished| {
        let of_seed = |runs: &Vec<&Finished>| {
            runs.iter().find(|run| run.cell.seed == first.cell.seed)?.metric(metric)
        };
        let values: Vec<f64> = by_row.iter().map(of_seed).collect::<Option<_>>()?;
        Some((*first, values.iter().sum::<f64>() / values.len() as f64))
    };
    by_row.first().into_iter().flatten().filter_map(mean).collect()
}
