//! ViT: sizes, configuration, placement, recalibration.

use candle_conditioning::condition_number;
use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::davit::DavitConfig;
use conditioned_models::swin::SwinConfig;
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_models::xcit::XcitConfig;
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Store};

use crate::uniform;

#[test]
fn published_sizes() -> Result<()> {
    let base = VitConfig::preset("vit_base_patch16_224").unwrap();
    assert_eq!(base.parameter_count()?, 86_567_656);
    assert_eq!((base.macs(0) as f64 / 1e7).round() / 100.0, 17.56);
    let count = |name: &str| VitConfig::preset(name).unwrap().parameter_count();
    assert_eq!(count("vit_small_patch16_224")?, 22_050_664);
    assert_eq!(count("deit_tiny_patch16_224")?, 5_717_416);
    Ok(())
}

#[test]
fn sizes_of_what_cannot_be_are_no_panic() {
    let vit = VitConfig { patch_size: 0, ..VitConfig::preset("vit-8").unwrap() };
    assert_eq!((vit.patches(), vit.tokens()), (0, 1));
    vit.macs(0);
    let xcit = XcitConfig::preset("xcit-8-tiny").unwrap();
    XcitConfig { patch_size: 0, heads: 0, ..xcit }.macs(0);
    let davit = DavitConfig::preset("davit-28").unwrap();
    assert_eq!(DavitConfig { patch_size: 0, ..davit.clone() }.macs(0), 0);
    assert_eq!(DavitConfig { heads: vec![], ..davit }.macs(0), 0);
    let swin = SwinConfig::preset("swin-28").unwrap();
    assert_eq!(SwinConfig { patch_size: 0, ..swin }.macs(0), 0);
}

#[test]
fn an_unknown_preset_lists_the_known_ones() {
    let message = VitConfig::preset("vit_huge").unwrap_err().to_string();
    assert!(message.contains("`vit_huge`") && message.contains("vit_base_patch16_224"));
}

#[test]
fn contradictions_are_errors_that_name_the_numbers() {
    let vb = || Store::new(1, DType::F32, &Device::Cpu).builder();
    let preset = VitConfig::preset("vit-8").unwrap();
    let cases = [
        (VitConfig { patch_size: 3, ..preset.clone() }, "patches of 3"),
        (VitConfig { heads: 5, ..preset.clone() }, "5 heads"),
        (VitConfig { heads: 0, ..preset.clone() }, "heads must be at least 1"),
        (VitConfig { table_std: f64::NAN, ..preset.clone() }, "table_std"),
        (VitConfig { drop_path: 1.5, ..preset.clone() }, "drop_path 1.5"),
        (VitConfig { eps: 0.0, ..preset.clone() }, "eps 0 must be finite and > 0"),
    ];
    for (config, expected) in cases {
        let message = Vit::new(&config, vb()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let vit = Vit::new(&preset, vb()).unwrap();
    let wrong = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let message = vit.forward(&wrong, Mode::Eval.into()).unwrap_err().to_string();
    assert!(message.contains("vit: images [1, 3, 8, 8]; it takes (B, 1, 8, 8)"), "{message}");
}

#[test]
fn the_epsilon_of_timm_is_not_written() {
    let timm = VitConfig::preset("vit-8").unwrap();
    let other = VitConfig { eps: 1e-12, ..timm.clone() };
    for (config, written) in [(timm, None), (other, Some(1e-12))] {
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json.get("eps").and_then(serde_json::Value::as_f64), written);
        assert_eq!(serde_json::from_value::<VitConfig>(json).unwrap(), config);
    }
}

fn model(method: Method, placement: Placement) -> Result<(Vit, Store)> {
    let config = VitConfig {
        conditioning: ConditioningConfig { method, placement, ..Default::default() },
        ..VitConfig::preset("vit-8").unwrap()
    };
    let store = Store::new(1, DType::F32, &Device::Cpu);
    Ok((Vit::new(&config, store.builder())?, store))
}

fn kappas(x: &Tensor) -> Result<Vec<f64>> {
    condition_number(x)?.to_vec1()
}

#[test]
fn after_the_position_table_the_bound_holds_for_what_enters_the_first_block() -> Result<()> {
    let images = uniform(&[5, 1, 8, 8], 1)?.to_dtype(DType::F32)?;
    for t in [0.3, 1.0] {
        let (vit, _) = model(Method::per_sequence(t)?, Placement::AfterPosition)?;
        let tokens = vit.tokens(&images)?;
        // 1e-5: the result is rounded to f32.
        assert!(kappas(&tokens.conditioned)?.iter().all(|k| *k <= (1.0 + t) / t * (1.0 + 1e-5)));
        assert!(kappas(&tokens.plain)?.iter().all(|k| *k > 10.0));
    }
    let (vit, _) = model(Method::per_sequence(1.0)?, Placement::BeforePosition)?;
    let tokens = vit.tokens(&images)?;
    assert!(kappas(&tokens.conditioned)?.iter().all(|k| *k > 2.1), "the table undoes the bound");
    Ok(())
}

#[test]
fn pooled_state_lives_in_the_store_and_evaluation_uses_it() -> Result<()> {
    let (vit, store) = model(Method::pooled(0.3)?, Placement::AfterPosition)?;
    let names: Vec<String> = store.buffers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["conditioner.running_gram", "conditioner.running_weight"]);
    let images = uniform(&[5, 1, 8, 8], 1)?.to_dtype(DType::F32)?;
    let before = vit.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?;
    vit.forward(&images, Mode::train(0, 0).into())?;
    let after = vit.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?;
    assert_ne!(before, after, "the training pass observed the batch");
    // One batch observed: its Gram is the running one, so both modes see the same matrix.
    let train = vit.forward(&images, Mode::train(0, 1).into())?;
    assert_eq!(train.to_vec2::<f32>()?, after);
    Ok(())
}

#[test]
fn recalibration_of_a_frozen_model_leaves_training_alone() -> Result<()> {
    let images = uniform(&[5, 1, 8, 8], 1)?.to_dtype(DType::F32)?;
    let other = uniform(&[7, 1, 8, 8], 2)?.to_dtype(DType::F32)?;
    for method in [Method::pooled(0.3)?, Method::Standardised] {
        let (vit, store) = model(method, Placement::AfterPosition)?;
        vit.forward(&images, Mode::train(0, 0).into())?;
        let config =
            VitConfig { conditioning: method.into(), ..VitConfig::preset("vit-8").unwrap() };
        let frozen = config.build(store.frozen()?)?;
        let before = frozen.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?;
        assert_eq!(before, vit.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?);
        frozen.recalibrate([Ok::<_, candle_core::Error>(other.clone())])?;
        assert_ne!(before, frozen.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?);
        assert_eq!(before, vit.forward(&images, Mode::Eval.into())?.to_vec2::<f32>()?);
        let failed = frozen.recalibrate([Err(candle_core::Error::Msg("no data".into()))]);
        assert!(failed.unwrap_err().to_string().contains("no data"));
    }
    Ok(())
}
