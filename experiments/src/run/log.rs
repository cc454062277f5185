//! What the programs have to say: `tracing` events in spans (table, cell), for people or as JSON.
//!
//! | who | where to | form |
//! | --- | --- | --- |
//! | a command | standard error | lines, or JSON with `--log-format json` |
//! | a worker | `log.jsonl` of its run, and to its command, which hands it on | JSON |
//!
//! `RUST_LOG` chooses what is shown (default `info`): `RUST_LOG=debug` shows every step of every run.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::MultiProgress;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The form of what is said on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Lines for people; progress bars on a terminal.
    #[default]
    Human,
    /// One JSON object a line, with time, level and spans.
    Json,
}

/// All progress bars of this process; none is drawn where standard error is no terminal.
pub fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// By default without the requests of the hub's client: what fails there is told in an error of ours.
fn filter() -> EnvFilter {
    let default = || EnvFilter::new("info,hf_hub=off,xet=warn");
    EnvFilter::try_from_default_env().unwrap_or_else(|_| default())
}

/// Sends the events of a command to standard error.
pub fn init(format: Format) {
    let layer = tracing_subscriber::fmt::layer().with_writer(|| Stderr);
    let layer = match format {
        Format::Human => layer.event_format(Plain).with_ansi(false).boxed(),
        Format::Json => {
            bars().set_draw_target(indicatif::ProgressDrawTarget::hidden());
            layer.json().boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter())).init();
}

/// Sends the events of a worker to the log of its run and, as JSON, to its command.
///
/// # Errors
/// When the log cannot be written.
pub fn init_worker(folder: &Path) -> Result<()> {
    let path = folder.join("log.jsonl");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    let to_file = tracing_subscriber::fmt::layer().json().with_writer(Arc::new(file));
    let to_command = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(to_file.with_filter(EnvFilter::new("info")))
        .with(to_command.with_filter(filter()))
        .init();
    Ok(())
}

/// Hands on the events of a worker that it writes as JSON lines; returns the other lines, such as the error
/// that it ended with.
pub(crate) fn hand_on(lines: impl BufRead) -> String {
    #[derive(serde::Deserialize)]
    struct Record {
        level: String,
        fields: serde_json::Map<String, serde_json::Value>,
    }
    let mut rest = String::new();
    for line in lines.lines().map_while(Result::ok) {
        let Ok(Record { level, mut fields }) = serde_json::from_str(&line) else {
            rest.push_str(&line);
            rest.push('\n');
            continue;
        };
        let message = fields.remove("message").unwrap_or_default();
        let message = message.as_str().unwrap_or_default();
        let fields: String =
            fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        match level.as_str() {
            "ERROR" => tracing::error!("{message}{fields}"),
            "WARN" => tracing::warn!("{message}{fields}"),
            // What is news in the log of a run is detail in that of a table.
            _ => tracing::debug!("{message}{fields}"),
        }
    }
    rest
}

/// Standard error, whose bars make way for a line.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        bars().suspend(|| std::io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// An event as a plain line.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match *event.metadata().level() {
            Level::ERROR => writer.write_str("error: ")?,
            Level::WARN => writer.write_str("warning: ")?,
            _ => {}
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
