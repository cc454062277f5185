//! The store: seeding per name, buffers, freezing, files.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::{Store, StoreError, init};

fn filled(seed: u64, names: &[&str]) -> Result<Store> {
    let store = Store::new(seed, DType::F32, &Device::Cpu);
    for name in names {
        store.builder().get_with_hints((4, 3), name, init::normal(0.02))?;
    }
    Ok(store)
}

fn values(store: &Store, name: &str) -> Vec<f32> {
    store.get(name).expect(name).flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn values_depend_on_seed_and_name_and_not_on_order() -> Result<()> {
    let (a, b) = (filled(1, &["x", "y"])?, filled(1, &["y", "z", "x"])?);
    assert_eq!(values(&a, "x"), values(&b, "x"));
    assert_ne!(values(&a, "x"), values(&a, "y"));
    assert_ne!(values(&a, "x"), values(&filled(2, &["x"])?, "x"));
    Ok(())
}

#[test]
fn a_normal_has_its_deviation_and_is_truncated() -> Result<()> {
    let store = Store::new(3, DType::F32, &Device::Cpu);
    let draw = |name: &str, std: f64| -> Result<Vec<f32>> {
        let t = store.builder().get_with_hints(20_000, name, init::normal(std))?;
        t.to_vec1()
    };
    let narrow = draw("narrow", 0.02)?;
    let variance = narrow.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 20_000.0;
    // Relative standard error of a deviation from 20,000 draws: 0.5 %.
    assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.03);
    let wide = draw("wide", 1.0)?;
    assert!(wide.iter().all(|v| v.abs() <= 2.0) && wide.iter().any(|v| v.abs() > 1.9));
    Ok(())
}

#[test]
fn a_shared_name_is_one_tensor_and_a_second_shape_an_error() -> Result<()> {
    let store = filled(1, &["x", "x"])?;
    assert_eq!(store.parameters().len(), 1);
    let error = store.builder().get((2, 2), "x").unwrap_err().to_string();
    assert!(error.contains("`x`") && error.contains("[4, 3]"), "{error}");
    Ok(())
}

#[test]
fn buffers_are_kept_apart_and_copied_when_frozen() -> Result<()> {
    let store = filled(1, &["a.weight", "a.running_gram"])?;
    assert_eq!(store.parameters()[0].0, "a.weight");
    assert_eq!(store.buffers()[0].0, "a.running_gram");
    assert_eq!(store.parameter_count(), 12);

    let frozen = store.frozen()?;
    let weight = frozen.get((4, 3), "a.weight")?;
    let gram = frozen.get((4, 3), "a.running_gram")?;
    let ones = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
    for (_, var) in store.tensors() {
        var.set(&ones)?;
    }
    assert_eq!(weight.to_vec2::<f32>()?, ones.to_vec2::<f32>()?, "parameters follow");
    assert_ne!(gram.to_vec2::<f32>()?, ones.to_vec2::<f32>()?, "buffers do not");
    assert!(weight.sum_all()?.backward()?.get(&weight).is_none(), "no graph");
    Ok(())
}

#[test]
fn save_and_load_restore_every_bit() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let store = filled(1, &["a", "b", "running_c"])?;
    store.save(&path, &BTreeMap::from([("format".into(), "pt".into())])).unwrap();
    let other = filled(2, &["a", "b", "running_c"])?;
    other.load(&path).unwrap();
    for name in ["a", "b", "running_c"] {
        assert_eq!(values(&store, name), values(&other, name));
    }
    Ok(())
}

#[test]
fn a_file_that_does_not_fit_changes_nothing_and_names_the_tensor() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    filled(1, &["a", "b"])?.save(&path, &BTreeMap::new()).unwrap();

    let other = filled(2, &["a", "c"])?;
    let before = values(&other, "a");
    let error = other.load(&path).unwrap_err();
    assert!(matches!(&error, StoreError::Names { missing, unexpected, .. }
        if missing == &["c"] && unexpected == &["b"]));
    assert!(error.to_string().contains("model.safetensors"));
    assert_eq!(before, values(&other, "a"));

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    let error = other.load(&path).unwrap_err().to_string();
    assert!(error.contains("not a complete safetensors file"), "{error}");
    let error = other.load(&folder.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    Ok(())
}
