//! The best difference of a small rank (as in Twin-Merging): `ΔŴ = U_r Σ_r V_rᵀ`, `r = floor(density min(rows, columns))`.

use super::encoded::Encoded;
use super::{Operator, Place, within};
use faer::Mat;
use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Card, Family, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the low-rank form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LowRank {
    /// Part of the singular values that is kept, 0 to 1; at least one is.
    pub density: f64,
    /// Number of singular values that are kept; 0 takes `density`.
    pub rank: usize,
}

impl Default for LowRank {
    fn default() -> Self {
        Self {
            density: 0.1,
            rank: 0,
        }
    }
}

impl Method for LowRank {
    const CARD: Card = Card {
        id: "low_rank",
        number: None,
        title: "Low-rank difference",
        family: Family::Delta,
        paper: "Lu et al. 2024, Twin-Merging",
        summary: "Keeps the largest singular values of each matrix of the difference",
    };
}

impl Operator for LowRank {
    fn check(&self) -> Result<()> {
        within("method.density", self.density, 0.0, 1.0)
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
        let (rows, columns) = place.matrix();
        if place.shape.len() < 2 || delta.is_empty() {
            return Ok(Encoded::Dense(delta));
        }
        let smaller = rows.min(columns);
        let rank = match self.rank {
            0 => (self.density * smaller as f64) as usize,
            rank => rank,
        };
        decompose(place.name, rows, columns, &delta, rank.clamp(1, smaller))
    }

    fn options(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn decompose(
    name: &str,
    rows: usize,
    columns: usize,
    delta: &[f32],
    rank: usize,
) -> Result<Encoded> {
    if let Some(value) = delta.iter().find(|value| !value.is_finite()) {
        return Err(Error::Numeric(format!(
            "{name}: the difference holds {value}"
        )));
    }
    let matrix = Mat::from_fn(rows, columns, |i, j| f64::from(delta[i * columns + j]));
    let svd = matrix
        .thin_svd()
        .map_err(|_| Error::Numeric(format!("{name}: the singular values did not converge")))?;
    let (u, s, v) = (svd.U(), svd.S().column_vector(), svd.V());
    let factor = |of: faer::MatRef<'_, f64>, length: usize| {
        let entry = |at: usize| of[(at / rank, at % rank)] as f32;
        (0..length * rank).map(entry).collect()
    };
    Ok(Encoded::LowRank {
        rows,
        columns,
        u: factor(u, rows),
        s: (0..rank).map(|k| s[k] as f32).collect(),
        v: factor(v, columns),
    })
}
