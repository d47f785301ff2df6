//! From which similarity on is a neighbour's answer one's own? It depends on the embedder and is measured.

use modelsmith_core::error::{Error, Result};
use serde::Serialize;

/// Pairs below which precision is taken at the lower end of its interval.
const FEW: usize = 200;

/// A threshold and what it gives on the pairs that it was fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Neighbours above it are used.
    pub threshold: f64,
    /// Share of texts above it whose neighbour has their label.
    pub precision: f64,
    /// Share of texts above it.
    pub coverage: f64,
}

/// Precision and coverage at a threshold, of pairs `(similarity of the nearest, whether its label is the same)`.
pub fn outcomes(pairs: &[(f64, bool)], threshold: f64) -> Fit {
    let above: Vec<bool> = pairs
        .iter()
        .filter(|(similarity, _)| *similarity > threshold)
        .map(|(_, same)| *same)
        .collect();
    let same = above.iter().filter(|same| **same).count();
    Fit {
        threshold,
        precision: same as f64 / above.len() as f64,
        coverage: above.len() as f64 / pairs.len() as f64,
    }
}

/// The smallest threshold at which the nearest neighbour has the same label at least `precision` of the time, by
/// the lower end of Wilson's 95 % interval where there are fewer than 200 pairs.
///
/// # Errors
/// No threshold does: the embedder, or the store, cannot tell such texts apart.
pub fn fit(pairs: &[(f64, bool)], precision: f64) -> Result<Fit> {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let careful = pairs.len() < FEW;
    let (mut same, mut best) = (0_usize, None);
    for (place, (similarity, label)) in sorted.iter().enumerate() {
        same += usize::from(*label);
        // Texts of equal similarity are above a threshold together.
        let next = sorted
            .get(place + 1)
            .map_or(f64::NEG_INFINITY, |pair| pair.0);
        if next == *similarity {
            continue;
        }
        let share = match careful {
            true => wilson(same, place + 1),
            false => same as f64 / (place + 1) as f64,
        };
        if share >= precision {
            // Anything from the next similarity on, which stays out itself.
            best = Some(next.max(-1.0));
        }
    }
    match best {
        Some(threshold) => Ok(outcomes(pairs, threshold)),
        None => Err(Error::Usage(format!(
            "no threshold makes neighbours right in {:.0} % of {} cases; choose another embedder, give more \
             revisions, or set the threshold by hand",
            100.0 * precision,
            pairs.len()
        ))),
    }
}

/// Lower end of the 95 % interval of a share (Wilson, 1927).
fn wilson(right: usize, count: usize) -> f64 {
    const Z: f64 = 1.959_964;
    let (n, share) = (count as f64, right as f64 / count as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (middle - half) / (1.0 + Z * Z / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize) -> Vec<(f64, bool)> {
        // Similar neighbours are right; below 0.5 every second is wrong.
        let right = |at: usize| 2 * at >= count || at.is_multiple_of(2);
        (0..count)
            .map(|at| (at as f64 / count as f64, right(at)))
            .collect()
    }

    #[test]
    fn the_smallest_threshold_of_the_precision_is_found() {
        let pairs = pairs(1000);
        let found = fit(&pairs, 0.95).unwrap();
        assert!(found.precision >= 0.95, "{found:?}");
        // 500 right ones above, then half of x: (500 + x / 2) / (500 + x) = 0.95 at x = 55.
        assert!((found.threshold - 0.445).abs() < 0.003, "{found:?}");
        assert!(outcomes(&pairs, found.threshold - 0.01).precision < 0.95);
        assert_eq!(fit(&pairs, 0.5).unwrap().coverage, 1.0);
    }

    #[test]
    fn few_pairs_are_believed_less_and_bad_ones_refused() {
        assert!((wilson(9, 10) - 0.595_8).abs() < 1e-4);
        let few = pairs(100);
        let found = fit(&few, 0.9).unwrap();
        assert!(found.threshold > fit(&pairs(1000), 0.9).unwrap().threshold);
        let error = fit(&few[..10], 0.95).unwrap_err().to_string();
        assert!(error.contains("no threshold"), "{error}");
    }

    #[test]
    fn equal_similarities_stand_or_fall_together() {
        let pairs: Vec<(f64, bool)> = (0..400).map(|at| (0.5, at % 2 == 0)).collect();
        assert!(fit(&pairs, 0.95).is_err());
        let mut better = pairs;
        better.extend((0..300).map(|_| (0.9, true)));
        let found = fit(&better, 0.95).unwrap();
        assert_eq!((found.threshold, found.precision), (0.5, 1.0));
    }
}
