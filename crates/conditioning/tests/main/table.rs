//! The conditioned embedding table and the causal control from the pooled Gram.

use candle_conditioning::{
    ConditionedTable, Error, Pooled, PooledConfig, condition_number, effective_condition_number,
};
use candle_core::{DType, Device, Tensor, Var};

use crate::support::*;

fn kappa(x: &Tensor) -> f64 {
    values(&condition_number(x).unwrap())[0]
}

#[test]
fn a_conditioned_table_has_the_shifted_spectrum() {
    let W = with_kappa(1, 40, 8, 200.0);
    for t in [0.3, 1.0] {
        let table = ConditionedTable::new(tensor(W.as_ref()), t).unwrap();
        let wanted: Vec<f64> = singular_values(&W).iter().map(|s| s + t).collect();
        let found = singular_values(&matrix(&table.table().unwrap()));
        // The Gram matrix squares kappa.
        assert_close(&found, &wanted, 1e-10, 1.0);
    }
}

#[test]
fn looked_up_rows_are_those_of_the_table() {
    let table = ConditionedTable::new(normal(2, &[9, 4]), 1.0).unwrap();
    let ids = Tensor::new(&[[3u32, 0, 8], [3, 5, 5]], &Device::Cpu).unwrap();
    let rows = table.forward(&ids).unwrap();
    assert_eq!(rows.dims(), [2, 3, 4]);
    let wanted = table.table().unwrap().index_select(&ids.flatten_all().unwrap(), 0).unwrap();
    assert_close(&values(&rows), &values(&wanted), EXACT, 10.0);
    assert_eq!(bits(&ids.apply(&table).unwrap()), bits(&rows));
    let beyond = Tensor::new(&[9u32], &Device::Cpu).unwrap();
    assert!(table.forward(&beyond).is_err());
    let elsewhere = table.weight().narrow(0, 3, 1).unwrap();
    let wanted = table.table().unwrap().narrow(0, 3, 1).unwrap();
    assert_close(&values(&table.condition(&elsewhere).unwrap()), &values(&wanted), EXACT, 10.0);
    let narrow = table.condition(&normal(5, &[2, 3])).unwrap_err();
    assert!(matches!(narrow, Error::Shape { .. }), "{narrow}");
}

#[test]
fn the_gradient_passes_through_a_constant_matrix() {
    let (W, ids) = (normal(3, &[6, 3]), Tensor::new(&[1u32, 4, 1, 0], &Device::Cpu).unwrap());
    let weights = normal(4, &[4, 3]);
    let var = Var::from_tensor(&W).unwrap();
    let table = ConditionedTable::new(var.as_tensor().clone(), 0.5).unwrap();
    let loss = (table.forward(&ids).unwrap() * &weights).unwrap().sum_all().unwrap();
    let found = values(loss.backward().unwrap().get(&var).unwrap());
    // M does not move with W until a refresh, so differences need none.
    let base = values(&W);
    let wanted: Vec<f64> = (0..18)
        .map(|at| {
            let loss = |step: f64| -> f64 {
                let mut moved = base.clone();
                moved[at] += step;
                var.set(&Tensor::from_vec(moved, (6, 3), &Device::Cpu).unwrap()).unwrap();
                let y = table.forward(&ids).unwrap();
                (y * &weights).unwrap().sum_all().unwrap().to_scalar().unwrap()
            };
            (loss(STEP) - loss(-STEP)) / (2.0 * STEP)
        })
        .collect();
    assert_close(&found, &wanted, DIFFERENCES, 10.0);
}

#[test]
fn the_matrix_follows_the_table_when_asked() {
    let var = Var::from_tensor(&tensor(with_kappa(5, 20, 5, 50.0).as_ref())).unwrap();
    let table = ConditionedTable::new(var.as_tensor().clone(), 1.0).unwrap();
    var.set(&tensor(with_kappa(6, 20, 5, 100.0).as_ref())).unwrap();
    assert!(kappa(&table.table().unwrap()) > 2.0 + 1e-6);
    table.refresh().unwrap();
    assert!(kappa(&table.table().unwrap()) <= 2.0 + 1e-6);
    assert_eq!(bits(table.weight()), bits(&var));
    var.set(&Tensor::full(f64::NAN, (20, 5), &Device::Cpu).unwrap()).unwrap();
    assert!(matches!(table.refresh(), Err(Error::NonFinite { .. })));
}

#[test]
fn small_zero_and_invalid_tables() {
    // Fewer rows than channels: what W does not span has no singular value to lift.
    let wide = ConditionedTable::new(normal(7, &[3, 6]), 1.0).unwrap().table().unwrap();
    assert!(values(&effective_condition_number(&wide).unwrap())[0] <= 2.0 + 1e-6);
    let zero = Tensor::zeros((4, 2), DType::F32, &Device::Cpu).unwrap();
    let table = ConditionedTable::new(zero.clone(), 1.0).unwrap();
    assert_eq!(bits(&table.table().unwrap()), bits(&zero));
    let off = ConditionedTable::new(normal(8, &[4, 2]), 0.0).unwrap();
    assert_eq!(bits(&off.table().unwrap()), bits(off.weight()));
    assert!(matches!(ConditionedTable::new(zero.clone(), -1.0), Err(Error::Strength(_))));
    let flat = ConditionedTable::new(zero.flatten_all().unwrap(), 1.0);
    assert!(matches!(flat, Err(Error::Shape { .. })));
}

#[test]
fn the_pooled_control_has_the_norm_of_pooled_tokens() {
    let layer =
        Pooled::new(PooledConfig { strength: 0.7, ..PooledConfig::default() }, 5, &Device::Cpu)
            .unwrap();
    assert_eq!(layer.norm_matched_scale().unwrap(), 1.0);
    let x = normal(9, &[3, 8, 5]);
    layer.observe(&x).unwrap();
    let norm = |x: &Tensor| values(x).iter().map(|v| v * v).sum::<f64>().sqrt();
    let wanted = norm(&layer.forward(&x).unwrap()) / norm(&x);
    assert_close(&[layer.norm_matched_scale().unwrap()], &[wanted], EXACT, wanted);
    let empty = Pooled::new(PooledConfig::default(), 2, &Device::Cpu).unwrap();
    empty.observe(&Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(empty.norm_matched_scale().unwrap(), 1.0);
}
