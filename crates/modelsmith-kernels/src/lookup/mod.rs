//! Rows of a trained table.
//!
//! ```text
//! y_i = table[id_i];   dtable[r] = sum of g_i over id_i = r
//! ```
//! The gradient of a vocabulary's table is mostly zeros, which memory fresh from the system holds
//! already: nothing but the rows that were read is touched.

mod backward;
mod flex;
#[cfg(test)]
mod tests;

use crate::switch::applies_to_weight;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};
use modelsmith_core::layers;

/// The backend's side of the operation.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Lookup: Backend {
    /// The rows `[ids, width]` of a table `[rows, width]`.
    fn fused_lookup(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

/// Rows of `table` `[rows, width]` at `ids` `[batch, time]`: `[batch, time, width]`, as
/// [`layers::lookup`] gives them, which is the reference.
///
/// Gradients flow to the table. The rows of a table in `bf16` come as `f32`. Any float dtype; `f32` on the CPU is fused and equal to the bit
/// where no id comes twice.
///
/// # Panics
/// When an id is no row of the table.
pub fn lookup(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let ([batch, time], [_, width]) = (ids.dims(), table.dims());
    let wide = if table.dtype() == DType::BF16 {
        DType::F32
    } else {
        table.dtype()
    };
    let table = table.into_dispatch();
    if !applies_to_weight(&table, &[]) {
        return layers::lookup(Tensor::from_dispatch(table), ids).cast(wide);
    }
    let ids = ids.without_autodiff().reshape([batch * time]);
    let rows: Tensor<2> = Tensor::from_dispatch(Dispatch::fused_lookup(table, ids.into_dispatch()));
    rows.cast(wide).reshape([batch, time, width])
}
