//! One table, four renderings.

use std::fmt::Write;

use anyhow::Result;
use comfy_table::{CellAlignment, TableStyle, presets};

/// A table of finished text.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its title: names the data really used.
    pub title: String,
    /// Column heads.
    pub columns: Vec<String>,
    /// Rows, as long as `columns`.
    pub rows: Vec<Vec<String>>,
    /// What a reader must know, one sentence each.
    pub notes: Vec<String>,
}

impl Table {
    /// For a terminal.
    pub fn terminal(&self) -> String {
        format!("{}\n{}\n{}", self.title, self.grid(presets::UTF8_FULL_CONDENSED), self.prose(""))
    }

    /// GitHub Markdown.
    pub fn markdown(&self) -> String {
        format!(
            "**{}**\n\n{}\n\n{}",
            self.title,
            self.grid(presets::ASCII_MARKDOWN),
            self.prose("- ")
        )
    }

    fn grid(&self, style: TableStyle) -> String {
        let mut grid = comfy_table::Table::new();
        grid.load_style(style).set_header(&self.columns).add_rows(&self.rows);
        for column in grid.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Left);
        }
        grid.to_string()
    }

    fn prose(&self, bullet: &str) -> String {
        self.notes.iter().fold(String::new(), |mut text, note| {
            let _ = writeln!(text, "{bullet}{note}");
            text
        })
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
            row(&self.columns),
        )
    }

    /// Comma-separated values, head first; title and notes are left out.
    ///
    /// # Errors
    /// When a row is longer or shorter than the head.
    pub fn csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row)?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            title: "T, 100 % real".into(),
            columns: vec!["a_b".into(), "Δ".into()],
            rows: vec![vec!["x, y".into(), "1 ± 2".into()]],
            notes: vec!["A note.".into()],
        }
    }

    #[test]
    fn every_form_holds_every_cell() {
        let table = table();
        assert!(table.terminal().contains("1 ± 2"));
        assert_eq!(table.csv().unwrap(), "a_b,Δ\n\"x, y\",1 ± 2\n");
        let markdown = table.markdown();
        assert!(markdown.contains("| a_b  | Δ     |"), "{markdown}");
        assert!(markdown.contains("- A note."));
    }

    #[test]
    fn latex_is_escaped() {
        let latex = table().latex();
        assert!(latex.contains("a\\_b & $\\Delta$ \\\\"), "{latex}");
        assert!(latex.contains("100 \\% real"), "{latex}");
        assert!(latex.contains("1 $\\pm$ 2"), "{latex}");
    }
}
