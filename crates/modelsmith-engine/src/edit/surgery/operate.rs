//! One operation: probe, direction, rows.

use super::host::{Matrix, final_gain, matrices};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::{
    Candidate, Examples, Length, Patch, Probe, Selector, Surgery, cosines, direction,
};

/// What an operation is, before a weight is changed.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What is added where.
    pub patch: Patch,
    /// The probe that it comes from.
    pub probe: Probe,
    /// The rows, best first.
    pub chosen: Vec<Candidate>,
    /// Rows there were to choose from.
    pub rows: usize,
    /// Cosine of the class's row of the probe with each other row's.
    pub opposition: Vec<f64>,
    /// `‖ΔW‖ / ‖W‖` over the target matrices, Frobenius norms.
    pub relative_change: f64,
}

/// Trains the probe, and chooses direction and rows to move `host` away from `class` (or, at an alpha of the
/// other sign, towards it). Changes nothing.
///
/// # Errors
/// Options out of range, a probe that is below the least accuracy, a host without MLPs to change.
pub fn operate(
    host: &Transformer,
    examples: &Examples,
    class: usize,
    options: &Surgery,
) -> Result<Operation> {
    options.check()?;
    let probe = Probe::train(examples, &options.probe, options.seed)?;
    if probe.accuracy < options.min_accuracy {
        return Err(Error::Verification(format!(
            "the probe gets {:.1} % of {} held-out texts right, below {:.1} %: its direction is mostly noise; give more \
             texts or another kind, train longer (method.probe), or lower method.min_accuracy if you mean it",
            100.0 * probe.accuracy,
            probe.held_out,
            100.0 * options.min_accuracy
        )));
    }
    let found = matrices(host, options.target)?;
    let mut v = direction(options.direction, &probe, examples, class)?;
    if v.len() != host.hidden_size() {
        return Err(Error::Failed(format!(
            "the direction has {} numbers; the model's states have {}",
            v.len(),
            host.hidden_size()
        )));
    }
    let size = sizes(host, &found)?;
    if options.length == Length::MeanRow {
        let factor = size.mean_row / length(&v);
        v.iter_mut()
            .for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
    let chosen = choose_rows(host, &found, &v, size.rows, options)?;
    let places: Vec<_> = found.into_iter().map(|matrix| matrix.place).collect();
    let patch = Patch::new(v, options.alpha, &places, &chosen)?;
    Ok(Operation {
        relative_change: patch.norm() / size.norm,
        opposition: opposition(&probe, class),
        rows: size.rows,
        patch,
        probe,
        chosen,
    })
}

struct Sizes {
    rows: usize,
    norm: f64,
    mean_row: f64,
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn sizes(host: &Transformer, found: &[Matrix]) -> Result<Sizes> {
    let (mut count, mut square, mut lengths) = (0, 0.0, 0.0);
    for matrix in found {
        for row in matrix.rows(host)?.chunks_exact(host.hidden_size()) {
            let length = length(row);
            count += 1;
            square += length * length;
            lengths += length;
        }
    }
    Ok(Sizes {
        rows: count,
        norm: square.sqrt(),
        mean_row: lengths / count.max(1) as f64,
    })
}

fn choose_rows(
    host: &Transformer,
    found: &[Matrix],
    v: &[f32],
    total: usize,
    options: &Surgery,
) -> Result<Vec<Candidate>> {
    let count = options.count(v.len(), total)?;
    let blocks = found.last().map_or(0, |matrix| matrix.place.block + 1);
    let last = options.fold_gain.then(|| final_gain(host)).transpose()?;
    let mut selector = Selector::new(options.region, count, blocks, options.seed);
    for (number, matrix) in found.iter().enumerate() {
        let own = match &last {
            Some(_) => Some(gain(host, matrix)?),
            None => None,
        };
        let gains = own.as_deref().zip(last.as_deref());
        let cosines = cosines(&matrix.rows(host)?, v, gains);
        selector.offer(matrix.place.block, number, &cosines);
    }
    Ok(selector.finish())
}

fn gain(host: &Transformer, matrix: &Matrix) -> Result<Vec<f32>> {
    let gain = matrix.gain.as_ref().and_then(|name| host.weight(name));
    gain.map(|gain| gain.to_vec()).ok_or_else(|| {
        let problem = format!("there is no norm in front of {}", matrix.site);
        Error::config("method.fold_gain", problem)
    })
}

fn opposition(probe: &Probe, class: usize) -> Vec<f64> {
    let own = &probe.weight[class];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let others = probe.weight.iter().enumerate();
    others
        .filter(|(other, _)| *other != class)
        .map(|(_, row)| dot(own, row) / (dot(own, own) * dot(row, row)).sqrt())
        .collect()
}
