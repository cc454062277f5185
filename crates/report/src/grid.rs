//! One table, four renderings.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, TableStyle, presets};

use crate::error::Result;

/// A table of finished text.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Its title: names the data really used.
    pub title: String,
    /// Column heads, and whether a column carries the answer: it stays where there is no room for all.
    pub columns: Vec<(String, bool)>,
    /// Rows, as long as `columns`.
    pub rows: Vec<Vec<String>>,
    /// What a reader must know, one sentence each.
    pub notes: Vec<String>,
}

impl Grid {
    /// The width of the terminal, if standard output is one.
    pub fn width() -> Option<usize> {
        let size = console::Term::stdout().size_checked()?;
        Some(usize::from(size.1))
    }

    /// For a terminal of a width: where not all columns fit, those that do not carry the answer are left out,
    /// and named, the last ones first; if need be, cells are broken.
    pub fn terminal(&self, width: Option<usize>) -> String {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let draw = |shown: &[usize]| self.draw(shown, presets::UTF8_FULL_CONDENSED, None);
        let widest = |text: &str| text.lines().map(console::measure_text_width).max().unwrap_or(0);
        let mut text = draw(&shown);
        let mut notes = self.notes.clone();
        if let Some(width) = width {
            while widest(&text) > width {
                let Some(at) = shown.iter().rposition(|&column| !self.columns[column].1) else {
                    text = self.draw(&shown, presets::UTF8_FULL_CONDENSED, Some(width));
                    break;
                };
                shown.remove(at);
                text = draw(&shown);
            }
            let gone = (0..self.columns.len()).filter(|column| !shown.contains(column));
            let gone: Vec<&str> = gone.map(|column| self.columns[column].0.as_str()).collect();
            if !gone.is_empty() {
                notes.push(format!(
                    "No room for: {}. All columns stand in the files.",
                    gone.join("; ")
                ));
            }
        }
        format!("{}\n{text}\n{}", self.title, prose(&notes, ""))
    }

    /// GitHub Markdown.
    pub fn markdown(&self) -> String {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let grid = self.draw(&all, presets::ASCII_MARKDOWN, None);
        format!("**{}**\n\n{grid}\n\n{}", self.title, prose(&self.notes, "- "))
    }

    fn draw(&self, shown: &[usize], style: TableStyle, width: Option<usize>) -> String {
        let pick = |cells: &[String]| shown.iter().map(|&at| cells[at].clone()).collect::<Vec<_>>();
        let mut grid = comfy_table::Table::new();
        grid.load_style(style).set_header(pick(&self.heads()));
        grid.add_rows(self.rows.iter().map(|row| pick(row)));
        if let Some(width) = width {
            grid.set_content_arrangement(ContentArrangement::Dynamic);
            grid.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        }
        for column in grid.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Left);
        }
        grid.to_string()
    }

    fn heads(&self) -> Vec<String> {
        self.columns.iter().map(|(head, _)| head.clone()).collect()
    }

    /// A LaTeX `table` with `booktabs` rules.
    pub fn latex(&self) -> String {
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let rows: String = self.rows.iter().map(|cells| row(cells)).collect();
        let notes: Vec<String> = self.notes.iter().map(|note| escape(note)).collect();
        format!(
            "% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\caption{{{}. {}}}\n\
             \\begin{{tabular}}{{{}}}\n\\toprule\n{}\\midrule\n{rows}\\bottomrule\n\
             \\end{{tabular}}\n\\end{{table}}\n",
            escape(&self.title),
            notes.join(" "),
            "l".repeat(self.columns.len()),
            row(&self.heads()),
        )
    }

    /// Comma-separated values, head first; title and notes are left out.
    ///
    /// # Errors
    /// When a row is longer or shorter than the head.
    pub fn csv(&self) -> Result<String> {
        csv_text([&self.heads()].into_iter().chain(&self.rows))
    }
}

/// Rows as comma-separated values.
pub(crate) fn csv_text<'a>(rows: impl IntoIterator<Item = &'a Vec<String>>) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    // Text goes in, so text comes out, and a vector takes all of it.
    let bytes = writer.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Notes, each a line.
fn prose(notes: &[String], bullet: &str) -> String {
    notes.iter().fold(String::new(), |mut text, note| {
        let _ = writeln!(text, "{bullet}{note}");
        text
    })
}

/// Text for LaTeX: special characters, and the few symbols that our tables use.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '±' => out.push_str("$\\pm$"),
            'κ' => out.push_str("$\\kappa$"),
            'Δ' => out.push_str("$\\Delta$"),
            '→' => out.push_str("$\\to$"),
            '∞' => out.push_str("$\\infty$"),
            '≥' => out.push_str("$\\ge$"),
            '−' => out.push_str("$-$"),
            '×' => out.push_str("$\\times$"),
            _ => out.push(c),
        }
    }
    out
}
