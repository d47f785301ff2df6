//! Does an operation do what the paper says it does? What goes into the activations of the changed rows, and
//! where the final state points, before and after, on texts of the behaviour and on others.

use super::operate::Operation;
use super::states::States;
use crate::pool::within;
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was seen on one kind of texts, over all their tokens and all changed rows; `[before, after]` each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Texts read.
    pub texts: usize,
    /// Mean of what goes into the activation.
    pub inputs: [f64; 2],
    /// Mean of `silu` of it.
    pub silu: [f64; 2],
    /// Share of the inputs whose sign changed.
    pub flipped: f64,
    /// Mean projection of a text's mean final state on the direction, scaled to length 1.
    pub projection: [f64; 2],
}

/// The account of an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mechanism {
    /// Rows changed in each block.
    pub rows: BTreeMap<usize, usize>,
    /// Scores of the first and of the last row chosen.
    pub scores: [f64; 2],
    /// Texts of the behaviour.
    pub behaviour: Group,
    /// Other texts.
    pub others: Group,
}

/// Compares a host before and after an operation, on texts of the behaviour and on others. Texts that are too
/// long for the host are left out.
///
/// # Errors
/// Hosts that the operation is not for, kinds of texts of which none can be read.
pub fn mechanism(
    hosts: [&Transformer; 2],
    operation: &Operation,
    tokenizer: &Tokenizer,
    behaviour: &[String],
    others: &[String],
) -> Result<Mechanism> {
    let mut rows = BTreeMap::new();
    for place in &operation.patch.places {
        *rows.entry(place.block).or_insert(0) += place.rows.len();
    }
    let score = |found: Option<&modelsmith_methods::edit::surgery::Candidate>| {
        found.map_or(f64::NAN, |found| found.score)
    };
    Ok(Mechanism {
        rows,
        scores: [
            score(operation.chosen.first()),
            score(operation.chosen.last()),
        ],
        behaviour: group(hosts, operation, tokenizer, behaviour)?,
        others: group(hosts, operation, tokenizer, others)?,
    })
}

fn group(
    hosts: [&Transformer; 2],
    operation: &Operation,
    tokenizer: &Tokenizer,
    texts: &[String],
) -> Result<Group> {
    let mut found = Group::default();
    let mut seen = 0.0;
    for text in texts {
        let ids = tokenizer.encode(text, true)?;
        if ids.is_empty() || ids.len() > hosts[0].max_positions() {
            continue;
        }
        found.texts += 1;
        let before = changed_inputs(hosts[0], operation, &ids)?;
        let after = changed_inputs(hosts[1], operation, &ids)?;
        seen += before.len() as f64;
        for (before, after) in before.into_iter().zip(after) {
            found.flipped += f64::from(u8::from((before < 0.0) != (after < 0.0)));
            for (at, x) in [before, after].into_iter().enumerate() {
                found.inputs[at] += x;
                found.silu[at] += x / (1.0 + (-x).exp());
            }
        }
    }
    if found.texts == 0 {
        return Err(Error::Usage(
            "there is no text that the model can read, to look at the operation with".into(),
        ));
    }
    found.flipped /= seen;
    found.inputs = found.inputs.map(|sum| sum / seen);
    found.silu = found.silu.map(|sum| sum / seen);
    let [before, after] = hosts.map(|host| projection(host, operation, tokenizer, texts));
    found.projection = [before?, after?];
    Ok(found)
}

/// What goes into the activations of the changed rows, row by row and token by token.
fn changed_inputs(host: &Transformer, operation: &Operation, ids: &[u32]) -> Result<Vec<f64>> {
    let places = &operation.patch.places;
    let site = |weight: &str| weight.strip_suffix(".weight").unwrap_or(weight).to_owned();
    let capture = Capture::new(places.iter().map(|place| site(&place.weight)), Side::Output);
    let input = TokenInput::from_ids(&[ids.to_vec()], 0, false, &host.device());
    within(|| host.hidden(&input, &Pass::default(), &[&capture], None))?;
    let kept = capture.take();
    let mut found = Vec::new();
    for place in places {
        let path = site(&place.weight);
        let Some(Flat { shape, values }) = kept.get(&path) else {
            return Err(Error::Failed(format!("{path}: there is no such layer")));
        };
        let width = shape.last().copied().unwrap_or(1);
        let values = modelsmith_core::parameters::to_vec(values.clone());
        for token in values.chunks_exact(width) {
            found.extend(place.rows.iter().map(|row| f64::from(token[*row as usize])));
        }
    }
    Ok(found)
}

fn projection(
    host: &Transformer,
    operation: &Operation,
    tokenizer: &Tokenizer,
    texts: &[String],
) -> Result<f64> {
    let v = &operation.patch.direction;
    let dot = |a: &[f32]| {
        a.iter()
            .zip(v)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let length = dot(v).sqrt();
    let states = States::of(host, tokenizer, texts, usize::MAX)?.states;
    Ok(states.iter().map(|state| dot(state)).sum::<f64>() / length / states.len() as f64)
}
