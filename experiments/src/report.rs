//! The files of a finished table.

use std::path::Path;

use anyhow::{Context, Result};
use conditioned_nn::store::write_atomic;
use serde::Serialize;

use crate::curves::Figure;
use crate::table::Table;

/// Writes `results.csv`, the table in four forms and the curves to `out`, and prints the table.
///
/// # Errors
/// When a file cannot be written.
#[allow(clippy::print_stdout)]
pub fn write(out: &Path, results: &[impl Serialize], table: &Table, curves: &Figure) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for result in results {
        writer.serialize(result)?;
    }
    for (name, bytes) in [
        ("results.csv", writer.into_inner()?),
        ("table.txt", table.terminal().into_bytes()),
        ("table.md", table.markdown().into_bytes()),
        ("table.tex", table.latex().into_bytes()),
        ("table.csv", table.csv()?.into_bytes()),
    ] {
        let path = out.join(name);
        write_atomic(&path, &bytes).with_context(|| path.display().to_string())?;
    }
    curves.save(&out.join("curves"))?;
    println!("{}", table.terminal());
    println!("{}", out.join("{results.csv,table.{md,tex,csv},curves.{svg,png}}").display());
    Ok(())
}
