//! Teacher-forced predictions of a model with its hooks, many at once.

use super::query::Query;
use crate::generate::room;
use crate::pool::within;
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{Head, TokenInput, Transformer};

/// Tokens of a pass with its padding at most, and logits.
const TOKENS: usize = 4096;
const LOGITS: usize = 16 << 20;

/// A causal language model with whatever is attached to it.
#[derive(Clone, Copy)]
pub struct Scored<'a> {
    /// The host.
    pub host: &'a Transformer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What is attached, outermost first.
    pub hooks: &'a [&'a dyn Hooks],
}

impl std::fmt::Debug for Scored<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} with {} hooks",
            self.host.info().architecture,
            self.hooks.len()
        )
    }
}

/// What a model holds of the predicted tokens of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// Log-probability of each, in nats.
    pub log_probs: Vec<f32>,
    /// The likeliest token at the place of each.
    pub best: Vec<u32>,
}

/// Predictions of all queries, in their order. Rows of like length share a pass, and logits are made at
/// the predicted places only. Hooks are told where the prompts end.
///
/// # Errors
/// A model that does not predict next tokens, queries that are longer than its positions.
pub fn forced(model: &Scored<'_>, queries: &[Query]) -> Result<Vec<Forced>> {
    if model.host.head() != Head::CausalLm {
        return Err(Error::Usage(format!(
            "{} does not predict the next token; edits are measured on causal language models",
            model.host.info().architecture
        )));
    }
    let limit = room(model.host, model.hooks);
    // The last token is predicted and never read.
    if let Some(long) = queries.iter().find(|query| query.ids.len() > limit + 1) {
        return Err(Error::Usage(format!(
            "a prompt with its target has {} tokens; the model has {limit} positions for them: shorten it",
            long.ids.len()
        )));
    }
    let mut order: Vec<usize> = (0..queries.len()).collect();
    order.sort_by_key(|number| queries[*number].ids.len());
    let mut found = vec![None; queries.len()];
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let count = fitting(rest, queries, model.host.vocab_size());
        let (now, later) = rest.split_at(count);
        let rows: Vec<&Query> = now.iter().map(|number| &queries[*number]).collect();
        let predicted = within(|| pass(model, &rows))?;
        for (number, one) in now.iter().zip(predicted) {
            found[*number] = Some(one);
        }
        rest = later;
    }
    Ok(found.into_iter().flatten().collect())
}

/// How many of the first queries, which get longer, share a pass.
fn fitting(order: &[usize], queries: &[Query], vocabulary: usize) -> usize {
    let mut places = 0;
    let fits = |(at, number): &(usize, &usize)| {
        let query = &queries[**number];
        places += query.ids.len() - query.prefix;
        *at == 0 || (query.ids.len() * (at + 1) <= TOKENS && places * vocabulary.max(1) <= LOGITS)
    };
    order.iter().enumerate().take_while(fits).count()
}

fn pass(model: &Scored<'_>, rows: &[&Query]) -> Result<Vec<Forced>> {
    let host = model.host;
    let device = host.device();
    let read = |query: &&Query| query.ids[..query.ids.len() - 1].to_vec();
    let ids: Vec<Vec<u32>> = rows.iter().map(read).collect();
    let input = TokenInput::from_ids(&ids, host.pad_token().unwrap_or(0), false, &device);
    let [batch, time] = input.dims();
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for (row, query) in rows.iter().enumerate() {
        // A token is predicted from the place before it.
        places.extend((query.prefix..query.ids.len()).map(|at| (row * time + at - 1) as i64));
        targets.extend(query.target().iter().map(|id| i64::from(*id)));
    }
    let count = places.len();
    let given: Vec<usize> = rows.iter().map(|query| query.prefix).collect();
    model.hooks.iter().for_each(|hooks| hooks.given(&given));
    let none = Pass::default();
    let hidden = host.hidden(&input, &none, model.hooks, None)?;
    let width = hidden.dims()[2];
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device);
    let states = hidden.reshape([batch * time, width]).select(0, places);
    let logits = host.logits(states.unsqueeze_dim(0), &input, &none, model.hooks);
    let logits: Tensor<2> = logits.squeeze_dim(0);
    let best = logits.clone().argmax(1).into_data();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &device);
    let log_probs = to_vec(modelsmith_kernels::log_softmax(logits).gather(1, targets));
    let (mut log_probs, mut best) = (log_probs.into_iter(), best.iter::<i64>());
    let take = |query: &&Query| {
        let length = query.target().len();
        Forced {
            log_probs: log_probs.by_ref().take(length).collect(),
            best: best.by_ref().take(length).map(|id| id as u32).collect(),
        }
    };
    Ok(rows.iter().map(take).collect())
}
