//! Schedule, group rule and configuration.

use candle_core::{DType, Device, Var};
use conditioned_train::{FitConfig, Group, GroupRule, Length, Schedule, Shape};

use crate::support::{assert_close, config};

/// A handful of roundings.
const ROUNDING: f64 = 1e-15;

#[test]
fn the_schedule_has_the_values_of_its_formula() {
    let schedule = Schedule { peak: 0.8, shape: Shape::Cosine { warmup: 0.3, floor: 0.25 } };
    let rates: Vec<f64> = (0..10).map(|step| schedule.rate(step, 10)).collect();
    // Three steps of warm-up, then cos(k pi/7).
    let cosine = |k: f64| 0.2 + 0.6 * 0.5 * (1.0 + (k * std::f64::consts::PI / 7.0).cos());
    let wanted = [0.2, 0.4, 0.6, 0.8, cosine(1.0), cosine(2.0), cosine(3.0)];
    assert_close("rates", &rates[..7], &wanted, ROUNDING, 0.0);
    assert!(rates[3..].windows(2).all(|pair| pair[1] < pair[0]));
    assert_close("floor", &[schedule.rate(10, 10)], &[0.2], ROUNDING, 0.0);

    let constant = Schedule { peak: 0.8, shape: Shape::Cosine { warmup: 0.0, floor: 1.0 } };
    assert!((0..10).all(|step| constant.rate(step, 10) == 0.8));
    let warm = Schedule { peak: 1.0, shape: Shape::Cosine { warmup: 1.0, floor: 0.0 } };
    assert!((0..10).all(|step| warm.rate(step, 10) == (step + 1) as f64 / 11.0));
}

#[test]
fn the_triangle_rises_from_its_base_and_falls_to_zero() {
    let schedule = Schedule { peak: 8.0, shape: Shape::Triangle { base: 0.25, falloff: 0.25 } };
    let rates: Vec<f64> = [0, 30, 60, 75, 90, 100].map(|done| schedule.rate(done, 100)).to_vec();
    assert_close("rates", &rates, &[2.0, 4.4, 6.8, 8.0, 3.2, 0.0], 8.0 * ROUNDING, 0.0);
}

#[test]
fn the_rule_sorts_parameters_into_matrices_vectors_and_tables() {
    let named = |(name, shape): (&str, &[usize])| {
        (name.to_string(), Var::zeros(shape, DType::F32, &Device::Cpu).unwrap())
    };
    let parameters: Vec<(String, Var)> = [
        ("blocks.0.attn.qkv.weight", &[6usize, 2][..]),
        ("blocks.0.attn.rel.bias", &[6, 1]),
        ("blocks.0.norm1.weight", &[2]),
        ("cls_token", &[1, 1, 2]),
        ("patch_embed.proj.weight", &[2, 3, 4, 4]),
        ("pos_embed", &[1, 5, 2]),
        ("transformer.wte.weight", &[9, 2]),
        ("embeddings.word_embeddings.weight", &[9, 2]),
        ("embeddings.LayerNorm.weight", &[2]),
        ("head.scale", &[]),
    ]
    .map(named)
    .to_vec();
    let tables = ["*pos_embed", "cls_*", "*wte.weight", "*_embeddings.weight", "no.such.table"];
    let rule = GroupRule { table_rate: 5.0, ..GroupRule::new(0.1, tables) };
    let group = |names: &[&str], weight_decay, rate| Group {
        names: names.iter().map(|name| (*name).to_string()).collect(),
        weight_decay,
        rate,
    };
    let matrices = ["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"];
    let vectors = [
        "blocks.0.attn.rel.bias",
        "blocks.0.norm1.weight",
        "embeddings.LayerNorm.weight",
        "head.scale",
    ];
    let tables =
        ["cls_token", "pos_embed", "transformer.wte.weight", "embeddings.word_embeddings.weight"];
    let wanted = [group(&matrices, 0.1, 1.0), group(&vectors, 0.0, 1.0), group(&tables, 0.0, 5.0)];
    assert_eq!(rule.groups(&parameters).unwrap(), wanted);

    // A multiple by name splits the groups: the first pattern that fits decides.
    let rates = [("*attn.*", 0.0), ("blocks.*", 0.5), ("*.wte.weight", 0.5)];
    let rates = rates.map(|(pattern, rate)| (pattern.to_string(), rate)).to_vec();
    let rule = GroupRule { rates, ..rule };
    let wanted = [
        group(&["blocks.0.attn.qkv.weight"], 0.1, 0.0),
        group(&["patch_embed.proj.weight"], 0.1, 1.0),
        group(&["blocks.0.attn.rel.bias"], 0.0, 0.0),
        group(&["blocks.0.norm1.weight"], 0.0, 0.5),
        group(&["embeddings.LayerNorm.weight", "head.scale"], 0.0, 1.0),
        group(&["cls_token", "pos_embed", "embeddings.word_embeddings.weight"], 0.0, 5.0),
        group(&["transformer.wte.weight"], 0.0, 2.5),
    ];
    assert_eq!(rule.groups(&parameters).unwrap(), wanted);
    let rule = GroupRule { rates: vec![("encoder.*".to_string(), 0.5)], ..rule };
    let error = rule.groups(&parameters).unwrap_err().to_string();
    assert!(error.contains("`encoder.*` decides for no parameter"), "{error}");
}

#[test]
fn the_configuration_is_closed_and_comes_back_from_json() {
    let json = serde_json::to_value(config()).unwrap();
    assert_eq!(serde_json::from_value::<FitConfig>(json.clone()).unwrap(), config());
    assert_eq!(json["length"], serde_json::json!({"epochs": 3}));
    let by_micro_batches = FitConfig { length: Length::MicroBatches(800), ..config() };
    let mut other = json.clone();
    other["length"] = serde_json::json!({"micro-batches": 800});
    assert_eq!(serde_json::from_value::<FitConfig>(other).unwrap(), by_micro_batches);

    let mut unknown = json;
    unknown["schedule"]["warm_up"] = serde_json::json!(0.1);
    let error = serde_json::from_value::<FitConfig>(unknown).unwrap_err().to_string();
    assert!(error.contains("unknown field `warm_up`"), "{error}");
}

type Change = fn(&mut FitConfig);

#[test]
fn settings_that_make_no_sense_are_named() {
    let error = |change: Change| {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    let cases: [(Change, &str); 14] = [
        (|c| c.length = Length::Epochs(0), "`length.epochs` must be at least 1"),
        (|c| c.length = Length::MicroBatches(0), "`length.micro-batches` must be at least 1"),
        (|c| c.evaluate_every = 0, "`evaluate_every` must be at least 1"),
        (|c| c.checkpoint_every = 0, "`checkpoint_every` must be at least 1"),
        (|c| c.clip = Some(0.0), "`clip` must be positive and finite, is 0"),
        (|c| c.ema = Some(1.5), "`ema` must lie in [0, 1), is 1.5"),
        (|c| c.schedule.peak = f64::NAN, "`schedule.peak` must be positive and finite, is NaN"),
        (
            |c| c.schedule.shape = Shape::Cosine { warmup: 0.0, floor: -1.0 },
            "`schedule.floor` must lie in [0, 1], is -1",
        ),
        (
            |c| c.schedule.shape = Shape::Triangle { base: 0.25, falloff: 0.0 },
            "`schedule.falloff` must lie in (0, 1), is 0",
        ),
        (|c| c.ramp = 1.5, "`ramp` must lie in [0, 1], is 1.5"),
        (|c| c.adamw.beta2 = 1.0, "`adamw.beta2` must lie in [0, 1), is 1"),
        (|c| c.adamw.eps = 0.0, "`adamw.eps` must be above 0 and finite in f32, is 0e0"),
        (|c| c.adamw.eps = 1e-50, "`adamw.eps` must be above 0 and finite in f32, is 1e-50"),
        (|c| c.groups.table_rate = -1.0, "`groups.table_rate` must be finite and not negative"),
    ];
    for (change, text) in cases {
        assert!(error(change).contains(text), "{}", error(change));
    }
}
