//! Causal attention piece by piece against the whole sequence.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::{Attention, Cache, LayerNorm, Linear, Mode, Sequence, Store};

use crate::{distance, uniform};

/// The same sums in other blocks; f16 runs the operations of a GPU.
const TOLERANCE: [(DType, f64); 3] = [(DType::F64, 1e-14), (DType::F32, 1e-6), (DType::F16, 5e-3)];

fn branch(dtype: DType, causal: bool) -> Result<Sequence> {
    let store = Store::new(0, dtype, &Device::Cpu);
    let vb = store.builder();
    Ok(Sequence::residual([
        LayerNorm::new(vb.pp("norm"), 12, 1e-5)?.into(),
        Linear::conv1d(vb.pp("qkv"), 12, 36, 0.4)?.into(),
        Attention { heads: 3, causal }.into(),
        Linear::conv1d(vb.pp("proj"), 12, 12, 0.4)?.into(),
    ]))
}

#[test]
fn pieces_equal_the_whole() -> Result<()> {
    // Longer than one block of queries.
    let x = uniform(&[2, 190, 12], 1)?;
    for (dtype, tolerance) in TOLERANCE {
        let (x, branch) = (x.to_dtype(dtype)?, branch(dtype, true)?);
        let whole = branch.forward(&x, Mode::Eval)?;
        for pieces in [vec![190], vec![100, 1, 1, 85, 3], vec![1, 189]] {
            let mut cache = Cache::new(200);
            let mut ys = Vec::new();
            for count in pieces {
                ys.push(branch.forward_cached(&x.narrow(1, cache.len(), count)?, &mut cache)?);
            }
            assert_eq!(cache.len(), 190);
            let d = distance(&Tensor::cat(&ys, 1)?, &whole)?;
            assert!(d < tolerance, "{dtype:?}: {d:e}");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named_and_leaves_the_cache_alone() -> Result<()> {
    let branch_of = |causal| branch(DType::F64, causal);
    let x = uniform(&[1, 4, 12], 1)?;
    let error = branch_of(false)?.forward_cached(&x, &mut Cache::new(4)).unwrap_err().to_string();
    assert!(error.contains("not causal"), "{error}");
    let (branch, mut cache) = (branch_of(true)?, Cache::new(5));
    assert!(cache.is_empty());
    branch.forward_cached(&x, &mut cache)?;
    let error = branch.forward_cached(&x, &mut cache).unwrap_err().to_string();
    assert!(error.contains("8 tokens are more than its capacity of 5"), "{error}");
    assert!(branch.forward_cached(&uniform(&[2, 1, 12], 1)?, &mut cache).is_err());
    assert_eq!(branch.forward_cached(&x.narrow(1, 0, 0)?, &mut cache)?.dims(), [1, 0, 12]);
    assert_eq!(cache.len(), 4);
    branch.forward_cached(&x.narrow(1, 0, 1)?, &mut cache)?;
    let two = Sequence::chain([branch.clone(), branch]);
    let error = two.forward_cached(&x, &mut Cache::new(5)).unwrap_err().to_string();
    assert!(error.contains("2 attentions and one cache"), "{error}");
    Ok(())
}
