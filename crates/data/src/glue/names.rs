//! What the tasks, their columns and their classes are called in the files.

use crate::Task;

/// Names of a task in files.
pub(super) struct Names {
    /// Name and folder on the hub.
    pub(super) name: &'static str,
    /// Folder of the official files.
    pub(super) folder: &'static str,
    /// Columns of the first and second text and of the label in the official files.
    pub(super) tsv: [&'static str; 3],
    /// Columns of the first and second text in those of the hub.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "parquet files alone need it")
    )]
    pub(super) hub: [&'static str; 2],
    /// Classes in the order of the hub; none for scores.
    pub(super) classes: &'static [&'static str],
}

impl Task {
    pub(super) fn names(self) -> Names {
        match self {
            Self::Cola => Names {
                name: "cola",
                folder: "CoLA",
                // No header: source, label, the author's mark, sentence.
                tsv: ["3", "", "1"],
                hub: ["sentence", ""],
                classes: &["unacceptable", "acceptable"],
            },
            Self::Sst2 => Names {
                name: "sst2",
                folder: "SST-2",
                tsv: ["sentence", "", "label"],
                hub: ["sentence", ""],
                classes: &["negative", "positive"],
            },
            Self::Mrpc => Names {
                name: "mrpc",
                folder: "MRPC",
                tsv: ["#1 String", "#2 String", "Quality"],
                hub: ["sentence1", "sentence2"],
                classes: &["not_equivalent", "equivalent"],
            },
            Self::StsB => Names {
                name: "stsb",
                folder: "STS-B",
                tsv: ["sentence1", "sentence2", "score"],
                hub: ["sentence1", "sentence2"],
                classes: &[],
            },
            Self::Qqp => Names {
                name: "qqp",
                folder: "QQP",
                tsv: ["question1", "question2", "is_duplicate"],
                hub: ["question1", "question2"],
                classes: &["not_duplicate", "duplicate"],
            },
            Self::Mnli => Names {
                name: "mnli",
                folder: "MNLI",
                tsv: ["sentence1", "sentence2", "gold_label"],
                hub: ["premise", "hypothesis"],
                classes: &["entailment", "neutral", "contradiction"],
            },
            Self::Qnli => Names {
                name: "qnli",
                folder: "QNLI",
                tsv: ["question", "sentence", "label"],
                hub: ["question", "sentence"],
                classes: &["entailment", "not_entailment"],
            },
            Self::Rte => Names {
                name: "rte",
                folder: "RTE",
                tsv: ["sentence1", "sentence2", "label"],
                hub: ["sentence1", "sentence2"],
                classes: &["entailment", "not_entailment"],
            },
        }
    }
}
