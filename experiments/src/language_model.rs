//! What is done with a GPT-2 outside a table: judged on a text, asked to write.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use clap::{Args, Subcommand};
use conditioned_data::Tokenizer;
use conditioned_models::generate::{Sampling, generate};
use conditioned_models::gpt2::Gpt2;
use conditioned_models::hugging_face::gpt2;
use conditioned_models::perplexity::mean_nll;
use conditioned_nn::Store;

use crate::cli::print;
use crate::table::Command;
use crate::{device, hub};

/// What can be done with a GPT-2 of Hugging Face.
#[derive(Subcommand)]
pub enum LanguageCommand {
    /// Print what a text costs a GPT-2 of Hugging Face.
    Eval(Eval),
    /// Let a GPT-2 of Hugging Face continue a prompt.
    Generate(Generate),
}

impl Command for LanguageCommand {
    fn run(self) -> Result<()> {
        match self {
            Self::Eval(options) => eval(&options),
            Self::Generate(options) => write(&options),
        }
    }
}

/// A model and a text.
#[derive(Args)]
pub struct Eval {
    /// A GPT-2 folder: config.json, weights, and a tokenizer.json or vocab.json and merges.txt; or
    /// hub:ID.
    #[arg(long)]
    model: PathBuf,
    /// A text file in UTF-8.
    #[arg(long)]
    text: PathBuf,
    /// Tokens that the model sees at once. Default: its context.
    #[arg(long)]
    window: Option<usize>,
    /// Tokens from one window to the next. Default: half a window.
    #[arg(long)]
    stride: Option<usize>,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// A model and how it writes.
#[derive(Args)]
pub struct Generate {
    /// A GPT-2 folder: config.json, weights, and a tokenizer.json or vocab.json and merges.txt; or
    /// hub:ID.
    #[arg(long)]
    model: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "Once upon a time")]
    prompt: String,
    /// Tokens to write at most; the context ends it too.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// 0 takes the most likely token.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Only the k most likely tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Only the most likely tokens that make up p.
    #[arg(long)]
    top_p: Option<f64>,
    /// Another seed writes another text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Prints the mean loss of a text under a model.
///
/// # Errors
/// When model, tokenizer or text cannot be read, or do not fit each other.
fn eval(options: &Eval) -> Result<()> {
    let (model, tokenizer) = read(&options.model, &options.device)?;
    let path = options.text.display();
    let text = conditioned_data::read_text(&options.text)?;
    let ids = tokenizer.encode_marked(&text)?;
    tokenizer.check_ids(&ids, model.head().dim(0)?)?;
    let window = options.window.unwrap_or(model.context());
    let stride = options.stride.unwrap_or((window / 2).max(1));
    let nll = mean_nll(&model, &ids, window, stride).with_context(|| path.to_string())?;
    ensure!(
        nll.is_finite(),
        "{path}: the loss is {nll}: the model gives numbers that are not finite; its weights are too large, or \
         damaged"
    );
    // The first token has nothing before it and is not predicted.
    let predicted = ids.len() - 1;
    print(&format!(
        "{nll:.6} nats per token, perplexity {:.4}, {:.4} bits per byte; {predicted} tokens, {} bytes, \
         window {window}, stride {stride}",
        nll.exp(),
        nll * predicted as f64 / text.len() as f64 / std::f64::consts::LN_2,
        text.len()
    ))
}

/// Prints a prompt and what a model makes of it.
///
/// # Errors
/// When model or tokenizer cannot be read, or the prompt is longer than the context.
fn write(options: &Generate) -> Result<()> {
    let (model, tokenizer) = read(&options.model, &options.device)?;
    let sampling = Sampling {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        vocabulary: Some(tokenizer.vocab_size()),
        seed: options.seed,
        max_new_tokens: options.tokens,
        stop: tokenizer.ends(),
    };
    print(&continued(&model, &tokenizer, &options.prompt, &sampling)?)
}

/// A prompt with what the model makes of it, up to an end of text.
///
/// # Errors
/// As [`generate`].
pub(crate) fn continued(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: &Sampling,
) -> Result<String> {
    let mut ids = tokenizer.encode_marked(prompt)?;
    tokenizer.check_ids(&ids, model.head().dim(0)?)?;
    let mut new = generate(model, &ids, sampling)?;
    // The end is none of the text, whichever token it is.
    new.pop_if(|id| sampling.stop.contains(id));
    ids.extend(new);
    ids.retain(|id| *id != tokenizer.end_of_text());
    Ok(tokenizer.decode(&ids)?)
}

/// The model of a folder and its tokenizer.
fn read(folder: &Path, device: &str) -> Result<(Gpt2, Tokenizer)> {
    let folder = &hub::model(folder)?;
    let config = gpt2::read_config(folder)?;
    let tokenizer = Tokenizer::read(folder)?;
    tokenizer.check_rows(config.vocabulary)?;
    let store = Store::new(0, DType::F32, &device::open(device, 0)?);
    gpt2::read_weights(folder, &config, &store)?;
    Ok((Gpt2::new(&config, store.frozen()?)?, tokenizer))
}
