//! What an interval of a difference says about an expectation.

use super::bootstrap::Interval;
use super::file::Metric;
use serde::{Deserialize, Serialize};

/// What the claim expects of `arm - baseline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Above 0.
    Higher,
    /// Below 0.
    Lower,
    /// Not worse by more than the margin, which of scores is below 0, and of losses and amounts above: as
    /// good as the baseline, or better.
    AsGood,
    /// Nothing: the difference is measured and told, and counts in no verdict.
    Reported,
}

/// Whether what was expected was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies on the expected side.
    Supported,
    /// The interval lies on the other side.
    NotSupported,
    /// The interval lies on neither side.
    Inconclusive,
    /// Nothing was expected.
    Reported,
    /// The data is not here.
    Skipped,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::NotSupported => "not supported",
            Self::Inconclusive => "inconclusive",
            Self::Reported => "reported",
            Self::Skipped => "skipped: no data",
        }
    }
}

/// The verdict on an interval of `arm - baseline`.
///
/// `margin` counts for [`Direction::AsGood`] only: there the interval is held against the margin on the side
/// that is worse by `metric`, instead of 0.
pub fn verdict(interval: &Interval, direction: Direction, metric: Metric, margin: f64) -> Verdict {
    let sided = |above: bool, below: bool| match (above, below) {
        (true, _) => Verdict::Supported,
        (_, true) => Verdict::NotSupported,
        _ => Verdict::Inconclusive,
    };
    let Interval { low, high, .. } = *interval;
    match direction {
        Direction::Higher => sided(low > 0.0, high < 0.0),
        Direction::Lower => sided(high < 0.0, low > 0.0),
        Direction::AsGood => match metric {
            Metric::Exact => sided(low > -margin, high < -margin),
            Metric::Loss | Metric::Amount => sided(high < margin, low > margin),
        },
        Direction::Reported => Verdict::Reported,
    }
}

/// The verdict on a claim with several expectations: what failed outweighs what is open, and what
/// is open outweighs what held. Skipped and reported parts count only where there is nothing else.
pub fn overall(parts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut seen = [false; 5];
    for part in parts {
        seen[part as usize] = true;
    }
    let order = [
        Verdict::NotSupported,
        Verdict::Inconclusive,
        Verdict::Supported,
        Verdict::Reported,
    ];
    let found = order.into_iter().find(|verdict| seen[*verdict as usize]);
    found.unwrap_or(Verdict::Skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(low: f64, high: f64, direction: Direction, margin: f64) -> Verdict {
        let interval = Interval {
            difference: f64::midpoint(low, high),
            low,
            high,
        };
        verdict(&interval, direction, Metric::Exact, margin)
    }

    #[test]
    fn an_interval_is_held_against_nothing() {
        use Verdict::{Inconclusive, NotSupported, Reported, Supported};
        for (low, high, higher, lower) in [
            (0.1, 0.2, Supported, NotSupported),
            (-0.2, -0.1, NotSupported, Supported),
            (-0.1, 0.1, Inconclusive, Inconclusive),
            // An interval that touches 0 does not exclude it.
            (0.0, 0.1, Inconclusive, Inconclusive),
            (0.0, 0.0, Inconclusive, Inconclusive),
        ] {
            assert_eq!(
                judged(low, high, Direction::Higher, 0.0),
                higher,
                "{low} {high}"
            );
            assert_eq!(
                judged(low, high, Direction::Lower, 0.0),
                lower,
                "{low} {high}"
            );
            assert_eq!(judged(low, high, Direction::Reported, 0.0), Reported);
        }
    }

    #[test]
    fn as_good_as_is_held_against_the_margin() {
        let judged = |low, high| judged(low, high, Direction::AsGood, 0.03);
        assert_eq!(judged(-0.02, 0.05), Verdict::Supported);
        assert_eq!(judged(0.01, 0.05), Verdict::Supported);
        assert_eq!(judged(-0.04, 0.05), Verdict::Inconclusive);
        assert_eq!(judged(-0.04, -0.031), Verdict::NotSupported);
        // Worse, but by less than the margin.
        assert_eq!(judged(-0.02, -0.01), Verdict::Supported);
    }

    #[test]
    fn losses_are_worse_above() {
        let judged = |low, high| {
            let interval = Interval {
                difference: 0.0,
                low,
                high,
            };
            verdict(&interval, Direction::AsGood, Metric::Loss, 0.02)
        };
        assert_eq!(judged(-0.5, 0.01), Verdict::Supported);
        assert_eq!(judged(0.005, 0.015), Verdict::Supported);
        assert_eq!(judged(0.01, 0.03), Verdict::Inconclusive);
        assert_eq!(judged(0.03, 0.05), Verdict::NotSupported);
    }

    #[test]
    fn what_failed_outweighs_the_rest() {
        use Verdict::{Inconclusive, NotSupported, Reported, Skipped, Supported};
        assert_eq!(
            overall([Supported, NotSupported, Inconclusive]),
            NotSupported
        );
        assert_eq!(overall([Supported, Inconclusive, Reported]), Inconclusive);
        assert_eq!(overall([Supported, Skipped, Reported]), Supported);
        assert_eq!(overall([Skipped, Skipped]), Skipped);
        assert_eq!(overall([]), Skipped);
    }
}
