//! The answer: where conditioning pays. Ten cells, each a search and a table of another binary; `docs/PLAN.md`
//! says what is compared, and `docs/ANSWER.md` is made of what came out.

mod cells;
mod page;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use conditioned_nn::store::write_atomic;
use conditioned_report::grid::Grid;
use experiments::cli::{print, program};
use experiments::given;
use indicatif::HumanDuration;

use cells::{CELLS, Cell};

/// Runs the cells of docs/PLAN.md and writes docs/ANSWER.md.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    /// Where the runs of the cells are, a folder each.
    #[arg(long, global = true, default_value = "runs/answer")]
    out: PathBuf,
    /// Where the results of finished cells are, a folder each.
    #[arg(long, global = true, default_value = "experiments/answer/results")]
    results: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// Print all cells with their state and time (the default).
    List,
    /// Search and run the cells that are named, or all that have no results yet, and keep their results.
    Run {
        /// The cells, by name. Default: all whose data are there and that are not finished.
        cells: Vec<String>,
        /// A folder with the data that are not embedded: the IDX files of MNIST in `mnist`, the binary files of
        /// CIFAR-10 in `cifar10`, texts in `tinystories` and `shakespeare`.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Write docs/ANSWER.md and docs/gains.{svg,png} from the results.
    Render {
        /// The folder to write to.
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
    },
}

fn main() -> ExitCode {
    program(|| {
        let Cli { command, out, results } = Cli::parse();
        match command.unwrap_or(Action::List) {
            Action::List => list(&out, &results),
            Action::Run { cells, data } => run(&cells, data.as_deref(), &out, &results),
            Action::Render { docs } => {
                let page = page::Page::read(&results)?;
                let path = docs.join("ANSWER.md");
                write_atomic(&path, page.markdown().as_bytes())
                    .with_context(|| path.display().to_string())?;
                page.figure()?.save(&docs.join("gains"))?;
                print(&path.display().to_string())
            }
        }
    })
}

/// Prints the cells.
fn list(out: &Path, results: &Path) -> Result<()> {
    let row = |cell: &Cell| {
        let runs = finished_runs(&out.join(cell.name))?;
        let state = match (cell.results(results)?.is_some(), runs) {
            (true, _) => "finished".to_string(),
            (false, 0) => "not begun".to_string(),
            (false, runs) => format!("{runs} runs are done"),
        };
        let needs = cell.data.map_or(String::new(), |(_, folder)| format!("--data with {folder}"));
        let about = format!("{} minutes", cell.minutes);
        Ok(vec![cell.name.to_string(), cell.label.to_string(), state, about, needs])
    };
    let heads = ["cell", "model, data", "state", "time on two cores", "needs"];
    let grid = Grid {
        title: "The cells of docs/PLAN.md".to_string(),
        columns: heads.map(|head| (head.to_string(), true)).to_vec(),
        rows: CELLS.iter().map(row).collect::<Result<_>>()?,
        notes: vec![
            "`run CELL` searches and runs a cell; interrupted, it goes on where it stopped."
                .to_string(),
        ],
    };
    print(&grid.terminal(Grid::width()))
}

/// Runs below a folder that have left a summary.
fn finished_runs(folder: &Path) -> Result<usize> {
    if !folder.exists() {
        return Ok(0);
    }
    let folders = experiments::run::folder::find(folder)?;
    let done = folders.iter().map(|run| Ok(usize::from(run.summary()?.is_some())));
    done.sum()
}

/// Searches and runs cells.
fn run(names: &[String], data: Option<&Path>, out: &Path, results: &Path) -> Result<()> {
    let mut chosen = Vec::new();
    for name in names {
        let known: Vec<&str> = CELLS.iter().map(|cell| cell.name).collect();
        let cell = CELLS.iter().find(|cell| cell.name == name);
        chosen
            .push(cell.with_context(|| format!("no cell `{name}`; known: {}", known.join(", ")))?);
    }
    if names.is_empty() {
        for cell in CELLS {
            let there =
                cell.data.is_none_or(|(_, folder)| data.is_some_and(|d| d.join(folder).exists()));
            if there && cell.results(results)?.is_none() {
                chosen.push(cell);
            }
        }
    }
    if chosen.is_empty() {
        let place = results.display();
        print(&format!(
            "nothing to do: the cells whose data are there have results in {place}; name one, and another --results, \
             to run it anew"
        ))?;
    }
    for cell in chosen {
        let began = Instant::now();
        run_cell(cell, data, &out.join(cell.name), &results.join(cell.name))?;
        let took = Duration::from_secs(began.elapsed().as_secs());
        print(&format!("{}: {}", cell.name, HumanDuration(took)))?;
    }
    Ok(())
}

/// Searches and runs a cell in `out`, and copies what is kept to `results`.
fn run_cell(cell: &Cell, data: Option<&Path>, out: &Path, results: &Path) -> Result<()> {
    let mut shared = vec!["--preset", cell.preset, "--models", cell.row];
    let folder = cell.data.map(|(option, folder)| {
        let data = data.with_context(|| format!("{}: needs --data with {folder}", cell.name))?;
        let path = data.join(folder);
        ensure!(path.exists(), "{}: {} is missing", cell.name, path.display());
        anyhow::Ok((option, path.display().to_string()))
    });
    let folder = folder.transpose()?;
    if let Some((option, folder)) = &folder {
        shared.extend([option, folder.as_str()]);
    }
    let [search, table] = ["search", "table"].map(|part| out.join(part));
    let tuned = search.join("tuned.json");
    call(cell.binary, &["tune"], &shared, &["--out".as_ref(), search.as_path()])?;
    let places = ["--tuned".as_ref(), tuned.as_path(), "--out".as_ref(), table.as_path()];
    call(cell.binary, &["run"], &shared, &places)?;
    std::fs::create_dir_all(results).with_context(|| results.display().to_string())?;
    let kept = [
        (&search, "search.md"),
        (&table, given::SETTINGS),
        (&table, "timings.csv"),
        (&table, "table.md"),
        // Last: it is what says that a cell is finished.
        (&table, cells::RESULTS),
    ];
    for (from, file) in kept {
        let bytes = std::fs::read(from.join(file))
            .with_context(|| from.join(file).display().to_string())?;
        let to = results.join(file);
        write_atomic(&to, &bytes).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

/// Calls the binary of a table, which lies beside this one.
fn call(binary: &str, command: &[&str], shared: &[&str], places: &[&Path]) -> Result<()> {
    let here = std::env::current_exe().context("this binary is gone")?;
    let path = here.with_file_name(format!("{binary}{}", std::env::consts::EXE_SUFFIX));
    ensure!(
        path.exists(),
        "{}: not built; `cargo build --release -p experiments` builds all tables",
        path.display()
    );
    let status = Command::new(&path).args(command).args(shared).args(places).status();
    match status.with_context(|| path.display().to_string())? {
        status if status.success() => Ok(()),
        status => bail!("{binary} {} ended with {status}", command.join(" ")),
    }
}

/// `docs/ANSWER.md` is what the committed results say.
#[test]
fn the_page_is_that_of_the_committed_results() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = page::Page::read(&root.join("answer/results")).unwrap();
    let written = std::fs::read_to_string(root.join("../docs/ANSWER.md")).unwrap();
    assert_eq!(written, page.markdown(), "`answer render` makes it again");
    let readme = std::fs::read_to_string(root.join("../README.md")).unwrap();
    for part in [page.claim().unwrap(), page.verdicts()] {
        assert!(readme.contains(&part), "README.md has to say, as docs/ANSWER.md does: {part}");
    }
}
