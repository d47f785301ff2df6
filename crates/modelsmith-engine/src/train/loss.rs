//! Losses of the heads: negative log-likelihood summed over the places that count.
//!
//! The sum and the count are kept apart, so that a step over several batches divides once by all
//! its places and equals one step over the whole.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::random::Stream;
use modelsmith_data::{Batch, IGNORED};
use modelsmith_hosts::{Head, OutputMatrix, TokenInput, Transformer};
use modelsmith_kernels::{linear_cross_entropy, log_softmax};
use std::sync::Arc;

/// A batch as tensors, with the places of the head's output that count in the loss.
#[derive(Clone)]
pub struct Prepared {
    /// What the host reads; for a decoder behind an encoder, each answer shifted behind the token
    /// that it begins behind.
    pub input: TokenInput,
    /// Flat places `row * time + column` of the hidden states to predict from; empty for heads
    /// that give one output a row.
    pub places: Vec<i64>,
    /// The class or token to predict, one a place or a row.
    pub targets: Vec<i64>,
    /// Rows of the data in the batch, for messages.
    pub rows: Vec<u64>,
    /// Tokens that are not padding, those of an encoder's texts among them.
    pub tokens: u64,
}

impl Prepared {
    /// Its part of a step with `places` places in all.
    pub(crate) fn share_of(&self, places: usize) -> f64 {
        self.targets.len() as f64 / places.max(1) as f64
    }
}

/// How tokens are hidden for masked language modelling.
#[derive(Clone, Copy, Debug)]
pub struct Masking {
    /// Share of tokens chosen.
    pub probability: f64,
    /// Id of the mask token.
    pub mask: u32,
    /// Size of the vocabulary, for random replacements.
    pub vocabulary: usize,
}

/// Turns a batch into tensors and targets for a head.
///
/// # Errors
/// A batch without class labels for a classification head, or a head that has no loss.
pub fn prepare(
    batch: &Batch,
    head: Head,
    masking: Option<(Masking, Stream)>,
    device: &Device,
) -> Result<Prepared> {
    let mut ids = batch.ids.clone();
    let (places, targets) = match head {
        Head::CausalLm => causal_targets(batch),
        Head::Seq2SeqLm(start) => answer_targets(batch, &mut ids, start)?,
        Head::TokenClasses(_) => token_targets(batch),
        Head::MaskedLm => {
            let (masking, stream) = masking.ok_or_else(|| {
                Error::Failed("a masked language model needs a tokenizer with a mask token".into())
            })?;
            mask_tokens(batch, &mut ids, masking, stream)
        }
        Head::SequenceClasses(classes) => (Vec::new(), class_targets(batch, classes)?),
        Head::Base => {
            return Err(Error::Usage(
                "this model has no head to train; load a checkpoint with one".into(),
            ));
        }
    };
    Ok(Prepared {
        input: input_of(batch, ids, device),
        places,
        targets,
        rows: batch.rows.clone(),
        tokens: batch.tokens() as u64,
    })
}

/// Each labelled token is predicted from the token before it in its segment.
fn causal_targets(batch: &Batch) -> (Vec<i64>, Vec<i64>) {
    let [rows, time] = batch.shape;
    let mut places = Vec::new();
    let mut targets = Vec::new();
    for row in 0..rows {
        for column in 1..time {
            let at = row * time + column;
            let label = batch.labels[at];
            let follows = match &batch.segments {
                Some(segments) => segments[at] == segments[at - 1],
                None => batch.attention_mask[at - 1] == 1,
            };
            if label != IGNORED && follows {
                places.push(at as i64 - 1);
                targets.push(i64::from(label));
            }
        }
    }
    (places, targets)
}

/// Each token of an answer is predicted from those before it, the first from `start` alone: the
/// decoder reads the answer moved one place on.
fn answer_targets(batch: &Batch, ids: &mut [u32], start: u32) -> Result<(Vec<i64>, Vec<i64>)> {
    if batch.source.is_none() {
        return Err(Error::config(
            "data.format",
            "the rows have no prompt apart from the answer, which a model with an encoder needs",
        ));
    }
    for row in ids.chunks_exact_mut(batch.shape[1].max(1)) {
        row.rotate_right(1);
        row[0] = start;
    }
    Ok(token_targets(batch))
}

fn token_targets(batch: &Batch) -> (Vec<i64>, Vec<i64>) {
    let labelled = batch.labels.iter().enumerate();
    labelled
        .filter(|(_, label)| **label != IGNORED)
        .map(|(at, label)| (at as i64, i64::from(*label)))
        .unzip()
}

fn class_targets(batch: &Batch, classes: usize) -> Result<Vec<i64>> {
    let labels = batch.class_labels.as_ref().ok_or_else(|| {
        Error::config(
            "data.format",
            "the rows have no classes; a classification head needs format = \"classification\"",
        )
    })?;
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(Error::config(
            "host.classes",
            format!(
                "the data has class number {label}, counted from 0; the head has {classes} classes"
            ),
        ));
    }
    Ok(labels.iter().map(|label| i64::from(*label)).collect())
}

/// BERT's corruption (Devlin et al., arXiv 1810.04805, section 3.1): of the chosen tokens 80 %
/// become the mask, 10 % a random token, 10 % stay.
fn mask_tokens(
    batch: &Batch,
    ids: &mut [u32],
    masking: Masking,
    mut stream: Stream,
) -> (Vec<i64>, Vec<i64>) {
    let mut places = Vec::new();
    let mut targets = Vec::new();
    for (at, id) in ids.iter_mut().enumerate() {
        let counts = batch.attention_mask[at] == 1 && batch.labels[at] != IGNORED;
        if !counts || stream.unit() >= masking.probability {
            continue;
        }
        places.push(at as i64);
        targets.push(i64::from(*id));
        match stream.unit() {
            draw if draw < 0.8 => *id = masking.mask,
            draw if draw < 0.9 => *id = stream.below(masking.vocabulary) as u32,
            _ => {}
        }
    }
    (places, targets)
}

/// What a host reads of a batch, with `ids` in place of the batch's own.
pub(crate) fn input_of(batch: &Batch, ids: Vec<u32>, device: &Device) -> TokenInput {
    let shape = batch.shape;
    let ints =
        |values: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(values, shape), device);
    let wide = |values: &[u32]| values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>();
    let padded = batch.attention_mask.contains(&0);
    let mask: Vec<bool> = batch.attention_mask.iter().map(|m| *m == 1).collect();
    TokenInput {
        mask: padded.then(|| Tensor::<2, Bool>::from_data(TensorData::new(mask, shape), device)),
        positions: batch
            .segments
            .is_some()
            .then(|| ints(wide(&batch.positions))),
        segments: batch.segments.as_ref().map(|segments| ints(wide(segments))),
        token_types: batch.type_ids.as_ref().map(|types| ints(wide(types))),
        ids: ints(wide(&ids)),
        source: batch
            .source
            .as_ref()
            .map(|source| Box::new(input_of(source, source.ids.clone(), device))),
        tasks: batch.tasks.as_deref().map(Arc::from),
    }
}

/// Sum of the negative log-likelihoods of the prepared targets: `[1]`.
///
/// # Errors
/// What the host refuses: ids out of range, sequences too long.
pub fn loss_sum(
    host: &Transformer,
    prepared: &Prepared,
    pass: &Pass,
    hooks: &[&dyn Hooks],
) -> Result<Tensor<1>> {
    let hidden = host.hidden(&prepared.input, pass, hooks, None)?;
    Ok(loss_of_hidden(host, hidden, prepared, pass, hooks))
}

/// The loss from the last hidden state `[batch, time, width]` on.
pub fn loss_of_hidden(
    host: &Transformer,
    hidden: Tensor<3>,
    prepared: &Prepared,
    pass: &Pass,
    hooks: &[&dyn Hooks],
) -> Tensor<1> {
    let device = hidden.device().without_autodiff();
    let count = prepared.targets.len();
    let data = TensorData::new(prepared.targets.clone(), [count]);
    let targets = Tensor::<1, Int>::from_data(data, &device);
    // A language model's head that is one product needs no logits.
    if let Some(OutputMatrix { matrix, scale }) = host.output_matrix(hooks)
        && !prepared.places.is_empty()
    {
        let width = hidden.dims()[2];
        let hidden = at_places(hidden, prepared).reshape([count, width]);
        let hidden = if scale == 1.0 { hidden } else { hidden * scale };
        return linear_cross_entropy(hidden, matrix, targets);
    }
    let log_probabilities = log_softmax(outputs(host, hidden, prepared, pass, hooks));
    let targets = targets.reshape([count, 1]);
    log_probabilities.gather(1, targets).sum().neg()
}

/// Logits at the places that count: `[places, classes]`. The head is not computed elsewhere.
pub fn outputs(
    host: &Transformer,
    hidden: Tensor<3>,
    prepared: &Prepared,
    pass: &Pass,
    hooks: &[&dyn Hooks],
) -> Tensor<2> {
    let hidden = at_places(hidden, prepared);
    let logits = host.logits(hidden, &prepared.input, pass, hooks);
    let [batch, rows, classes] = logits.dims();
    logits.reshape([batch * rows, classes])
}

/// The hidden states that the head reads, `[1, places, width]`; all of them where there are no
/// places.
fn at_places(hidden: Tensor<3>, prepared: &Prepared) -> Tensor<3> {
    let count = prepared.places.len();
    if count == 0 {
        return hidden;
    }
    let [batch, time, width] = hidden.dims();
    let device = hidden.device().without_autodiff();
    let places = TensorData::new(prepared.places.clone(), [count]);
    let places = Tensor::<1, Int>::from_data(places, &device);
    hidden
        .reshape([batch * time, width])
        .select(0, places)
        .reshape([1, count, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch {
            ids: vec![5, 6, 7, 8, 9, 0],
            shape: [2, 3],
            attention_mask: vec![1, 1, 1, 1, 1, 0],
            positions: vec![0, 1, 2, 0, 1, 0],
            labels: vec![5, 6, 7, IGNORED, 9, IGNORED],
            rows: vec![0, 1],
            ..Batch::default()
        }
    }

    #[test]
    fn labels_are_predicted_from_the_token_before() {
        let (places, targets) = causal_targets(&batch());
        assert_eq!((places, targets), (vec![0, 1, 3], vec![6, 7, 9]));
    }

    #[test]
    fn the_first_token_of_a_packed_segment_is_not_predicted_from_another() {
        let mut packed = batch();
        packed.segments = Some(vec![1, 2, 2, 1, 1, 0]);
        let (places, targets) = causal_targets(&packed);
        assert_eq!((places, targets), (vec![1, 3], vec![7, 9]));
    }

    #[test]
    fn answers_are_shifted_behind_the_token_they_begin_behind() {
        let answered = Batch {
            labels: vec![5, 6, 7, 8, 9, IGNORED],
            source: Some(Box::new(batch())),
            ..batch()
        };
        let prepared = prepare(&answered, Head::Seq2SeqLm(3), None, &Device::flex()).unwrap();
        let ids = prepared.input.ids.into_data();
        assert_eq!(ids.iter::<i64>().collect::<Vec<_>>(), [3, 5, 6, 3, 8, 9]);
        assert_eq!(prepared.places, [0, 1, 2, 3, 4]);
        assert_eq!(prepared.targets, [5, 6, 7, 8, 9]);
        assert_eq!(prepared.tokens, 10);
        let source = prepared.input.source.unwrap();
        assert_eq!(source.dims(), [2, 3]);
        let together = prepare(&batch(), Head::Seq2SeqLm(3), None, &Device::flex());
        let error = together.err().unwrap();
        assert!(error.to_string().contains("data.format"), "{error}");
    }

    #[test]
    fn classes_beyond_the_head_are_refused() {
        let labelled = Batch {
            class_labels: Some(vec![0, 2]),
            ..batch()
        };
        assert_eq!(class_targets(&labelled, 3).unwrap(), [0, 2]);
        let error = class_targets(&labelled, 2).unwrap_err().to_string();
        assert!(error.contains("class number 2"), "{error}");
        assert!(class_targets(&batch(), 3).is_err());
    }

    #[test]
    fn masking_follows_its_probabilities_and_repeats() {
        let count = 20_000;
        let batch = Batch {
            ids: vec![7; count],
            shape: [1, count],
            attention_mask: vec![1; count],
            labels: vec![7; count],
            ..Batch::default()
        };
        let masking = Masking {
            probability: 0.15,
            mask: 3,
            vocabulary: 50,
        };
        let run = || {
            let mut ids = batch.ids.clone();
            let stream = Stream::new(1, "mlm");
            let (places, targets) = mask_tokens(&batch, &mut ids, masking, stream);
            (ids, places, targets)
        };
        let (ids, places, targets) = run();
        let share = places.len() as f64 / count as f64;
        assert!((share - 0.15).abs() < 0.01, "{share}");
        let hidden = ids.iter().filter(|id| **id == 3).count() as f64 / places.len() as f64;
        assert!((hidden - 0.8).abs() < 0.03, "{hidden}");
        assert!(targets.iter().all(|target| *target == 7));
        assert_eq!(run().0, ids);
    }
}
