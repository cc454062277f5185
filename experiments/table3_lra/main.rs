//! Table 3: a Nystromformer on the Long Range Arena, with and without conditioned tokens; a row a task.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use conditioned_data::{
    ImageData, ImageSizes, ImageSource, ListOps, Pathfinder, Preprocessing, SequenceData,
    SequenceSource, Tuning,
};
use experiments::arm::Arm;
use experiments::column::{self, Column, DASH};
use experiments::groups;
use experiments::job::Job;
use experiments::plan;
use experiments::recipe::Shared;
use experiments::recipe::sequences::SequenceRecipe;
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{
    ANSWER_PLACES, Change, Curve, NoCommands, Preset, Request, SEQUENCE_ANSWER_ARMS, Stage, Table,
};

struct Table3;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    /// The value of nested operations on digits.
    Listops,
    /// Classes of texts, by bytes.
    Text,
    /// Whether two texts belong together, by bytes.
    Retrieval,
    /// Classes of images, pixel by pixel.
    Image,
    /// Whether two marked points lie on one dashed path, pixel by pixel.
    Pathfinder,
}

/// The row of means.
const MEAN: &str = "mean";

#[derive(Args, Clone)]
struct Options {
    /// A folder with released files of the Long Range Arena: listops-1000, tsv_data, pathfinder32. ListOps and
    /// Pathfinder are generated where it has none.
    #[arg(long)]
    lra: Option<PathBuf>,
    /// Labelled texts: the folder of IMDb (aclImdb), or a CSV, TSV or JSONL file. For text, and for retrieval where
    /// --lra has no pairs: then pieces of one text, or of two.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// A folder of images: the binary files of CIFAR-10, or IDX files (MNIST).
    #[arg(long)]
    images: Option<PathBuf>,
}

/// Short ListOps, a small Pathfinder and the pixels of the embedded digits: minutes.
fn short(row: Row) -> SequenceRecipe {
    let small = SequenceRecipe {
        landmarks: 16,
        convolution: 9,
        inverse_scale: Default::default(),
        dropout: 0.0,
        clip: Some(1.0),
        steps: 500,
        evaluations: 5,
        train_rows: 16_000,
        tune_rows: 1000,
        test_rows: 2000,
        shared: Shared::default(),
        ..SequenceRecipe::published()
    };
    match row {
        Row::Listops => small,
        Row::Pathfinder => {
            SequenceRecipe { train_rows: 25_000, leave_out_black: true, steps: 800, ..small }
        }
        Row::Text | Row::Retrieval | Row::Image => {
            SequenceRecipe { steps: 400, train_rows: 0, tune_rows: 0, test_rows: 0, ..small }
        }
    }
}

/// The same, shorter, with everything searched.
fn answer(row: Row) -> SequenceRecipe {
    SequenceRecipe { steps: 350, shared: Shared::searched(), ..short(row) }
}

/// A small network for some steps: seconds, for tests.
fn smoke(row: Row) -> SequenceRecipe {
    let recipe = short(row);
    let few = |rows: usize, count: usize| if rows == 0 { 0 } else { count };
    SequenceRecipe {
        width: 16,
        hidden: 32,
        landmarks: 8,
        batch_size: 8,
        steps: 12,
        evaluations: 2,
        train_rows: few(recipe.train_rows, 64),
        tune_rows: few(recipe.tune_rows, 24),
        test_rows: few(recipe.test_rows, 24),
        ..recipe
    }
}

/// The tasks at their full length, with fewer steps: hours.
fn lra_cpu(row: Row) -> SequenceRecipe {
    SequenceRecipe {
        steps: 3000,
        train_rows: paper(row).train_rows.min(40_000),
        batch_size: 32,
        max_length: 1024,
        shared: Shared { learning_rate: Some(1e-3), ..Shared::default() },
        ..paper(row)
    }
}

/// Steps, batches and rates of the published runs (mlpen/Nystromformer at commit 5689313, `LRA/code/lra_config.py`).
fn paper(row: Row) -> SequenceRecipe {
    let recipe = |steps: usize, warmup: usize, every: usize, batch_size| SequenceRecipe {
        steps,
        warmup: warmup as f64 / steps as f64,
        evaluations: steps / every,
        batch_size,
        ..SequenceRecipe::published()
    };
    let generated = |recipe, train_rows, held_out| SequenceRecipe {
        train_rows,
        tune_rows: held_out,
        test_rows: held_out,
        ..recipe
    };
    match row {
        Row::Listops => generated(recipe(5000, 1000, 50, 32), 96_000, 2000),
        Row::Text => recipe(20_000, 8000, 500, 32),
        Row::Retrieval => recipe(30_000, 800, 300, 32),
        Row::Image => recipe(35_000, 175, 175, 256),
        Row::Pathfinder => generated(recipe(62_400, 312, 312, 256), 160_000, 20_000),
    }
}

/// Whether the sequences of a preset are short ones.
fn is_short(preset: &str) -> bool {
    matches!(preset, "smoke" | "short" | "answer")
}

/// Images to tune on: a fifth of the digits, a tenth of what is read.
fn images(request: &Request<'_, Table3>) -> Result<ImageData> {
    let (source, tune) = match &request.options.images {
        None => (ImageSource::Digits, Tuning::Images(300)),
        Some(path) => {
            let preprocessing = Preprocessing::imagenet(32);
            let source =
                ImageSource::Folder { path: path.clone(), preprocessing, skip_broken: false };
            (source, Tuning::Share(0.1))
        }
    };
    Ok(ImageData::read(source, ImageSizes { train: None, tune })?.0)
}

/// The option that a row needs and has not.
fn missing(request: &Request<'_, Table3>) -> Option<&'static str> {
    let Options { texts, images, .. } = request.options;
    let pairs = released(request, "tsv_data").is_some();
    match request.row {
        Row::Text if texts.is_none() => Some("--texts with labelled texts"),
        Row::Image if images.is_none() && !is_short(request.preset) => {
            Some("--images with CIFAR-10 or MNIST")
        }
        Row::Retrieval if texts.is_none() && !pairs => {
            Some("--lra with the folder tsv_data, or --texts, whose pieces make pairs")
        }
        _ => None,
    }
}

/// The folders of released files that are read.
const TASKS: [&str; 3] = ["listops-1000", "tsv_data", "pathfinder32"];

/// A folder of the released files, where there is one.
fn released(request: &Request<'_, Table3>, folder: &str) -> Option<PathBuf> {
    let folder = request.options.lra.as_ref()?.join(folder);
    folder.is_dir().then_some(folder)
}

/// Whether the sequences of a row are generated, as many as the recipe says.
fn is_generated(request: &Request<'_, Table3>, row: Row) -> bool {
    match row {
        Row::Listops => released(request, "listops-1000").is_none(),
        Row::Pathfinder => released(request, "pathfinder32").is_none(),
        Row::Text | Row::Retrieval | Row::Image => false,
    }
}

/// An option with files that none of the rows reads, and the rows that would.
fn unread(request: &Request<'_, Table3>) -> Option<(&'static str, &'static str)> {
    let Options { lra, texts, images } = request.options;
    let any = |rows: &[Row]| request.rows.iter().any(|(row, _)| rows.contains(row));
    let reads = |folder: &str, row| released(request, folder).is_some() && any(&[row]);
    let pairs = released(request, "tsv_data").is_some();
    if texts.is_some() && !any(if pairs { &[Row::Text] } else { &[Row::Text, Row::Retrieval] }) {
        return Some(("--texts", if pairs { "text" } else { "text or retrieval" }));
    }
    if images.is_some() && !any(&[Row::Image]) {
        return Some(("--images", "image"));
    }
    let [listops, pairs, pathfinder] = TASKS;
    let read = reads(listops, Row::Listops)
        || reads(pairs, Row::Retrieval)
        || reads(pathfinder, Row::Pathfinder);
    (lra.is_some() && !read).then_some(("--lra", "the rows whose files it has"))
}

/// Where the sequences of a row come from.
fn source(request: &Request<'_, Table3>) -> Result<SequenceSource> {
    let (recipe, short) = (request.recipe, is_short(request.preset));
    let (train, tune, test) = (recipe.train_rows, recipe.tune_rows, recipe.test_rows);
    let (seed, max_length) = (SEED, recipe.max_length);
    let texts = request.options.texts.clone().unwrap_or_default();
    Ok(match request.row {
        Row::Listops => match released(request, "listops-1000") {
            Some(folder) => SequenceSource::ListOpsFiles { folder },
            None => {
                let config = if short { ListOps::short() } else { ListOps::published() };
                SequenceSource::ListOps { config, seed, train, tune, test }
            }
        },
        Row::Pathfinder => match released(request, "pathfinder32") {
            Some(folder) => SequenceSource::PathfinderFiles { folder },
            None => {
                let config = if short { Pathfinder::small() } else { Pathfinder::hard() };
                SequenceSource::Pathfinder { config, seed, train, tune, test }
            }
        },
        Row::Image => SequenceSource::Pixels { images: Box::new(images(request)?) },
        Row::Text => SequenceSource::Text { path: texts, max_length },
        Row::Retrieval => SequenceSource::Retrieval {
            path: released(request, "tsv_data").unwrap_or(texts),
            max_length,
        },
    })
}

/// What a plan needs to know of the Long Range Arena, whose files need not be there and are not generated for it.
fn announced(request: &Request<'_, Table3>) -> SequenceData {
    let SequenceRecipe { train_rows, tune_rows, test_rows, max_length, .. } = *request.recipe;
    let rows = [train_rows, tune_rows, test_rows];
    let path = PathBuf::new();
    let (source, sizes, rows) = match request.row {
        Row::Listops => (SequenceSource::ListOpsFiles { folder: path }, [16, 10, 1999], rows),
        Row::Text => {
            let source = SequenceSource::Text { path, max_length };
            (source, [257, 2, max_length], [22_500, 2500, 25_000])
        }
        Row::Retrieval => {
            let source = SequenceSource::Retrieval { path, max_length };
            (source, [257, 2, max_length], [147_086, 18_090, 17_437])
        }
        Row::Image => {
            let source = SequenceSource::PathfinderFiles { folder: path };
            (source, [257, 10, 1024], [45_000, 5000, 10_000])
        }
        Row::Pathfinder => (SequenceSource::PathfinderFiles { folder: path }, [257, 2, 1024], rows),
    };
    let name = format!("{} of the Long Range Arena", label(&plan::name(request.row)));
    SequenceData::announced(&name, source, sizes, rows)
}

/// Seed of the generated sequences: data, not a setting.
const SEED: u64 = 0;

/// The paper's method, our form of it, and Muon, which won the comparison of docs/ANSWER.md.
const ARMS: &[Arm] = &[Arm::BASELINE, Arm::PER_SEQUENCE, Arm::POOLED, Arm::MUON];

const SWEEP: &[Change] = &[Change {
    one_of: &["strength=0.1", "strength=0.3", "strength=1", "placement=before-position"],
    arms: &[Arm::PER_SEQUENCE, Arm::POOLED],
    rows: &[],
}];

impl Table for Table3 {
    const NAME: &'static str = "table3-lra";
    const ABOUT: &'static str =
        "A Nystromformer on the Long Range Arena with and without conditioned tokens";
    const TITLE: &'static str = "Table 3";
    const PAPER: &'static str = include_str!("paper.csv");
    const SCORE: Option<&'static str> = Some("tune_accuracy");
    const CURVE: Curve = Curve::Evaluation("tune_accuracy", "accuracy on the tuning set, %");
    type Row = Row;
    type Recipe = SequenceRecipe;
    type Options = Options;
    type Commands = NoCommands;
    type Data = SequenceData;

    fn presets() -> Vec<Preset<Self>> {
        let offline = &[Row::Listops, Row::Image, Row::Pathfinder];
        let preset = |name, recipe, rows, grid| Preset {
            sweep: SWEEP,
            ..Preset::new(name, recipe, rows, ARMS, grid)
        };
        vec![
            Preset {
                // All four take thirteen minutes on two cores.
                left_out: &[Arm::POOLED],
                tuned: Some(include_str!("tuned/short.json")),
                timings: Some(include_str!("results/short/timings.csv")),
                ..preset("short", short, offline, SHORT)
            },
            Preset {
                seeds: 2,
                tuned: Some(include_str!("tuned/smoke.json")),
                ..preset("smoke", smoke, offline, SMOKE)
            },
            Preset::new("answer", answer, &[Row::Listops], SEQUENCE_ANSWER_ARMS, ANSWER)
                .of_answer(),
            preset("lra-cpu", lra_cpu, &[Row::Listops, Row::Pathfinder], SHORT),
            preset("paper", paper, Row::value_variants(), PAPER),
        ]
    }

    fn default_preset(options: &Options) -> &'static str {
        let Options { lra, texts, images } = options;
        match lra.is_some() || texts.is_some() || images.is_some() {
            true => "lra-cpu",
            false => "short",
        }
    }

    fn check(request: &Request<'_, Self>) -> Result<()> {
        let Options { lra, texts, images } = request.options;
        let given = lra.is_some() || texts.is_some() || images.is_some();
        if is_short(request.preset) && given {
            bail!(
                "preset {} has data of its own; leave out the files, or take --preset lra-cpu",
                request.preset
            );
        }
        if let Some(folder) = lra
            && TASKS.iter().all(|task| released(request, task).is_none())
        {
            bail!("--lra {}: holds none of the folders {}", folder.display(), TASKS.join(", "));
        }
        if let Some((option, rows)) = unread(request) {
            bail!("{option}: no row of this command reads it; take --models with {rows}");
        }
        let sizes = ["train_rows", "tune_rows", "test_rows"];
        if request.rows.iter().all(|(row, _)| !is_generated(request, *row)) {
            request.refuse_sizes(&sizes)?;
        } else if !is_generated(request, request.row) {
            request.warn_of_sizes(&sizes);
        }
        match missing(request) {
            Some(needed) if !request.plan_only => bail!(
                "row {} needs {needed}; name other rows with --models",
                plan::name(request.row)
            ),
            _ => Ok(()),
        }
    }

    fn data(request: &Request<'_, Self>) -> Result<SequenceData> {
        let generated = matches!(request.row, Row::Listops | Row::Pathfinder);
        let plan = request.plan_only && !is_short(request.preset);
        if plan && (generated || missing(request).is_some()) {
            return Ok(announced(request));
        }
        Ok(SequenceData::new(source(request)?, Some(&request.data_folder()))?)
    }

    fn job(request: &Request<'_, Self>, data: &SequenceData, stage: &Stage<'_>) -> Result<Job> {
        let pixels = matches!(request.row, Row::Image | Row::Pathfinder);
        SequenceRecipe::job(request, data, pixels, stage)
    }

    fn columns(results: &[Finished]) -> Vec<Column> {
        let task = Column::new("task", |row| row.label.clone()).answer();
        let mut columns = vec![task, column::start()];
        columns.extend(column::budgets(results));
        columns.extend([
            column::arm(false),
            of_tasks(column::strength()),
            of_tasks(column::setting()),
            Column::new("data", |row| {
                let data = row.group.runs.first().filter(|_| row.label != label(MEAN));
                data.map_or(DASH.to_string(), |run| run.data.clone())
            }),
            column::spread("accuracy, %", "test_accuracy", 1).answer(),
            column::difference("Δ to baseline", "test_accuracy", 1).answer(),
            of_tasks(column::kappa("κ(X) → κ(Y)", "sequence")),
            column::ms_per_step(),
            column::paper("LRA", "test_accuracy", 1),
        ]);
        columns
    }

    fn derived(results: &[Finished]) -> Vec<Finished> {
        groups::mean_over_rows(results, MEAN, "test_accuracy")
    }

    fn on(first: &Finished) -> String {
        match is_short(&first.cell.preset) {
            true => "short sequences, stand-ins for the Long Range Arena".to_string(),
            false => "long sequences, a row each; the column says which data".to_string(),
        }
    }

    fn label(row: &str) -> String {
        label(row)
    }

    fn notes(_: &[Finished]) -> Vec<String> {
        vec![
            "accuracy: on the test sequences after the last step; no best checkpoint is chosen. mean: over the \
             tasks of this table alone, seed by seed. κ: median over sequences of the tuning set of the condition number of \
             the real tokens that enter layer 1, without and with the arm; pooled bounds the pooled tokens, not \
             each sequence. ms: one thread, alone."
                .to_string(),
        ]
    }
}

/// The same column, which has nothing to say of a mean over tasks.
fn of_tasks(column: Column) -> Column {
    let Column { show, .. } = column;
    let head = column.head;
    Column::new(head, move |row| match row.label == label(MEAN) {
        true => DASH.to_string(),
        false => show(row),
    })
}

/// A row's name in the table.
fn label(row: &str) -> String {
    match row {
        "listops" => "ListOps",
        "text" => "Text",
        "retrieval" => "Retrieval",
        "image" => "Image",
        "pathfinder" => "Pathfinder",
        _ => "mean of these",
    }
    .to_string()
}

const SMOKE: Grid = Grid::new(&[2e-3], &[(1.0, 0.02), (1.0, 0.3)]);
const SHORT: Grid = Grid::new(&[1e-3, 2e-3, 4e-3], &[(1.0, 0.02), (1.0, 0.1), (1.0, 0.5)]);
const ANSWER: Grid =
    Grid { places: ANSWER_PLACES, ..Grid::new(&[1e-3, 2e-3, 4e-3], &[(1.0, 0.02), (1.0, 0.2)]) };
const PAPER: Grid = Grid::new(&[5e-5, 1e-4, 2e-4, 4e-4], &[(1.0, 0.02), (1.0, 0.1), (1.0, 0.5)]);

fn main() -> ExitCode {
    experiments::main::<Table3>()
}
