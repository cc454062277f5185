//! From finished cells to the files of a table: results, the table in four forms, curves, texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use conditioned_nn::Precision;
use conditioned_nn::store::write_atomic;

use crate::arm::Arm;
use crate::cell::Budget;
use crate::cli::print;
use crate::column::{Column, DASH, Published, RowView, published};
use crate::figures;
use crate::given;
use crate::groups::{self, Group};
use crate::page;
use crate::plan::name;
use crate::results::{Finished, open};
use crate::run::timing::{self, Timing};
use crate::search::Block;
use crate::table::Table;
use conditioned_report::grid::Grid;

/// The table as a page, in the folder of its runs.
pub const PAGE: &str = "report.html";

/// Writes the files of the table to `out`, prints it, and puts it into the Markdown file `insert`, between the
/// lines `<!-- NAME PRESET -->` and `<!-- end -->`.
///
/// # Errors
/// When there is no finished run, a record is damaged, the Markdown file has no such lines, or a file cannot be
/// written.
pub fn write<T: Table>(out: &Path, insert: Option<&Path>) -> Result<()> {
    let results = open::<T>(out)?;
    let timings = timing::read(out)?;
    let grid = grid::<T>(out, &results, &timings)?;
    let mut csv = csv::Writer::from_writer(Vec::new());
    for line in results.iter().flat_map(Finished::lines) {
        csv.serialize(line)?;
    }
    let mut files = vec![
        ("results.csv", csv.into_inner()?),
        ("table.txt", grid.terminal(None).into_bytes()),
        ("table.md", grid.markdown().into_bytes()),
        ("table.tex", grid.latex().into_bytes()),
        ("table.csv", grid.csv()?.into_bytes()),
    ];
    if results.iter().any(|run| run.text.is_some()) {
        files.push(("texts.md", texts(&results).into_bytes()));
    }
    for (name, bytes) in files {
        let path = out.join(name);
        write_atomic(&path, &bytes).with_context(|| path.display().to_string())?;
    }
    let columns = T::columns(&results);
    let figures = figures::figures::<T>(&results, columns.iter().find_map(Column::answers));
    for figure in &figures {
        figure.save(out)?;
    }
    let drawn: String =
        figures.iter().map(|figure| format!(",{}.{{svg,png,csv}}", figure.name)).collect();
    let views = views::<T>(&results, &timings, &[]);
    let answer = page::answer(&columns, &views);
    let plates = figures.into_iter().map(|figure| figure.plate).collect();
    page::page::<T>(out, &results, grid.clone(), answer, plates)?.write(&out.join(PAGE))?;
    print(&grid.terminal(Grid::width()))?;
    print(&format!("{}/{{results.csv,table.{{txt,md,tex,csv}}{drawn}}}", out.display()))?;
    print(&out.join(PAGE).display().to_string())?;
    let preset = results.first().map_or("", |run| &run.cell.preset);
    insert.map_or(Ok(()), |file| replace(file, &format!("{} {preset}", T::NAME), &grid.markdown()))
}

/// Puts a table between the lines `<!-- mark -->` and `<!-- end -->` of a Markdown file.
fn replace(file: &Path, mark: &str, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let begin = format!("<!-- {mark} -->");
    let with_table = between(&text, &begin, "<!-- end -->", table);
    let with_table = with_table
        .with_context(|| format!("{}: no lines {begin} and <!-- end -->", file.display()))?;
    write_atomic(file, with_table.as_bytes()).with_context(|| file.display().to_string())
}

/// A text with a table between two lines, which keeps its ends of lines; `None` without those lines.
fn between(text: &str, begin: &str, end: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    let new_line = if rest.starts_with("\r\n") { "\r\n" } else { "\n" };
    let table = table.trim().replace('\n', new_line);
    Some(format!("{before}{begin}{new_line}{new_line}{table}{new_line}{new_line}{end}{after}"))
}

/// The lines of the table, in order.
fn views<'a, T: Table>(
    results: &'a [Finished],
    timings: &'a [Timing],
    paper: &'a [Published],
) -> Vec<RowView<'a>> {
    let mut rows: Vec<String> = T::Row::value_variants().iter().map(|row| name(*row)).collect();
    // A derived row stands behind them.
    rows.extend(results.last().map(|run| run.cell.row.clone()).filter(|row| !rows.contains(row)));
    let view = |group: Group<'a>| {
        let Group { row, block, arm, .. } = group;
        let of_arm = |p: &&Published| p.arm == arm && (p.row == row || p.row == "*");
        let paper = paper.iter().filter(of_arm);
        RowView {
            label: T::label(row),
            baseline: groups::runs(results, (row, block, Budget::Steps, Arm::BASELINE)),
            timing: timings.iter().find(|t| t.row == row && t.arm == arm),
            paper: paper.map(|p| (p.metric.as_str(), p.value)).collect(),
            group,
        }
    };
    groups::groups(results, &rows).into_iter().map(view).collect()
}

/// The table of all finished cells of `out`.
fn grid<T: Table>(out: &Path, results: &[Finished], timings: &[Timing]) -> Result<Grid> {
    let Some(first) = results.first() else { bail!("no results") };
    let (columns, paper) = (T::columns(results), published(T::PAPER)?);
    let all = [results, &T::derived(results)].concat();
    let views = views::<T>(&all, timings, &paper);
    let mut rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| columns.iter().map(|column| (column.show)(view)).collect())
        .collect();
    // Many numbers of the paper have rows of their own.
    if !columns.iter().any(|column| column.head.starts_with("paper")) {
        let mut arms: Vec<Arm> = Vec::new();
        for number in &paper {
            if !arms.contains(&number.arm) {
                arms.push(number.arm);
            }
        }
        rows.extend(arms.into_iter().map(|arm| {
            let of_arm = paper.iter().filter(|p| p.arm == arm);
            let numbers: BTreeMap<&str, f64> =
                of_arm.map(|p| (p.metric.as_str(), p.value)).collect();
            let cell = |column: &Column| match column.head.as_str() {
                "model" => "the paper".to_string(),
                "arm" => arm.to_string(),
                _ => (column.paper)(&numbers).unwrap_or(DASH.to_string()),
            };
            columns.iter().map(cell).collect()
        }));
    }
    let smoke = match first.cell.preset.as_str() {
        "smoke" => ", a smoke test: the numbers mean nothing".to_string(),
        _ => String::new(),
    };
    let precision = match first.cell.precision {
        Precision::Full => "",
        Precision::Bf16 => ", trained in bf16",
    };
    Ok(Grid {
        title: format!("{} on {}{precision}{smoke}", T::TITLE, T::on(first)),
        columns: columns.iter().map(|column| (column.head.clone(), column.answer)).collect(),
        rows,
        notes: notes::<T>(out, results)?,
    })
}

/// What a reader must know to read the numbers.
fn notes<T: Table>(out: &Path, results: &[Finished]) -> Result<Vec<String>> {
    let mut notes = T::notes(results);
    notes.push(
        "mean ± standard deviation, number of seeds. Δ: difference to the baseline with the same embedding \
         tables, seed by seed, with the 95 % interval of Student's t and the number of pairs; an interval \
         around 0 shows no effect. Intervals cover seeds only and are not corrected for the number of \
         comparisons."
            .to_string(),
    );
    let rates: BTreeSet<String> =
        results.iter().map(|run| run.cell.learning_rate.to_string()).collect();
    let with_tables = results.iter().filter(|run| run.has_embedding_tables()).count();
    let set = match with_tables {
        0 => "Learning rates",
        _ => "Learning rates and embedding tables",
    };
    let searched = results.iter().any(|run| run.cell.start != Block::Set);
    notes.push(match (searched, rates.len()) {
        (true, _) if with_tables == 0 => {
            format!(
                "The peak learning rate is searched, on a slice of the training data. {}",
                given::sentence::<T>(out, results)?
            )
        }
        (true, _) => format!(
            "Embedding tables: published: they start at std 0.02 and learn at the peak rate; tuned: their std and \
             learning rate are searched too{}. The peak learning rate is searched in both, on a slice of the training \
             data. {}",
            if with_tables < results.len() { "; –: the model has none" } else { "" },
            given::sentence::<T>(out, results)?
        ),
        (false, 1) => format!("{set} as set: nothing was searched, all arms share them."),
        (false, _) => format!("{set} as set, and not the same for all arms."),
    });
    let commits: BTreeSet<&str> = results.iter().map(|run| run.cell.commit.as_str()).collect();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        notes.push(format!("The runs come from several commits: {}.", commits.join(", ")));
    }
    Ok(notes)
}

/// What the first seed of every cell wrote.
fn texts(results: &[Finished]) -> String {
    let mut text = String::from("# What the models wrote\n");
    let mut seen = Vec::new();
    for run in results {
        let cell = (&run.cell.row, run.cell.start, run.cell.arm);
        if seen.contains(&cell) {
            continue;
        }
        seen.push(cell);
        let written = run.text.as_deref().unwrap_or("(nothing)");
        let _ = write!(
            text,
            "\n## {}, embedding tables {}, seed {}\n\n{}\n",
            run.cell.arm,
            run.cell.start.label(),
            run.cell.seed,
            written.trim().lines().map(|line| format!("> {line}\n")).collect::<String>()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_old_one_and_ends_its_lines_as_the_text_does() {
        for new_line in ["\n", "\r\n"] {
            let lines = |lines: &[&str]| lines.join(new_line);
            let text = lines(&["# Runs", "<!-- t -->", "", "old", "", "<!-- end -->", "more", ""]);
            let new =
                lines(&["# Runs", "<!-- t -->", "", "a", "b", "", "<!-- end -->", "more", ""]);
            let put = |table| between(&text, "<!-- t -->", "<!-- end -->", table);
            assert_eq!(put("a\nb\n"), Some(new));
            assert_eq!(put("old"), Some(text.clone()));
        }
        assert_eq!(between("no marks", "<!-- t -->", "<!-- end -->", "a"), None);
    }
}
