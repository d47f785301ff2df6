//! Where a model recalls facts: causal tracing (Meng et al., arXiv 2202.05262, section 2).
//!
//! Noise on the subject's embeddings makes the model forget an answer; putting back the undisturbed state of
//! one token behind one layer brings some of it back. That share, the indirect effect, is measured for every
//! token and layer: of the whole stream, of MLPs and attentions over a window of layers, and of the stream
//! while later MLPs or attentions of the token are kept as disturbed.

use super::mlps::{Mlp, mlps};
use crate::report::trace_page;
use burn::tensor::{Tensor, TensorData};
use modelsmith_core::capture::{Capture, Noise, Restore, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::SiteKind;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::EditRequest;
use modelsmith_hosts::{TokenInput, Transformer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Rows and columns of a pass at most.
const TOKENS: usize = 8192;

/// How facts are traced.
#[derive(Clone, Copy, Debug)]
pub struct TraceOptions {
    /// Draws of noise for each fact.
    pub samples: usize,
    /// Deviation of the noise, in deviations of the subjects' embeddings.
    pub noise: f64,
    /// Layers of a window; 0 for a fifth of the model's.
    pub window: usize,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            samples: 10,
            noise: 3.0,
            window: 0,
            seed: 0,
        }
    }
}

/// Places of a prompt, in the order of the grids' rows.
pub const PLACES: [&str; 6] = [
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
];

/// Mean indirect effects.
#[derive(Clone, Debug, Serialize)]
pub struct Effects {
    /// What was put back.
    pub title: &'static str,
    /// By place of [`PLACES`] and layer; `None` where no prompt has such a token.
    pub grid: Vec<Vec<Option<f64>>>,
}

/// What tracing found.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Facts that were traced.
    pub facts: usize,
    /// Facts left out because the model does not know them.
    pub unknown: usize,
    /// Mean probability of the answers.
    pub clean: f64,
    /// The same under noise.
    pub corrupted: f64,
    /// Layers of a window.
    pub window: usize,
    /// Names of the rows.
    pub places: [&'static str; 6],
    /// The grids.
    pub effects: Vec<Effects>,
}

/// What is put back and what is kept as disturbed.
#[derive(Clone, Copy)]
enum Kind {
    Stream,
    Mlp,
    Attention,
    WithoutMlp,
    WithoutAttention,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Stream, "One state of the stream"),
    (Kind::Mlp, "MLPs of a window of layers"),
    (Kind::Attention, "Attentions of a window of layers"),
    (Kind::WithoutMlp, "One state, later MLPs kept as disturbed"),
    (
        Kind::WithoutAttention,
        "One state, later attentions kept as disturbed",
    ),
];

/// Sums and counts by place and layer.
type Sums = Vec<Vec<(f64, usize)>>;

fn add(sums: &mut Sums, [row, layer]: [usize; 2], effect: f64) {
    let (sum, count) = &mut sums[row][layer];
    *sum += effect;
    *count += 1;
}

/// A known fact in tokens.
struct Case {
    ids: Vec<u32>,
    subject: Range<usize>,
    answer: u32,
}

/// Traces the true answers of requests that the model knows.
///
/// # Errors
/// A model that cannot be edited, requests without true answers, none that the model knows.
pub fn trace(
    host: &Transformer,
    tokenizer: &Tokenizer,
    requests: &[EditRequest],
    options: &TraceOptions,
) -> Result<Trace> {
    let mlps = mlps(host)?;
    let embedding = host.sites().iter();
    let embedding = embedding
        .clone()
        .find(|site| site.kind == SiteKind::Embedding);
    let embedding = embedding.map(|site| site.path.clone());
    let embedding = embedding.ok_or_else(|| Error::Failed("the model embeds nothing".into()))?;
    let cases: Vec<Case> = requests
        .iter()
        .filter_map(|request| case(tokenizer, request).transpose())
        .collect::<Result<_>>()?;
    if cases.is_empty() {
        return Err(Error::Usage(
            "no request has a `target_true`; tracing follows what the model knows".into(),
        ));
    }
    let window = match options.window {
        0 => (mlps.len() / 5).max(1),
        window => window,
    };
    let tracer = Tracer {
        host,
        mlps: &mlps,
        deviation: deviation(host, &embedding, &cases)? * options.noise,
        embedding,
        window,
        options,
    };
    let empty = vec![vec![(0.0, 0); mlps.len()]; PLACES.len()];
    let mut sums: Vec<Sums> = vec![empty; KINDS.len()];
    let (mut clean, mut corrupted, mut known) = (0.0, 0.0, 0);
    for (number, case) in cases.iter().enumerate() {
        let Some((before, after)) = tracer.follow(number, case, &mut sums)? else {
            continue;
        };
        clean += before;
        corrupted += after;
        known += 1;
    }
    if known == 0 {
        return Err(Error::Usage(format!(
            "the model knows none of the {} facts; trace facts of its own training",
            cases.len()
        )));
    }
    let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
    let rows = |sums: Sums| {
        let row = |row: Vec<(f64, usize)>| row.into_iter().map(mean).collect();
        sums.into_iter().map(row).collect()
    };
    let effects = sums.into_iter().zip(KINDS);
    Ok(Trace {
        facts: known,
        unknown: cases.len() - known,
        clean: clean / known as f64,
        corrupted: corrupted / known as f64,
        window,
        places: PLACES,
        effects: effects
            .map(|(sums, (_, title))| Effects {
                title,
                grid: rows(sums),
            })
            .collect(),
    })
}

/// Traces requests in the model of a folder; with `report` the heat maps are written there as a page.
///
/// # Errors
/// As [`trace`]; a page that cannot be written.
pub fn trace_file(
    folder: &Path,
    requests: &[EditRequest],
    options: &TraceOptions,
    device: &str,
    report: Option<&Path>,
) -> Result<Trace> {
    let device = crate::device::device(device)?;
    let host = modelsmith_hosts::load(folder, &device)?;
    let found = trace(&host, &Tokenizer::load(folder)?, requests, options)?;
    if let Some(path) = report {
        let page = trace_page(&found, &folder.display().to_string())?;
        atomic_bytes(path, page.as_bytes())?;
    }
    Ok(found)
}

/// A request as a case; `None` without a true answer.
fn case(tokenizer: &Tokenizer, request: &EditRequest) -> Result<Option<Case>> {
    let Some(answer) = request.true_text() else {
        return Ok(None);
    };
    let Some(begin) = request.prompt.find("{}") else {
        return Ok(None);
    };
    let end = begin + request.subject.len();
    let encoded = tokenizer.encode_with_offsets(&request.filled(), true, true)?;
    let real: Vec<usize> = (0..encoded.ids.len())
        .filter(|place| encoded.offsets[*place].0 < encoded.offsets[*place].1)
        .collect();
    let inside = |place: &&usize| {
        let (from, to) = encoded.offsets[**place];
        to > begin && from < end
    };
    let first = real.iter().find(inside);
    let last = real.iter().rev().find(inside);
    let answer = tokenizer.encode(&answer, false)?.first().copied();
    let (Some(first), Some(last), Some(answer), Some(length)) = (first, last, answer, real.last())
    else {
        return Ok(None);
    };
    Ok(Some(Case {
        subject: *first..last + 1,
        ids: encoded.ids[..=*length].to_vec(),
        answer,
    }))
}

/// Deviation of the embeddings of all subjects.
fn deviation(host: &Transformer, embedding: &str, cases: &[Case]) -> Result<f64> {
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for case in cases {
        let capture = Capture::new([embedding], Side::Output);
        let input = input(host, std::slice::from_ref(&case.ids));
        host.hidden(&input, &Pass::default(), &[&capture], None)?;
        let seen = captured(&capture.take(), embedding)?;
        let subject = seen.narrow(1, case.subject.start, case.subject.len());
        for value in to_vec(subject) {
            let value = f64::from(value);
            sum += value;
            squares += value * value;
            count += 1.0;
        }
    }
    let mean: f64 = sum / count;
    Ok((squares / count - mean * mean).max(0.0).sqrt())
}

struct Tracer<'a> {
    host: &'a Transformer,
    mlps: &'a [Mlp],
    embedding: String,
    /// Deviation of the noise.
    deviation: f64,
    window: usize,
    options: &'a TraceOptions,
}

impl Tracer<'_> {
    /// Adds a fact's effects; its probability before and under noise, or `None` where the model does
    /// not know it.
    fn follow(&self, number: usize, case: &Case, sums: &mut [Sums]) -> Result<Option<(f64, f64)>> {
        let all = self.paths();
        let capture = Capture::new(all.clone(), Side::Output);
        let one = input(self.host, std::slice::from_ref(&case.ids));
        let (clean, best) = self.answer(&one, &[&capture], case.answer)?;
        if best[0] != case.answer {
            return Ok(None);
        }
        let states = capture.take();
        let noise = self.noise(number, case);
        let samples = self.options.samples.max(1);
        let rows = input(self.host, &vec![case.ids.clone(); samples]);
        let capture = Capture::new(all, Side::Output);
        let hooks: [&dyn Hooks; 2] = [&noise, &capture];
        let (corrupted, _) = self.answer(&rows, &hooks, case.answer)?;
        let disturbed = capture.take();
        let corrupted = corrupted.iter().sum::<f64>() / samples as f64;
        let places = case.ids.len();
        let group = (TOKENS / (places * samples)).max(1);
        for (sums, (kind, _)) in sums.iter_mut().zip(KINDS) {
            for layer in 0..self.mlps.len() {
                for begin in (0..places).step_by(group) {
                    let tokens = begin..(begin + group).min(places);
                    let found = self.restored(
                        case,
                        kind,
                        layer,
                        tokens.clone(),
                        &noise,
                        (&states, &disturbed),
                    )?;
                    for (place, p) in tokens.zip(found.chunks_exact(samples)) {
                        let Some(row) = place_of(case, place) else {
                            continue;
                        };
                        let effect = p.iter().sum::<f64>() / samples as f64 - corrupted;
                        add(sums, [row, layer], effect);
                    }
                }
            }
        }
        Ok(Some((clean[0], corrupted)))
    }

    /// Probabilities of the answer with one token of `tokens` after the other put back at `layer`, for
    /// every draw of the noise.
    fn restored(
        &self,
        case: &Case,
        kind: Kind,
        layer: usize,
        tokens: Range<usize>,
        noise: &Noise,
        (states, disturbed): (&States, &States),
    ) -> Result<Vec<f64>> {
        let (samples, time) = (self.options.samples.max(1), case.ids.len());
        let count = tokens.len();
        let mut mask = vec![0.0_f32; count * samples * time];
        for (row, values) in mask.chunks_exact_mut(time).enumerate() {
            values[tokens.start + row / samples] = 1.0;
        }
        let shape = [count * samples, time, 1];
        let mask = Tensor::<3>::from_data(TensorData::new(mask, shape), &self.host.device());
        let repeated = |x: Tensor<3>| x.repeat(&[count, 1, 1]);
        let noise = Noise {
            path: noise.path.clone(),
            noise: repeated(noise.noise.clone()),
        };
        let mut back = Vec::new();
        let mut put = |path: &String, value: Tensor<3>| {
            back.push(Restore {
                path: path.clone(),
                value,
                mask: mask.clone(),
            });
        };
        let half = self.window / 2;
        let window = layer.saturating_sub(half)..(layer + self.window - half).min(self.mlps.len());
        match kind {
            Kind::Mlp => {
                for mlp in &self.mlps[window] {
                    put(&mlp.site.path, captured(states, &mlp.site.path)?);
                }
            }
            Kind::Attention => {
                for mlp in &self.mlps[window] {
                    put(&mlp.attention, captured(states, &mlp.attention)?);
                }
            }
            Kind::Stream | Kind::WithoutMlp | Kind::WithoutAttention => {
                let block = &self.mlps[layer].block;
                put(block, captured(states, block)?);
            }
        }
        for mlp in &self.mlps[layer + 1..] {
            let path = match kind {
                Kind::WithoutMlp => &mlp.site.path,
                Kind::WithoutAttention => &mlp.attention,
                _ => break,
            };
            put(path, repeated(captured(disturbed, path)?));
        }
        let mut hooks: Vec<&dyn Hooks> = vec![&noise];
        hooks.extend(back.iter().map(|hook| hook as &dyn Hooks));
        let rows = input(self.host, &vec![case.ids.clone(); count * samples]);
        Ok(self.answer(&rows, &hooks, case.answer)?.0)
    }

    fn paths(&self) -> Vec<String> {
        let of = |mlp: &Mlp| {
            [
                mlp.block.clone(),
                mlp.site.path.clone(),
                mlp.attention.clone(),
            ]
        };
        self.mlps.iter().flat_map(of).collect()
    }

    /// Noise on the subject, another draw for every row.
    fn noise(&self, number: usize, case: &Case) -> Noise {
        let (samples, width) = (self.options.samples.max(1), self.host.hidden_size());
        let mut stream = Stream::new(self.options.seed, &format!("trace/{number}"));
        let mut values = Vec::with_capacity(samples * case.ids.len() * width);
        for _ in 0..samples {
            for place in 0..case.ids.len() {
                match case.subject.contains(&place) {
                    true => values.extend(stream.normal(width, 0.0, self.deviation as f32)),
                    false => values.extend(std::iter::repeat_n(0.0, width)),
                }
            }
        }
        let shape = [samples, case.ids.len(), width];
        Noise {
            path: self.embedding.clone(),
            noise: Tensor::from_data(TensorData::new(values, shape), &self.host.device()),
        }
    }

    /// Probability of the answer behind the last token of every row, and the likeliest tokens.
    fn answer(
        &self,
        input: &TokenInput,
        hooks: &[&dyn Hooks],
        answer: u32,
    ) -> Result<(Vec<f64>, Vec<u32>)> {
        let pass = Pass::default();
        let hidden = self.host.hidden(input, &pass, hooks, None)?;
        let time = hidden.dims()[1];
        let logits = self
            .host
            .logits(hidden.narrow(1, time - 1, 1), input, &pass, hooks);
        let width = logits.dims()[2];
        let logs = to_vec(modelsmith_kernels::log_softmax(logits));
        let rows = logs.chunks_exact(width);
        let best = |row: &[f32]| {
            let places = row.iter().enumerate();
            places
                .max_by(|a, b| a.1.total_cmp(b.1))
                .map_or(0, |(place, _)| place as u32)
        };
        Ok((
            rows.clone()
                .map(|row| f64::from(row[answer as usize]).exp())
                .collect(),
            rows.map(best).collect(),
        ))
    }
}

/// Captured activations by path.
type States = BTreeMap<String, modelsmith_core::parameters::Flat>;

fn captured(states: &States, path: &str) -> Result<Tensor<3>> {
    let seen = states.get(path);
    seen.ok_or_else(|| Error::Failed(format!("{path} was not visited")))?
        .tensor()
}

fn input(host: &Transformer, rows: &[Vec<u32>]) -> TokenInput {
    TokenInput::from_ids(rows, host.pad_token().unwrap_or(0), false, &host.device())
}

/// The row of the grids that a token belongs to; `None` for what stands in front of the subject.
fn place_of(case: &Case, place: usize) -> Option<usize> {
    let Range { start, end } = case.subject;
    let last = case.ids.len() - 1;
    match place {
        place if place < start => None,
        place if place == end - 1 => Some(2),
        place if place == start => Some(0),
        place if place < end => Some(1),
        place if place == last => Some(5),
        place if place == end => Some(3),
        _ => Some(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_places() {
        let case = Case {
            ids: vec![0; 9],
            subject: 2..5,
            answer: 0,
        };
        let found: Vec<Option<usize>> = (0..9).map(|place| place_of(&case, place)).collect();
        let expected = [
            None,
            None,
            Some(0),
            Some(1),
            Some(2),
            Some(3),
            Some(4),
            Some(4),
            Some(5),
        ];
        assert_eq!(found, expected);
        let short = Case {
            ids: vec![0; 2],
            subject: 1..2,
            answer: 0,
        };
        assert_eq!(place_of(&short, 1), Some(2));
    }
}
