//! The outcome of a search: the best setting of every arm, with all that was tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Block, Effort, Found, Search};
use crate::arm::Arm;
use crate::run::folder;
use crate::settings::Axes;
use conditioned_report::grid::Grid;

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    preset: String,
    /// The data searched on, by name and BLAKE3; several where rows have their own.
    data: String,
    data_hash: String,
    rows: BTreeMap<String, BTreeMap<Arm, Search>>,
    /// The same of the searches that are those of a file of `--tuned`.
    #[serde(skip)]
    data_of_file: BTreeMap<(String, Arm), (String, String)>,
}

impl Tuned {
    /// Nothing searched for a preset.
    fn none(preset: &str) -> Self {
        let (data, data_hash, rows, data_of_file) = Default::default();
        Self { preset: preset.to_string(), data, data_hash, rows, data_of_file }
    }

    /// These searches, and over them those that `other` has of `cells`, each with its data.
    pub fn with(&self, other: &Self, cells: &BTreeSet<(&str, Arm)>) -> Self {
        let mut all = Self::none(&self.preset);
        all.take(self, &self.searches().map(|(row, arm, _)| (row, arm)).collect());
        all.take(other, cells);
        all
    }

    fn take(&mut self, other: &Self, cells: &BTreeSet<(&str, Arm)>) {
        for (row, arm, search) in
            other.searches().filter(|(row, arm, _)| cells.contains(&(*row, *arm)))
        {
            self.rows.entry(row.to_string()).or_default().insert(arm, search.clone());
            let (data, hashes) = other.data_of(row, arm);
            add(&mut self.data, data);
            add(&mut self.data_hash, hashes);
        }
    }

    /// All searches, by row and arm.
    fn searches(&self) -> impl Iterator<Item = (&str, Arm, &Search)> {
        let rows = self.rows.iter();
        rows.flat_map(|(row, arms)| {
            arms.iter().map(move |(arm, search)| (row.as_str(), *arm, search))
        })
    }

    /// Names and hashes of the data that an arm of a row was searched on.
    fn data_of(&self, row: &str, arm: Arm) -> (&str, &str) {
        let of_file = self.data_of_file.get(&(row.to_string(), arm));
        of_file.map_or((&self.data, &self.data_hash), |(data, hashes)| (data, hashes))
    }

    /// What was recorded for a preset, and over it what a file of `--tuned` has.
    ///
    /// # Errors
    /// When either cannot be read, or the file is of another preset, or of rows that are not `known`.
    pub fn open(
        recorded: Option<&str>,
        file: Option<&Path>,
        preset: &str,
        known: &[String],
    ) -> Result<Self> {
        let mut tuned = match recorded {
            Some(text) => serde_json::from_str(text)
                .with_context(|| format!("recorded settings of preset {preset}"))?,
            None => Self::none(preset),
        };
        if let Some(path) = file {
            let other: Self = folder::read(path)?;
            ensure!(
                other.preset == preset,
                "{}: settings of preset {}, this run has {preset}",
                path.display(),
                other.preset
            );
            for (row, arms) in other.rows {
                ensure!(
                    known.contains(&row),
                    "{}: settings of {row}, this table has {}",
                    path.display(),
                    known.join(", ")
                );
                for arm in arms.keys() {
                    let data = (other.data.clone(), other.data_hash.clone());
                    tuned.data_of_file.insert((row.clone(), *arm), data);
                }
                tuned.rows.entry(row).or_default().extend(arms);
            }
        }
        Ok(tuned)
    }

    /// The names of the data that an arm of a row was searched on, if those of this hash are not among them.
    pub fn other_data(&self, row: &str, arm: Arm, hash: &str) -> Option<&str> {
        let (data, hashes) = self.data_of(row, arm);
        (!hashes.split("; ").any(|of| of == hash)).then_some(data)
    }

    /// Whether the search of an arm is that recorded with the table, and not of a file of `--tuned`.
    pub fn is_recorded(&self, row: &str, arm: Arm) -> bool {
        let recorded = self.rows.get(row).is_some_and(|arms| arms.contains_key(&arm));
        recorded && !self.data_of_file.contains_key(&(row.to_string(), arm))
    }

    /// The search of an arm.
    ///
    /// # Errors
    /// When it was not searched: says how to do it.
    pub fn best(&self, row: &str, arm: Arm) -> Result<&Search> {
        let search = self.rows.get(row).and_then(|arms| arms.get(&arm));
        search.with_context(|| {
            format!(
                "{row} {arm}: no settings are recorded for preset {}. Search them with `tune --preset {} \
                 --models {row} --arms {arm} --out DIR` and pass `--tuned DIR/tuned.json`, or give the \
                 learning rate with `--set learning_rate=R`",
                self.preset, self.preset
            )
        })
    }

    /// Chooses the best settings among the finished points of a search on `data`, (name, hash).
    ///
    /// # Errors
    /// When there are none, or the search of an arm, with what `axes` says, is not complete: an arm must not
    /// be searched less than another.
    pub fn choose(
        preset: &str,
        (data, data_hash): (&str, &str),
        found: Found,
        effort: Effort,
        axes: impl Fn(&str, Arm) -> Result<Axes>,
    ) -> Result<Self> {
        ensure!(!found.0.is_empty(), "no finished cell of a search");
        let mut rows: BTreeMap<String, BTreeMap<Arm, Search>> = BTreeMap::new();
        for ((row, arm), (strength, points)) in found.0 {
            let search = Search::choose(strength, effort, &axes(&row, arm)?, &points)
                .with_context(|| format!("{row} {arm}"))?;
            rows.entry(row).or_default().insert(arm, search);
        }
        let [preset, data, data_hash] = [preset, data, data_hash].map(str::to_string);
        Ok(Self { preset, data, data_hash, rows, data_of_file: BTreeMap::new() })
    }

    /// What every arm was given, and where its best lies.
    pub fn table(&self, title: &str) -> Grid {
        let heads = [
            "model",
            "arm",
            "runs",
            "best of all",
            "its seeds",
            "result",
            "at the edge of what was tried",
            "best with published tables",
            "its result",
        ];
        let mut rows = Vec::new();
        for (row, arm, search) in self.searches() {
            let result = |setting| search.result(setting).unwrap_or_default();
            let ((seeds, tuned), (_, published)) = (result(search.tuned), result(search.published));
            let edges = search.edges(Block::Tuned);
            rows.push(vec![
                row.to_string(),
                arm.to_string(),
                search.runs().to_string(),
                search.tuned.to_string(),
                seeds.to_string(),
                tuned,
                if edges.is_empty() { "none".to_string() } else { edges.join(", ") },
                search.published.to_string(),
                published,
            ]);
        }
        Grid {
            title: format!("{title}: what every arm was given on {}", self.data),
            columns: heads.map(|head| (head.to_string(), true)).to_vec(),
            rows,
            notes: vec![
                "lr: peak learning rate; x: that of the embedding tables over it; std: their deviation at \
                 initialisation; t: strength, or the factor. Result: loss on a slice of the training data, behind the \
                 score that decides before it where there is one. No test data are read."
                    .to_string(),
            ],
        }
    }
}

/// Adds those of `more` that are not there to a list, as [`Tuned`] has them.
fn add(list: &mut String, more: &str) {
    for item in more.split("; ").filter(|item| !item.is_empty()) {
        if !list.split("; ").any(|known| known == item) {
            let and = if list.is_empty() { "" } else { "; " };
            *list += &format!("{and}{item}");
        }
    }
}
