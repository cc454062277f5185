//! What a table says of the search behind it: how much each arm was given.

use crate::arm::Arm;
use crate::results::{Finished, Line};
use crate::search::{Block, Given, Tuned};
use crate::table::Table;

/// The arms of a row by what each was given.
type Groups = Vec<(Given, Vec<Arm>)>;

/// How much the search gave the arms of these results, if their settings are those that are recorded with the table.
pub fn sentence<T: Table>(results: &[Finished]) -> String {
    let preset = results.first().map_or("", |run| &run.cell.preset);
    let recorded = T::presets().into_iter().find(|of| of.name == preset).and_then(|of| of.tuned);
    let tuned = recorded.and_then(|text| Tuned::open(Some(text), None, preset, &[]).ok());
    let lines: Vec<&Line> = results.iter().map(|run| &run.cell).collect();
    let rows = tuned.and_then(|tuned| rows(&tuned, &lines));
    rows.map_or_else(
        || {
            "Not all settings are those recorded with this table: `search.md` of their search says what each arm was \
             given."
                .to_string()
        },
        |rows| told(&rows, T::label),
    )
}

/// What was given by row; nothing where a run has another setting than the recorded one.
fn rows(tuned: &Tuned, lines: &[&Line]) -> Option<Vec<(String, Groups)>> {
    let mut rows: Vec<(String, Groups)> = Vec::new();
    for line in lines.iter().filter(|line| line.start != Block::Set) {
        let search = tuned.best(&line.row, line.arm).ok()?;
        let setting = if line.start == Block::Tuned { search.tuned } else { search.published };
        let rates = (setting.learning_rate, setting.embedding_lr_scale);
        if rates != (line.learning_rate, line.embedding_lr_scale) {
            return None;
        }
        let row = of_key(&mut rows, &line.row);
        let arms = of_key(row, &search.given());
        if !arms.contains(&line.arm) {
            arms.push(line.arm);
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

/// The sentence of these rows.
fn told(rows: &[(String, Groups)], label: fn(&str) -> String) -> String {
    let mut all: Vec<Given> = rows.iter().flat_map(|(_, groups)| groups).map(|of| of.0).collect();
    all.dedup();
    if let [given] = all[..] {
        return format!("Every arm was given the same: {}.", amount(given));
    }
    // Rows that were given the same stand together.
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for (row, groups) in rows {
        let group = |(given, arms): &(Given, Vec<Arm>)| {
            let arms: Vec<String> = arms.iter().map(ToString::to_string).collect();
            format!("{}, {}", arms.join(", "), amount(*given))
        };
        let groups: Vec<String> = groups.iter().map(group).collect();
        of_key(&mut told, &groups.join("; ")).push(label(row));
    }
    let told: Vec<String> =
        told.into_iter().map(|(of, rows)| format!("{}: {of}.", rows.join(", "))).collect();
    format!("Not every arm was given the same. {}", told.join(" "))
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
        let row = |name: &str, of_muon| {
            let arms = vec![Arm::BASELINE, Arm::POOLED];
            (name.to_string(), vec![(little, arms), (of_muon, vec![Arm::MUON])])
        };
        let told = |rows: &[(String, Groups)]| told(rows, str::to_uppercase);
        assert_eq!(
            told(&[row("a", more), row("b", more)]),
            "Not every arm was given the same. A, B: baseline, pooled, 12 runs of 12 settings (a seed each); muon, 39 \
             runs of 24 settings (at most 2 seeds)."
        );
        assert_eq!(
            told(&[row("a", little)]),
            "Every arm was given the same: 12 runs of 12 settings (a seed each)."
        );
    }

    #[test]
    fn nothing_is_told_of_settings_that_are_not_recorded() {
        let tuned = include_str!("../table4_glue/tuned/short.json");
        let tuned = Tuned::open(Some(tuned), None, "short", &[]).unwrap();
        let csv = include_str!("../table4_glue/results/short/results.csv");
        let mut cells = crate::results::parse(csv).unwrap();
        let rows_of = |cells: &[Finished]| {
            rows(&tuned, &cells.iter().map(|run| &run.cell).collect::<Vec<_>>())
        };
        assert!(rows_of(&cells).is_some_and(|rows| rows.len() == 1 && rows[0].1.len() == 2));
        cells[0].cell.learning_rate *= 2.0;
        assert!(rows_of(&cells).is_none());
    }
}
