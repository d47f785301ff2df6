//! Reading and disturbing activations through hooks: capture to memory or disk, gradients with
//! respect to activations, noise, and restoring of earlier values (the parts of causal tracing,
//! Meng et al., arXiv 2202.05262, section 2.1).

use crate::error::Result;
use crate::hooks::{
    AttentionCall, ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, OutputCall,
    ProbabilitiesCall, Qkv, ResidualCall,
};
use crate::parameters::{Flat, trained};
use crate::weights;
use burn::tensor::{Gradients, Int, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which activations of a site are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the site receives.
    Input,
    /// What the site returns.
    Output,
}

/// Keeps the activations of chosen sites during forward passes.
pub struct Capture {
    paths: Vec<String>,
    side: Side,
    gradients: bool,
    probabilities: bool,
    kept: Mutex<BTreeMap<String, Flat>>,
    leaves: Mutex<BTreeMap<String, Tensor<3>>>,
}

impl Capture {
    /// Captures one side of the sites at `paths`.
    pub fn new(paths: impl IntoIterator<Item = impl Into<String>>, side: Side) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            side,
            gradients: false,
            probabilities: false,
            kept: Mutex::default(),
            leaves: Mutex::default(),
        }
    }

    /// Also makes the gradient of a later loss with respect to each captured `[batch, time,
    /// width]` output available through [`Capture::gradients`].
    #[must_use]
    pub fn with_gradients(mut self) -> Self {
        self.gradients = true;
        self
    }

    /// Also captures attention probabilities, under the site's path with `.probabilities`.
    #[must_use]
    pub fn with_probabilities(mut self) -> Self {
        self.probabilities = true;
        self
    }

    /// Takes what was captured, by site path.
    pub fn take(&self) -> BTreeMap<String, Flat> {
        std::mem::take(&mut lock(&self.kept))
    }

    /// Gradients with respect to the captured outputs, after `loss.backward()`.
    pub fn gradients(&self, gradients: &Gradients) -> BTreeMap<String, Flat> {
        lock(&self.leaves)
            .iter()
            .filter_map(|(path, leaf)| Some((path.clone(), Flat::new(leaf.grad(gradients)?))))
            .collect()
    }

    /// Writes what was captured to a safetensors file (atomically) and forgets it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        weights::save(path, &self.take(), &BTreeMap::new())
    }

    fn wants(&self, path: &str) -> bool {
        self.paths.iter().any(|wanted| wanted == path)
    }

    fn keep<const D: usize>(&self, path: &str, side: Side, x: &Tensor<D>) {
        if side == self.side && self.wants(path) {
            let value = Flat::new(x.clone().without_autodiff());
            lock(&self.kept).insert(path.to_owned(), value);
        }
    }

    /// Adds a zero leaf to an output, whose gradient is the gradient of the output.
    fn tap(&self, path: &str, y: Tensor<3>) -> Tensor<3> {
        if !(self.gradients && self.wants(path)) {
            return y;
        }
        let leaf = trained(y.clone().without_autodiff().zeros_like()).val();
        lock(&self.leaves).insert(path.to_owned(), leaf.clone());
        y + leaf
    }

    fn around(
        &self,
        path: &str,
        x: Tensor<3>,
        run: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        self.keep(path, Side::Input, &x);
        let y = self.tap(path, run(x));
        self.keep(path, Side::Output, &y);
        y
    }
}

impl Hooks for Capture {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        let site = call.site;
        let y = self.tap(&site.path, call.run(ids));
        self.keep(&site.path, Side::Output, &y);
        y
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let site = call.site;
        self.around(&site.path, x, |x| call.run(x))
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let site = call.site;
        self.keep(&site.path, Side::Input, &x);
        let y = call.run(x);
        self.keep(&site.path, Side::Output, &y);
        y
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let site = call.site;
        self.around(&site.path, x, |x| call.run(x))
    }

    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        let site = call.site;
        self.keep(&site.path, Side::Input, &qkv.q);
        let y = call.run(qkv);
        self.keep(&site.path, Side::Output, &y);
        y
    }

    fn probabilities(&self, call: ProbabilitiesCall<'_>, p: Tensor<4>) -> Tensor<4> {
        if self.wants(&call.site.path) {
            let value = Flat::new(p.clone().without_autodiff());
            lock(&self.kept).insert(format!("{}.probabilities", call.site.path), value);
        }
        call.run(p)
    }

    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let site = call.site;
        self.around(&site.path, x, |x| call.run(x))
    }

    fn output(&self, call: OutputCall<'_>, hidden: Tensor<3>) -> Tensor<3> {
        let site = call.site;
        self.around(&site.path, hidden, |hidden| call.run(hidden))
    }

    fn needs_probabilities(&self) -> bool {
        self.probabilities
    }
}

/// Adds fixed noise to the output of one site at some positions.
pub struct Noise {
    /// Path of the site.
    pub path: String,
    /// `[batch or 1, time, width]`: what is added; zero where nothing changes.
    pub noise: Tensor<3>,
}

impl Hooks for Noise {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(ids);
        if here { y + self.noise.clone() } else { y }
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if here { y + self.noise.clone() } else { y }
    }

    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if here { y + self.noise.clone() } else { y }
    }
}

/// Puts earlier values back into the output of one site where `mask` is 1.
pub struct Restore {
    /// Path of the site.
    pub path: String,
    /// `[batch or 1, time, width]`: the values to restore.
    pub value: Tensor<3>,
    /// `[1, time, 1]`: 1 where the value is restored, 0 elsewhere.
    pub mask: Tensor<3>,
}

impl Restore {
    fn apply(&self, y: Tensor<3>) -> Tensor<3> {
        let gap = self.value.clone() - y.clone();
        y + gap * self.mask.clone()
    }
}

impl Hooks for Restore {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if here { self.apply(y) } else { y }
    }

    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if here { self.apply(y) } else { y }
    }
}

/// The value behind a lock; a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
