//! Sentence embeddings of a BERT folder, as sentence-transformers compute them: prints the cosine of every
//! pair of the texts.
//!
//! ```sh
//! cargo run --release --example embed -- FOLDER "A man is eating food." "A man eats a meal."
//! ```

use std::error::Error;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use conditioned_data::Tokenizer;
use conditioned_models::bert::{Bert, BertInput};
use conditioned_models::hugging_face::bert;
use conditioned_nn::Store;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a BERT folder with its tokenizer, then texts")?;
    let folder = PathBuf::from(folder);
    let texts: Vec<String> = arguments.collect();
    if texts.len() < 2 {
        return Err("give two texts or more".into());
    }
    let config = bert::read_config(&folder)?;
    let tokenizer = Tokenizer::read(&folder)?;
    if tokenizer.vocab_size() > config.vocabulary {
        return Err("the tokenizer belongs to another model".into());
    }
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let model = Bert::new(&config, store.builder())?;
    bert::read_weights(&folder, &store)?;
    let mut rows = Vec::new();
    for text in &texts {
        let encoded = tokenizer.encode_pair(text, None, config.context)?;
        if encoded.truncated {
            eprintln!("cut to {} tokens: {text}", config.context);
        }
        let ids = Tensor::new(vec![encoded.ids], &Device::Cpu)?;
        rows.push(model.sentence_embeddings(&BertInput::new(ids)?)?);
    }
    let rows = Tensor::cat(&rows, 0)?;
    for (text, cosines) in texts.iter().zip(rows.matmul(&rows.t()?)?.to_vec2::<f32>()?) {
        let cosines: Vec<String> = cosines.iter().map(|cosine| format!("{cosine:6.3}")).collect();
        println!("{}  {text}", cosines.join(" "));
    }
    Ok(())
}
