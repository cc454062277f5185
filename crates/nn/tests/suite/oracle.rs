//! Fused kernels, forward and backward, against the definitions in plain candle operations: over
//! random shapes, contiguous and strided, f64 and f32.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    Attention, Gelu, Layer, LayerNorm, Linear, Mode, Padding, RmsNorm, Sequence, Store, attention,
    causal_attention, cross_entropy, device, gated_gelu, gelu, gelu_tanh, head_norm, layer_norm,
    linear, padded_attention, reference, rms_norm,
};
use proptest::prelude::*;

use crate::{F32_TOLERANCE, F64_TOLERANCE, agree, distance, uniform, variable};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    // From 8 channels on: the variance of fewer can be so small that f32 input does not resolve it.
    fn layer_norm_equals_its_definition(b in 1usize..4, n in 1usize..300, c in 8usize..70) {
        let x = variable(&[b, n, c], 1).unwrap();
        let (w, bias) = (variable(&[c], 2).unwrap(), variable(&[c], 3).unwrap());
        agree(
            &[x, w, bias],
            |v| layer_norm(&v[0], &v[1], &v[2], 1e-6),
            |v| reference::layer_norm(&v[0], &v[1], &v[2], 1e-6),
        ).unwrap();
    }

    #[test]
    fn layer_norm_of_a_transposed_view(n in 2usize..20, c in 8usize..20) {
        let x = variable(&[c, n], 1).unwrap();
        let (w, bias) = (variable(&[c], 2).unwrap(), variable(&[c], 3).unwrap());
        agree(
            &[x, w, bias],
            |v| layer_norm(&v[0].t()?, &v[1], &v[2], 1e-5),
            |v| reference::layer_norm(&v[0].t()?, &v[1], &v[2], 1e-5),
        ).unwrap();
    }

    #[test]
    fn linear_equals_its_definition(b in 1usize..4, n in 1usize..40, i in 1usize..50, o in 1usize..50) {
        let x = variable(&[b, n, i], 1).unwrap();
        let (w, bias) = (variable(&[o, i], 2).unwrap(), variable(&[o], 3).unwrap());
        agree(
            &[x, w, bias],
            |v| conditioned_nn::Linear::new(v[1].clone(), Some(v[2].clone())).forward(&v[0]),
            |v| reference::linear(&v[0], &v[1], Some(&v[2])),
        ).unwrap();
    }

    #[test]
    fn linear_of_a_strided_view(n in 2usize..20, i in 2usize..20, o in 1usize..20) {
        let x = variable(&[2, i, n], 1).unwrap();
        let (w, bias) = (variable(&[o, i], 2).unwrap(), variable(&[o], 3).unwrap());
        agree(
            &[x, w, bias],
            |v| {
                let layer = conditioned_nn::Linear::new(v[1].clone(), Some(v[2].clone()));
                layer.forward(&v[0].transpose(1, 2)?)
            },
            |v| reference::linear(&v[0].transpose(1, 2)?, &v[1], Some(&v[2])),
        ).unwrap();
    }

    #[test]
    fn head_norm_equals_its_definition(b in 1usize..4, n in 1usize..300, h in 1usize..4, d in 1usize..40) {
        let x = variable(&[b, n, h * d], 1).unwrap();
        agree(&[x], |v| head_norm(&v[0], h), |v| reference::head_norm(&v[0], h)).unwrap();
    }

    #[test]
    fn attention_equals_its_definition(b in 1usize..4, n in 1usize..40, h in 1usize..4, d in 1usize..20) {
        let qkv = variable(&[b, n, 3 * h * d], 1).unwrap();
        agree(&[qkv], |v| attention(&v[0], h), |v| reference::attention(&v[0], h, false)).unwrap();
    }

    // Up to three blocks of queries.
    #[test]
    fn causal_attention_equals_its_definition(n in 1usize..200, h in 1usize..4, d in 1usize..10) {
        let qkv = variable(&[2, n, 3 * h * d], 1).unwrap();
        agree(
            &[qkv],
            |v| causal_attention(&v[0], h),
            |v| reference::attention(&v[0], h, true),
        ).unwrap();
    }

    // Up to three blocks of queries; the device's form is the definition with a mask.
    #[test]
    fn padded_attention_equals_its_definition(
        lengths in prop::collection::vec(1usize..200, 1..4), h in 1usize..4, d in 1usize..10,
    ) {
        let n = *lengths.iter().max().unwrap();
        let mask = lengths.iter().map(|&m| (0..n).map(|i| u8::from(i < m)).collect()).collect();
        let padding = Padding::of(&Tensor::new::<Vec<Vec<u8>>>(mask, &Device::Cpu).unwrap()).unwrap();
        let qkv = variable(&[lengths.len(), n, 3 * h * d], 1).unwrap();
        agree(
            &[qkv],
            |v| padded_attention(&v[0], h, &padding),
            |v| device::padded_attention(&v[0], h, false, &padding),
        ).unwrap();
    }

    #[test]
    fn rms_norm_equals_its_definition(b in 1usize..4, n in 1usize..300, c in 1usize..70) {
        let (x, w) = (variable(&[b, n, c], 1).unwrap(), variable(&[c], 2).unwrap());
        agree(
            &[x, w],
            |v| rms_norm(&v[0], &v[1], 1e-6),
            |v| reference::rms_norm(&v[0], &v[1], 1e-6),
        ).unwrap();
    }

    // Up to three pieces of rows; the GELU itself is checked against libm below.
    #[test]
    fn gated_gelu_is_a_product_of_halves(b in 1usize..4, n in 1usize..300, h in 1usize..40) {
        let x = variable(&[b, n, 2 * h], 1).unwrap();
        agree(
            &[x],
            |v| gated_gelu(&v[0]),
            |v| v[0].narrow(2, 0, h)? * gelu(&v[0].narrow(2, h, h)?)?,
        ).unwrap();
    }

    #[test]
    fn attention_of_a_strided_view(n in 2usize..10, h in 1usize..3) {
        let qkv = variable(&[2, 12 * h, n], 1).unwrap();
        agree(
            &[qkv],
            |v| attention(&v[0].transpose(1, 2)?, h),
            |v| reference::attention(&v[0].transpose(1, 2)?, h, false),
        ).unwrap();
    }

    #[test]
    fn cross_entropy_equals_its_definition(b in 1usize..40, k in 2usize..40) {
        let logits = variable(&[b, k], 1).unwrap();
        let targets = candle_nn::ops::softmax(&uniform(&[b, k], 2).unwrap(), 1).unwrap();
        agree(
            &[logits],
            |v| cross_entropy(&v[0], &targets),
            |v| reference::cross_entropy(&v[0], &targets.to_dtype(v[0].dtype())?),
        ).unwrap();
    }

    #[test]
    fn add_table_equals_a_broadcast(b in 1usize..5, n in 1usize..10, c in 1usize..10) {
        let (x, table) = (variable(&[b, n, c], 1).unwrap(), variable(&[1, n, c], 2).unwrap());
        agree(
            &[x, table],
            |v| conditioned_nn::add_table(&v[0], &v[1]),
            |v| v[0].broadcast_add(&v[1]),
        ).unwrap();
    }
}

#[test]
fn gelu_equals_the_error_function() -> Result<()> {
    // candle's own gelu_erf is 2e-7 off, so the oracle is libm.
    let values: Vec<f64> = (-800..=800).map(|i| f64::from(i) * 0.01).collect();
    let exact = |x: f64| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()));
    let expected: Vec<f64> = values.iter().map(|&x| exact(x)).collect();
    let expected = Tensor::new(expected, &candle_core::Device::Cpu)?;
    let x = Tensor::new(values, &candle_core::Device::Cpu)?;
    assert!(distance(&gelu(&x)?, &expected)? < F64_TOLERANCE);
    assert!(distance(&gelu(&x.to_dtype(DType::F32)?)?, &expected)? < 8.0 * 4e-7);
    Ok(())
}

#[test]
fn gated_gelu_of_other_devices_equals_the_kernel() -> Result<()> {
    let x = uniform(&[4, 9, 14], 1)?;
    // candle's own gelu_erf is 2e-7 off.
    assert!(distance(&reference::gated_gelu(&x)?, &gated_gelu(&x)?)? < 4e-7);
    let error = gated_gelu(&uniform(&[4, 7], 1)?).unwrap_err().to_string();
    assert!(error.contains("no two halves"), "{error}");
    for of in [reference::gated_gelu, device::gated_gelu] {
        let error = of(&uniform(&[4, 1], 1)?).unwrap_err().to_string();
        assert!(error.contains("no two halves"), "{error}");
    }
    Ok(())
}

#[test]
fn gelu_tanh_equals_its_formula_and_slope() -> Result<()> {
    // candle's own constants have six digits, so the oracle is the formula.
    let u = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    let y = |x: f64| 0.5 * x * (1.0 + u(x).tanh());
    let slope = |x: f64| {
        let du = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
        0.5 * (1.0 + u(x).tanh()) + 0.5 * x * (1.0 - u(x).tanh().powi(2)) * du
    };
    let values: Vec<f64> = (-800..=800).map(|i| f64::from(i) * 0.01).collect();
    let exact = |f: &dyn Fn(f64) -> f64| {
        Tensor::new(values.iter().map(|&x| f(x)).collect::<Vec<_>>(), &Device::Cpu)
    };
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let x = Var::from_tensor(&Tensor::new(values.as_slice(), &Device::Cpu)?.to_dtype(dtype)?)?;
        let result = gelu_tanh(&x)?;
        assert!(distance(&result, &exact(&y)?)? < tolerance);
        let grads = result.sum_all()?.backward()?;
        assert!(distance(grads.get(&x).expect("a gradient"), &exact(&slope)?)? < tolerance);
    }
    Ok(())
}

/// The layers of one sequence with all kinds of layers, over variables.
struct Branch {
    norm: (Var, Var),
    qkv: (Var, Var),
    rms: Var,
    proj: (Var, Var),
}

impl Branch {
    fn new(c: usize) -> Result<Self> {
        Ok(Self {
            norm: (variable(&[c], 2)?, variable(&[c], 3)?),
            qkv: (variable(&[3 * c, c], 4)?, variable(&[3 * c], 5)?),
            rms: variable(&[c], 6)?,
            proj: (variable(&[c, c], 7)?, variable(&[c], 8)?),
        })
    }

    fn variables(&self, x: &Var) -> Vec<Var> {
        let Self { norm, qkv, rms, proj } = self;
        [x, &norm.0, &norm.1, &qkv.0, &qkv.1, rms, &proj.0, &proj.1].map(Var::clone).to_vec()
    }

    /// Norm, projection, attention, GELU, norm, projection: cheap layers follow one another.
    fn fused(v: &[Tensor], residual: bool) -> Result<Tensor> {
        let layers: [Box<dyn Layer>; 6] = [
            LayerNorm::from_tensors(v[1].clone(), v[2].clone(), 1e-6).into(),
            Linear::new(v[3].clone(), Some(v[4].clone())).into(),
            Attention { heads: 2, causal: true }.into(),
            Gelu::Erf.into(),
            RmsNorm::from_tensor(v[5].clone(), 1e-6).into(),
            Linear::new(v[6].clone(), Some(v[7].clone())).into(),
        ];
        match residual {
            true => Sequence::residual(layers),
            false => Sequence::new(layers),
        }
        .forward(&v[0], Mode::Eval)
    }

    fn definition(v: &[Tensor], residual: bool) -> Result<Tensor> {
        let y = reference::layer_norm(&v[0], &v[1], &v[2], 1e-6)?;
        let y = reference::linear(&y, &v[3], Some(&v[4]))?;
        let y = gelu(&reference::attention(&y, 2, true)?)?;
        let y = reference::linear(&reference::rms_norm(&y, &v[5], 1e-6)?, &v[6], Some(&v[7]))?;
        if residual { &v[0] + y } else { Ok(y) }
    }
}

/// candle's fused norms take their epsilon as f32.
const FUSED_EPS: f64 = 1e-5f32 as f64;

#[test]
fn the_fused_forms_of_other_devices_equal_the_definitions() -> Result<()> {
    let (x, w, b) = (variable(&[2, 7, 12], 1)?, variable(&[12], 2)?, variable(&[12], 3)?);
    agree(
        &[x.clone(), w.clone(), b],
        |v| device::layer_norm(&v[0], &v[1], &v[2], FUSED_EPS),
        |v| reference::layer_norm(&v[0], &v[1], &v[2], FUSED_EPS),
    )?;
    agree(
        &[x.clone(), w],
        |v| device::rms_norm(&v[0], &v[1], FUSED_EPS),
        |v| reference::rms_norm(&v[0], &v[1], FUSED_EPS),
    )?;
    agree(&[x], |v| device::softmax(&v[0]), |v| candle_nn::ops::softmax(&v[0], 2))?;
    for causal in [false, true] {
        agree(
            &[variable(&[2, 7, 12], 1)?],
            |v| device::attention(&v[0], 2, causal),
            |v| reference::attention(&v[0], 2, causal),
        )?;
    }
    Ok(())
}

#[test]
fn a_sequence_equals_its_layers_one_by_one() -> Result<()> {
    let (branch, x) = (Branch::new(16)?, variable(&[3, 21, 16], 1)?);
    for residual in [false, true] {
        agree(
            &branch.variables(&x),
            |v| Branch::fused(v, residual),
            |v| Branch::definition(v, residual),
        )?;
    }
    Ok(())
}

#[test]
fn a_frozen_layer_gets_no_gradient_and_the_others_keep_theirs() -> Result<()> {
    let (branch, x) = (Branch::new(16)?, variable(&[2, 5, 16], 1)?);
    let variables = branch.variables(&x);
    let inputs: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let all = Branch::fused(&inputs, true)?.sqr()?.sum_all()?.backward()?;
    for frozen in 0..inputs.len() {
        let mut some = inputs.clone();
        some[frozen] = inputs[frozen].detach();
        let grads = Branch::fused(&some, true)?.sqr()?.sum_all()?.backward()?;
        for (i, var) in variables.iter().enumerate() {
            match grads.get(var) {
                None => assert_eq!(i, frozen),
                Some(grad) => {
                    assert_ne!(i, frozen);
                    assert_eq!(distance(grad, all.get(var).expect("a gradient"))?, 0.0);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_layer_used_twice_gets_the_sum_of_both_gradients() -> Result<()> {
    let store = Store::new(1, DType::F64, &Device::Cpu);
    let layer = linear(store.builder(), 6, 6)?;
    let (weight, bias) = (store.get("weight").unwrap(), store.get("bias").unwrap());
    let x = variable(&[4, 6], 1)?;
    agree(
        &[x, weight, bias],
        |v| {
            let layer = Linear::new(v[1].clone(), Some(v[2].clone()));
            Sequence::residual([layer.clone().into(), layer.into()]).forward(&v[0], Mode::Eval)
        },
        |v| {
            let y = reference::linear(&v[0], &v[1], Some(&v[2]))?;
            &v[0] + reference::linear(&y, &v[1], Some(&v[2]))?
        },
    )?;
    drop(layer);
    Ok(())
}

#[test]
fn backward_can_be_called_twice() -> Result<()> {
    let (branch, x) = (Branch::new(8)?, variable(&[2, 5, 8], 1)?);
    let variables = branch.variables(&x);
    let inputs: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = Branch::fused(&inputs, true)?.sqr()?.sum_all()?;
    let (first, second) = (loss.backward()?, loss.backward()?);
    for var in &variables {
        let d = distance(first.get(var).expect("a gradient"), second.get(var).expect("again"))?;
        assert_eq!(d, 0.0);
    }
    Ok(())
}

#[test]
fn gelu_gradient_equals_its_formula_over_several_pieces() -> Result<()> {
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let slope = |x: f64| 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())) + x * density(x);
    let values: Vec<f64> = (0..50_000).map(|i| f64::from(i) * 3e-4 - 7.5).collect();
    let expected: Vec<f64> = values.iter().map(|&x| slope(x)).collect();
    let expected = Tensor::new(expected, &candle_core::Device::Cpu)?;
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let x = Tensor::new(values.as_slice(), &candle_core::Device::Cpu)?;
        let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
        let grads = gelu(&x)?.sum_all()?.backward()?;
        let d = distance(grads.get(&x).expect("a gradient"), &expected)?;
        assert!(d < tolerance, "{dtype:?}: {d}");
    }
    Ok(())
}

#[test]
fn softmax_of_large_scores_is_finite() -> Result<()> {
    let qkv = (uniform(&[2, 5, 24], 3)? * 1e3)?.to_dtype(DType::F32)?;
    let y: Vec<f32> = attention(&qkv, 2)?.flatten_all()?.to_vec1()?;
    assert!(y.iter().all(|v| v.is_finite()));
    Ok(())
}

/// Rows of heads get the norm one; zeros stay zeros and get no gradient, in half precision too.
#[test]
fn the_rows_of_heads_have_norm_one_and_zeros_stay() -> Result<()> {
    for (dtype, tolerance) in
        [(DType::F64, 1e-7), (DType::F32, 1e-6), (DType::BF16, 1e-2), (DType::F16, 2e-3)]
    {
        let x = uniform(&[2, 3, 8], 1)?;
        let mask = Tensor::new(&[[1f64, 1., 0.], [1., 0., 0.]], &Device::Cpu)?.unsqueeze(2)?;
        let x = Var::from_tensor(&x.broadcast_mul(&mask)?.to_dtype(dtype)?)?;
        let y = head_norm(&x, 2)?;
        let norms = y.to_dtype(DType::F64)?.reshape((2, 3, 2, 4))?.sqr()?.sum(3)?.sqrt()?;
        let d = distance(&norms, &mask.broadcast_as((2, 3, 2))?)?;
        assert!(d < tolerance, "{dtype:?}: {d:e}");
        let grads = y.sum_all()?.backward()?;
        let grad = grads.get(&x).expect("a gradient").to_dtype(DType::F64)?;
        let outside = grad.broadcast_mul(&mask.affine(-1.0, 1.0)?)?.abs()?.sum_all()?;
        assert_eq!(outside.to_scalar::<f64>()?, 0.0, "{dtype:?}");
    }
    let x = uniform(&[2, 3, 8], 1)?;
    let error = head_norm(&x, 3).unwrap_err().to_string();
    assert!(error.contains("head-norm") && error.contains("3 equal heads"), "{error}");
    Ok(())
}
