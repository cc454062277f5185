//! A table as one page of HTML with all that led to it: `report.html`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use conditioned_report::grid::Grid;
use conditioned_report::html::{Body, Page, Plate, Section};

use crate::arm::Arm;
use crate::cell::Budget;
use crate::column::{Column, RowView};
use crate::results::Finished;
use crate::run::folder;
use crate::search::Block;
use crate::table::Table;

/// The page of the finished runs of `out`; without run folders it has the numbers alone.
///
/// # Errors
/// When a record cannot be read.
pub fn page<T: Table>(
    out: &Path,
    results: &[Finished],
    grid: Grid,
    answer: String,
    figures: Vec<Plate>,
) -> Result<Page> {
    let text = |heading: &str, text: String| Section {
        heading: heading.to_string(),
        body: Body::Text(text),
    };
    let mut sections =
        vec![Section { heading: "Runs".to_string(), body: Body::Table(runs(results)) }];
    // One configuration stands for the others of its row: they differ in what the runs above say.
    let mut configurations: BTreeMap<String, String> = BTreeMap::new();
    let mut environments: Vec<String> = Vec::new();
    for folder in folder::find(out)? {
        let config = folder.config()?;
        let name =
            config.stage.iter().fold(config.cell.row.clone(), |row, stage| row + " " + stage);
        if let Entry::Vacant(new) = configurations.entry(name) {
            new.insert(serde_json::to_string_pretty(&config.common())?);
        }
        for mut environment in folder.environments()? {
            environment.peak_mib = None;
            let environment = serde_json::to_string_pretty(&environment)?;
            if !environments.contains(&environment) {
                environments.push(environment);
            }
        }
    }
    for (name, configuration) in configurations {
        sections
            .push(text(&format!("Configuration: {name}, as all its runs have it"), configuration));
    }
    if !environments.is_empty() {
        sections.push(text("Environment", environments.join("\n")));
    }
    let preset = results.first().map_or("", |run| &run.cell.preset);
    let preset = T::presets().into_iter().find(|known| known.name == preset);
    if let Some(tuned) = preset.and_then(|preset| preset.tuned) {
        sections.push(text(
            "What was searched: the committed search of this preset",
            tuned.to_string(),
        ));
    }
    Ok(Page { title: grid.title.clone(), answer, table: grid, figures, sections })
}

/// What the differences to the baseline say, in a sentence an arm.
pub fn answer(columns: &[Column], views: &[RowView<'_>]) -> String {
    let Some((head, difference)) =
        columns.iter().find_map(|column| Some((&column.head, column.difference.as_ref()?)))
    else {
        return String::new();
    };
    // Without a search there is one block, that of the settings given.
    let block = match views.iter().any(|view| view.block == Block::Tuned) {
        true => Block::Tuned,
        false => Block::Set,
    };
    let mut sentences = Vec::new();
    for &arm in Arm::value_variants() {
        let of_arm = views
            .iter()
            .filter(|view| (view.arm, view.block, view.budget) == (arm, block, Budget::Steps));
        let intervals: Vec<(f64, f64)> = of_arm
            .filter_map(|view| {
                let sample = difference(view)?;
                let half = sample.half_width()?;
                Some((sample.mean - half, sample.mean + half))
            })
            .collect();
        if intervals.is_empty() {
            continue;
        }
        let above = intervals.iter().filter(|(low, _)| *low > 0.0).count();
        let below = intervals.iter().filter(|(_, high)| *high < 0.0).count();
        sentences.push(format!(
            "{arm}: above zero in {above} of {} rows, below in {below}, undecided in {}.",
            intervals.len(),
            intervals.len() - above - below
        ));
    }
    match sentences.is_empty() {
        true => "No arm was compared with a baseline over several seeds.".to_string(),
        false => format!(
            "{head} ({}), by its 95 % interval over seeds: {}",
            match block {
                Block::Tuned => "embedding tables tuned",
                _ => "settings as given",
            },
            sentences.join(" ")
        ),
    }
}

/// Every run with the setting that it had.
fn runs(results: &[Finished]) -> Grid {
    let heads = ["row", "arm", "embedding tables", "seed", "learning rate", "data", "commit"];
    let row = |run: &Finished| {
        let cell = &run.cell;
        vec![
            cell.row.clone(),
            cell.arm.to_string(),
            cell.start.label().to_string(),
            cell.seed.to_string(),
            cell.learning_rate.to_string(),
            run.data.clone(),
            cell.commit.clone(),
        ]
    };
    Grid {
        title: "Runs".to_string(),
        columns: heads.iter().map(|head| ((*head).to_string(), false)).collect(),
        rows: results.iter().map(row).collect(),
        notes: Vec::new(),
    }
}
