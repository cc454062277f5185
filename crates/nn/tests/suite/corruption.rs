//! Damaged files of tensors.

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use conditioned_nn::store::load_tensors;
use conditioned_nn::{Store, init};

use crate::damage::{Cut, allocated, corrupt};
use crate::uniform;

#[test]
fn tensors_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tensors.safetensors");
    let tensors = [DType::F32, DType::F64, DType::BF16, DType::U8, DType::I64].map(|dtype| {
        (format!("of {dtype:?}"), uniform(&[2, 3], 0).unwrap().to_dtype(dtype).unwrap())
    });
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    conditioned_nn::store::save_tensors(&path, tensors, &metadata).unwrap();
    corrupt("safetensors (tensors)", [path.clone()], Cut::Known, allocated, move || {
        load_tensors(&path, &Device::Cpu).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let store = Store::new(0, DType::F32, &Device::Cpu);
    for name in ["a.weight", "b.weight", "b.running_gram"] {
        store.builder().get_with_hints((4, 3), name, init::normal(0.02)).unwrap();
    }
    store.save(&path, &BTreeMap::new()).unwrap();
    corrupt("safetensors (store)", [path.clone()], Cut::Known, allocated, move || {
        store.load(&path).map_err(|error| error.to_string())
    });
}
