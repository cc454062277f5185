//! Anchors, box coding, suppression and losses against torchvision's, one by one.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::boxes::{ANCHOR_STDS, Corners, HEAD_STDS, decode, encode};
use super::{anchors, losses, nms};

/// Roundings of f64 on numbers up to some thousand.
const ROUNDING: f64 = 1e-9;

fn fixture() -> Result<HashMap<String, Tensor>> {
    let bytes = include_bytes!("operators.safetensors");
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
}

fn rows(tensor: &Tensor) -> Result<Vec<Corners>> {
    let rows = tensor.to_vec2::<f64>()?;
    Ok(rows.iter().map(|row| std::array::from_fn(|i| row[i])).collect())
}

#[track_caller]
fn assert_close(ours: &[Corners], theirs: &[Corners]) {
    assert_eq!(ours.len(), theirs.len());
    for (row, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let close = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= ROUNDING * (1.0 + b.abs()));
        assert!(close, "row {row}: {a:?}, torchvision has {b:?}");
    }
}

#[test]
fn anchors_are_torchvisions_but_for_its_rounding() -> Result<()> {
    let mut ours = Vec::new();
    for (places, stride) in [([2, 4], 8), ([1, 2], 16)] {
        let level = anchors::level(places, stride, 8.0);
        // What is rounded is the anchor at the first place, of whole pixels from the others.
        ours.extend(level.iter().map(|corners| corners.map(f64::round_ties_even)));
    }
    assert_close(&ours, &rows(&fixture()?["anchors"])?);
    Ok(())
}

#[test]
fn coding_is_torchvisions() -> Result<()> {
    let tensors = fixture()?;
    let (from, to) = (rows(&tensors["from"])?, rows(&tensors["to"])?);
    for (name, stds) in [("anchor", ANCHOR_STDS), ("head", HEAD_STDS)] {
        let encoded: Vec<_> = from.iter().zip(&to).map(|(f, t)| encode(*f, *t, stds)).collect();
        assert_close(&encoded, &rows(&tensors[&format!("{name}.encoded")])?);
        let offsets = rows(&tensors[&format!("{name}.offsets")])?;
        let decoded: Vec<_> = from.iter().zip(offsets).map(|(f, o)| decode(*f, o, stds)).collect();
        assert_close(&decoded, &rows(&tensors[&format!("{name}.decoded")])?);
    }
    Ok(())
}

#[test]
fn suppression_is_torchvisions() -> Result<()> {
    let tensors = fixture()?;
    let scores = tensors["scores"].to_vec1::<f64>()?;
    let groups = tensors["groups"].to_vec1::<i64>()?;
    let candidates: Vec<_> = (rows(&tensors["crowd"])?.into_iter().zip(scores).zip(groups))
        .map(|((corners, score), group)| nms::Candidate { corners, score, group: group as usize })
        .collect();
    for threshold in [0.3, 0.5, 0.7] {
        let theirs = tensors[&format!("kept.{threshold}")].to_vec1::<i64>()?;
        let theirs: Vec<_> = theirs.into_iter().map(|place| place as usize).collect();
        assert_eq!(nms::keep(&candidates, threshold, candidates.len()), theirs, "{threshold}");
        assert_eq!(nms::keep(&candidates, threshold, 5), theirs[..5], "the five best");
    }
    Ok(())
}

#[test]
fn losses_and_their_gradients_are_torchvisions() -> Result<()> {
    let tensors = fixture()?;
    let check = |name: &str, x: &str, t: &str, loss: &dyn Fn(&Tensor, &[f64]) -> Result<Tensor>| {
        let x = Var::from_tensor(&tensors[x])?;
        let t = tensors[t].to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let loss = loss(&x, &t)?;
        let grad =
            loss.backward()?.remove(&x).ok_or_else(|| candle_core::Error::msg("no gradient"))?;
        for (ours, theirs) in
            [(loss.reshape(1)?, &tensors[name]), (grad, &tensors[&format!("{name}.gradient")])]
        {
            let apart = (ours - theirs)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            assert!(apart <= ROUNDING, "{name}: {apart} apart");
        }
        Result::Ok(())
    };
    check("objectness", "logits", "truth", &|x, t| losses::binary_cross_entropy(x, t, 50.0))?;
    check("distance", "found", "wanted", &|x, t| losses::l1(x, t, 1.0, 20.0))
}
