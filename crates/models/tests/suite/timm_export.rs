//! A ViT that is written for timm computes what it did: the conditioning stands in the weights.

use candle_core::{DType, Device};
use conditioned_models::conditioning::{
    AttentionMethod, ConditioningConfig, Method, Placement, WeightMethod,
};
use conditioned_models::hugging_face::{timm, vit};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Store};

use super::{distance, learn_map, uniform};

/// f32 through two blocks; the weights are multiplied out in another order.
const TOLERANCE: f64 = 1e-5;

/// One channel, as the digits have.
/// How images are prepared.
fn prepared() -> serde_json::Map<String, serde_json::Value> {
    let entries = [("mean", serde_json::json!([0.3])), ("std", serde_json::json!([0.4]))];
    entries.map(|(key, value)| (key.to_string(), value)).into_iter().collect()
}

fn config(conditioning: ConditioningConfig) -> VitConfig {
    VitConfig { width: 16, depth: 2, conditioning, ..VitConfig::preset("vit-8").unwrap() }
}

#[test]
fn a_plain_vit_computes_what_the_conditioned_one_did() {
    let images = uniform(&[3, 1, 8, 8], 1).unwrap().to_dtype(DType::F32).unwrap();
    let pooled = |placement| ConditioningConfig {
        method: Method::pooled(0.5).unwrap(),
        placement,
        ..Default::default()
    };
    for conditioning in [
        pooled(Placement::AfterPosition),
        pooled(Placement::BeforePosition),
        Method::pooled_norm_matched(0.5).unwrap().into(),
        Method::LearnedMap.into(),
        ConditioningConfig { weights: WeightMethod::Weight, ..Default::default() },
        ConditioningConfig::default(),
    ] {
        let config = config(conditioning);
        let store = Store::new(3, DType::F32, &Device::Cpu);
        let model = Vit::new(&config, store.builder()).unwrap();
        // A step of training, so that there are statistics.
        model.forward(&images, Mode::train(0, 0).into()).unwrap();
        learn_map(&store);
        let wanted = model.forward(&images, Mode::Eval.into()).unwrap();

        let folder = tempfile::tempdir().unwrap();
        timm::export(folder.path(), &config, &prepared(), &store).unwrap();
        let plain = VitConfig { conditioning: ConditioningConfig::default(), ..config.clone() };
        assert_eq!(vit::read_config(folder.path()).unwrap(), plain);
        let read = Store::new(4, DType::F32, &Device::Cpu);
        vit::read_weights(folder.path(), &plain, &read).unwrap();
        let model = Vit::new(&plain, read.builder()).unwrap();
        let found = model.forward(&images, Mode::Eval.into()).unwrap();
        let worst = distance(&found, &wanted).unwrap();
        assert!(worst <= TOLERANCE, "{conditioning:?}: {worst}");

        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["model_args"]["embed_dim"], 16);
        assert_eq!(json["pretrained_cfg"]["mean"][0].as_f64().unwrap() as f32, 0.3);
    }
}

#[test]
fn what_cannot_be_folded_is_refused_with_its_reason() {
    let preconditioned =
        ConditioningConfig { attention: AttentionMethod::Preconditioned, ..Default::default() };
    for (conditioning, reason) in [
        (Method::per_sequence(0.3).unwrap().into(), "depends on other tokens"),
        (preconditioned, "preconditioned attention"),
        (ConditioningConfig::default(), "have eps 1e-12, and those of timm's ViT 1e-6"),
    ] {
        let mut config = config(conditioning);
        if conditioning.is_plain() {
            config.eps = 1e-12;
        }
        let store = Store::new(3, DType::F32, &Device::Cpu);
        Vit::new(&config, store.builder()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let error = timm::export(folder.path(), &config, &prepared(), &store).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
    }
}
