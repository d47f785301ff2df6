//! Direct preference optimisation (Rafailov et al., NeurIPS 2023, arXiv 2305.18290, equation 7), which surgery is
//! compared with.
//!
//! ```text
//! loss = -log σ(β (Δ(chosen) - Δ(rejected)))      Δ(y) = log π(y | x) - log π_host(y | x)
//! ```
//!
//! Pairs are the host's own continuations of a prompt, told apart by a judge: what it finds to show the behaviour least
//! is chosen, what it finds to show it most is rejected.

use super::judge::Judge;
use crate::edit::answers::Answers;
use crate::edit::ranges::{above_zero, at_least};
use crate::generate::{GenerateOptions, generate};
use crate::pool::within;
use crate::sampler::Sampler;
use crate::train::{clip_factor, global_norm, update};
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapter, Optimize, Optimizer};
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use modelsmith_methods::optimize::AdamW;
use serde::{Deserialize, Serialize};

/// Prompts that are continued in one pass.
const BATCH: usize = 32;

/// Largest norm of a step's gradient.
const CLIP: f64 = 1.0;

/// How preferences are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoOptions {
    /// How near the host is kept.
    pub beta: f64,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Pairs of a step.
    pub batch_size: usize,
    /// Continuations drawn of a prompt.
    pub samples: usize,
}

impl Default for DpoOptions {
    fn default() -> Self {
        Self {
            beta: 0.1,
            learning_rate: 1e-4,
            batch_size: 16,
            samples: 4,
        }
    }
}

impl DpoOptions {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    pub fn check(&self) -> Result<()> {
        at_least(1, &[("batch_size", self.batch_size)])?;
        at_least(2, &[("samples", self.samples)])?;
        above_zero(&[("beta", self.beta), ("learning_rate", self.learning_rate)])
    }
}

/// Two continuations of a prompt in tokens, the better one and the worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What is continued.
    pub prompt: Vec<u32>,
    /// The continuation that is wanted, at least a token.
    pub chosen: Vec<u32>,
    /// The one that is not, at least a token.
    pub rejected: Vec<u32>,
}

/// Continues each prompt several times under the seed, and makes a pair of it where `judge` finds one continuation to
/// show the behaviour and another not to.
///
/// # Errors
/// A host that does not predict next tokens, prompts that it cannot read.
pub fn pairs(
    host: &Transformer,
    (tokenizer, judge): (&Tokenizer, &Judge),
    prompts: &[Vec<u32>],
    (max_tokens, samples): (usize, usize),
    seed: u64,
) -> Result<Vec<Pair>> {
    let eos: Vec<u32> = tokenizer.special().eos.into_iter().collect();
    let mut found = Vec::new();
    for (number, batch) in prompts.chunks(BATCH).enumerate() {
        // A draw is keyed by its row, so the same prompt in other rows is continued otherwise.
        let repeat = |prompt| std::iter::repeat_n(prompt, samples);
        let rows: Vec<Vec<u32>> = batch.iter().cloned().flat_map(repeat).collect();
        let name = format!("dpo/pairs/{number}");
        let options = GenerateOptions {
            max_new_tokens: max_tokens,
            min_new_tokens: 1,
            eos: eos.clone(),
            sampler: Sampler {
                temperature: 1.0,
                seed: Stream::new(seed, &name).below(usize::MAX) as u64,
                ..Sampler::default()
            },
            ..GenerateOptions::default()
        };
        let texts = generate(host, &rows, &options, &[], &mut |_, _| true)?;
        for (prompt, drawn) in batch.iter().zip(texts.chunks_exact(samples)) {
            found.extend(pair(prompt, drawn, tokenizer, judge)?);
        }
    }
    Ok(found)
}

/// The best and the worst of a prompt's continuations, where they are of different kinds.
fn pair(
    prompt: &[u32],
    drawn: &[Vec<u32>],
    tokenizer: &Tokenizer,
    judge: &Judge,
) -> Result<Option<Pair>> {
    let mut scored = Vec::with_capacity(drawn.len());
    for ids in drawn.iter().filter(|ids| !ids.is_empty()) {
        scored.push((judge.score(&tokenizer.decode(ids, true)?), ids));
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(match (scored.first(), scored.last()) {
        (Some((best, chosen)), Some((worst, rejected))) if *best < 0.5 && *worst >= 0.5 => {
            Some(Pair {
                prompt: prompt.to_vec(),
                chosen: (*chosen).clone(),
                rejected: (*rejected).clone(),
            })
        }
        _ => None,
    })
}

/// Training that is under way.
pub struct Dpo<'a> {
    host: &'a Transformer,
    pairs: &'a [Pair],
    options: DpoOptions,
    seed: u64,
    optimizer: Box<dyn Optimizer>,
    /// Numbers of the pairs of this pass that are still to come.
    order: Vec<usize>,
    passes: u64,
    /// Steps taken.
    pub steps: u64,
}

impl<'a> Dpo<'a> {
    /// Training of an adapter on pairs.
    ///
    /// # Errors
    /// Options out of range, no pair.
    pub fn new(
        host: &'a Transformer,
        pairs: &'a [Pair],
        options: DpoOptions,
        seed: u64,
    ) -> Result<Self> {
        options.check()?;
        if pairs.is_empty() {
            return Err(Error::Usage(
                "no prompt has continuations of both kinds; draw more of each (samples)".into(),
            ));
        }
        Ok(Self {
            host,
            pairs,
            options,
            seed,
            optimizer: AdamW::default().optimizer()?,
            order: Vec::new(),
            passes: 0,
            steps: 0,
        })
    }

    /// The pairs of the next step; every pass over them is in an order of its own.
    fn batch(&mut self) -> Vec<&'a Pair> {
        if self.order.is_empty() {
            self.order = (0..self.pairs.len()).collect();
            let name = format!("dpo/order/{}", self.passes);
            Stream::new(self.seed, &name).shuffle(&mut self.order);
            self.passes += 1;
        }
        let count = self.options.batch_size.min(self.order.len());
        let taken = self.order.split_off(self.order.len() - count);
        taken
            .into_iter()
            .map(|number| &self.pairs[number])
            .collect()
    }

    /// One step; the loss before it.
    ///
    /// # Errors
    /// A loss that is not finite, pairs that the model cannot read.
    pub fn step(&mut self, adapter: &mut dyn Adapter) -> Result<f64> {
        within(|| self.step_here(adapter))
    }

    fn step_here(&mut self, adapter: &mut dyn Adapter) -> Result<f64> {
        let batch = self.batch();
        let loss = loss(self.host, &batch, adapter.hooks(), self.options.beta)?;
        let value = f64::from(to_vec(loss.clone().without_autodiff())[0]);
        if !value.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of preferences is {value} after {} steps; lower method.learning_rate",
                self.steps
            )));
        }
        let gradients = adapter.take_gradients(&mut loss.backward());
        let scale = clip_factor(global_norm(&gradients), CLIP);
        let rates = |_: &str, _: &[usize]| (self.options.learning_rate, 0.0);
        update(adapter, &mut *self.optimizer, (&gradients, scale), rates)?;
        self.steps += 1;
        Ok(value)
    }
}

/// Mean loss of pairs under what is attached: `[1]`.
fn loss(host: &Transformer, pairs: &[&Pair], hooks: &dyn Hooks, beta: f64) -> Result<Tensor<1>> {
    let chosen = pairs
        .iter()
        .map(|pair| (&pair.prompt[..], &pair.chosen[..]));
    let rejected = pairs
        .iter()
        .map(|pair| (&pair.prompt[..], &pair.rejected[..]));
    let texts: Vec<(&[u32], &[u32])> = chosen.chain(rejected).collect();
    let texts = Answers::new(host, &texts);
    let ours = texts.log_likelihoods(host, &[hooks])?;
    let theirs = texts.log_likelihoods(host, &[])?.without_autodiff();
    let nearer = (ours - theirs).reshape([2, pairs.len()]);
    let (chosen, rejected) = (nearer.clone().narrow(0, 0, 1), nearer.narrow(0, 1, 1));
    Ok(-log_sigmoid((chosen - rejected) * beta).mean())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Named as Method;
    use burn::tensor::Device;
    use std::path::Path;

    fn host() -> Transformer {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
        modelsmith_hosts::load(&house, &Device::flex()).unwrap()
    }

    fn example() -> Vec<Pair> {
        let pair = |prompt: &[u32], chosen: &[u32], rejected: &[u32]| Pair {
            prompt: prompt.into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
        };
        vec![
            pair(&[5, 6, 7], &[8, 9], &[10]),
            pair(&[11, 12], &[13], &[14, 15, 16]),
        ]
    }

    #[test]
    fn a_fresh_adapter_has_a_loss_of_ln_2_and_training_moves_it_towards_the_chosen() {
        let (host, pairs) = (host(), example());
        let method = crate::registry::adapter_method(&Method::new("full")).unwrap();
        let mut adapter = method.attach(&host, 0).unwrap();
        let options = DpoOptions {
            learning_rate: 1e-3,
            ..DpoOptions::default()
        };
        let mut dpo = Dpo::new(&host, &pairs, options, 0).unwrap();
        let first = dpo.step(&mut *adapter).unwrap();
        assert!((first - 2.0_f64.ln()).abs() < 1e-5, "{first}");
        let mut last = first;
        for _ in 0..20 {
            last = dpo.step(&mut *adapter).unwrap();
        }
        assert!(last < 0.3 && dpo.steps == 21, "{last}");
    }

    #[test]
    fn the_likelihood_of_a_continuation_is_the_sum_over_its_own_tokens() {
        let host = host();
        let texts: [(&[u32], &[u32]); 3] = [
            (&[5, 6, 7], &[8, 9]),
            (&[11, 12], &[13]),
            (&[5], &[6, 7, 8]),
        ];
        let found = Answers::new(&host, &texts)
            .log_likelihoods(&host, &[])
            .unwrap();
        for ((prompt, answer), found) in texts.iter().zip(to_vec(found)) {
            let row = [*prompt, *answer].concat();
            let each = super::super::perplexity::log_probabilities(&host, &[], &[row]).unwrap();
            let wanted: f64 = each[0][prompt.len() - 1..].iter().sum();
            assert!((f64::from(found) - wanted).abs() < 1e-4, "{found} {wanted}");
        }
    }

    #[test]
    fn options_out_of_range_and_no_pairs_are_refused() {
        let host = host();
        let options = DpoOptions {
            samples: 1,
            ..DpoOptions::default()
        };
        let error = options.check().unwrap_err().to_string();
        assert_eq!(error, "method.samples: is 1; must be at least 2");
        let error = Dpo::new(&host, &[], DpoOptions::default(), 0).err();
        assert!(error.unwrap().to_string().contains("both kinds"));
    }
}
