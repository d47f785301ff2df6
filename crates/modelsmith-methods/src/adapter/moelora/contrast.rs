//! How far are the outputs of different experts apart? InfoNCE with the outputs of one expert as positives.
//!
//! ```text
//! L_a = mean over positives b of  −log( exp(u_a·u_b / τ) / Σ_{c ≠ a} exp(u_a·u_c / τ) )
//! loss = mean over the anchors a that have a positive
//! ```
//!
//! With negatives of the same token, the sum runs over b and the other outputs of a's token.

use super::{MoeLoraConfig, Negatives, Positives, Similarity};
use burn::tensor::{Tensor, TensorData, activation::log_softmax};
use modelsmith_core::random::Stream;

/// Shorter outputs have no direction; a fresh expert's are all 0.
const SHORTEST: f32 = 1e-6;

/// Of whom an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Place of the token in the batch.
    pub(super) token: usize,
    /// Its expert.
    pub(super) expert: usize,
}

/// At most `count` of all outputs, in their order; every choice is as likely.
pub(super) fn sample(mut all: Vec<Origin>, count: usize, stream: &mut Stream) -> Vec<Origin> {
    if all.len() > count {
        stream.shuffle(&mut all);
        all.truncate(count);
        all.sort_unstable_by_key(|origin| (origin.token, origin.expert));
    }
    all
}

/// Which of the outputs `[count, width]` are long enough to be compared.
pub(super) fn comparable(outputs: &Tensor<2>) -> Vec<usize> {
    let squares = outputs.clone().without_autodiff().powi_scalar(2).sum_dim(1);
    let squares = modelsmith_core::parameters::to_vec(squares).into_iter();
    let long = squares
        .enumerate()
        .filter(|(_, square)| square.sqrt() > SHORTEST);
    long.map(|(at, _)| at).collect()
}

/// The loss of comparable outputs `[count, width]`; `None` where no two are of one expert.
pub(super) fn loss(
    config: &MoeLoraConfig,
    outputs: Tensor<2>,
    origins: &[Origin],
    stream: &mut Stream,
) -> Option<Tensor<1>> {
    let count = origins.len();
    let (weights, anchors) = weights(config.positives, origins, stream);
    if anchors == 0 {
        return None;
    }
    let unit = match config.similarity {
        Similarity::Cosine => {
            let length = outputs.clone().powi_scalar(2).sum_dim(1).sqrt();
            outputs / length
        }
        Similarity::Dot => outputs,
    };
    let device = unit.device().without_autodiff();
    let matrix = |values: Vec<f32>| -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, [count, count]), &device)
    };
    let alike = unit.clone().matmul(unit.transpose()) / config.temperature;
    let weights = matrix(weights);
    let logs = match config.negatives {
        Negatives::Batch => log_softmax(alike + matrix(own(count)), 1),
        Negatives::Token => {
            // Rows are shifted by their largest value, so that no exponential overflows.
            let most = alike.clone().without_autodiff().max_dim(1);
            let alike = alike - most;
            let others = (alike.clone().exp() * matrix(same_token(origins))).sum_dim(1);
            alike.clone() - (alike.exp() + others).log()
        }
    };
    Some((logs * weights).sum() / -(anchors as f64))
}

/// Minus infinity, as far as exponentials go, where an output meets itself.
fn own(count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count * count];
    values
        .iter_mut()
        .step_by(count + 1)
        .for_each(|value| *value = -1e9);
    values
}

/// 1 where two outputs are of one token and of different experts.
fn same_token(origins: &[Origin]) -> Vec<f32> {
    pairs(origins, |a, b| {
        f32::from(u8::from(a.token == b.token && a.expert != b.expert))
    })
}

fn pairs(origins: &[Origin], value: impl Fn(&Origin, &Origin) -> f32) -> Vec<f32> {
    let rows = origins.iter();
    rows.flat_map(|a| origins.iter().map(|b| value(a, b)).collect::<Vec<_>>())
        .collect()
}

/// Weight of each pair of anchor and positive, and the number of anchors that have one.
fn weights(positives: Positives, origins: &[Origin], stream: &mut Stream) -> (Vec<f32>, usize) {
    let count = origins.len();
    let mut weights = vec![0.0; count * count];
    let mut anchors = 0;
    for (a, anchor) in origins.iter().enumerate() {
        let same = |b: &usize| *b != a && origins[*b].expert == anchor.expert;
        let found: Vec<usize> = (0..count).filter(same).collect();
        if found.is_empty() {
            continue;
        }
        anchors += 1;
        match positives {
            Positives::All => {
                for b in &found {
                    weights[a * count + b] = 1.0 / found.len() as f32;
                }
            }
            Positives::One => weights[a * count + found[stream.below(found.len())]] = 1.0,
        }
    }
    (weights, anchors)
}
