//! When is how much of the budget left, and which triplets is it spent on?
//!
//! With `b₀` triplets at the start, `b` at the end, and steps `t` from 1 to `T`:
//!
//! ```text
//! t ≤ tinit              b₀, nothing is cut
//! t ≤ T − tfinal         ⌊ b + (b₀ − b) · (1 − (t − tinit) / (T − tfinal − tinit))³ ⌋, cut every delta_t steps
//! t = T − tfinal         cut, and the pattern stays
//! t > T − tfinal         the pattern is applied after every step
//! ```
//!
//! A cut puts all scores of the network into one list and sets E to 0 from the threshold down, ties
//! included.

use super::triplets::{Judged, Triplets};
use super::{AdaLoraConfig, Score};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use std::collections::BTreeMap;

impl AdaLoraConfig {
    /// `tinit` and `tfinal` of a training of `total` steps.
    pub(super) fn phases(&self, total: u64) -> (u64, u64) {
        let tinit = self.tinit.unwrap_or(total / 10);
        let tfinal = self.tfinal.unwrap_or(total.saturating_mul(3) / 10);
        (tinit, tfinal)
    }
}

/// The budget over a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    tinit: u64,
    /// `T − tfinal`.
    settled: u64,
    delta_t: u64,
    first: usize,
    last: usize,
}

/// What happens after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing.
    None,
    /// Down to this many triplets.
    To(usize),
    /// As the last time.
    Again,
}

impl Schedule {
    /// The schedule for `matrices` adapted weights and a training of `total` optimizer steps.
    ///
    /// # Errors
    /// Phases that do not fit into the training.
    pub(super) fn new(config: &AdaLoraConfig, matrices: usize, total: u64) -> Result<Self> {
        let (tinit, tfinal) = config.phases(total);
        if tinit.saturating_add(tfinal) >= total {
            return Err(Error::config(
                "method.tinit",
                format!(
                    "tinit {tinit} and tfinal {tfinal} leave none of the training's {total} steps \
                     for cutting; lower them, or train longer"
                ),
            ));
        }
        Ok(Self {
            tinit,
            settled: total - tfinal,
            delta_t: config.delta_t,
            first: config.init_r * matrices,
            last: config.target_r * matrices,
        })
    }

    /// Triplets in all after step `t`.
    pub(super) fn budget(&self, t: u64) -> usize {
        if t <= self.tinit {
            return self.first;
        }
        if t >= self.settled {
            return self.last;
        }
        let through = (t - self.tinit) as f64 / (self.settled - self.tinit) as f64;
        let more = (self.first - self.last) as f64 * (1.0 - through).powi(3);
        (self.last as f64 + more) as usize
    }

    /// What to do after step `t`.
    pub(super) fn cut(&self, t: u64) -> Cut {
        let falls = t.is_multiple_of(self.delta_t) || t == self.settled;
        if t <= self.tinit {
            Cut::None
        } else if t > self.settled {
            Cut::Again
        } else if falls {
            Cut::To(self.budget(t))
        } else {
            Cut::None
        }
    }
}

/// What decides between triplets.
#[derive(Clone, Debug)]
pub(super) struct Allocator {
    betas: (f64, f64),
    score: Score,
    seed: u64,
}

impl Allocator {
    pub(super) fn new(config: &AdaLoraConfig, seed: u64) -> Self {
        Self {
            betas: (config.beta1, config.beta2),
            score: config.score,
            seed,
        }
    }

    /// Follows step `t` and cuts what its budget has no room for.
    pub(super) fn after_step(
        &self,
        sites: &mut [&mut Triplets],
        schedule: &Schedule,
        t: u64,
        gradients: &BTreeMap<String, Flat>,
        scale: f64,
    ) -> Result<()> {
        if t < schedule.settled {
            for site in sites.iter_mut() {
                site.follow(gradients, scale, self.betas)?;
            }
        }
        match schedule.cut(t) {
            Cut::None => {}
            Cut::Again => sites.iter_mut().for_each(|site| site.cut_again()),
            Cut::To(budget) => self.cut(sites, budget),
        }
        Ok(())
    }

    /// Leaves the `budget` triplets with the highest scores, fewer where scores are equal at the
    /// threshold.
    pub(super) fn cut(&self, sites: &mut [&mut Triplets], budget: usize) {
        let scores: Vec<Vec<f32>> = sites.iter().map(|site| self.scores(site)).collect();
        let mut all: Vec<f32> = scores.iter().flatten().copied().collect();
        let Some(cut) = all.len().checked_sub(budget).filter(|cut| *cut > 0) else {
            return;
        };
        let (_, threshold, _) = all.select_nth_unstable_by(cut - 1, f32::total_cmp);
        let threshold = *threshold;
        for (site, scores) in sites.iter_mut().zip(scores) {
            let kept: Vec<bool> = scores.into_iter().map(|score| score > threshold).collect();
            site.cut(&kept);
        }
    }

    fn scores(&self, site: &Triplets) -> Vec<f32> {
        match self.score {
            Score::Importance => site.scores(Judged::Importance),
            Score::Sensitivity => site.scores(Judged::Sensitivity),
            Score::Raw => site.scores(Judged::Raw),
            Score::Magnitude => site.magnitudes(),
            Score::Random => {
                let name = format!("adalora/{}/score", site.plan().site.path);
                Stream::new(self.seed, &name).uniform(site.plan().rank, 0.0, 1.0)
            }
        }
    }
}
