//! BitDelta: a sign for every entry of a difference, and one magnitude for all, or a few.
//!
//! ```text
//! ΔŴ = α S      S_i = +1 where ΔW_i >= 0, else -1      α = m mean|ΔW|
//! ```
//!
//! With `blocks > 1` the magnitudes, sorted, are cut into blocks of equal count and each is replaced by its block's mean
//! (`log2 blocks` bits beside the sign). Magnitudes drawn at random are the paper's study of what they matter.
//! Embeddings, norms and heads keep their difference whole.

use super::encoded::Encoded;
use super::select::size;
use super::sums::l1;
use super::{Operator, Place, within};
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::random::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of BitDelta.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BitDelta {
    /// Magnitudes that are told apart, 1 to 256; 1 is BitDelta, 16 takes four bits beside the sign.
    pub blocks: usize,
    /// Factor of the mean magnitude; used with one block.
    pub m: f64,
    /// Where the magnitudes come from; used with one block.
    pub magnitudes: Magnitudes,
}

/// Where the magnitudes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Magnitudes {
    /// The mean of the difference's magnitudes, for every entry.
    #[default]
    Mean,
    /// Drawn for every entry from a normal distribution with that mean and the unscaled mean as deviation; the
    /// absolute value.
    Normal,
    /// Drawn for every entry, uniform from 0 to twice that mean.
    Uniform,
}

impl Default for BitDelta {
    fn default() -> Self {
        Self {
            blocks: 1,
            m: 1.0,
            magnitudes: Magnitudes::Mean,
        }
    }
}

impl Method for BitDelta {
    const CARD: Card = Card {
        id: "bitdelta",
        number: None,
        title: "BitDelta, with several magnitudes",
        family: Family::Delta,
        paper: "Liu et al. 2024, BitDelta; Tang et al. 2024 for several magnitudes",
        summary: "Keeps the signs of the difference and one magnitude a matrix, or a few",
    };
}

impl Operator for BitDelta {
    fn check(&self) -> Result<()> {
        within("method.m", self.m, 0.0, 100.0)?;
        if !(1..=256).contains(&self.blocks) {
            let problem = format!("is {}; must be 1 to 256", self.blocks);
            return Err(Error::config("method.blocks", problem));
        }
        if self.blocks > 1 && (self.m != 1.0 || self.magnitudes != Magnitudes::Mean) {
            let problem = "goes with m = 1 and magnitudes = mean: each block has its own mean";
            return Err(Error::config("method.blocks", problem));
        }
        Ok(())
    }

    fn wants(&self, place: &Place<'_>) -> bool {
        place.is_projection()
    }

    fn apply(&self, place: &Place<'_>, delta: &mut [f32]) -> Result<()> {
        let decoded = self.encode(place, delta.to_vec())?.decode();
        delta.copy_from_slice(&decoded);
        Ok(())
    }

    fn encode(&self, place: &Place<'_>, delta: Vec<f32>) -> Result<Encoded> {
        let mean = l1(&delta) / delta.len().max(1) as f64;
        let (scales, levels) = match self.magnitudes {
            _ if self.blocks > 1 => blocks(&delta, self.blocks),
            Magnitudes::Mean => (vec![(self.m * mean) as f32], Vec::new()),
            drawn => return Ok(self.drawn(place, delta, drawn, mean)),
        };
        Ok(Encoded::Signs {
            length: delta.len(),
            words: signs(&delta),
            scales,
            levels,
        })
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl BitDelta {
    /// A magnitude for every entry by chance: no small form.
    fn drawn(
        &self,
        place: &Place<'_>,
        mut delta: Vec<f32>,
        drawn: Magnitudes,
        mean: f64,
    ) -> Encoded {
        let mut stream = Stream::new(place.seed, place.name);
        let centre = (self.m * mean) as f32;
        let sizes = match drawn {
            Magnitudes::Normal => stream.normal(delta.len(), centre, mean as f32),
            _ => stream.uniform(delta.len(), 0.0, 2.0 * centre),
        };
        for (value, size) in delta.iter_mut().zip(sizes) {
            *value = if *value >= 0.0 {
                size.abs()
            } else {
                -size.abs()
            };
        }
        Encoded::Dense(delta)
    }
}

/// Signs, 32 a word; zero counts as positive.
fn signs(delta: &[f32]) -> Vec<u32> {
    let word = |part: &[f32]| {
        let bits = part.iter().enumerate();
        bits.fold(0, |word, (bit, value)| {
            word | u32::from(*value < 0.0) << bit
        })
    };
    delta.chunks(32).map(word).collect()
}

/// Means of equal-count blocks of the sorted magnitudes, and the block of every entry.
fn blocks(delta: &[f32], count: usize) -> (Vec<f32>, Vec<u8>) {
    let key = |(index, value): (usize, &f32)| u128::from(size(*value)) << 64 | index as u128;
    let mut order: Vec<u128> = delta.iter().enumerate().map(key).collect();
    order.sort_unstable();
    let (length, count) = (delta.len(), count.min(delta.len().max(1)));
    let mut levels = vec![0_u8; length];
    let mut scales = Vec::with_capacity(count);
    for block in 0..count {
        let part = &order[block * length / count..(block + 1) * length / count];
        let mut sum = 0.0;
        for key in part {
            let index = (key & u128::from(u64::MAX)) as usize;
            sum += f64::from(delta[index].abs());
            // At most 256 blocks are asked for.
            levels[index] = block as u8;
        }
        scales.push((sum / part.len().max(1) as f64) as f32);
    }
    match count {
        1 => (scales, Vec::new()),
        _ => (scales, levels),
    }
}
