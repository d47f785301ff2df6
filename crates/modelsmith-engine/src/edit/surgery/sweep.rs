//! Which strength an operation is done at: behaviour and perplexity over alpha, both signs.

use super::behaviour::{Behaviour, Figures};
use super::host::edited;
use super::operate::Operation;
use super::perplexity::Windows;
use modelsmith_core::error::{Error, Result};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::{Choice, Patch, Point, choose};
use serde::Serialize;

/// What is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepOptions {
    /// Strengths besides 0.
    pub alphas: Vec<f64>,
    /// How far the perplexity may rise, as a share.
    pub rise: f64,
}

impl Default for SweepOptions {
    fn default() -> Self {
        let sizes = [0.25, 0.5, 1.0, 1.5, 2.0];
        let both = sizes.iter().map(|size| -size).rev().chain(sizes);
        Self {
            alphas: both.collect(),
            rise: 0.03,
        }
    }
}

/// What was found at each strength.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// Before this operation.
    pub base: Point,
    /// At each strength, as asked.
    pub points: Vec<Point>,
    /// The behaviour at each strength in full.
    pub figures: Vec<Figures>,
    /// The behaviour before in full.
    pub base_figures: Figures,
    /// The same strengths on other rows, where some were given.
    pub random: Vec<Point>,
    /// The strength to take.
    pub choice: Choice,
}

/// Tries an operation at several strengths on a base with `before` on it, and chooses one. `random`, the
/// same operation on rows drawn at random, shows what the choice of rows is worth.
///
/// # Errors
/// No strength, a strength that is not finite; what measuring refuses.
pub fn sweep(
    base: &Transformer,
    before: &[Patch],
    operation: &Operation,
    random: Option<&Operation>,
    behaviour: &dyn Behaviour,
    text: &Windows,
    options: &SweepOptions,
) -> Result<Sweep> {
    if options.alphas.is_empty() || options.alphas.iter().any(|alpha| !alpha.is_finite()) {
        return Err(Error::Usage("a sweep needs finite strengths".into()));
    }
    let start = edited(base, before)?;
    let at = |patch: &Patch, alpha: f64| -> Result<(Point, Figures)> {
        let host = edited(&start, &[patch.at(alpha)])?;
        let figures = behaviour.measure(&host, &[])?;
        let point = Point {
            alpha,
            behaviour: figures.behaviour,
            perplexity: text.perplexity(&host, &[])?,
        };
        Ok((point, figures))
    };
    let all = |patch: &Patch| -> Result<Vec<(Point, Figures)>> {
        options
            .alphas
            .iter()
            .map(|alpha| at(patch, *alpha))
            .collect()
    };
    let (zero, base_figures) = at(&operation.patch, 0.0)?;
    let (points, figures): (Vec<Point>, Vec<Figures>) = all(&operation.patch)?.into_iter().unzip();
    let random = match random {
        Some(random) => all(&random.patch)?
            .into_iter()
            .map(|(point, _)| point)
            .collect(),
        None => Vec::new(),
    };
    Ok(Sweep {
        choice: choose(zero, &points, &random, options.rise),
        base: zero,
        points,
        figures,
        base_figures,
        random,
    })
}
