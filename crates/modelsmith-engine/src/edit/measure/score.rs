//! Measures requests on a model, whatever is attached to it and however many edits it has seen.

use super::before::Before;
use super::forced::{Forced, Scored, forced};
use super::outcome::{Outcome, agreement};
use super::perplexity::perplexity_me;
use super::query::Query;
use super::record::{Asked, Record, Set};
use super::reference::Snippets;
use super::summary::Summary;
use super::write::{Answering, Sampling, freely, sampled};
use modelsmith_core::error::Result;
use modelsmith_data::edits::EditRequest;

/// Requests that are measured together.
const TOGETHER: usize = 64;
/// Tokens of the texts about the subject that count in the essence score.
const ESSENCE_TOKENS: usize = 100;

/// What is measured beside the probabilities.
#[derive(Clone, Debug, Default)]
pub struct MeasureOptions<'a> {
    /// Sample texts and measure their variety.
    pub sampling: Option<Sampling>,
    /// Let the model answer freely.
    pub answering: Option<Answering>,
    /// Texts that sampled ones are compared with.
    pub snippets: Option<&'a Snippets>,
    /// What the model held before the first edit, which locality is measured against.
    pub before: Option<&'a Before>,
}

/// Measures all requests.
///
/// # Errors
/// As [`score_each`].
pub fn score(
    model: &Scored<'_>,
    requests: &[EditRequest],
    options: &MeasureOptions<'_>,
) -> Result<(Vec<Record>, Summary)> {
    let mut records = Vec::with_capacity(requests.len());
    score_each(model, requests, options, &mut |record| {
        records.push(record);
        Ok(())
    })?;
    let summary = Summary::of(&records)?;
    Ok((records, summary))
}

/// Measures requests and hands out each record as it is finished, in order.
///
/// # Errors
/// Prompts without tokens or longer than the model's positions, and what `take` fails with.
pub fn score_each(
    model: &Scored<'_>,
    requests: &[EditRequest],
    options: &MeasureOptions<'_>,
    take: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<()> {
    for some in requests.chunks(TOGETHER) {
        let mut records = probabilities(model, some, options.before)?;
        if let Some(answering) = &options.answering {
            let written = freely(model, some, answering)?;
            for (record, freely) in records.iter_mut().zip(written) {
                record.freely = freely;
            }
        }
        for (mut record, request) in records.into_iter().zip(some) {
            if let Some(sampling) = &options.sampling {
                record.texts = sampled(model, request, sampling)?;
            }
            if let Some(snippets) = options.snippets {
                record.reference = snippets.score(request, &record.texts);
                let essence = snippets.essence(request);
                record.essence = essence.map(|text| essence_of(model, &text)).transpose()?;
            }
            take(record.scored())?;
        }
    }
    Ok(())
}

fn essence_of(model: &Scored<'_>, text: &str) -> Result<f64> {
    let ids = model.tokenizer.encode(text, false)?;
    let end = ids.len().min(ESSENCE_TOKENS);
    perplexity_me(model, &[model.tokenizer.decode(&ids[..end], true)?])
}

/// A prompt with the texts that may follow it.
struct Question {
    set: Set,
    kind: Option<String>,
    prompt: String,
    new: Option<String>,
    truth: Option<String>,
    answers: Vec<String>,
}

impl Question {
    fn targets(&self) -> impl Iterator<Item = &String> {
        self.new.iter().chain(&self.truth).chain(&self.answers)
    }

    /// Which of its targets the model before the edits is compared on.
    fn kept(&self) -> Option<usize> {
        match self.set {
            Set::Neighbour => self.truth.as_ref().map(|_| usize::from(self.new.is_some())),
            Set::Locality if !self.answers.is_empty() => Some(0),
            _ => None,
        }
    }
}

fn questions(request: &EditRequest) -> Vec<Question> {
    let mut all = Vec::new();
    let mut both = |set, prompt: String, truth: Option<&str>| {
        all.push(Question {
            set,
            kind: None,
            prompt,
            // Without a true target there is nothing to compare a neighbour's answer with.
            new: (set != Set::Neighbour || request.target_true.is_some())
                .then(|| request.target_new.clone()),
            truth: truth.map(str::to_owned),
            answers: Vec::new(),
        });
    };
    let truth = request.target_true.as_deref();
    both(Set::Rewrite, request.filled(), truth);
    for prompt in &request.paraphrases {
        both(Set::Paraphrase, prompt.clone(), truth);
    }
    for neighbour in &request.neighbours {
        let answer = request.answer_of(neighbour);
        both(Set::Neighbour, neighbour.prompt.clone(), answer);
    }
    for (set, probes) in [
        (Set::Portability, &request.portability),
        (Set::Locality, &request.locality),
    ] {
        all.extend(probes.iter().map(|probe| Question {
            set,
            kind: Some(probe.kind.clone()),
            prompt: probe.prompt.clone(),
            new: None,
            truth: None,
            answers: match set {
                Set::Locality => probe.answers.iter().take(1).cloned().collect(),
                _ => probe.answers.clone(),
            },
        }));
    }
    all
}

/// A question with the predictions for its targets.
type Answered = (Question, Vec<(Query, Forced)>);

/// Each request's questions with the predictions for their targets.
fn ask(model: &Scored<'_>, requests: &[EditRequest]) -> Result<Vec<Vec<Answered>>> {
    let asked: Vec<Vec<Question>> = requests.iter().map(questions).collect();
    let mut queries = Vec::new();
    for question in asked.iter().flatten() {
        for target in question.targets() {
            queries.push(Query::new(model.tokenizer, &question.prompt, target)?);
        }
    }
    let found = forced(model, &queries)?;
    let mut each = queries.into_iter().zip(found);
    let mut with = |question: Question| {
        let count = question.targets().count();
        (question, each.by_ref().take(count).collect())
    };
    let grouped = asked.into_iter();
    Ok(grouped
        .map(|questions| questions.into_iter().map(&mut with).collect())
        .collect())
}

/// The likeliest tokens at the places that locality looks at, a list for each such question.
pub(super) fn kept(model: &Scored<'_>, requests: &[EditRequest]) -> Result<Vec<Vec<Vec<u32>>>> {
    let mut all = Vec::with_capacity(requests.len());
    for some in requests.chunks(TOGETHER) {
        for asked in ask(model, some)? {
            let best = asked.into_iter().filter_map(|(question, found)| {
                let (_, forced) = found.into_iter().nth(question.kept()?)?;
                Some(forced.best)
            });
            all.push(best.collect());
        }
    }
    Ok(all)
}

fn probabilities(
    model: &Scored<'_>,
    requests: &[EditRequest],
    before: Option<&Before>,
) -> Result<Vec<Record>> {
    let mut records = Vec::with_capacity(requests.len());
    for (request, asked) in requests.iter().zip(ask(model, requests)?) {
        let mut earlier = before
            .map(|before| before.of(&request.id))
            .transpose()?
            .into_iter()
            .flatten();
        let mut found = Vec::with_capacity(asked.len());
        for (question, forced) in asked {
            let agreed = question.kept().and_then(|target| {
                let (_, now) = forced.get(target)?;
                agreement(earlier.next()?, &now.best)
            });
            found.push(told(question, &forced, agreed));
        }
        records.push(Record {
            id: request.id.clone(),
            asked: found,
            ..Record::default()
        });
    }
    Ok(records)
}

fn told(question: Question, forced: &[(Query, Forced)], agreement: Option<f64>) -> Asked {
    let outcome =
        |(query, one): &(Query, Forced)| Outcome::new(&one.log_probs, &one.best, query.target());
    let mut outcomes = forced.iter().map(outcome);
    Asked {
        new: question.new.and_then(|_| outcomes.next()),
        truth: question.truth.and_then(|_| outcomes.next()),
        answers: outcomes.collect(),
        set: question.set,
        kind: question.kind,
        prompt: question.prompt,
        agreement,
    }
}
