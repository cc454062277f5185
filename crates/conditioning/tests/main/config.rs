//! Configurations are closed: what they do not know or allow is an error.

use candle_conditioning::{
    Conditioner, Error, Gradient, POOLED_FLOOR, Pooled, PooledConfig, Source,
};
use candle_core::Device;

#[test]
fn a_conditioner_survives_json() {
    let conditioner = Conditioner::default().with_strength(0.3).unwrap();
    let conditioner = conditioner.with_gradient(Gradient::Full);
    let json = serde_json::to_string(&conditioner).unwrap();
    assert_eq!(json, r#"{"strength":0.3,"gradient":"full","polar":"automatic"}"#);
    assert_eq!(serde_json::from_str::<Conditioner>(&json).unwrap(), conditioner);
    assert_eq!(serde_json::from_str::<Conditioner>("{}").unwrap(), Conditioner::default());
}

#[test]
fn the_default_is_the_theorem() {
    let conditioner = Conditioner::default();
    assert_eq!((conditioner.strength(), conditioner.bound()), (1.0, 2.0));
    assert_eq!(conditioner.gradient(), Gradient::Detached);
}

#[test]
fn invalid_strengths_are_refused() {
    for t in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(Conditioner::default().with_strength(t), Err(Error::Strength(_))));
        let config = PooledConfig { strength: t, ..PooledConfig::default() };
        assert!(matches!(Pooled::new(config, 3, &Device::Cpu), Err(Error::Strength(_))));
    }
    let error = serde_json::from_str::<Conditioner>(r#"{"strength":-1}"#).unwrap_err();
    assert!(error.to_string().contains("strength t is -1"), "{error}");
}

#[test]
fn unknown_fields_are_refused() {
    assert!(serde_json::from_str::<Conditioner>(r#"{"strenght":1}"#).is_err());
    assert!(serde_json::from_str::<PooledConfig>(r#"{"moment":1}"#).is_err());
}

#[test]
fn pooled_settings() {
    let json = r#"{"strength":0.3,"source":"current"}"#;
    let config: PooledConfig = serde_json::from_str(json).unwrap();
    let defaults = (config.momentum, config.floor);
    assert_eq!(
        (config.strength, config.source, defaults),
        (0.3, Source::Current, (0.1, POOLED_FLOOR))
    );
    for value in [0.0, -0.1, 1.1, f64::NAN] {
        let (momentum, floor) =
            (PooledConfig { momentum: value, ..config }, PooledConfig { floor: value, ..config });
        let is_refused = |config, name| matches!(Pooled::new(config, 3, &Device::Cpu), Err(Error::Fraction { setting, .. }) if setting == name);
        assert!(is_refused(momentum, "momentum") && is_refused(floor, "floor"));
    }
}
