//! Gradients behind every method, in a ViT: finite, not all zero, and those of the function itself or of the one
//! in which C stands still. All families without a method are the subject of `registry`.

use candle_conditioning::TokenGraying;
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_models::{Architecture, Model};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store, cross_entropy};

use crate::uniform;

/// Central differences in f64 through a whole model: truncation h^2 = 1e-10 times third
/// derivatives that grow with depth.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

/// A key bias adds the same to every score of a row and softmax does not see it: its gradient is
/// exactly zero, here up to rounding.
const EXEMPT_TOLERANCE: f64 = 1e-14;

/// The methods whose gradient is that of the function itself. The detached ones are the subject of
/// `detached_methods_freeze_c_at_the_base_point` and of the parity with PyTorch.
const ATTACHED: [Method; 3] = [Method::None, Method::Factor { factor: 3.0 }, Method::Standardised];

/// `vit-8`, narrower and shallower, with drop path.
fn small() -> VitConfig {
    VitConfig {
        classes: 5,
        width: 32,
        depth: 2,
        drop_path: 0.2,
        ..VitConfig::preset("vit-8").unwrap()
    }
}

/// A model, its store with every parameter moved off its initial value, and a batch.
fn setup(config: &VitConfig) -> Result<(Vit, Store, Tensor, Tensor)> {
    let store = Store::new(3, DType::F64, &Device::Cpu);
    let vit = Vit::new(config, store.builder())?;
    for (i, (_, var)) in store.parameters().into_iter().enumerate() {
        let noise = (uniform(var.dims(), i as u64)? * 0.3)?;
        var.set(&(var.as_tensor().detach() + noise)?)?;
    }
    let side = config.image_size;
    let images = uniform(&[4, config.channels, side, side], 91)?;
    let targets = candle_nn::ops::softmax(&uniform(&[4, config.classes], 92)?, 1)?;
    Ok((vit, store, images, targets))
}

const MODE: Mode = Mode::train(1, 3);

#[test]
fn every_parameter_has_the_right_gradient() -> Result<()> {
    for method in ATTACHED {
        let config = VitConfig { conditioning: method.into(), ..small() };
        let (vit, store, images, targets) = setup(&config)?;
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, v)| v).collect();
        let loss = || cross_entropy(&vit.forward(&images, MODE.into())?, &targets);
        let worst = central_differences(&variables, 4, loss)?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{method:?}: {worst:?}");
    }
    Ok(())
}

#[test]
fn no_gradient_is_missing_or_zero() -> Result<()> {
    let methods = [
        Method::None,
        Method::factor(3.0)?,
        Method::per_sequence(1.0)?,
        Method::pooled(0.3)?,
        Method::norm_matched(1.0)?,
        Method::Standardised,
        Method::token_graying(TokenGraying::SVD)?,
        Method::token_graying(TokenGraying::DCT)?,
    ];
    for method in methods {
        for placement in [Placement::AfterPosition, Placement::BeforePosition] {
            let conditioning = ConditioningConfig { method, placement, ..Default::default() };
            let config = VitConfig { conditioning, ..small() };
            let (vit, store, images, targets) = setup(&config)?;
            let grads = cross_entropy(&vit.forward(&images, MODE.into())?, &targets)?.backward()?;
            for (parameter, var) in store.parameters() {
                let what = format!("{method:?} {placement:?} {parameter}");
                let grad = grads.get(&var).unwrap_or_else(|| panic!("{what}: no gradient"));
                let values: Vec<f64> = grad.flatten_all()?.to_vec1()?;
                assert!(values.iter().all(|v| v.is_finite()), "{what}: not finite");
                let zero = |values: &[f64]| values.iter().all(|v| v.abs() < EXEMPT_TOLERANCE);
                let standardised_away = method == Method::Standardised
                    && placement == Placement::BeforePosition
                    && parameter == "patch_embed.proj.bias";
                if standardised_away {
                    assert!(zero(&values), "{what}: the mean is removed, the bias is exempt");
                } else if parameter.ends_with("attn.qkv.bias") {
                    let c = values.len() / 3;
                    assert!(zero(&values[c..2 * c]), "{what}: the key bias is exempt");
                    assert!(!zero(&values[..c]) && !zero(&values[2 * c..]), "{what}: zero");
                } else {
                    assert!(!zero(&values), "{what}: all zero");
                }
            }
        }
    }
    Ok(())
}

/// With C frozen at the base point the loss is a function whose gradient is the detached one: the
/// tokens' gradient passes through X + C to class token and position table unchanged.
#[test]
fn detached_methods_freeze_c_at_the_base_point() -> Result<()> {
    let preset = small();
    for method in [
        Method::per_sequence(1.0)?,
        Method::norm_matched(0.5)?,
        Method::token_graying(TokenGraying::SVD)?,
        Method::token_graying(TokenGraying::DCT)?,
    ] {
        let config = VitConfig { conditioning: method.into(), ..preset.clone() };
        let (vit, store, images, targets) = setup(&config)?;
        let tables = ["cls_token", "pos_embed"].map(|name| store.get(name).unwrap());

        // The same network without a method, its position table shifted by C for one image.
        let tokens = vit.tokens(&images)?;
        let c = (tokens.conditioned - tokens.plain)?.detach();
        let plain = Vit::new(&preset, store.builder())?;
        let base = tables[1].as_tensor().copy()?.detach();
        let mut sums: Vec<Option<Tensor>> = vec![None; tables.len()];
        for i in 0..images.dim(0)? {
            tables[1].set(&(&base + c.narrow(0, i, 1)?)?)?;
            let (image, target) = (images.narrow(0, i, 1)?, targets.narrow(0, i, 1)?);
            // Drop path acts per sample of a batch; without it both networks agree.
            let loss = cross_entropy(&plain.forward(&image, Mode::Eval.into())?, &target)?;
            let single = loss.backward()?;
            for (sum, table) in sums.iter_mut().zip(&tables) {
                let grad = single.get(table).unwrap() / images.dim(0)? as f64;
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + grad?)?,
                    None => grad?,
                });
            }
            tables[1].set(&base)?;
        }
        let eval =
            cross_entropy(&vit.forward(&images, Mode::Eval.into())?, &targets)?.backward()?;
        for (sum, table) in sums.into_iter().zip(&tables) {
            let d = crate::distance(eval.get(table).unwrap(), &sum.unwrap())?;
            assert!(d < 1e-12, "{method:?}: {d}");
        }
    }
    Ok(())
}
