//! Extrapolation (EXPO): the difference times a number.
//!
//! ```text
//! W = W_post + α ΔW = W_pre + (1 + α) ΔW        α < 0 goes back towards the base, -1 reaches it
//! ```
//!
//! Task arithmetic's factor λ is `1 + α`.

use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scale {
    /// How far beyond the post-trained weights; negative values interpolate, -1 gives the base.
    pub alpha: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { alpha: 0.3 }
    }
}

impl Method for Scale {
    const CARD: Card = Card {
        id: "expo",
        number: None,
        title: "Extrapolation",
        family: Family::Delta,
        paper: "Zheng et al. 2024, Weak-to-Strong Extrapolation Expedites Alignment",
        summary: "Multiplies the difference: further than the post-trained weights, or back towards the base",
    };
}

impl Operator for Scale {
    fn check(&self) -> Result<()> {
        within("method.alpha", self.alpha, -100.0, 100.0)
    }

    fn apply(&self, _: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        let factor = (1.0 + self.alpha) as f32;
        for value in delta {
            *value *= factor;
        }
        Ok(())
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// How far to go along a difference, and what was seen on the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The factor with the lowest loss.
    pub alpha: f64,
    /// `⟨ΔW, ∇L⟩` at the post-trained weights: below 0 the loss falls beyond them.
    pub slope: f64,
    /// Every factor that was tried with its loss, ascending.
    pub curve: Vec<(f64, f64)>,
}

/// Chooses among `-1, -1 + step .. 1` by the loss on data that is not the test: the sign of `slope` says on which side of
/// the post-trained weights, which are tried too, and the loss how far.
///
/// # Errors
/// A step outside (0, 1], a slope or loss that is not finite, and whatever `loss` returns.
pub fn choose_alpha(
    slope: f64,
    step: f64,
    mut loss: impl FnMut(f64) -> Result<f64>,
) -> Result<Choice> {
    if !(step > 0.0 && step <= 1.0) {
        let problem = format!("is {step}; must be above 0 and at most 1");
        return Err(Error::config("method.step", problem));
    }
    if !slope.is_finite() {
        return Err(Error::Numeric(format!("the slope of the loss is {slope}")));
    }
    let towards = if slope < 0.0 { 1.0 } else { -1.0 };
    let count = (1.0 / step + 1e-9) as usize;
    let mut curve = Vec::with_capacity(count + 1);
    for number in 0..=count {
        let alpha = towards * number as f64 * step;
        let value = loss(alpha)?;
        if !value.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss at alpha {alpha} is {value}"
            )));
        }
        curve.push((alpha, value));
    }
    curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    let best = curve.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(Choice {
        alpha: best.map_or(0.0, |(alpha, _)| *alpha),
        slope,
        curve,
    })
}
