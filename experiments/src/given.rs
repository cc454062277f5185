//! What a table says of the search behind it: how much each arm was given, and where its best lies.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::plan::name;
use crate::results::{Finished, Line};
use crate::run::folder;
use crate::search::{Block, Given, Start, Tuned};
use crate::table::Table;

/// The file beside the runs of a table that holds the searches that their settings come from.
pub const SETTINGS: &str = "settings.json";

/// What the searches of a row gave its arms.
#[derive(Debug, Default, PartialEq)]
struct Row {
    /// The arms by what each was given.
    groups: Vec<(Given, Vec<Arm>)>,
    /// An arm's best whose numbers lie at the edge of what was tried, and these numbers.
    edges: Vec<(String, Vec<&'static str>)>,
}

/// Writes the searches that the settings of `runs` come from to `out`, beside those of earlier commands.
///
/// # Errors
/// When the file cannot be read or written, or is of another preset.
pub fn keep<T: Table>(out: &Path, tuned: &Tuned, preset: &str, runs: &[RunConfig]) -> Result<()> {
    let searched = runs.iter().map(|run| &run.cell);
    let searched = searched.filter(|cell| matches!(cell.start, Start::Published | Start::Tuned));
    let cells: BTreeSet<(&str, Arm)> = searched.map(|cell| (&*cell.row, cell.arm)).collect();
    if cells.is_empty() {
        return Ok(());
    }
    // Another shard may add its arms in this instant.
    let lock = out.join("settings.lock");
    let alone = File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _alone = alone.with_context(|| lock.display().to_string())?;
    folder::write(&out.join(SETTINGS), &open::<T>(out, preset, None)?.with(tuned, &cells))
}

/// The searches that [`keep`] wrote, over those that are `recorded` with the table.
fn open<T: Table>(out: &Path, preset: &str, recorded: Option<&str>) -> Result<Tuned> {
    let file = out.join(SETTINGS);
    let file = file.exists().then_some(file);
    let rows: Vec<String> = T::Row::value_variants().iter().map(|row| name(*row)).collect();
    Tuned::open(recorded, file.as_deref(), preset, &rows)
}

/// How much the search gave the arms of these results, and where their best lies, if their settings are those of the
/// searches beside them in `out`, or else of those recorded with the table.
///
/// # Errors
/// When the file of the searches is damaged.
pub fn sentence<T: Table>(out: &Path, results: &[Finished]) -> Result<String> {
    let preset = results.first().map_or("", |run| &run.cell.preset);
    let recorded = T::presets().into_iter().find(|of| of.name == preset).and_then(|of| of.tuned);
    let tuned = open::<T>(out, preset, recorded)?;
    let lines: Vec<&Line> = results.iter().map(|run| &run.cell).collect();
    Ok(rows(&tuned, &lines).map_or_else(
        || {
            "Not all settings are those of the searches recorded with this table: `search.md` of theirs says what each \
             arm was given."
                .to_string()
        },
        |rows| told(&rows, T::label),
    ))
}

/// What was given by row; nothing where a run has another setting than that of its search.
fn rows(tuned: &Tuned, lines: &[&Line]) -> Option<Vec<(String, Row)>> {
    let mut rows: Vec<(String, Row)> = Vec::new();
    for line in lines.iter().filter(|line| line.start != Block::Set) {
        let search = tuned.best(&line.row, line.arm).ok()?;
        let setting = if line.start == Block::Tuned { search.tuned } else { search.published };
        if !setting.is_of(line) || (search.strength.is_some() && search.strength != line.strength) {
            return None;
        }
        let row = of_key(&mut rows, &line.row);
        let arms = of_key(&mut row.groups, &search.given());
        if !arms.contains(&line.arm) {
            arms.push(line.arm);
        }
        let best = match search.published == search.tuned {
            true => line.arm.to_string(),
            false => format!("{}, {}", line.arm, line.start.label()),
        };
        let edges = search.edges(line.start);
        if !edges.is_empty() && !row.edges.iter().any(|(known, _)| *known == best) {
            row.edges.push((best, edges));
        }
    }
    Some(rows)
}

/// What belongs to a key, which is added behind the others where it is new.
fn of_key<'a, K: PartialEq + Clone, V: Default>(all: &'a mut Vec<(K, V)>, key: &K) -> &'a mut V {
    let at = all.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
        all.push((key.clone(), V::default()));
        all.len() - 1
    });
    &mut all[at].1
}

/// What is said of these rows.
fn told(rows: &[(String, Row)], label: fn(&str) -> String) -> String {
    let mut given: Vec<Given> =
        rows.iter().flat_map(|(_, row)| &row.groups).map(|of| of.0).collect();
    given.dedup();
    let text = match given[..] {
        [given] => format!("Every searched arm was given the same: {}.", amount(given)),
        _ if rows.iter().all(|(_, row)| row.groups.len() == 1) => format!(
            "Every searched arm of a model was given the same: {}",
            by_row(rows, label, |row| row.groups.iter().map(|of| amount(of.0)).collect())
        ),
        _ => format!(
            "Not every arm was given the same. {}",
            by_row(rows, label, |row| {
                let group = |(given, arms): &(Given, Vec<Arm>)| {
                    let arms: Vec<String> = arms.iter().map(ToString::to_string).collect();
                    format!("{}, {}", arms.join(", "), amount(*given))
                };
                row.groups.iter().map(group).collect()
            })
        ),
    };
    let edges = by_row(rows, label, |row| {
        let edge = |(best, names): &(String, Vec<&str>)| format!("{best} ({})", names.join(", "));
        row.edges.iter().map(edge).collect()
    });
    match edges.is_empty() {
        true => text,
        false => format!("{text} The best lies at the edge of what was tried: {edges}"),
    }
}

/// What is to be said of each row, those of which the same is said together; of none where that is nothing.
fn by_row(
    rows: &[(String, Row)],
    label: fn(&str) -> String,
    say: impl Fn(&Row) -> Vec<String>,
) -> String {
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for (row, of_row) in rows {
        let said = say(of_row);
        if !said.is_empty() {
            of_key(&mut told, &said.join("; ")).push(label(row));
        }
    }
    let told: Vec<String> =
        told.into_iter().map(|(said, rows)| format!("{}: {said}.", rows.join(", "))).collect();
    told.join(" ")
}

fn amount(Given { runs, settings, seeds }: Given) -> String {
    let most =
        if runs == settings { "a seed each".to_string() } else { format!("at most {seeds} seeds") };
    format!("{runs} runs of {settings} settings ({most})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arms_were_given_is_told_where_it_differs() {
        let little = Given { runs: 12, settings: 12, seeds: 1 };
        let more = Given { runs: 39, settings: 24, seeds: 2 };
        let row = |name: &str, groups: Vec<(Given, Vec<Arm>)>| {
            (name.to_string(), Row { groups, edges: Vec::new() })
        };
        let both = vec![Arm::BASELINE, Arm::POOLED];
        let told = |rows: &[(String, Row)]| told(rows, str::to_uppercase);
        let unlike = vec![(little, both.clone()), (more, vec![Arm::MUON])];
        assert_eq!(
            told(&[row("a", unlike.clone()), row("b", unlike)]),
            "Not every arm was given the same. A, B: baseline, pooled, 12 runs of 12 settings (a seed each); muon, 39 \
             runs of 24 settings (at most 2 seeds)."
        );
        let alike = |given| vec![(given, both.clone())];
        assert_eq!(
            told(&[row("a", alike(little)), row("b", alike(more)), row("c", alike(little))]),
            "Every searched arm of a model was given the same: A, C: 12 runs of 12 settings (a seed each). B: 39 runs \
             of 24 settings (at most 2 seeds)."
        );
        let mut edge = row("a", alike(little));
        edge.1.edges = vec![("pooled, tuned".to_string(), vec!["learning rate", "table std"])];
        assert_eq!(
            told(&[edge]),
            "Every searched arm was given the same: 12 runs of 12 settings (a seed each). The best lies at the edge of \
             what was tried: A: pooled, tuned (learning rate, table std)."
        );
    }

    #[test]
    fn nothing_is_told_of_settings_that_are_not_recorded() {
        let tuned = include_str!("../table4_glue/tuned/short.json");
        let tuned = Tuned::open(Some(tuned), None, "short", &[]).unwrap();
        let csv = include_str!("../table4_glue/results/short/results.csv");
        let cells = crate::results::parse(csv).unwrap();
        let rows_with = |change: fn(&mut Line)| {
            let mut cells = cells.clone();
            change(&mut cells[0].cell);
            rows(&tuned, &cells.iter().map(|run| &run.cell).collect::<Vec<_>>())
        };
        let unchanged = rows_with(|_| ());
        assert!(unchanged.is_some_and(|rows| rows.len() == 1 && rows[0].1.groups.len() == 2));
        assert_eq!(rows_with(|line| line.learning_rate *= 2.0), None);
        assert_eq!(rows_with(|line| line.embedding_std = Some(7.0)), None);
    }
}
