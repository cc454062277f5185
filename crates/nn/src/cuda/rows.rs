//! Rows of a table by ids, and the gradient of the table: for each row the sum over the places that name it.

use candle_core::{Device, Result, Shape, Tensor};

use super::Launch;
use super::op::Op;
use crate::upload;

/// Terms that a warp adds in order; of a row with more, several warps add parts.
const TERMS: u32 = 512;

/// The rows `ids` of an f32 table (V, C), one or more: (ids, C).
///
/// # Errors
/// When the device fails; ids must be below V.
pub(crate) fn rows(table: &Tensor, ids: Vec<u32>) -> Result<Tensor> {
    let ((count, width), n, device) = (table.dims2()?, ids.len(), table.device());
    // Copied now: a copy amid backward would wait for the device.
    let sums = sums(&ids, count)
        .into_iter()
        .map(|(places, starts)| Ok((on_device(places, device)?, on_device(starts, device)?)))
        .collect::<Result<Vec<_>>>()?;
    let table = table.contiguous()?;
    let launch = Launch {
        rows: n,
        blocks: n.div_ceil(Launch::ROWS),
        shape: Shape::from((n, width)),
        ..Launch::of_rows("rows_by_id".to_string(), &table)
    };
    let backward = move |_: [&Tensor; 2], _: &Tensor, g: &Tensor| {
        let sum = |g, (places, starts): &(Tensor, Tensor)| sums_by_id(&g, places, starts);
        Ok([Some(sums.iter().try_fold(g.contiguous()?, sum)?), None])
    };
    table.apply_op2(&on_device(ids, device)?, Op { launch, backward })
}

/// Row i of the result is the sum of the rows places[j] of g, j from starts[i] to starts[i + 1].
fn sums_by_id(g: &Tensor, places: &Tensor, starts: &Tensor) -> Result<Tensor> {
    let (count, width) = (starts.dim(0)? - 1, g.dim(1)?);
    let launch = Launch {
        rows: count,
        blocks: (count * width.div_ceil(32)).div_ceil(Launch::ROWS),
        shape: Shape::from((count, width)),
        ..Launch::of_rows("sums_by_id".to_string(), g)
    };
    launch.run(&[g, places, starts])
}

/// (places, starts) of the sums by id, one after the other, that give the gradient of a table of `count` rows: one, or
/// where an id is frequent, one of parts and one of these.
fn sums(ids: &[u32], count: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    // The places of each row, side by side.
    let mut places: Vec<u32> = (0..ids.len() as u32).collect();
    places.sort_by_key(|&place| ids[place as usize]);
    let mut starts = vec![0; count + 1];
    ids.iter().for_each(|&id| starts[id as usize + 1] += 1);
    (0..count).for_each(|row| starts[row + 1] += starts[row]);
    if starts.windows(2).all(|row| row[1] - row[0] <= TERMS) {
        return vec![(places, starts)];
    }
    let (mut parts, mut of_rows) = (Vec::new(), vec![0]);
    for row in starts.windows(2) {
        parts.extend((row[0]..row[1]).step_by(TERMS as usize));
        of_rows.push(parts.len() as u32);
    }
    let all = (0..parts.len() as u32).collect();
    parts.push(ids.len() as u32);
    vec![(places, parts), (all, of_rows)]
}

fn on_device(values: Vec<u32>, device: &Device) -> Result<Tensor> {
    let len = values.len();
    upload(&Tensor::from_vec(values, len, &Device::Cpu)?, device)
}
