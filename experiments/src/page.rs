//! A table as one page of HTML with all that led to it: `report.html`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use anyhow::{Context, Result};
use conditioned_report::grid::Grid;
use conditioned_report::html::{Body, Page, Plate, Section};
use conditioned_report::statistics::Sample;

use crate::arm::Arm;
use crate::cell::Budget;
use crate::column::{Column, RowView};
use crate::given::SETTINGS;
use crate::groups::Group;
use crate::results::Finished;
use crate::run::folder::{self, Folder, PICTURES};
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
    // The first run of a row, stage, arm and setting stands for its other seeds.
    let mut drawn: BTreeMap<_, Option<Section>> = BTreeMap::new();
    for folder in folder::find(out)? {
        // One that was not begun, broke off or is being trained has no numbers above.
        if folder.summary()?.is_none() {
            continue;
        }
        let config = folder.config()?;
        let cell = &config.cell;
        let kind =
            (cell.row.clone(), config.stage.clone(), cell.arm.to_string(), cell.start.to_string());
        if let Entry::Vacant(new) = drawn.entry(kind) {
            new.insert(pictures(&folder, &config.name())?);
        }
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
    sections.splice(0..0, drawn.into_values().flatten());
    for (name, configuration) in configurations {
        sections
            .push(text(&format!("Configuration: {name}, as all its runs have it"), configuration));
    }
    if !environments.is_empty() {
        sections.push(text("Environment", environments.join("\n")));
    }
    if let Some(searches) = searches::<T>(out, results)? {
        sections.push(text("The searches that the settings come from", searches));
    }
    Ok(Page { title: grid.title.clone(), answer, table: grid, figures, sections })
}

/// The searches beside the runs, or those recorded with the table; none where nothing was searched.
fn searches<T: Table>(out: &Path, results: &[Finished]) -> Result<Option<String>> {
    let Some(searched) = results.iter().find(|run| run.cell.start != Block::Set) else {
        return Ok(None);
    };
    let file = out.join(SETTINGS);
    if file.exists() {
        return Ok(Some(
            std::fs::read_to_string(&file).with_context(|| file.display().to_string())?,
        ));
    }
    let preset = T::presets().into_iter().find(|preset| preset.name == searched.cell.preset);
    Ok(preset.and_then(|preset| preset.tuned).map(str::to_string))
}

/// What the differences to the baseline say, of each number and arm.
pub fn answer(columns: &[Column], views: &[RowView<'_>]) -> String {
    // Without a search there is one block, that of the settings given.
    let has = |block: Block| views.iter().any(|view| view.group.block == block);
    let tables = views.iter().any(|view| view.group.has_embedding_tables());
    let (block, named) = match (has(Block::Tuned) && tables, has(Block::Published)) {
        (true, _) => (Block::Tuned, "embedding tables tuned"),
        (false, true) => (Block::Published, "learning rates searched"),
        (false, false) => (Block::Set, "settings as given"),
    };
    let mut numbers = Vec::new();
    // A difference stands behind the number that it is of.
    for (number, column) in columns.iter().zip(columns.iter().skip(1)) {
        let Some(difference) = &column.difference else { continue };
        let arms: Vec<String> = Arm::all()
            .into_iter()
            .filter_map(|arm| {
                // Without embedding tables there is one block of searched runs.
                let of_arm = |view: &&RowView<'_>| {
                    let Group { block: of, budget, .. } = view.group;
                    let belongs = of == block
                        || (of == Block::Published && !view.group.has_embedding_tables());
                    (view.group.arm, budget) == (arm, Budget::Steps) && belongs
                };
                verdict(views.iter().filter(of_arm).filter_map(difference))
                    .map(|verdict| format!("{arm} {verdict}"))
            })
            .collect();
        if !arms.is_empty() {
            numbers.push(format!("{}: {}.", number.head, arms.join("; ")));
        }
    }
    match numbers.is_empty() {
        true => "No arm was compared with a baseline over several seeds.".to_string(),
        false => format!(
            "Against the baseline, {named}, by the 95 % interval of the difference over seeds. {}",
            numbers.join(" ")
        ),
    }
}

/// In how many rows an arm lies above and below the baseline; nothing of single seeds.
fn verdict(differences: impl Iterator<Item = Sample>) -> Option<String> {
    let interval = |sample: Sample| Some((sample.mean, sample.half_width()?));
    let intervals: Vec<(f64, f64)> = differences.filter_map(interval).collect();
    let above = intervals.iter().filter(|(mean, half)| mean - half > 0.0).count();
    let below = intervals.iter().filter(|(mean, half)| mean + half < 0.0).count();
    let (rows, undecided) = (intervals.len(), intervals.len() - above - below);
    (rows > 0).then(|| {
        format!("above it in {above} of {rows} rows, below in {below}, undecided in {undecided}")
    })
}

/// What a run found in images, where it drew it.
fn pictures(folder: &Folder, name: &str) -> Result<Option<Section>> {
    let path = folder.path().join(PICTURES);
    if !path.is_file() {
        return Ok(None);
    }
    let png = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let text = "Tuning images, each with the truth and with what was found.".to_string();
    Ok(Some(Section { heading: format!("What {name} finds"), body: Body::Picture { png, text } }))
}

/// Every run with the setting that it had.
fn runs(results: &[Finished]) -> Grid {
    let heads =
        ["row", "arm", "embedding tables", "seed", "steps", "learning rate", "data", "commit"];
    let row = |run: &Finished| {
        let cell = &run.cell;
        vec![
            cell.row.clone(),
            cell.arm.to_string(),
            run.tables().to_string(),
            cell.seed.to_string(),
            cell.steps.to_string(),
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
