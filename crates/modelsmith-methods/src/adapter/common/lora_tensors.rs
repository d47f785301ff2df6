//! How do a LoRA adapter's tensors become PEFT's `adapter_model.safetensors`, and how are they
//! read back?
//!
//! ```text
//! dense        <path>.lora_A.weight [r, in]               <path>.lora_B.weight [out, r]
//! convolution  <path>.lora_A.weight [r, in, kh, kw]       <path>.lora_B.weight [out, r/groups, 1, 1]
//! embedding    <path>.lora_embedding_A [r, vocab]         <path>.lora_embedding_B [dim, r]
//! and          <path>.lora_B.bias [out]                   <path>.lora_magnitude_vector [out]
//! ```

use super::low_rank::LowRank;
use super::pair::{Pair, Plan, Values};
use super::peft::{Taker, key, same};
use super::weights::weight_of;
use crate::adapter::lora::LoraConfig;
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::SiteKind;
use std::collections::BTreeMap;

/// The tensors of all pairs by their keys. Where one pair carries the factors it started from,
/// all are saved at twice their rank: `[A; A₀]` and `[B, −B₀]`, or zeros.
pub(crate) fn tensors(pairs: &[&Pair]) -> BTreeMap<String, Flat> {
    let split = pairs.iter().any(|pair| pair.values().start.is_some());
    let mut found = BTreeMap::new();
    for pair in pairs {
        let mut values = pair.values();
        if split {
            double(&mut values);
        }
        let names = Names::of(pair.plan());
        found.insert(names.a, values.a);
        found.insert(names.b, values.b);
        found.extend(values.bias.map(|bias| (names.bias, bias)));
        found.extend(
            values
                .magnitude
                .map(|magnitude| (names.magnitude, magnitude)),
        );
    }
    found
}

fn double(values: &mut Values) {
    let matrix = |flat: &Flat| -> Tensor<2> {
        let rows = flat.shape[0];
        flat.values.clone().reshape([rows, flat.len() / rows])
    };
    let (a, b) = (matrix(&values.a), matrix(&values.b));
    let (first_a, first_b) = match &values.start {
        Some(start) => (start.a.clone(), start.b.clone()),
        None => (a.zeros_like(), b.zeros_like()),
    };
    let a = Flat::new(Tensor::cat(vec![a, first_a], 0));
    let b = Flat::new(Tensor::cat(vec![b, -first_b], 1));
    let tail = |flat: &Flat| flat.shape[2..].to_vec();
    let shape_a = [
        &[values.a.shape[0] * 2, values.a.shape[1]],
        &tail(&values.a)[..],
    ]
    .concat();
    let shape_b = [
        &[values.b.shape[0], values.b.shape[1] * 2],
        &tail(&values.b)[..],
    ]
    .concat();
    values.a = Flat {
        shape: shape_a,
        values: a.values,
    };
    values.b = Flat {
        shape: shape_b,
        values: b.values,
    };
}

/// The keys of one pair.
struct Names {
    a: String,
    b: String,
    bias: String,
    magnitude: String,
}

impl Names {
    fn of(plan: &Plan) -> Self {
        let name = |tensor: &str| key(&format!("{}.{tensor}", plan.site.path));
        let (a, b) = match plan.site.kind {
            SiteKind::Embedding => ("lora_embedding_A", "lora_embedding_B"),
            _ => ("lora_A.weight", "lora_B.weight"),
        };
        Self {
            a: name(a),
            b: name(b),
            bias: name("lora_B.bias"),
            magnitude: name("lora_magnitude_vector"),
        }
    }
}

/// The values of one pair out of the file.
pub(crate) fn take_values(
    config: &LoraConfig,
    plan: &Plan,
    start: Option<LowRank>,
    file: &mut Taker,
) -> Result<Values> {
    let names = Names::of(plan);
    let out = [plan.site.outputs];
    Ok(Values {
        a: file.take(&names.a, &plan.a_shape())?,
        b: file.take(&names.b, &plan.b_shape())?,
        bias: config
            .lora_bias
            .then(|| file.take(&names.bias, &out))
            .transpose()?,
        magnitude: config
            .dora
            .then(|| file.take(&names.magnitude, &out))
            .transpose()?,
        start,
    })
}

/// Takes the copy of the base weight that PEFT stores beside an adapted embedding; whether an
/// embedding had one.
///
/// # Errors
/// It is not the host's weight.
pub(crate) fn take_base(host: &dyn Host, plan: &Plan, file: &mut Taker) -> Result<bool> {
    let name = key(&format!("{}.base_layer.weight", plan.site.path));
    let Some(stored) = file.take_any(&name) else {
        return Ok(false);
    };
    let base = weight_of(host, &plan.site)?;
    if !same(&stored, &base) {
        return Err(Error::Failed(format!(
            "the adapter was made on another base: its {name} differs from the host's weight"
        )));
    }
    Ok(plan.site.kind == SiteKind::Embedding)
}
