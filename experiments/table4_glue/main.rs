//! Table 4: a BERT pre-trained and fine-tuned on GLUE, with and without conditioned tokens.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use conditioned_data::Task;
use conditioned_models::conditioning::Placement;
use experiments::arm::{Arm, Method};
use experiments::column::{self, Column};
use experiments::job::Job;
use experiments::recipe::Shared;
use experiments::recipe::encoder::{EncoderData, EncoderRecipe};
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{
    Change, Curve, NoCommands, Preset, Request, SEQUENCE_ANSWER_ARMS, Stage, Table,
};

struct Table4;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    /// The paper's: pre-norm, gated, without biases.
    CrammedBert,
    /// The published BERT, post-norm.
    Bert,
}

#[derive(Args, Clone)]
struct Options {
    /// A text file, a .jsonl file with `text`, a folder of either, or hub:ID, to pre-train on.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// A folder with a folder per task of GLUE (rte, RTE, ...), or hub:ID (nyu-mll/glue).
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Generated text and generated pairs: minutes.
fn short(_: Row) -> EncoderRecipe {
    EncoderRecipe::small()
}

/// Pre-training alone, shorter, with everything searched.
fn answer(row: Row) -> EncoderRecipe {
    EncoderRecipe {
        micro_batches: 1500,
        task_rows: 0,
        task_dev_rows: 0,
        shared: Shared::searched(),
        ..short(row)
    }
}

/// A small network on some generated text: seconds, for tests.
fn smoke(row: Row) -> EncoderRecipe {
    EncoderRecipe {
        width: 16,
        hidden: 32,
        heads: 2,
        documents: 400,
        tune: 0.1,
        test: 0.1,
        micro_batches: 24,
        accumulate: 2,
        batch_ramp: 0.6,
        evaluations: 2,
        evaluation_windows: 16,
        task_rows: 40,
        task_dev_rows: 20,
        task_epochs: 2,
        ..short(row)
    }
}

/// `--corpus` and the tasks in `--data`: hours.
fn glue_cpu(row: Row) -> EncoderRecipe {
    EncoderRecipe {
        width: 128,
        depth: 4,
        heads: 4,
        hidden: 512,
        linear_std: 0.05,
        context: 128,
        window: 128,
        tokenizer: "wordpiece-4096".to_string(),
        documents: 0,
        micro_batches: 6000,
        task_rows: 0,
        task_dev_rows: 0,
        task_epochs: 5,
        task_batch_size: 16,
        task_learning_rate: 1e-3,
        task_warmup: 0.1,
        task_max_length: 128,
        task_dropout: 0.1,
        ..short(row)
    }
}

/// The published Crammed BERT; its real budget is a day of one GPU, this the upper limit of its configuration.
fn paper(row: Row) -> EncoderRecipe {
    EncoderRecipe {
        width: 768,
        depth: 16,
        heads: 12,
        hidden: 3072,
        linear_std: 0.02,
        tokenizer: "wordpiece-32768".to_string(),
        batch_size: 128,
        micro_batches: 900_000,
        accumulate: 64,
        batch_ramp: 0.6,
        evaluations: 100,
        evaluation_windows: 4096,
        task_learning_rate: 4e-5,
        shared: Shared { learning_rate: Some(1e-3), strength: Some(1.0), ..Shared::default() },
        ..glue_cpu(row)
    }
}

impl Table for Table4 {
    const NAME: &'static str = "table4-glue";
    const ABOUT: &'static str =
        "A BERT pre-trained and fine-tuned on GLUE with and without conditioned tokens";
    const TITLE: &'static str = "Table 4";
    const PAPER: &'static str = include_str!("paper.csv");
    const CURVE: Curve = Curve::Evaluation("tune_loss", "loss on the tuning slice, nats per word");
    type Row = Row;
    type Recipe = EncoderRecipe;
    type Options = Options;
    type Commands = NoCommands;
    type Data = EncoderData;

    fn presets() -> Vec<Preset<Self>> {
        // In front of a layer norm, where pooled tokens stand, norm-matched ones are the baseline.
        // Muon won the comparison of docs/ANSWER.md.
        let arms = &[Arm::BASELINE, Arm::PER_SEQUENCE, Arm::POOLED, Arm::MUON];
        let preset = |name, recipe, grid| Preset {
            sweep: SWEEP,
            equal_time: true,
            ..Preset::new(name, recipe, &[Row::CrammedBert], arms, grid)
        };
        vec![
            Preset {
                tuned: Some(include_str!("tuned/short.json")),
                timings: Some(include_str!("results/short/timings.csv")),
                ..preset("short", short, SHORT)
            },
            Preset {
                seeds: 2,
                tuned: Some(include_str!("tuned/smoke.json")),
                ..preset("smoke", smoke, SMOKE)
            },
            Preset::new("answer", answer, &[Row::CrammedBert], SEQUENCE_ANSWER_ARMS, ANSWER)
                .of_answer(),
            preset("glue-cpu", glue_cpu, SHORT),
            Preset { seeds: 5, ..preset("paper", paper, PAPER) },
        ]
    }

    fn default_preset(options: &Options) -> &'static str {
        if options.data.is_some() || options.corpus.is_some() { "glue-cpu" } else { "short" }
    }

    fn check(request: &Request<'_, Self>) -> Result<()> {
        let Options { corpus, data } = request.options;
        let generated = ["smoke", "short", "answer"];
        request.check_data(
            corpus.is_some(),
            &generated,
            "--corpus with the text to pre-train on",
        )?;
        let tasks = data.is_some() || (request.first_stage_only && corpus.is_some());
        request.check_data(tasks, &generated, "--data with the folders of GLUE's tasks")?;
        if corpus.is_some() {
            request.refuse_sizes(&["documents", "task_rows", "task_dev_rows", "first_pair"])?;
        }
        request.check_norm_matched()
    }

    fn data(request: &Request<'_, Self>) -> Result<EncoderData> {
        let Options { corpus, data } = request.options;
        EncoderRecipe::data(request, corpus.as_deref(), data.as_deref())
    }

    fn stages(data: &EncoderData) -> Vec<String> {
        data.stages()
    }

    /// Where each was best in the sweep of docs/LOG.md; a control stands where what it controls does.
    fn placement(method: Method) -> Placement {
        match method {
            Method::PerSequence | Method::Table => Placement::BeforePosition,
            // In front of the layer norm a factor does nothing.
            Method::Factor => Placement::AfterNorm,
            _ => Placement::AfterPosition,
        }
    }

    fn job(request: &Request<'_, Self>, data: &EncoderData, stage: &Stage<'_>) -> Result<Job> {
        EncoderRecipe::job(request, request.row == Row::CrammedBert, data, stage)
    }

    fn columns(results: &[Finished]) -> Vec<Column> {
        let score = |task: Task| format!("{}/score", task.name());
        let is_there =
            |task: &Task| results.iter().any(|run| run.metrics.contains_key(&score(*task)));
        let there: Vec<String> = Task::ALL.into_iter().filter(is_there).map(score).collect();
        let mut columns = vec![
            column::model(),
            column::start(),
            column::budget(),
            column::arm(false),
            column::strength(),
            column::setting(),
            column::seconds(),
            column::spread("loss of hidden words", "test_loss", 3),
            column::difference("Δ of the loss", "test_loss", 3),
        ];
        columns.extend(Task::ALL.map(|task| column::spread(task.title(), score(task), 1)));
        columns.extend(column::average(there, Task::ALL.map(score).to_vec(), 1));
        columns.push(column::kappa("κ(X) → κ(Y)", "sequence"));
        columns
    }

    fn on(first: &Finished) -> String {
        let stand_in = if first.cell.preset == "short" { ", stand-in for GLUE" } else { "" };
        format!("{}{stand_in}", first.data)
    }

    fn notes(results: &[Finished]) -> Vec<String> {
        EncoderRecipe::notes(results)
    }
}

const SMOKE: Grid = Grid::new(&[3e-3], &[(1.0, 0.02), (1.0, 0.1)]);
const SHORT: Grid =
    Grid::new(&[4e-3, 8e-3, 1.6e-2], &[(1.0, 0.02), (1.0, 0.1), (1.0, 0.3), (4.0, 0.02)]);
const PAPER: Grid = Grid::new(&[5e-4, 1e-3, 2e-3], &[(1.0, 0.02), (1.0, 0.1), (1.0, 0.3)]);

const ANSWER: Grid = Grid {
    places: &[Placement::AfterPosition, Placement::BeforePosition, Placement::AfterNorm],
    table_rates: &[4.0],
    ..Grid::new(&[4e-3, 8e-3, 1.6e-2], &[(1.0, 0.02), (1.0, 0.2)])
};

const SWEEP: &[Change] = &[Change {
    one_of: &[
        "placement=before-position strength=0.1",
        "placement=before-position strength=0.3",
        "placement=before-position strength=1",
        "placement=after-position strength=0.1",
        "placement=after-position strength=0.3",
        "placement=after-position strength=1",
        "placement=after-norm strength=0.1",
        "placement=after-norm strength=0.3",
        "placement=after-norm strength=1",
    ],
    arms: &[Arm::PER_SEQUENCE, Arm::POOLED],
    rows: &[],
}];

fn main() -> ExitCode {
    experiments::main::<Table4>()
}
