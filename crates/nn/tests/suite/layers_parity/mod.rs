//! Layers of images against PyTorch's: values, gradients, and the buffers of batch normalisation.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    BatchNorm2d, Conv2d, ConvTranspose2d, DepthwiseConv2d, LayerScale, MaxPool2d, MergePatches,
    Mode, Relu, average_pool, upsample_nearest,
};

use crate::{F32_TOLERANCE, F64_TOLERANCE, distance};

type Fixture = BTreeMap<String, Tensor>;

fn fixture() -> Fixture {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/layers_parity/layers.safetensors");
    conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap()
}

/// f32 relative to the larger of 1 and the largest value.
const DTYPES: [(DType, f64); 2] = [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)];

/// Compares `f(x, parameters)` with the record `name`, values and gradients.
fn compare(
    fixture: &Fixture,
    name: &str,
    parameters: &[&str],
    (dtype, tolerance): (DType, f64),
    f: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let of = |key: &str| &fixture[&format!("{name}/{key}")];
    let close = |key: &str, got: &Tensor| -> Result<()> {
        let want = of(key);
        let scale = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1.0);
        let d = distance(got, want)? / scale;
        assert!(d < tolerance, "{name}/{key} in {dtype:?} differs by {d:e}");
        Ok(())
    };
    let variables = std::iter::once(&"x")
        .chain(parameters)
        .map(|key| Var::from_tensor(&of(key).to_dtype(dtype)?))
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|var| var.as_tensor().clone()).collect();
    let y = f(&tensors[0], &tensors[1..])?;
    close("y", &y)?;
    let grads = (y * of("cotangent").to_dtype(dtype)?)?.sum_all()?.backward()?;
    for (key, var) in std::iter::once(&"x").chain(parameters).zip(&variables) {
        close(&format!("gradient/{key}"), grads.get(var).expect("a gradient"))?;
    }
    Ok(())
}

#[test]
fn convolutions_equal_those_of_pytorch() -> Result<()> {
    let fixture = fixture();
    for dtype in DTYPES {
        compare(&fixture, "conv-s2", &["weight"], dtype, |x, p| {
            Conv2d::from_tensors(p[0].clone(), None).stride(2).padding(1).forward(x)
        })?;
        compare(&fixture, "conv-s4", &["weight", "bias"], dtype, |x, p| {
            let layer = Conv2d::from_tensors(p[0].clone(), Some(p[1].clone()));
            layer.stride(4).padding(3).forward(x)
        })?;
        compare(&fixture, "depthwise", &["weight", "bias"], dtype, |x, p| {
            DepthwiseConv2d::from_tensors(p[0].clone(), p[1].clone()).forward(x)
        })?;
    }
    Ok(())
}

#[test]
fn batch_norm_and_its_buffers_equal_those_of_pytorch() -> Result<()> {
    let fixture = fixture();
    for (dtype, tolerance) in DTYPES {
        let mean = Var::zeros(3, dtype, &Device::Cpu)?;
        let var = Var::ones(3, dtype, &Device::Cpu)?;
        for step in ["train1", "train2", "eval"] {
            let mode = match step {
                "eval" => Mode::Eval,
                _ => Mode::train(0, 0),
            };
            let name = format!("batch-norm-{step}");
            compare(&fixture, &name, &["weight", "bias"], (dtype, tolerance), |x, p| {
                let (weight, bias) = (p[0].clone(), p[1].clone());
                let (mean, var) = (mean.as_tensor().clone(), var.as_tensor().clone());
                BatchNorm2d::from_tensors(weight, bias, mean, var).forward(x, mode)
            })?;
            for (key, buffer) in [("running_mean", &mean), ("running_var", &var)] {
                let d = distance(buffer, &fixture[&format!("{name}/{key}")])?;
                assert!(d < tolerance, "{name}/{key} in {dtype:?} differs by {d:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn scales_merging_and_pooling_equal_those_of_pytorch() -> Result<()> {
    let fixture = fixture();
    for dtype in DTYPES {
        compare(&fixture, "layer-scale", &["gamma"], dtype, |x, p| {
            LayerScale::from_tensor(p[0].clone()).forward(x)
        })?;
        compare(&fixture, "merge-patches", &[], dtype, |x, _| MergePatches.forward(x))?;
        compare(&fixture, "average-pool", &[], dtype, |x, _| average_pool(x))?;
    }
    Ok(())
}

#[test]
fn layers_of_a_pyramid_equal_those_of_pytorch() -> Result<()> {
    let fixture = fixture();
    for dtype in DTYPES {
        compare(&fixture, "conv-transpose", &["weight", "bias"], dtype, |x, p| {
            ConvTranspose2d::from_tensors(p[0].clone(), p[1].clone()).forward(x)
        })?;
        for size in [2, 1] {
            let name = format!("max-pool-{size}");
            compare(&fixture, &name, &[], dtype, |x, _| MaxPool2d { size, stride: 2 }.forward(x))?;
        }
        compare(&fixture, "upsample", &[], dtype, |x, _| upsample_nearest(x, 7, 9))?;
        compare(&fixture, "relu", &[], dtype, |x, _| Relu.forward(x))?;
    }
    Ok(())
}
