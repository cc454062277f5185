//! Models on a CUDA GPU against the CPU: loss and every gradient. Run by `scripts/check_cuda.sh`;
//! on a machine without a GPU these tests are not built.

use candle_conditioning::{Conditioner, Polar};
use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::bert::{BertConfig, BertInput};
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::Method;
use conditioned_models::crammed_bert::CrammedBertConfig;
use conditioned_models::crammed_heads::CrammedBertClassifier;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::network::Network;
use conditioned_nn::{Mode, Precision, Store, backward, cross_entropy};

use crate::registry::{batch, families, loss};
use crate::{distance, uniform};

/// f32 on two devices: matrix products of a GPU may round to TF32, 1e-3 per product.
const DEVICE_TOLERANCE: f64 = 1e-2;

/// Gradients below this part of the largest are sums of larger terms, or zero by nature, as that of a key bias.
const SMALL: f64 = 0.02;

const MODE: Mode = Mode::train(4, 9);

const MIXED: Mode = Mode::Train { seed: 4, step: 9, last: true, precision: Precision::Bf16 };

/// bf16 on two devices: what is rounded to eight bits, 4e-3, may fall to the other side, in every layer.
/// A gradient that is missing, or there twice, is 1 off.
const MIXED_TOLERANCE: f64 = 0.4;

/// Loss and gradients of a model on both devices, compared.
fn compare(loss: impl Fn(&Store, Mode) -> Result<Tensor>) -> Result<()> {
    for (mode, tolerance) in [(MODE, DEVICE_TOLERANCE), (MIXED, MIXED_TOLERANCE)] {
        compare_in(mode, tolerance, |store| loss(store, mode))?;
    }
    Ok(())
}

fn compare_in(mode: Mode, tolerance: f64, loss: impl Fn(&Store) -> Result<Tensor>) -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    let run = |device: &Device| {
        let store = Store::new(7, DType::F32, device);
        let loss = loss(&store)?;
        let grads = backward(loss.clone())?;
        let mut out = vec![("loss".to_string(), loss)];
        for (name, var) in store.parameters() {
            out.push((name.clone(), grads.get(&var).expect(&name).clone()));
        }
        Ok::<_, candle_core::Error>(out)
    };
    let (got, want) = (run(&gpu)?, run(&Device::Cpu)?);
    let largest = |x: &Tensor| -> Result<f64> {
        Ok(f64::from(x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
    };
    let gradients = want[1..].iter().map(|(_, gradient)| largest(gradient));
    let all = gradients.collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
    for ((name, got), (_, want)) in got.into_iter().zip(want) {
        // Relative to the largest entry.
        let scale = largest(&want)?.max(SMALL * all).recip();
        let d = distance(&(got.to_device(&Device::Cpu)? * scale)?, &(want * scale)?)?;
        assert!(d < tolerance, "{name} in {:?} differs by {d}", mode.precision());
    }
    Ok(())
}

#[test]
fn gpu_image_models_equal_those_of_the_cpu() -> Result<()> {
    for name in ["vit-8", "swin-8", "xcit-8", "davit-8"] {
        let mut network = Network::preset(name).unwrap();
        network.set_drop_path(0.2)?;
        compare(|store, mode| {
            let images = uniform(&[4, 1, 8, 8], 1)?.to_dtype(DType::F32)?;
            let targets = candle_nn::ops::softmax(&uniform(&[4, 10], 2)?, 1)?;
            let targets = targets.to_dtype(DType::F32)?.to_device(store.device())?;
            let model = network.build(store.builder())?;
            let images = images.to_device(store.device())?;
            cross_entropy(&model.forward(&images, mode.into())?, &targets)
        })?;
    }
    Ok(())
}

#[test]
fn gpu_families_equal_those_of_the_cpu() -> Result<()> {
    for (_, network) in families()? {
        compare(|store, mode| {
            let input = batch(&network, 3, DType::F32)?.to_device(store.device())?;
            let output = network.build(store.builder())?.forward(&input, mode.into())?;
            loss(&output.to_device(&Device::Cpu)?)
        })?;
    }
    Ok(())
}

#[test]
fn gpu_conditioned_models_equal_those_of_the_cpu() -> Result<()> {
    // The CPU takes the way of the GPU.
    let iterative = Polar::Iterative { tolerance: 1e-3 };
    let per_sequence =
        Conditioner::default().with_strength(0.3).and_then(|it| it.with_polar(iterative)).unwrap();
    for method in [Method::PerSequence(per_sequence), Method::pooled(0.3).unwrap()] {
        let mut network = Network::preset("vit-8").unwrap();
        network.set_conditioning(method.into());
        compare(|store, mode| {
            let images = uniform(&[4, 1, 8, 8], 1)?.to_dtype(DType::F32)?;
            let model = network.build(store.builder())?;
            model.forward(&images.to_device(store.device())?, mode.into())?.sqr()?.mean_all()
        })?;
    }
    Ok(())
}

/// Statistics that move from step to step, of tables and then of batches, and the evaluation by them.
#[test]
fn gpu_running_statistics_equal_those_of_the_cpu() -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    let config =
        Gpt2Config { vocabulary: 11, context: 9, ..Gpt2Config::preset("gpt2-6x384").unwrap() };
    let config = Gpt2Config { conditioning: Method::pooled_earlier(0.3).unwrap().into(), ..config };
    let run = |device: &Device| -> Result<Vec<Tensor>> {
        let store = Store::new(7, DType::F32, device);
        let model = Gpt2::new(&config, store.builder())?;
        let tokens: Vec<u32> = (0..16).map(|i| (i * i + 3 * i) % 11).collect();
        // On the CPU, as in training.
        let tokens = Tensor::from_vec(tokens, (2, 8), &Device::Cpu)?;
        let (ids, targets) = (tokens.narrow(1, 0, 7)?, tokens.narrow(1, 1, 7)?);
        let modes = [Mode::train(4, 0), Mode::train(4, 1), Mode::train(4, 2), Mode::Eval];
        let mut found = Vec::new();
        for mode in modes {
            found.push(model.loss(&ids, &targets, mode)?.to_device(&Device::Cpu)?);
        }
        for (_, buffer) in store.buffers() {
            found.push(buffer.to_device(&Device::Cpu)?.to_dtype(DType::F32)?);
        }
        Ok(found)
    };
    for (got, want) in run(&gpu)?.iter().zip(&run(&Device::Cpu)?) {
        let size = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let d = distance(got, want)? / f64::from(size);
        assert!(d < DEVICE_TOLERANCE, "{d}");
    }
    Ok(())
}

#[test]
fn gpu_gpt2_equals_that_of_the_cpu() -> Result<()> {
    let config =
        Gpt2Config { vocabulary: 11, context: 9, ..Gpt2Config::preset("gpt2-6x384").unwrap() };
    compare(|store, mode| {
        let tokens: Vec<u32> = (0..16).map(|i| (i * i + 3 * i) % 11).collect();
        let tokens = Tensor::from_vec(tokens, (2, 8), store.device())?;
        let (ids, targets) = (tokens.narrow(1, 0, 7)?, tokens.narrow(1, 1, 7)?);
        Gpt2::new(&config, store.builder())?.loss(&ids, &targets, mode)
    })
}

/// Two pairs of texts, the second one shorter, and their labels.
fn pairs(device: &Device) -> Result<(BertInput, Tensor)> {
    let rows = [[3u32, 5, 8, 1, 9, 2, 7, 6], [3, 4, 1, 10, 2, 0, 0, 0]];
    let types = [[0u32, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]];
    let mask = [[1u8; 8], [1, 1, 1, 1, 1, 0, 0, 0]];
    let [ids, types] = [rows, types].map(|ids| Tensor::new(&ids, device));
    let input = BertInput::padded(ids?, types?, &Tensor::new(&mask, device)?)?;
    Ok((input, Tensor::new(&[1u32, 0], device)?))
}

#[test]
fn gpu_bert_equals_that_of_the_cpu() -> Result<()> {
    let plain =
        BertConfig { vocabulary: 11, context: 9, ..BertConfig::preset("bert-4x128").unwrap() };
    // Padding takes no part in pooled tokens.
    for method in [Method::None, Method::pooled(0.3)?, Method::pooled_earlier(0.3)?] {
        let config = BertConfig { conditioning: method.into(), ..plain.clone() };
        compare(|store, mode| {
            let (input, labels) = pairs(store.device())?;
            BertClassifier::new(&config, 2, store.builder())?.loss(&input, &labels, mode)
        })?;
    }
    Ok(())
}

#[test]
fn gpu_crammed_bert_equals_that_of_the_cpu() -> Result<()> {
    let preset = CrammedBertConfig::preset("crammed-4x128").unwrap();
    let config = CrammedBertConfig { vocabulary: 11, context: 9, ..preset };
    compare(|store, mode| {
        let (input, labels) = pairs(store.device())?;
        CrammedBertClassifier::new(&config, 2, store.builder())?.loss(&input, &labels, mode)
    })
}
