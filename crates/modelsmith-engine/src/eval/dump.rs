//! The logits of the first rows as a file, for comparison with other programs.

use crate::model::Model;
use crate::train::input_of;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{DType, View, metadata_pt, write_safetensors};
use modelsmith_core::hooks::Pass;
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Loader;
use std::path::Path;

/// Writes `input_ids` and `attention_mask` `[rows, time]` (i64) and `logits` `[rows, time,
/// classes]` (f32) of the first batch.
pub(super) fn write(model: &Model, mut rows: Loader, file: &Path) -> Result<()> {
    let batch = rows
        .next_in_epoch()?
        .ok_or_else(|| Error::config("data", "gives no row whose logits could be written"))?;
    let input = input_of(&batch, batch.ids.clone(), &model.device);
    let logits = model
        .host
        .forward(&input, &Pass::default(), &model.hooks())?;
    let shape = logits.dims();
    let logits: Vec<u8> = to_vec(logits)
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let whole = |values: &mut dyn Iterator<Item = i64>| -> Vec<u8> {
        values.flat_map(i64::to_le_bytes).collect()
    };
    let ids = whole(&mut batch.ids.iter().map(|id| i64::from(*id)));
    let mask = whole(&mut batch.attention_mask.iter().map(|mask| i64::from(*mask)));
    let tensors = [
        View {
            name: "input_ids",
            dtype: DType::I64,
            shape: &batch.shape,
            bytes: &ids,
        },
        View {
            name: "attention_mask",
            dtype: DType::I64,
            shape: &batch.shape,
            bytes: &mask,
        },
        View {
            name: "logits",
            dtype: DType::F32,
            shape: &shape,
            bytes: &logits,
        },
    ];
    write_safetensors(file, &tensors, &metadata_pt())
}
