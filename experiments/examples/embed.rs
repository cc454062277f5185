//! Sentence embeddings of a BERT folder, as sentence-transformers compute them: prints the cosine of every
//! pair of the texts.
//!
//! ```sh
//! cargo run --release --example embed -- --model FOLDER "A man is eating food." "A man eats a meal."
//! ```

use std::path::PathBuf;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use conditioned_data::Tokenizer;
use conditioned_models::bert::{Bert, BertInput};
use conditioned_models::hugging_face::bert;
use conditioned_nn::Store;

#[derive(Parser)]
struct Options {
    /// A BERT folder of Hugging Face with its tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// Texts, two at least.
    #[arg(required = true, num_args = 2..)]
    texts: Vec<String>,
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let options = Options::parse();
    let config = bert::read_config(&options.model)?;
    let tokenizer = Tokenizer::read(&options.model)?;
    ensure!(tokenizer.vocab_size() <= config.vocabulary, "the tokenizer belongs to another model");
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let model = Bert::new(&config, store.builder())?;
    bert::read_weights(&options.model, &store)?;
    let mut rows = Vec::new();
    for text in &options.texts {
        let encoded = tokenizer.encode_pair(text, None, config.context)?;
        if encoded.truncated {
            eprintln!("cut to {} tokens: {text}", config.context);
        }
        let ids = Tensor::new(vec![encoded.ids], &Device::Cpu)?;
        rows.push(model.sentence_embeddings(&BertInput::new(ids)?)?);
    }
    let rows = Tensor::cat(&rows, 0)?;
    for (text, cosines) in options.texts.iter().zip(rows.matmul(&rows.t()?)?.to_vec2::<f32>()?) {
        let cosines: Vec<String> = cosines.iter().map(|cosine| format!("{cosine:6.3}")).collect();
        println!("{}  {text}", cosines.join(" "));
    }
    Ok(())
}
