//! Both ends of a language model: rows of a table by index, and cross-entropy without logits.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::loss::IGNORED;
use conditioned_nn::{Precision, embedding, linear_cross_entropy, reference};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{F64_TOLERANCE, agree, distance, uniform, variable};

/// Numbers below `vocabulary`.
fn ids(n: usize, vocabulary: u32, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(0..vocabulary)).collect()
}

/// Labels of which about a third, but not the first, are ignored.
fn labels(n: usize, vocabulary: u32, seed: u64) -> Vec<u32> {
    let mut labels = ids(n, vocabulary, seed);
    for (i, label) in ids(n, 3, seed + 1).into_iter().zip(&mut labels).skip(1) {
        *label = if i == 0 { IGNORED } else { *label };
    }
    labels
}

/// The fused loss and its definition agree, scaled by a factor from above.
fn check(x: &Var, weight: &Var, labels: &[u32]) -> Result<()> {
    let shape = &x.dims()[..x.rank() - 1];
    let tensor = Tensor::from_slice(labels, shape, &Device::Cpu)?;
    let rows = (labels.len(), weight.dims()[1]);
    agree(
        &[x.clone(), weight.clone()],
        |v| linear_cross_entropy(&v[0], &v[1], &tensor, Precision::Full)? * -2.5,
        |v| reference::linear_cross_entropy(&v[0].reshape(rows)?, &v[1], labels)? * -2.5,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn linear_cross_entropy_equals_its_definition(
        b in 1usize..4, n in 1usize..20, v in 1usize..70, c in 1usize..20, seed in 0u64..1000,
    ) {
        let (x, weight) = (variable(&[b, n, c], 1).unwrap(), variable(&[v, c], 2).unwrap());
        check(&x, &weight, &labels(b * n, v as u32, seed)).unwrap();
    }

    #[test]
    fn embedding_equals_its_definition(
        b in 1usize..4, n in 1usize..20, v in 1usize..30, c in 1usize..20, seed: u64,
    ) {
        let table = variable(&[v, c], 1).unwrap();
        let ids = Tensor::from_vec(ids(b * n, v as u32, seed), (b, n), &Device::Cpu).unwrap();
        agree(
            &[table],
            |v| embedding(&ids, &v[0]),
            |v| reference::embedding(&ids, &v[0]),
        ).unwrap();
    }
}

#[test]
fn several_blocks_of_rows_equal_the_definition() -> Result<()> {
    // 100 rows of 50,000 logits are more than exist at a time.
    let (x, weight) = (variable(&[100, 4], 1)?, variable(&[50_000, 4], 2)?);
    check(&x, &weight, &labels(100, 50_000, 3))
}

#[test]
fn strided_inputs_of_the_loss_are_read_as_they_are_seen() -> Result<()> {
    let (x, weight) = (variable(&[6, 5], 1)?, variable(&[6, 9], 2)?);
    let labels = Tensor::new(&[3u32, 0, IGNORED, 8, 8], &Device::Cpu)?;
    agree(
        &[x, weight],
        |v| linear_cross_entropy(&v[0].t()?, &v[1].t()?, &labels, Precision::Full),
        |v| {
            let (x, weight) = (v[0].t()?.contiguous()?, v[1].t()?.contiguous()?);
            reference::linear_cross_entropy(&x, &weight, &labels.to_vec1()?)
        },
    )
}

#[test]
fn a_frozen_side_gets_no_gradient_and_the_other_keeps_its_own() -> Result<()> {
    let (x, weight) = (variable(&[5, 3], 1)?, variable(&[7, 3], 2)?);
    let labels = Tensor::new(&[0u32, 6, 2, IGNORED, 2], &Device::Cpu)?;
    let both = linear_cross_entropy(&x, &weight, &labels, Precision::Full)?.backward()?;
    for (x, weight, kept) in [
        (x.as_tensor().clone(), weight.detach(), &x),
        (x.detach(), weight.as_tensor().clone(), &weight),
    ] {
        let grads = linear_cross_entropy(&x, &weight, &labels, Precision::Full)?.backward()?;
        let got = grads.get(kept).expect("a gradient");
        assert!(distance(got, both.get(kept).expect("a gradient"))? < F64_TOLERANCE);
        assert_eq!(grads.get_ids().count(), 1, "what is frozen has none");
    }
    Ok(())
}

#[test]
fn an_ignored_row_has_no_influence() -> Result<()> {
    let (x, weight) = (variable(&[3, 4], 1)?, variable(&[5, 4], 2)?);
    let labels = Tensor::new(&[1u32, IGNORED, 4], &Device::Cpu)?;
    let loss = linear_cross_entropy(&x, &weight, &labels, Precision::Full)?;
    let rows: Vec<Vec<f64>> = loss.backward()?.get(&x).expect("a gradient").to_vec2()?;
    assert!(rows[1].iter().all(|v| *v == 0.0) && rows[0].iter().any(|v| *v != 0.0));
    Ok(())
}

#[test]
fn what_the_loss_cannot_take_is_named() -> Result<()> {
    let (x, weight) = (uniform(&[2, 4], 1)?, uniform(&[5, 4], 2)?);
    let message = |labels: &[u32]| -> Result<String> {
        let labels = Tensor::from_slice(labels, labels.len(), &Device::Cpu)?;
        Ok(linear_cross_entropy(&x, &weight, &labels, Precision::Full).unwrap_err().to_string())
    };
    assert!(message(&[0, 5])?.contains("label 5 with 5 classes"));
    assert!(message(&[IGNORED, IGNORED])?.contains("none of 2 rows has a label"));
    assert!(message(&[0, 1, 2])?.contains("3 labels do not fit"));
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let wide = uniform(&[5, 3], 2)?;
    let message =
        linear_cross_entropy(&x, &wide, &labels, Precision::Full).unwrap_err().to_string();
    assert!(message.contains("[2, 4]") && message.contains("[5, 3]"), "{message}");
    Ok(())
}

#[test]
fn a_repeated_id_collects_the_gradients_of_its_places() -> Result<()> {
    let table = variable(&[4, 2], 1)?;
    let ids = Tensor::new(&[[3u32, 1, 3], [3, 1, 3]], &Device::Cpu)?;
    let y = embedding(&ids, &table)?;
    assert_eq!(y.dims(), [2, 3, 2]);
    let grads = y.sum_all()?.backward()?;
    let got: Vec<Vec<f64>> = grads.get(&table).expect("a gradient").to_vec2()?;
    assert_eq!(got, [[0.0; 2], [2.0; 2], [0.0; 2], [4.0; 2]]);
    Ok(())
}

#[test]
fn many_repeated_ids_over_several_pieces() -> Result<()> {
    // A wide table, so that the rows of the gradient are more than one piece of work.
    let table = variable(&[40, 1000], 1)?;
    let ids = Tensor::from_vec(ids(200, 40, 2), 200, &Device::Cpu)?;
    agree(&[table], |v| embedding(&ids, &v[0]), |v| reference::embedding(&ids, &v[0]))
}

#[test]
fn an_id_beyond_the_table_is_named() -> Result<()> {
    let ids = Tensor::new(&[0u32, 4], &Device::Cpu)?;
    for dtype in [DType::F32, DType::BF16] {
        let table = uniform(&[4, 2], 1)?.to_dtype(dtype)?;
        let message = embedding(&ids, &table).unwrap_err().to_string();
        assert!(message.contains("id 4 with a table of 4 rows"), "{message}");
    }
    Ok(())
}
