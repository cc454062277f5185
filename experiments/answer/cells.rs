//! The cells of `docs/PLAN.md`.

use std::path::Path;

use anyhow::{Result, ensure};
use experiments::arm::Arm;
use experiments::results::{self, Finished};

/// The file of a finished cell.
pub(crate) const RESULTS: &str = "results.csv";

/// A network on data: a row of a preset of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    /// Its name.
    pub(crate) name: &'static str,
    /// Network and data, for a reader.
    pub(crate) label: &'static str,
    pub(crate) binary: &'static str,
    pub(crate) preset: &'static str,
    pub(crate) row: &'static str,
    /// The option of its data, and their folder below `--data`.
    pub(crate) data: Option<(&'static str, &'static str)>,
    /// What it is judged by.
    pub(crate) outcome: Outcome,
    /// Its pooled arms: by AdamW, by Muon.
    pub(crate) pooled: [Arm; 2],
    /// What search and runs take on two cores, about.
    pub(crate) minutes: u32,
}

/// What a cell is judged by, on its test data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In per cent: more is better.
    Accuracy,
    /// In nats: less is better.
    Loss,
}

impl Outcome {
    /// The metric of a run.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Self::Accuracy => "test_accuracy",
            Self::Loss => "test_loss",
        }
    }

    /// 1 where more is better, else -1.
    pub(crate) fn sign(self) -> f64 {
        match self {
            Self::Accuracy => 1.0,
            Self::Loss => -1.0,
        }
    }

    /// The unit of a difference.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Accuracy => "points",
            Self::Loss => "nats",
        }
    }

    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::Accuracy => 1,
            Self::Loss => 3,
        }
    }
}

impl Cell {
    /// The runs of the cell, if it is finished.
    ///
    /// # Errors
    /// When its file is damaged, or of another preset.
    pub(crate) fn results(&self, folder: &Path) -> Result<Option<Vec<Finished>>> {
        let file = folder.join(self.name).join(RESULTS);
        if !file.exists() {
            return Ok(None);
        }
        let results = results::read(&file, self.binary, &[self.row.to_string()])?;
        let preset = results.first().map_or("", |run| &run.cell.preset);
        ensure!(
            preset == self.preset,
            "{}: results of preset {preset}, and this cell is of {}; restore the file",
            file.display(),
            self.preset
        );
        Ok(Some(results))
    }
}

const CURRENT: [Arm; 2] = [Arm::POOLED_CURRENT, Arm::MUON_POOLED_CURRENT];
const EARLIER: [Arm; 2] = [Arm::POOLED, Arm::MUON_POOLED];

const IMAGES: Cell = Cell {
    name: "digits-vit",
    label: "ViT, UCI digits",
    binary: "table1-imagenet",
    preset: "answer",
    row: "vit",
    data: None,
    outcome: Outcome::Accuracy,
    pooled: CURRENT,
    minutes: 15,
};

const TEXT: Cell = Cell {
    name: "stories",
    label: "GPT-2, generated stories",
    binary: "table5-tinystories",
    preset: "answer",
    row: "gpt2",
    data: None,
    outcome: Outcome::Loss,
    pooled: EARLIER,
    minutes: 25,
};

/// All cells.
pub(crate) const CELLS: &[Cell] = &[
    IMAGES,
    Cell { name: "digits-deit", label: "DeiT, UCI digits", row: "deit", ..IMAGES },
    Cell { name: "digits-swin", label: "Swin, UCI digits", row: "swin", minutes: 5, ..IMAGES },
    Cell {
        name: "mnist-vit",
        label: "ViT, MNIST, 4,000 images",
        preset: "answer-mnist",
        data: Some(("--data", "mnist")),
        minutes: 25,
        ..IMAGES
    },
    Cell {
        name: "cifar10-vit",
        label: "ViT, CIFAR-10, 4,000 images",
        preset: "answer-cifar10",
        data: Some(("--data", "cifar10")),
        minutes: 40,
        ..IMAGES
    },
    Cell {
        name: "listops",
        label: "Nyströmformer, ListOps",
        binary: "table3-lra",
        row: "listops",
        pooled: EARLIER,
        ..IMAGES
    },
    TEXT,
    Cell {
        name: "tinystories",
        label: "GPT-2, TinyStories",
        preset: "answer-tinystories",
        data: Some(("--data", "tinystories")),
        ..TEXT
    },
    Cell {
        name: "shakespeare",
        label: "GPT-2, tiny Shakespeare",
        preset: "shakespeare",
        data: Some(("--data", "shakespeare")),
        minutes: 12,
        ..TEXT
    },
    Cell {
        name: "crammed",
        label: "Crammed BERT, premises",
        binary: "table4-glue",
        row: "crammed-bert",
        ..TEXT
    },
];
