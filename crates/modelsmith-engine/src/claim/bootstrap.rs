//! How sure is a difference between two arms that were scored on the same seeds and items?
//!
//! ```text
//! d[s][i]   score of the arm minus score of the baseline, seed s, item i     (paired)
//! draw      items with replacement, the same for all seeds:  m_s = mean over drawn items
//!           seeds with replacement:  m + √(S / (S - 1)) · (mean of drawn m_s - m),   m = mean m_s
//! interval  the 2.5 % and 97.5 % quantiles over the draws
//! ```
//!
//! Items are drawn once for all seeds, because every seed answers the same items: drawing them
//! apart would average item noise over seeds that share it. The factor undoes the shrinking of
//! the spread of S values when S of them are drawn with replacement. With one seed the interval
//! says nothing about seeds. With three it still rests on three values, and is somewhat narrow
//! where seeds differ much (the tests measure how much).

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use serde::{Deserialize, Serialize};

/// Draws of an interval.
pub const DRAWS: usize = 2000;

/// Share of the draws that an interval leaves out at each end.
const TAIL: f64 = 0.025;

/// A difference with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean over seeds and items.
    pub difference: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The interval of paired differences, `differences[seed][item]`.
///
/// `key` names the draws: the same key and differences give the same interval.
///
/// # Errors
/// No seed, no item, or seeds with different numbers of items; a difference that is not finite.
pub fn interval(differences: &[Vec<f64>], key: &str) -> Result<Interval> {
    check(differences)?;
    let mut stream = Stream::new(0, &format!("claim/bootstrap/{key}"));
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw(differences, &mut stream)).collect();
    means.sort_by(f64::total_cmp);
    let cut = (TAIL * DRAWS as f64) as usize;
    let even = vec![1.0; differences[0].len()];
    Ok(Interval {
        difference: mean(&weighted(differences, &even)),
        low: means[cut],
        high: means[DRAWS - 1 - cut],
    })
}

fn check(differences: &[Vec<f64>]) -> Result<()> {
    let refuse = |problem: String| Err(Error::Failed(format!("bootstrap: {problem}")));
    let Some(first) = differences.first() else {
        return refuse("there is no seed".into());
    };
    if first.is_empty() {
        return refuse("there is no item".into());
    }
    if let Some(other) = differences.iter().find(|seed| seed.len() != first.len()) {
        return refuse(format!(
            "one seed has {} items, another {}",
            first.len(),
            other.len()
        ));
    }
    if differences.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::Numeric(
            "bootstrap: a difference is not finite".into(),
        ));
    }
    Ok(())
}

/// One resampled mean.
fn draw(differences: &[Vec<f64>], stream: &mut Stream) -> f64 {
    let items = differences[0].len();
    let mut weights = vec![0.0; items];
    for _ in 0..items {
        weights[stream.below(items)] += 1.0;
    }
    let seeds = weighted(differences, &weights);
    let centre = mean(&seeds);
    if seeds.len() == 1 {
        return centre;
    }
    let count = seeds.len() as f64;
    let drawn = (0..seeds.len()).map(|_| seeds[stream.below(seeds.len())]);
    let drawn = drawn.sum::<f64>() / count;
    centre + (count / (count - 1.0)).sqrt() * (drawn - centre)
}

/// Mean of each seed over weighted items.
fn weighted(differences: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    let mean = |seed: &Vec<f64>| {
        let sum: f64 = seed
            .iter()
            .zip(weights)
            .map(|(value, weight)| value * weight)
            .sum();
        sum / total
    };
    differences.iter().map(mean).collect()
}

/// Arithmetic mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Sample standard deviation; `None` of fewer than two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_differences_leave_no_doubt() {
        let found = interval(&[vec![0.5; 10], vec![0.5; 10]], "k").unwrap();
        assert_eq!(
            found,
            Interval {
                difference: 0.5,
                low: 0.5,
                high: 0.5
            }
        );
    }

    #[test]
    fn two_items_fall_as_by_hand() {
        // One seed, items 0 and 1: the mean of two draws is 0 (1/4), 1/2 (1/2) or 1 (1/4).
        let found = interval(&[vec![0.0, 1.0]], "k").unwrap();
        assert_eq!(
            found,
            Interval {
                difference: 0.5,
                low: 0.0,
                high: 1.0
            }
        );
    }

    #[test]
    fn two_seeds_fall_as_by_hand() {
        // One item, seeds 0 and 1: the drawn mean is 0, 1/2 or 1, and the factor is √2, so the
        // draws are 1/2 - √2/2, 1/2 and 1/2 + √2/2.
        let found = interval(&[vec![0.0], vec![1.0]], "k").unwrap();
        let reach = std::f64::consts::SQRT_2 / 2.0;
        assert!((found.low - (0.5 - reach)).abs() < 1e-12, "{found:?}");
        assert!((found.high - (0.5 + reach)).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn many_items_agree_with_the_normal_interval() {
        // 400 items of ±1, half each: standard error 1/20, so ±1.96/20.
        let items: Vec<f64> = (0..400)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let found = interval(&[items.clone(), items], "k").unwrap();
        // The quantile of 2,000 draws has a standard error of 0.003 itself.
        assert!(
            (found.high - 0.098).abs() < 0.01 && (found.low + 0.098).abs() < 0.01,
            "{found:?}"
        );
    }

    #[test]
    fn the_same_key_gives_the_same_interval() {
        let values = vec![(0..50).map(|i| f64::from(i % 7)).collect::<Vec<f64>>(); 3];
        assert_eq!(
            interval(&values, "a").unwrap(),
            interval(&values, "a").unwrap()
        );
        assert_ne!(
            interval(&values, "a").unwrap(),
            interval(&values, "b").unwrap()
        );
    }

    #[test]
    fn ragged_and_empty_scores_are_refused() {
        for bad in [
            vec![],
            vec![vec![]],
            vec![vec![1.0], vec![1.0, 2.0]],
            vec![vec![f64::NAN]],
        ] {
            assert!(interval(&bad, "k").is_err(), "{bad:?}");
        }
    }

    /// Share of simulated worlds whose interval holds the true difference of 0.
    fn coverage(seeds: usize, items: usize, of_seed: f32, of_item: f32, of_both: f32) -> f64 {
        let worlds = 200;
        let mut held = 0;
        for world in 0..worlds {
            let mut stream = Stream::new(world, "claim/coverage");
            let by_item = stream.normal(items, 0.0, of_item);
            let values: Vec<Vec<f64>> = (0..seeds)
                .map(|_| {
                    let own = stream.normal(1, 0.0, of_seed)[0];
                    let noise = stream.normal(items, 0.0, of_both);
                    let pairs = by_item.iter().zip(noise);
                    pairs
                        .map(|(item, noise)| f64::from(own + item + noise))
                        .collect()
                })
                .collect();
            let found = interval(&values, &world.to_string()).unwrap();
            held += u32::from(found.low <= 0.0 && 0.0 <= found.high);
        }
        f64::from(held) / f64::from(worlds as u32)
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        // 200 worlds: a share of 0.95 has a standard error of 0.015.
        let items_only = coverage(3, 60, 0.0, 1.0, 0.5);
        assert!((0.90..=0.99).contains(&items_only), "items: {items_only}");
        let many_seeds = coverage(20, 40, 0.5, 1.0, 0.5);
        assert!(
            (0.90..=0.99).contains(&many_seeds),
            "20 seeds: {many_seeds}"
        );
        // Three seeds that differ as much as the items let the mean differ: narrower than said.
        let few_seeds = coverage(3, 60, 0.13, 1.0, 0.5);
        assert!((0.85..=0.99).contains(&few_seeds), "3 seeds: {few_seeds}");
    }
}
