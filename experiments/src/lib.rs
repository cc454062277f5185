//! What the binaries of all tables share: from a typed command line to a rendered table.
//!
//! The flow is one noun per arrow: arguments, validated configuration (saved first), cells run in
//! worker processes, JSONL records, summaries, `results.csv` (derived), table.
//!
//! | module | holds |
//! | --- | --- |
//! | [`allocator`] | mimalloc, and memory that is kept for the next step |
//! | [`options`] | the options that every table has |
//! | [`device`] | `--device` |
//! | [`overrides`] | `--set key=value` on a closed configuration |
//! | [`folder`] | the folder of a run: configuration, lock, summary |
//! | [`cells`] | a plan's cells: claimed, those not complete trained |
//! | [`checkpoint`] | the weights that cells start from |
//! | [`replay`] | what a finished cell has trained |
//! | [`hub`] | `hub:ID` in place of a path |
//! | [`corpus`] | documents, tokenizer and tokens on disk |
//! | [`encoder`], [`classification`] | a BERT of either kind, and its training on labelled texts |
//! | [`search`] | what every arm is searched over, and the best of it |
//! | [`names`] | closed choices by name |
//! | [`timing`] | what a step costs, measured alone |
//! | [`workers`] | cells side by side in processes of one thread each, with progress |
//! | [`worker`] | the inside of such a process: progress, stop, memory |
//! | [`statistics`] | mean, deviation, paired difference with its interval |
//! | [`table`] | one table as terminal text, Markdown, LaTeX and CSV |
//! | [`report`] | the files of a finished table |
//! | [`curves`] | learning curves as SVG and PNG |

pub mod allocator;
pub mod cells;
pub mod checkpoint;
pub mod classification;
pub mod corpus;
pub mod curves;
pub mod device;
pub mod encoder;
pub mod folder;
pub mod hub;
pub mod names;
pub mod options;
pub mod overrides;
pub mod replay;
pub mod report;
pub mod search;
pub mod statistics;
pub mod table;
pub mod timing;
pub mod worker;
pub mod workers;

/// The examples of the project's README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
