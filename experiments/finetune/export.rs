//! What leaves a run: a folder of Hugging Face with tokenizer and model card, and the first batches for
//! another program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::Args;
use conditioned_data::{TextBatch, Tokenizer};
use conditioned_models::conditioning::Method;
use conditioned_models::hugging_face::bert;
use conditioned_nn::store::{save_tensors, write_atomic};
use experiments::checkpoint::Checkpoint;
use experiments::folder::Folder;
use experiments::replay;
use experiments::worker::boxed;

use crate::cell::RunConfig;
use crate::train::{Summary, run_cell, start};

/// A trained cell, and where it goes.
#[derive(Args)]
pub(crate) struct Export {
    /// The folder of a finished cell, such as runs/finetune/pooled/seed100.
    #[arg(long)]
    run: PathBuf,
    /// The folder to write: config.json, model.safetensors, tokenizer.json, README.md.
    #[arg(long)]
    out: PathBuf,
}

/// A cell, and the file for its start.
#[derive(Args)]
pub(crate) struct Case {
    /// The folder of a cell.
    #[arg(long)]
    run: PathBuf,
    /// Batches to write.
    #[arg(long, default_value_t = 20)]
    batches: usize,
    /// The texts to report on, too.
    #[arg(long)]
    dev: bool,
    /// The safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

/// Writes the model of a finished cell: plain where its conditioning folds into the tables, else as it
/// is, to be read by this project.
///
/// # Errors
/// When the cell is not finished, or a file cannot be written.
pub(crate) fn export(Export { run, out }: &Export) -> Result<()> {
    let folder = Folder::new(run);
    let (config, store): (RunConfig, _) = replay::finished(&folder, run_cell)?;
    let head = config.data.head();
    let folds = config.network.folds();
    match folds {
        true => bert::export(out, &config.network, &head, &store)?,
        false => bert::write(out, &config.network, &head, &store)?,
    }
    Tokenizer::read(&config.init.folder)?.save(out.join("tokenizer.json"))?;
    let settings = out.join("tokenizer_config.json");
    write_atomic(&settings, tokenizer_config(&config).as_bytes())
        .with_context(|| settings.display().to_string())?;
    let card = out.join("README.md");
    write_atomic(&card, model_card(&config, &folder, folds)?.as_bytes())
        .with_context(|| card.display().to_string())?;
    eprintln!("{}", out.display());
    Ok(())
}

/// The checkpoint's settings of its tokenizer, or those with which transformers takes `tokenizer.json` as
/// it is: by itself it would lower-case the texts of any BERT.
fn tokenizer_config(config: &RunConfig) -> String {
    let own = std::fs::read_to_string(config.init.folder.join("tokenizer_config.json"));
    own.unwrap_or_else(|_| {
        let settings = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.network.context,
            "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
            "mask_token": "[MASK]", "unk_token": "[UNK]",
        });
        format!("{settings:#}\n")
    })
}

/// What a reader of the model must know.
fn model_card(config: &RunConfig, folder: &Folder, folds: bool) -> Result<String> {
    let summary: Option<Summary> = folder.summary()?;
    let metrics = summary.map(|summary| summary.metrics).unwrap_or_default();
    let metrics: Vec<String> = metrics
        .iter()
        .filter(|(name, _)| !name.ends_with("_truncated"))
        .filter_map(|(name, value)| Some(format!("| {name} | {:.4} |", (*value)?)))
        .collect();
    let conditioning = match (config.network.conditioning.method, folds) {
        (Method::None, _) => "None.".to_string(),
        (_, true) => format!(
            "`{}`, folded into the three tables of the embedding: this is a plain BERT, which \
             transformers loads as any other.",
            config.cell.arm
        ),
        (_, false) => format!(
            "`{}`: what it does to a token cannot be folded into tables. `config.json` has the model type \
             `conditioned-bert` and the field `conditioning`; conditioned-models reads the folder \
             (`hugging_face::bert`), transformers does not.",
            config.cell.arm
        ),
    };
    let labels = match config.data.classes.is_empty() {
        true => "A score.".to_string(),
        false => config.data.classes.join(", "),
    };
    Ok(format!(
        "{}\n# {} fine-tuned on {}\n\nLabels: {labels}\n\n## \
         Conditioning of the tokens\n\n{conditioning}\n\n## Training\n\n{} texts, {} epochs, {} texts a \
         step, peak rate {}, seed {}.\n\n## Evaluation\n\n| metric | value |\n| --- | --- |\n{}\n\nThe \
         licences of the checkpoint and of the texts apply.\n",
        front_matter(&config.init),
        config.init.name(),
        config.data.name,
        config.data.train_len,
        config.fit.epochs,
        config.batch_size,
        config.fit.schedule.peak,
        config.cell.seed,
        metrics.join("\n")
    ))
}

/// What the hub reads of a card.
fn front_matter(init: &Checkpoint) -> String {
    let base = init.hub.as_ref().map(|id| format!("base_model: {id}\n")).unwrap_or_default();
    format!("---\npipeline_tag: text-classification\n{base}---\n")
}

/// Writes parameters and batches with which a cell starts, for a comparison with another program.
///
/// # Errors
/// When the cell cannot be read, or the file cannot be written.
pub(crate) fn case(Case { run, batches, dev, out }: &Case) -> Result<()> {
    let config: RunConfig = Folder::new(run).config()?;
    let (task, store) = start(&config)?;
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, var) in store.parameters() {
        tensors.insert(format!("parameter/{name}"), var.as_detached_tensor());
    }
    let mut add = |kind: &str, batches: Vec<TextBatch>| {
        for (i, batch) in batches.into_iter().enumerate() {
            tensors.insert(format!("{kind}{i}/ids"), batch.ids);
            tensors.insert(format!("{kind}{i}/types"), batch.types);
            tensors.insert(format!("{kind}{i}/mask"), batch.mask);
            tensors.insert(format!("{kind}{i}/labels"), batch.labels);
        }
    };
    add("batch", task.first_batches(*batches).map_err(boxed)?);
    if *dev {
        add("dev", task.dev_batches().map_err(boxed)?);
    }
    save_tensors(Path::new(out), tensors, &BTreeMap::new())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_the_checkpoint_that_others_can_find() {
        let folder = tempfile::tempdir().unwrap();
        let local = Checkpoint::read(folder.path()).unwrap();
        assert_eq!(front_matter(&local), "---\npipeline_tag: text-classification\n---\n");
        let card = front_matter(&local.of_hub(Some("someone/small-bert")));
        assert!(card.contains("\nbase_model: someone/small-bert\n---\n"), "{card}");
    }
}
