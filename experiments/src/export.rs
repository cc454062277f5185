//! Models of finished runs for other programs, and the first batches of a run for a comparison.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use clap::{Args, ValueEnum};
use conditioned_data::{Interpolation, Normalisation, Preprocessing, Resize, TextBatch, Tokenizer};
use conditioned_models::Architecture;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::gpt2::Gpt2;
use conditioned_models::hugging_face::bert::{self, Head};
use conditioned_models::hugging_face::{gpt2, timm, vit};
use conditioned_models::network::Network;
use conditioned_models::vit::Vit;
use conditioned_nn::Store;
use conditioned_nn::store::{load_tensors, save_tensors, write_atomic};
use serde_json::{Map, Value, json};

use crate::cell::{RunConfig, Summary};
use crate::checkpoint::Checkpoint;
use crate::cli::print;
use crate::job::{self, Init, TaskConfig, WEIGHTS};
use crate::run::folder::Folder;
use crate::run::worker::boxed;
use crate::task::images::{ImageClassification, ImagesConfig};
use crate::task::texts::{TextClassification, TextsConfig};

/// The file of a run's tokenizer.
const TOKENIZER: &str = "tokenizer.json";

/// The program that an exported ViT is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Layout {
    /// transformers, and `finetune`.
    #[default]
    HuggingFace,
    /// timm: `timm.create_model("local-dir:FOLDER", pretrained=True)`.
    Timm,
}

/// Writes the model of a finished run: plain where its conditioning folds into the weights, else as it is, to
/// be read by this project, or refused with the reason.
///
/// # Errors
/// When the run is not finished, `out` is in a run folder, the model cannot be written so, or a file cannot be
/// written.
pub fn export(run: &Path, out: &Path, layout: Layout) -> Result<()> {
    let folder = Folder::new(run);
    let config = folder.config()?;
    let summary = folder.summary()?.filter(|_| !config.cell.is_search());
    let summary = summary.with_context(|| {
        format!("{}: not a finished run of a table; `run` makes them", run.display())
    })?;
    let target = std::path::absolute(out).with_context(|| out.display().to_string())?;
    let inside = target.ancestors().find(|path| Folder::new(*path).is_run());
    ensure!(
        inside.is_none(),
        "--out {}: in the folder of a run, whose files it would replace; choose another",
        out.display()
    );
    ensure!(
        layout == Layout::HuggingFace || matches!(config.job.network, Network::Vit(_)),
        "--layout timm: {} is no ViT, and goes to transformers alone",
        config.name()
    );
    let store = job::store(&config)?;
    match (&config.job.network, &config.job.task) {
        (Network::Vit(network), TaskConfig::Images(task)) => {
            fill(&store, run, || Vit::new(network, store.builder()).map(|_| ()))?;
            let normalisation = task.data.load()?.train.normalisation()?;
            if layout == Layout::Timm {
                let images = match preprocessing(task, network.image_size, &normalisation) {
                    Some(preprocessing) => preprocessing.to_timm(),
                    None => grey_for_timm(&normalisation),
                };
                timm::export(out, network, &images, &store).with_context(|| config.name())?;
                return print(&out.display().to_string());
            }
            let classes = &task.data.classes;
            match network.folds() {
                true => vit::export(out, network, classes, &store)?,
                false => vit::write(out, network, classes, &store)?,
            }
            // Images of one channel are not prepared by any file of transformers.
            if let Some(preprocessing) = preprocessing(task, network.image_size, &normalisation) {
                preprocessing.write(out)?;
            }
            write(&out.join("README.md"), &image_card(&config, task, &summary, network.folds()))?;
        }
        (Network::Gpt2(network), _) => {
            fill(&store, run, || Gpt2::new(network, store.builder()).map(|_| ()))?;
            let tokenizer = Tokenizer::read(run.join(TOKENIZER))?;
            gpt2::export(out, network, &store, Some(tokenizer.end_of_text()))
                .with_context(|| config.name())?;
            tokenizer.save_with(out, [("model_max_length", json!(network.context))])?;
        }
        (Network::Encoder(EncoderConfig::Bert(network)), TaskConfig::Texts(task)) => {
            let outputs = task.data.classes.len().max(1);
            fill(&store, run, || {
                EncoderConfig::Bert(network.clone())
                    .classifier(outputs, store.builder())
                    .map(|_| ())
            })?;
            let classes = task.data.classes.clone();
            let head = if classes.is_empty() { Head::Score } else { Head::Classes(classes) };
            let folds = network.folds();
            match folds {
                true => bert::export(out, network, &head, &store)?,
                false => bert::write(out, network, &head, &store)?,
            }
            // The name of a special token inside a text is text, there as here.
            let settings = [
                // Longer texts were cut in training, and are cut there.
                ("model_max_length", json!(task.max_length)),
                ("split_special_tokens", json!(true)),
            ];
            Tokenizer::read(run.join(TOKENIZER))?.save_with(out, settings)?;
            write(&out.join("README.md"), &model_card(&config, task, &summary, folds))?;
        }
        (Network::Encoder(EncoderConfig::Bert(network)), TaskConfig::Masked(_)) => {
            fill(&store, run, || {
                EncoderConfig::Bert(network.clone()).masked_lm(store.builder()).map(|_| ())
            })?;
            match network.folds() {
                true => bert::export(out, network, &Head::MaskedLm, &store)?,
                false => bert::write(out, network, &Head::MaskedLm, &store)?,
            }
            let settings = [("model_max_length", json!(network.context))];
            Tokenizer::read(run.join(TOKENIZER))?.save_with(out, settings)?;
        }
        (network, _) => {
            bail!(
                "{}: {} has no folder layout that `export` writes; its tensors stand in {}, under the names of \
                 its reference implementation",
                config.name(),
                network.family().label,
                run.join(WEIGHTS).display()
            )
        }
    }
    print(&out.display().to_string())
}

/// How images become what a network of RGB images takes.
fn preprocessing(
    task: &ImagesConfig,
    side: usize,
    Normalisation { mean, std }: &Normalisation,
) -> Option<Preprocessing> {
    let of_images = || {
        let (mean, std) = (<[f32; 3]>::try_from(&**mean).ok()?, <[f32; 3]>::try_from(&**std).ok()?);
        let (resize, interpolation) = (Resize::Both(side), Interpolation::Bicubic);
        Some(Preprocessing { side, resize, interpolation, mean, std })
    };
    task.data.preprocessing().cloned().or_else(of_images)
}

/// What timm is told of images of one channel.
fn grey_for_timm(Normalisation { mean, std }: &Normalisation) -> Map<String, Value> {
    let entries = [("crop_pct", json!(1.0)), ("mean", json!(mean)), ("std", json!(std))];
    entries.map(|(key, value)| (key.to_string(), value)).into_iter().collect()
}

/// Makes a model in `store` and gives it the weights of a run.
fn fill(store: &Store, run: &Path, build: impl FnOnce() -> candle_core::Result<()>) -> Result<()> {
    build()?;
    let file = run.join(WEIGHTS);
    ensure!(
        file.exists(),
        "{}: the weights of the run are gone; remove the folder and `run` it again",
        file.display()
    );
    store.assign(&file, load_tensors(&file, store.device())?)?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, text.as_bytes()).with_context(|| path.display().to_string())
}

/// What a reader of a model of texts must know.
fn model_card(config: &RunConfig, task: &TextsConfig, summary: &Summary, folds: bool) -> String {
    let labels = match task.data.classes.is_empty() {
        true => "A score.".to_string(),
        false => task.data.classes.join(", "),
    };
    let conditioning = conditioning_of(config, folds, "BERT", "bert", "the three embedding tables");
    let training = format!(
        "{} texts, {}. Texts were cut to {} tokens (`truncation=True` there).",
        task.data.train_len,
        training_of(config, summary, task.batch_size),
        task.max_length
    );
    card("text-classification", config, &task.data.name, &labels, &conditioning, &training, summary)
}

/// What a reader of a model of images must know.
fn image_card(config: &RunConfig, task: &ImagesConfig, summary: &Summary, folds: bool) -> String {
    let place = "patch embedding, class token and position table";
    let conditioning = conditioning_of(config, folds, "ViT", "vit", place);
    let training = format!(
        "{} images, {}.",
        task.data.train_images,
        training_of(config, summary, task.batch_size)
    );
    let classes = match task.data.classes.is_empty() {
        true => "by number".to_string(),
        false => task.data.classes.join(", "),
    };
    card(
        "image-classification",
        config,
        &task.data.name,
        &classes,
        &conditioning,
        &training,
        summary,
    )
}

/// What became of the conditioning of a model.
fn conditioning_of(
    config: &RunConfig,
    folds: bool,
    label: &str,
    family: &str,
    place: &str,
) -> String {
    let arm = config.cell.arm;
    match (arm.method.changes_tokens(), folds) {
        (false, true) => "None.".to_string(),
        (true, true) => format!(
            "`{arm}`, folded into {place}: this is a plain {label}, which transformers loads as any other."
        ),
        (_, false) => format!(
            "`{arm}`: what it does cannot be folded into parameters. `config.json` has the model type \
             `conditioned-{family}` and the field `conditioning`; conditioned-models reads the folder \
             (`hugging_face::{family}`), transformers does not."
        ),
    }
}

fn training_of(config: &RunConfig, summary: &Summary, batch_size: usize) -> String {
    format!(
        "{} steps of {batch_size}, peak learning rate {}, seed {}",
        summary.steps, config.job.fit.schedule.peak, config.cell.seed
    )
}

/// A model card: what it is for, what became of its conditioning, how it was trained, and what it reaches.
fn card(
    task: &str,
    config: &RunConfig,
    data: &str,
    labels: &str,
    conditioning: &str,
    training: &str,
    summary: &Summary,
) -> String {
    let metrics: Vec<String> = summary
        .metrics
        .iter()
        .filter(|(name, _)| !name.ends_with("_truncated"))
        .filter_map(|(name, value)| Some(format!("| {name} | {:.4} |", (*value)?)))
        .collect();
    let init = config.job.init.as_ref().map(Init::checkpoint);
    let title = match init {
        Some(init) => format!("{} fine-tuned on {data}", init.name()),
        None => format!("{} trained on {data}", config.cell.row),
    };
    format!(
        "{}\n# {title}\n\nLabels: {labels}\n\n## Conditioning of the tokens\n\n{conditioning}\n\n## \
         Training\n\n{training}\n\n## Evaluation\n\n| metric | value |\n| --- | --- |\n{}\n\nThe licences of \
         checkpoint and data apply.\n",
        front_matter(task, init),
        metrics.join("\n")
    )
}

/// What the hub reads of a card.
fn front_matter(task: &str, init: Option<&Checkpoint>) -> String {
    let hub = init.and_then(|init| init.hub.as_ref());
    let base = hub.map(|id| format!("base_model: {id}\n")).unwrap_or_default();
    format!("---\npipeline_tag: {task}\n{base}---\n")
}

/// A run, and the file for its start.
#[derive(Args)]
pub struct Case {
    /// The folder of a run.
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

/// Writes parameters and batches with which a run on texts or images starts, for a comparison with another
/// program.
///
/// # Errors
/// When the run cannot be read or is on other data, or the file cannot be written.
pub fn case(Case { run, batches, dev, out }: &Case) -> Result<()> {
    let config = Folder::new(run).config()?;
    let store = job::store(&config)?;
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    match (&config.job.network, &config.job.task) {
        (Network::Encoder(network), TaskConfig::Texts(task)) => {
            let task = TextClassification::new(&config, network, task, &store).map_err(boxed)?;
            job::start(&config, &store)?;
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
        }
        (network, TaskConfig::Images(task)) => {
            job::start(&config, &store)?;
            let task = ImageClassification::new(&config, network, task, &store).map_err(boxed)?;
            for (i, batch) in task.first_batches(*batches).map_err(boxed)?.into_iter().enumerate() {
                tensors.insert(format!("batch{i}/images"), batch.images);
                tensors.insert(format!("batch{i}/targets"), batch.targets);
            }
        }
        _ => bail!("{}: neither a run on texts nor on images", config.name()),
    }
    for (name, var) in store.parameters() {
        tensors.insert(format!("parameter/{name}"), var.as_detached_tensor());
    }
    save_tensors(out, tensors, &BTreeMap::new())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_the_checkpoint_that_others_can_find() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "weights").unwrap();
        let local = Checkpoint::of_stage(folder.path()).unwrap();
        let plain = "---\npipeline_tag: text-classification\n---\n";
        assert_eq!(front_matter("text-classification", Some(&local)), plain);
        let card =
            front_matter("text-classification", Some(&local.of_hub(Some("someone/small-bert"))));
        assert!(card.contains("\nbase_model: someone/small-bert\n---\n"), "{card}");
    }
}
