//! What a checkpoint looks at: texts or images, one by one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use conditioned_data::{Preprocessing, Tokenizer, digits, read_text};
use conditioned_models::Architecture;
use conditioned_models::architecture::Input;
use conditioned_models::network::Network;
use experiments::probe::SEQUENCES;

/// What a model of texts looks at without a file: the first page of Carroll's "Alice's Adventures in Wonderland".
const SAMPLE: &str = include_str!("sample.txt");

/// Tokens of a text that are looked at: a decomposition takes time with the third power.
const TOKENS: usize = 256;

/// Inputs for the model of a folder, each a batch of one, and what they are in words.
///
/// # Errors
/// When the file cannot be read or is of another kind than the model reads, or the folder lacks its tokenizer.
pub(crate) fn read(
    folder: &Path,
    network: &Network,
    file: Option<&Path>,
) -> Result<(Vec<Tensor>, String)> {
    let inputs = match network.input() {
        Input::Ids { vocabulary, context } => texts(folder, network, file, [vocabulary, context])?,
        Input::Images { channels, side, .. } => images(folder, file, [channels, side])?,
    };
    let (inputs, from) = inputs;
    let lengths = inputs.iter().map(|input| input.dims().get(1).copied().unwrap_or(0));
    let what = match network.input() {
        Input::Images { side, .. } => format!("{} images of {side} x {side} pixels", inputs.len()),
        Input::Ids { .. } => format!(
            "{} texts of {} to {} tokens",
            inputs.len(),
            lengths.clone().min().unwrap_or(0),
            lengths.max().unwrap_or(0)
        ),
    };
    Ok((inputs, format!("{what} from {from}")))
}

fn texts(
    folder: &Path,
    network: &Network,
    file: Option<&Path>,
    [vocabulary, context]: [usize; 2],
) -> Result<(Vec<Tensor>, String)> {
    let tokenizer = Tokenizer::read(folder)?;
    tokenizer.check_rows(vocabulary)?;
    let (text, from) = match file {
        None => (SAMPLE.to_string(), "a page of a novel (name a text of your own)".to_string()),
        Some(path) => {
            let texts: Vec<String> = files(path, &["txt", "md", "text"])?
                .iter()
                .map(|p| read_text(p))
                .collect::<Result<_, _>>()?;
            (texts.join("\n\n"), path.display().to_string())
        }
    };
    let encoder = matches!(network, Network::Encoder(_));
    let longest = TOKENS.min(context);
    let mut inputs = Vec::new();
    for part in parts(&text).take(SEQUENCES) {
        let ids = match encoder {
            true => tokenizer.encode_pair(part, None, longest)?.ids,
            false => {
                let mut ids = tokenizer.encode(part)?;
                ids.truncate(longest);
                ids
            }
        };
        if !ids.is_empty() {
            inputs.push(Tensor::new(vec![ids], &Device::Cpu)?);
        }
    }
    ensure!(!inputs.is_empty(), "{from}: no text in it");
    Ok((inputs, from))
}

/// The parts of a text between blank lines.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n")
        .flat_map(|part| part.split("\r\n\r\n"))
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn images(
    folder: &Path,
    file: Option<&Path>,
    [channels, side]: [usize; 2],
) -> Result<(Vec<Tensor>, String)> {
    let Some(path) = file else {
        // A stand-in in any case: prepared as most images are.
        let preprocessing = Preprocessing::imagenet(side);
        return Ok((
            enlarged_digits(&preprocessing, [channels, side])?,
            "enlarged UCI digits (name photographs of your own: they are what counts)".to_string(),
        ));
    };
    ensure!(channels == 3, "a model of {channels} channels reads no image files; leave out FILE");
    let preprocessing = Preprocessing::read(folder)?.with_side(side);
    let files = files(path, &["jpg", "jpeg", "png", "webp"])?;
    let read = |file: &PathBuf| Ok(preprocessing.read_image(file, &Device::Cpu)?.unsqueeze(0)?);
    let images: Result<Vec<Tensor>> = files.iter().take(SEQUENCES).map(read).collect();
    Ok((images?, path.display().to_string()))
}

/// Embedded digits as large as the model wants them.
fn enlarged_digits(
    preprocessing: &Preprocessing,
    [channels, side]: [usize; 2],
) -> Result<Vec<Tensor>> {
    let digits = digits()?.take(SEQUENCES)?;
    let [_, height, width] = digits.shape();
    let pixels = Tensor::new(digits.pixels(), &Device::Cpu)?.to_dtype(DType::F32)?;
    let pixels = (pixels.reshape((digits.len(), 1, height, width))? / f64::from(digits.white()))?;
    let pixels = pixels.upsample_nearest2d(side, side)?.repeat((1, channels, 1, 1))?;
    let normalisation = preprocessing.normalisation();
    let of = |values: &[f32]| {
        Tensor::new(&values[..channels.min(values.len())], &Device::Cpu)?.reshape((1, (), 1, 1))
    };
    let pixels =
        pixels.broadcast_sub(&of(&normalisation.mean)?)?.broadcast_div(&of(&normalisation.std)?)?;
    let images: candle_core::Result<Vec<Tensor>> = experiments::probe::singles(&pixels).collect();
    Ok(images?)
}

/// The file at a path, or those of a folder with one of these extensions, in order of their names.
fn files(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let place = || path.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(place)? {
        let file = entry.with_context(place)?.path();
        let extension = file.extension().map(|e| e.to_string_lossy().to_lowercase());
        if file.is_file() && extension.is_some_and(|e| extensions.contains(&&*e)) {
            found.push(file);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "{}: no file that ends in {}", place(), extensions.join(", "));
    Ok(found)
}
