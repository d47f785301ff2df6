//! What an editor is trained on: a fact to write, told in another wording, and texts that stay.

use super::{Edit, Rows};
use crate::edit::answers::Answers;
use crate::edit::facts::{Fact, Statement};
use burn::tensor::Tensor;
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::{EditRequest, target_text};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::Lookup;

/// A step of training.
pub(super) struct Task {
    /// What is written.
    pub(super) fact: Fact,
    /// The fact, and in another wording if it has one.
    asked: Answers,
    /// Texts that stay, and what the model says in them.
    kept: Answers,
    before: Tensor<2>,
}

impl Task {
    /// The task of a request with `count` of its neighbours at most, drawn as the wording is.
    pub(super) fn new(
        host: &Transformer,
        tokenizer: &Tokenizer,
        request: &EditRequest,
        count: usize,
        draw: &mut Stream,
    ) -> Result<Self> {
        let statement = Statement::from(request);
        let fact = Fact::read(tokenizer, &statement, &[], Lookup::PromptLast)?;
        let mut wordings = vec![fact.bare.ids.clone()];
        if !request.paraphrases.is_empty() {
            let wording = &request.paraphrases[draw.below(request.paraphrases.len())];
            wordings.push(tokenizer.encode(wording, true)?);
        }
        let asked = wordings.iter().map(|ids| (&ids[..], &fact.target[..]));
        let asked = Answers::new(host, &asked.collect::<Vec<_>>());
        let mut numbers: Vec<usize> = (0..request.neighbours.len()).collect();
        draw.shuffle(&mut numbers);
        let text = |number: &usize| {
            let neighbour = &request.neighbours[*number];
            let answer = request.answer_of(neighbour).unwrap_or_default();
            let text = format!("{}{}", neighbour.prompt, target_text(answer));
            tokenizer.encode(&text, true)
        };
        let texts = numbers.iter().take(count).map(text);
        let mut texts = texts.collect::<Result<Vec<_>>>()?;
        texts.retain(|ids| ids.len() > 1);
        if texts.is_empty() {
            return Err(Error::Usage(format!(
                "request {} has no neighbour of two tokens; an editor is trained to keep what they say",
                request.id
            )));
        }
        let kept = texts.iter().map(|ids| ids.split_at(1)).collect::<Vec<_>>();
        let kept = Answers::new(host, &kept);
        Ok(Self {
            before: kept.log_probabilities(host, &[])?,
            fact,
            asked,
            kept,
        })
    }

    /// The loss of an edit: how far it is from writing the fact, times `weight`, and how much it moves other texts.
    pub(super) fn loss(&self, host: &Transformer, edit: &Edit, weight: f64) -> Result<Tensor<1>> {
        let each = self.asked.log_likelihoods(host, &[edit])?;
        let length = self.fact.target.len() as f64;
        let written = -each.mean() / length;
        let after = self.kept.log_probabilities(host, &[edit])?;
        let by = self.before.clone().exp() * (self.before.clone() - after);
        let moved = by.sum() / self.kept.places.len() as f64;
        Ok(written * weight + moved)
    }
}

/// What layers read, and the gradient of a fact's mean loss by what they give, token by token; tokens without a gradient
/// are left out.
pub(super) fn factors(host: &Transformer, layers: &[String], fact: &Fact) -> Result<Rows> {
    let capture = Capture::new(layers, Side::Input).with_gradients();
    let answers = Answers::new(host, &[(&fact.bare.ids, &fact.target)]);
    let found = answers.log_likelihoods(host, &[&capture])?;
    let loss = -found.sum() / fact.target.len() as f64;
    let (inputs, gradients) = (capture.take(), capture.gradients(&loss.backward()));
    let mut rows = Rows::new();
    for path in layers {
        let (Some(u), Some(delta)) = (inputs.get(path), gradients.get(path)) else {
            let problem = format!("the target does not depend on {path}");
            return Err(Error::Failed(problem));
        };
        let widths = [u, delta].map(|x| *x.shape.last().unwrap_or(&1));
        let (u, delta) = (u.to_vec(), delta.to_vec());
        let tokens = u.chunks_exact(widths[0]).zip(delta.chunks_exact(widths[1]));
        let moved = tokens.filter(|(_, delta)| delta.iter().any(|x| *x != 0.0));
        let row = moved.flat_map(|(u, delta)| u.iter().chain(delta).copied());
        rows.insert(path.clone(), row.collect());
    }
    Ok(rows)
}
