//! `inspect`: is a model ill-conditioned, where, and would conditioning, a factor or another scale of its embedding
//! tables change it?

mod answer;
mod input;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use conditioned_report::html::{self, Page, Section};
use experiments::cli::{print, program};
use experiments::report::PAGE;
use experiments::run::folder::Folder;

use crate::subject::Subject;

/// Says in ten lines whether a model is ill-conditioned, where, and what would change it; draws it too.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// A folder of transformers (BERT, GPT-2, ViT, DeiT) or timm (ViT, DeiT, Swin, XCiT, DaViT), hub:ID, or the folder
    /// of a finished run of this project (of any table but 2).
    model: PathBuf,
    /// What the model looks at: a text with blank lines between its parts, an image, or a folder of either. Default: a
    /// page of a novel, digits, or what a run was trained on.
    file: Option<PathBuf>,
    /// Where pictures and report go. Default: runs/inspect/NAME of the model.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Opens the report in the browser.
    #[arg(long)]
    open: bool,
}

fn main() -> ExitCode {
    program(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let subject = Subject::open(&options.model, options.file.as_deref())?;
    let found = subject.probe(&subject.store)?;
    let scales = subject.at_other_scales()?;
    let folder = Folder::new(&options.model);
    let name = match folder.is_run() {
        true => folder.config()?.name().replace(' ', "-"),
        false => {
            let path = options.model.canonicalize().unwrap_or_else(|_| options.model.clone());
            let name = path.file_name().map(|name| name.to_string_lossy().replace(':', "-"));
            name.context("MODEL: it has no name")?
        }
    };
    let out = options.out.clone().unwrap_or_else(|| format!("runs/inspect/{name}").into());
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;

    let lines = answer::lines(&subject, &found, &scales);
    let figures = answer::figures(&found);
    for figure in &figures {
        figure.save(&out)?;
    }
    let sections = vec![Section {
        heading: "The same in words".to_string(),
        body: html::Body::Text(lines.join("\n")),
    }];
    let page = Page {
        title: format!("Condition numbers inside {name}"),
        answer: answer::verdict(&found),
        table: answer::table(&name, &found),
        figures: figures.into_iter().map(|figure| figure.plate).collect(),
        sections,
    };
    page.write(&out.join(PAGE))?;
    print(&lines.join("\n"))?;
    print(&format!("Pictures and all numbers: {}", out.join(PAGE).display()))?;
    if options.open {
        html::open(&out.join(PAGE))?;
    }
    Ok(())
}
