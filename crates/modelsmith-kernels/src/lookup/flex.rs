//! Reading rows, and adding to them.

use super::Lookup;
use crate::rows;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, IntDType, Shape};

impl Lookup for Flex {
    fn fused_lookup(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(table, 0, ids)
    }
}

/// The gradient of a table of this shape whose rows `ids` were read: `grad` `[ids, width]`.
pub(super) fn backward(grad: &FlexTensor, ids: IntTensor<Flex>, shape: &Shape) -> FlexTensor {
    let width = shape[1];
    let mut sum = vec![0.0; shape.num_elements()];
    let ids = Flex::int_cast(ids, IntDType::I64).to_contiguous();
    let grad = rows::contiguous(grad);
    if width > 0 {
        let rows = rows::values(&grad).chunks_exact(width);
        for (id, row) in ids.as_slice::<i64>().unwrap_or(&[]).iter().zip(rows) {
            // The forward pass has read the row, so that the id is one of the table.
            let place = &mut sum[*id as usize * width..][..width];
            place.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    rows::tensor(sum, shape.clone())
}
