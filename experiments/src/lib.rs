//! The engine behind every table: from a typed command line to a rendered table.
//!
//! A table is one file that implements [`Table`] and calls [`main`]. The flow is one noun per arrow:
//! options, plan, run configurations (saved first), runs in worker processes, records, finished cells,
//! `results.csv` (derived), table.
//!
//! | module | holds |
//! | --- | --- |
//! | [`cli`] | the command line and its commands: run, plan, tune, sweep, report, export |
//! | [`table`] | what a table declares: presets, data, jobs of a cell, columns |
//! | [`arm`], [`recipe`] | what is compared; the fields that every recipe has |
//! | [`plan`] | the cells of a table, a search or a sweep, and what they cost |
//! | [`cell`], [`job`] | the place of a run, its whole configuration, its result; what is trained on what |
//! | [`task`] | images, language, hidden tokens, texts: batches, loss, evaluation |
//! | [`run`] | folders, worker processes side by side, timing, log |
//! | [`settings`], [`search`] | what a search looks for and what lies beside it; how it goes on, and its outcome |
//! | [`sweep`], [`budget`] | one change at a time; equal time |
//! | [`results`], [`groups`](mod@groups), [`given`], [`column`](mod@column), [`report`], [`figures`], [`page`], [`kappa`], [`probe`], [`tensorboard`] | from records to a table, a page, TensorBoard |
//! | [`export`](mod@export), [`language_model`] | models for other programs; a text judged or continued |
//! | [`checkpoint`], [`hub`], [`device`], [`overrides`], [`allocator`] | what the rest stands on |

pub mod allocator;
pub mod arm;
pub mod budget;
pub mod cell;
pub mod checkpoint;
pub mod cli;
pub mod column;
mod cost;
pub mod detector;
pub mod device;
pub mod export;
pub mod figures;
pub mod given;
pub mod groups;
pub mod hub;
pub mod job;
pub mod kappa;
pub mod language_model;
pub mod overrides;
pub mod page;
pub mod pictures;
pub mod plan;
pub mod probe;
pub mod recipe;
pub mod report;
pub mod results;
pub mod run;
pub mod search;
pub mod settings;
pub mod shard;
pub mod sweep;
pub mod table;
pub mod task;
pub mod tensorboard;

pub use cli::main;
pub use table::Table;

/// The examples of the project's README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
