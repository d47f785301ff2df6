//! Rotary position embedding and its scalings.
//!
//! ```text
//! theta_i = base^(-2i/d),  [x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin],  angle = position theta_i
//! ```
//! Su et al., arXiv 2104.09864, in the half-split layout of Hugging Face checkpoints; YaRN: Peng et
//! al., arXiv 2309.00071; `llama3`: the frequency smoothing of Llama 3.1.

use super::reader::{Reader, bad};
use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::error::{Error, Result, suggest};
use std::f64::consts::PI;

/// Rotation frequencies of a model.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    base: f64,
    dim: usize,
    max_positions: usize,
    scaling: Scaling,
}

#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    Default,
    Linear {
        factor: f64,
    },
    Dynamic {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: usize,
    },
    Yarn(Yarn),
}

#[derive(Clone, Debug, PartialEq)]
struct Yarn {
    factor: f64,
    original: usize,
    attention: f64,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
}

/// Cosines and sines of one pass, `[1 or batch, time, 1, dim / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// Reads `rope_theta` with `rope_scaling` (before transformers 5) or `rope_parameters`.
    pub(crate) fn read(reader: &Reader<'_>, dim: usize, max_positions: usize) -> Result<Self> {
        if dim < 2 || !dim.is_multiple_of(2) {
            return Err(Error::config(
                "head_dim",
                format!("{dim} cannot be rotated in pairs; an even number is expected"),
            ));
        }
        let theta = reader.number_or("rope_theta", 10_000.0)?;
        let old = reader.nested("rope_scaling")?;
        let new = reader.nested("rope_parameters")?;
        let (place, nested) = match (old, new) {
            (Some(old), _) => ("rope_scaling", Some(old)),
            (None, new) => ("rope_parameters", new),
        };
        let Some(nested) = nested else {
            return Self::checked(theta, dim, max_positions, Scaling::Default);
        };
        let theta = nested.number_or("rope_theta", theta)?;
        nested.only("partial_rotary_factor", &1.0.into())?;
        let scaling = Scaling::read(&nested, max_positions)?;
        nested.finish(
            place,
            &["original_max_position_embeddings", "type", "rope_type"],
        )?;
        Self::checked(theta, dim, max_positions, scaling)
    }

    fn checked(base: f64, dim: usize, max_positions: usize, scaling: Scaling) -> Result<Self> {
        if base <= 1.0 {
            return Err(Error::config(
                "rope_theta",
                format!("found {base}; a number above 1 is expected"),
            ));
        }
        Ok(Self {
            base,
            dim,
            max_positions,
            scaling,
        })
    }

    /// Longest sequence this rotation is meant for; `None` where it adapts to any length.
    pub(crate) fn limit(&self) -> Option<usize> {
        match &self.scaling {
            Scaling::Dynamic { .. } => None,
            // Configurations give either the stretched or the original length as the maximum.
            Scaling::Yarn(yarn) => {
                let stretched = (yarn.factor * yarn.original as f64) as usize;
                Some(self.max_positions.max(stretched))
            }
            _ => Some(self.max_positions),
        }
    }

    /// Cosines and sines for rows of positions; the rows share one when they are equal.
    pub(crate) fn rotation(&self, rows: &[Vec<i64>], device: &Device) -> Rotation {
        let time = rows.first().map_or(0, Vec::len);
        let longest = rows.iter().flatten().max().map_or(1, |last| last + 1);
        let (frequencies, scale) = self.frequencies(longest as usize);
        let mut cos = Vec::with_capacity(rows.len() * time * frequencies.len());
        let mut sin = Vec::with_capacity(cos.capacity());
        for position in rows.iter().flatten() {
            for frequency in &frequencies {
                let (s, c) = (*position as f32 * frequency).sin_cos();
                cos.push(c * scale);
                sin.push(s * scale);
            }
        }
        let shape = [rows.len(), time, 1, frequencies.len()];
        Rotation {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
        }
    }

    /// Frequencies for a sequence of this length, in f32 as `transformers` has them, and the
    /// factor on cosines and sines.
    fn frequencies(&self, length: usize) -> (Vec<f32>, f32) {
        let plain = |base: f64| -> Vec<f32> {
            (0..self.dim)
                .step_by(2)
                .map(|i| 1.0 / (base as f32).powf(i as f32 / self.dim as f32))
                .collect()
        };
        match &self.scaling {
            Scaling::Default => (plain(self.base), 1.0),
            Scaling::Linear { factor } => {
                let scaled = plain(self.base)
                    .iter()
                    .map(|f| f / *factor as f32)
                    .collect();
                (scaled, 1.0)
            }
            Scaling::Dynamic { factor } => {
                let most = self.max_positions as f64;
                let ratio = (length as f64).max(most) / most;
                let dim = self.dim as f64;
                let stretch = (factor * ratio - (factor - 1.0)).powf(dim / (dim - 2.0));
                (plain(self.base * stretch), 1.0)
            }
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let smooth = |f: f32| llama3(f64::from(f), *factor, *low, *high, *original as f64);
                (plain(self.base).into_iter().map(smooth).collect(), 1.0)
            }
            Scaling::Yarn(yarn) => (yarn.frequencies(self.base, self.dim), yarn.attention as f32),
        }
    }
}

impl Rotation {
    /// Rotates `[batch, time, heads, dim]`.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        modelsmith_kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }
}

impl Scaling {
    fn read(nested: &Reader<'_>, max_positions: usize) -> Result<Self> {
        let kind = match nested.text_if("rope_type")? {
            Some(kind) => kind,
            None => nested.text_if("type")?.unwrap_or("default"),
        };
        let original = nested.size_or("original_max_position_embeddings", max_positions)?;
        match kind {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear {
                factor: nested.positive("factor")?,
            }),
            "dynamic" => Ok(Self::Dynamic {
                factor: nested.positive("factor")?,
            }),
            "llama3" => Ok(Self::Llama3 {
                factor: nested.positive("factor")?,
                low: nested.positive("low_freq_factor")?,
                high: nested.positive("high_freq_factor")?,
                original,
            }),
            "yarn" => Yarn::read(nested, max_positions, original).map(Self::Yarn),
            other => {
                let known = ["default", "linear", "dynamic", "llama3", "yarn"];
                Err(bad(
                    "rope_type",
                    &other.into(),
                    &format!("one that is implemented; {}", suggest(other, known)),
                ))
            }
        }
    }
}

fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength < original / high {
        return frequency as f32;
    }
    if wavelength > original / low {
        return (frequency / factor) as f32;
    }
    let smooth = (original / wavelength - low) / (high - low);
    ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
}

impl Yarn {
    fn read(nested: &Reader<'_>, max_positions: usize, original: usize) -> Result<Self> {
        let factor = match nested.number_if("factor")? {
            Some(_) => nested.positive("factor")?,
            None => max_positions as f64 / original as f64,
        };
        let scale = |m: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * m * factor.ln() + 1.0
            }
        };
        let mscale = nested.number_or("mscale", 0.0)?;
        let all_dim = nested.number_or("mscale_all_dim", 0.0)?;
        let inferred = if mscale != 0.0 && all_dim != 0.0 {
            scale(mscale) / scale(all_dim)
        } else {
            scale(1.0)
        };
        let given = |value: f64, default: f64| if value == 0.0 { default } else { value };
        Ok(Self {
            factor,
            original,
            attention: nested.number_or("attention_factor", inferred)?,
            beta_fast: given(nested.number_or("beta_fast", 32.0)?, 32.0),
            beta_slow: given(nested.number_or("beta_slow", 1.0)?, 1.0),
            truncate: nested.flag_or("truncate", true)?,
        })
    }

    fn frequencies(&self, base: f64, dim: usize) -> Vec<f32> {
        let turns = |rotations: f64| {
            dim as f64 * (self.original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln())
        };
        let (mut low, mut high) = (turns(self.beta_fast), turns(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        (0..dim / 2)
            .map(|i| {
                let power = base.powf(2.0 * i as f64 / dim as f64);
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let (stretched, plain) = (1.0 / (self.factor * power), 1.0 / power);
                (stretched * ramp + plain * (1.0 - ramp)) as f32
            })
            .collect()
    }
}
