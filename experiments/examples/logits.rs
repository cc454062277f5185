//! The logits of a finished run for texts or images, as `scripts/check_exports.py` compares them with those of
//! the exported model in transformers or timm.
//!
//! ```text
//! cargo run --example logits -- --run runs/finetune/bert/baseline-set/seed100 --texts texts.jsonl --out logits.safetensors
//! ```
//!
//! Texts are JSON lines with `text` and perhaps `text2`, one sequence each; tensor `logits.I` belongs to line I:
//! (K) of a classifier, (V) at the third token, which is hidden, of a masked-language model, (N, V) of a GPT-2. A
//! model of images reads the first images of its test split, which are written too: `images` (B, C, H, W), 0 black and 1 white,
//! and `logits` (B, K).

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use conditioned_data::{ImageSet, Loader, LoaderConfig, Tokenizer, read_text};
use conditioned_models::Architecture;
use conditioned_models::bert::BertInput;
use conditioned_models::encoder::MaskedLm;
use conditioned_models::gpt2::Gpt2;
use conditioned_models::network::Network;
use conditioned_nn::store::{load_tensors, save_tensors};
use conditioned_nn::{Mode, Store};
use experiments::job::{TaskConfig, WEIGHTS};
use experiments::run::folder::Folder;
use serde::Deserialize;

/// Images of the test split that are read.
const IMAGES: usize = 16;

/// The token that is hidden from a masked-language model; the first is [CLS].
const HIDDEN: usize = 2;

/// Writes the logits of a finished run.
#[derive(Parser)]
struct Options {
    /// The folder of a run.
    #[arg(long)]
    run: PathBuf,
    /// The texts, JSON lines.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// The safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Line {
    text: String,
    text2: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let config = Folder::new(&options.run).config()?;
    let weights = options.run.join(WEIGHTS);
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let fill = || store.assign(&weights, load_tensors(&weights, &Device::Cpu)?);
    let mut found = BTreeMap::new();
    match (&config.job.network, &config.job.task) {
        (network, TaskConfig::Images(task)) => {
            network.build(store.builder())?;
            fill()?;
            let splits = task.data.load()?;
            let normalisation = splits.train.normalisation()?;
            let ImageSet::Memory(images) = splits.test.take(IMAGES)? else {
                bail!("{}: images in files are read by the other program itself", config.name())
            };
            let [channels, height, width] = images.shape();
            let pixels = Tensor::new(images.pixels(), &Device::Cpu)?.to_dtype(DType::F32)?;
            let shape = (images.len(), channels, height, width);
            let pixels = (pixels.reshape(shape)? / f64::from(images.white()))?;
            found.insert("images".into(), pixels);
            let order = LoaderConfig::evaluation(IMAGES);
            let loader = Loader::new(images, order, &normalisation, &Device::Cpu)?;
            let batch = loader.epoch(0).next().context("no image")??;
            let model = network.build(store.frozen()?)?;
            found.insert("logits".into(), model.forward(&batch.images, Mode::Eval.into())?);
        }
        (network, task) => {
            let path = options.texts.context("--texts is missing: this run reads texts")?;
            let tokenizer = Tokenizer::read(options.run.join("tokenizer.json"))?;
            // Once to make the parameters, and once over those of the run.
            drop(model(network, task, store.builder())?);
            fill()?;
            let logits = model(network, task, store.frozen()?)?;
            for (i, line) in read_text(&path)?.lines().enumerate() {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("{}, line {}", path.display(), i + 1))?;
                found.insert(format!("logits.{i}"), logits(&tokenizer, &line)?);
            }
        }
    }
    Ok(save_tensors(&options.out, found, &BTreeMap::new())?)
}

type Logits = Box<dyn Fn(&Tokenizer, &Line) -> Result<Tensor>>;

/// The logits of a line by a model of texts over `vb`.
fn model(network: &Network, task: &TaskConfig, vb: VarBuilder<'static>) -> Result<Logits> {
    Ok(match (network, task) {
        (Network::Gpt2(network), TaskConfig::Language(_)) => {
            let model = Gpt2::new(network, vb)?;
            Box::new(move |tokenizer, line| {
                let ids = tokenizer.encode_marked(&line.text)?;
                let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
                Ok(model.logits(&ids, Mode::Eval)?.squeeze(0)?)
            })
        }
        (Network::Encoder(network), TaskConfig::Texts(task)) => {
            let model = network.classifier(task.data.classes.len().max(1), vb)?;
            let most = task.max_length;
            Box::new(move |tokenizer, line| {
                let (input, _) = encode(tokenizer, line, most)?;
                Ok(model.logits(&input, Mode::Eval)?.squeeze(0)?)
            })
        }
        (Network::Encoder(network), TaskConfig::Masked(task)) => {
            let (model, most) = (network.masked_lm(vb)?, task.window);
            Box::new(move |tokenizer, line| {
                let (_, mut ids) = encode(tokenizer, line, most)?;
                let hidden =
                    ids.get_mut(HIDDEN).context("a text of one word at least is needed")?;
                *hidden = tokenizer.mask().context("no [MASK]")?;
                let input = BertInput::new(Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)?;
                let positions = Tensor::new(&[[HIDDEN as u32]], &Device::Cpu)?;
                let logits = match &model {
                    MaskedLm::Bert(model) => model.logits(&input, &positions, Mode::Eval)?,
                    MaskedLm::CrammedBert(model) => model.logits(&input, &positions, Mode::Eval)?,
                };
                Ok(logits.flatten_all()?)
            })
        }
        _ => bail!("this network reads no texts"),
    })
}

fn encode(tokenizer: &Tokenizer, line: &Line, most: usize) -> Result<(BertInput, Vec<u32>)> {
    let encoded = tokenizer.encode_pair(&line.text, line.text2.as_deref(), most)?;
    let row = |values: &[u32]| Tensor::new(values, &Device::Cpu)?.unsqueeze(0);
    let mask = Tensor::ones((1, encoded.ids.len()), DType::U8, &Device::Cpu)?;
    let input = BertInput::padded(row(&encoded.ids)?, row(&encoded.types)?, &mask)?;
    Ok((input, encoded.ids))
}
