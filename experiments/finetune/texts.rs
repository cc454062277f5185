//! Fine-tuning of a BERT on labelled texts.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{LabelledData, LabelledSource, Task};
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::hugging_face::bert;
use conditioned_models::network::Network;
use experiments::checkpoint::Checkpoint;
use experiments::column::{self, Column};
use experiments::hub;
use experiments::recipe::texts::{TextData, TextRecipe};
use experiments::recipe::{Shared, Training};
use experiments::results::Finished;
use experiments::table::Request;
use experiments::task::texts::TokenizerFile;

use crate::{Finetune, Options};

/// Two epochs with AdamW as BERT was tuned.
pub(crate) fn recipe() -> TextRecipe {
    TextRecipe {
        epochs: 2,
        batch_size: 32,
        max_length: 128,
        dropout: None,
        layer_decay: 1.0,
        frozen_layers: 0,
        train_rows: None,
        tune: 0.15,
        training: Training {
            weight_decay: 0.01,
            beta2: 0.98,
            eps: 1e-6,
            clip: Some(1.0),
            ..Training::default()
        },
        shared: Shared {
            learning_rate: Some(1e-4),
            strength: Some(0.1),
            ramp: Some(0.1),
            ..Shared::default()
        },
    }
}

/// Where the texts are.
fn source(Options { task, data, dev, scores, .. }: &Options) -> Result<LabelledSource> {
    let Some(task) = task else {
        bail!(
            "--task is missing: give a task of GLUE with --data FOLDER, or a file of texts with --dev FILE"
        );
    };
    let full = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let file = Path::new(task);
    match (task.parse::<Task>(), data, dev) {
        (Ok(_), ..) if *scores => {
            bail!("--scores: is for files; the labels of a task of GLUE are known")
        }
        (Ok(task), Some(folder), None) => {
            Ok(LabelledSource::Glue { task, folder: full(&hub::glue(folder, &[task])?)? })
        }
        (Ok(task), ..) => {
            bail!("--task {task}: needs --data with the folder of its files, and no --dev")
        }
        (Err(_), Some(_), _) if file.is_file() => {
            bail!("--task {task}: --data is for the tasks of GLUE; a file needs --dev")
        }
        (Err(_), None, Some(dev)) if file.is_file() => {
            Ok(LabelledSource::Files { train: full(file)?, dev: full(dev)?, scores: *scores })
        }
        (Err(_), _, None) if file.is_file() => {
            bail!("--task {task}: needs --dev with the file of texts to report on")
        }
        (Err(error), ..) => bail!("--task {task}: no file of that name, and {error}"),
    }
}

/// Checkpoint and texts.
pub(crate) fn data(request: &Request<'_, Finetune>, recipe: &TextRecipe) -> Result<TextData> {
    let init = request.init.context("--init is missing")?;
    let folder = std::path::absolute(hub::model(init)?)?;
    let network = bert::read_config(&folder)?;
    ensure!(
        network.conditioning == ConditioningConfig::default(),
        "--init {}: a conditioned checkpoint; the baseline would be another model. `export` a plain one, \
             or take the one that it was trained from",
        folder.display()
    );
    let source = source(request.options)?;
    let encoder = Network::Encoder(EncoderConfig::Bert(network.clone()));
    let texts = LabelledData::new(source, recipe.train_rows, recipe.tune)?;
    ensure!(
        !texts.pairs || network.types > 1,
        "--init {}: `type_vocab_size` is {}, and pairs of texts need 2; take single texts, or another \
             checkpoint",
        folder.display(),
        network.types
    );
    if texts.skipped > 0 {
        tracing::info!(
            "{}: {} rows without a usable label or text are left out",
            texts.name,
            texts.skipped
        );
    }
    Ok(TextData {
        checkpoint: Checkpoint::read(&folder, &encoder)?.of_hub(hub::id(init)),
        tokenizer: TokenizerFile::read(&folder)?,
        network,
        texts,
    })
}

/// A column for each metric of the task.
pub(crate) fn columns(results: &[Finished]) -> Vec<Column> {
    let mut columns =
        vec![column::start(), column::arm(false), column::strength(), column::setting()];
    for metric in ["accuracy", "f1", "matthews", "pearson", "spearman"] {
        if results.iter().any(|run| run.metrics.contains_key(metric)) {
            let first = columns.len() == 4;
            let spread = column::spread(metric, metric, 1);
            columns.push(if first { spread.answer() } else { spread });
            columns.push(column::difference(&format!("Δ of {metric}"), metric, 1));
        }
    }
    columns.push(column::kappa("κ(X) → κ(Y), pooled", "pooled"));
    columns.push(column::ms_per_step());
    columns
}

/// What a reader must know.
pub(crate) fn notes(results: &[Finished]) -> Vec<String> {
    let Some(first) = results.first() else { return Vec::new() };
    let cut = first.metrics.iter().filter_map(|(name, count)| {
        let count = count.filter(|count| *count > 0.0)?;
        Some(format!("{count} of {}", name.strip_suffix("_truncated")?))
    });
    let cut = cut.collect::<Vec<_>>().join(", ");
    let cut = if cut.is_empty() { "none".to_string() } else { cut };
    let skipped = first.metric("skipped").unwrap_or_default();
    vec![format!(
        "Metrics in %, of the model after the last step; F1 is that of the second class. Texts that were \
             cut: {cut}; rows left out for want of a label or text: {skipped}. κ: of all tokens of the longest texts of the last set, as they enter the first \
             layer, without and with the arm. ms: one thread, alone."
    )]
}
