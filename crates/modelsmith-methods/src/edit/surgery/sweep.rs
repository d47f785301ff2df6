//! Which strength is taken: the one with the least of the behaviour among those that keep the model.

use serde::Serialize;

/// What was measured at one strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The strength; 0 is the model as it was.
    pub alpha: f64,
    /// How much there is of the behaviour; less is wanted.
    pub behaviour: f64,
    /// Perplexity on other text.
    pub perplexity: f64,
}

/// What speaks against a sweep's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Warning {
    /// Between -0.5 and 0.5 the behaviour does not go one way.
    NotMonotone,
    /// Rows drawn at random, within the same budget, do as well.
    RandomAsGood {
        /// The least behaviour with random rows.
        behaviour: f64,
    },
    /// No strength within the budget has less of the behaviour than the model as it was.
    NothingGained,
    /// The best strength is the last one tried on its side: a larger one may do better.
    AtTheEdge,
}

/// The strength taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The strength and what it gives; strength 0 where nothing was gained.
    pub point: Point,
    /// `(before - after) / before` of the behaviour; `None` where there was none before.
    pub relative_reduction: Option<f64>,
    /// Largest perplexity allowed.
    pub budget: f64,
    /// What speaks against it.
    pub warnings: Vec<Warning>,
}

/// Chooses among `points` the one with the least behaviour whose perplexity is at most `1 + rise` times
/// that of `base`. `random` are the points of the same strengths on random rows.
pub fn choose(base: Point, points: &[Point], random: &[Point], rise: f64) -> Choice {
    let budget = base.perplexity * (1.0 + rise);
    let best = least(points, budget);
    let point = best.filter(|best| best.behaviour < base.behaviour);
    let mut warnings = Vec::new();
    match point {
        None => warnings.push(Warning::NothingGained),
        Some(point) => {
            if at_the_edge(point.alpha, points) {
                warnings.push(Warning::AtTheEdge);
            }
            let rival = least(random, budget).filter(|rival| rival.behaviour <= point.behaviour);
            warnings.extend(rival.map(|rival| Warning::RandomAsGood {
                behaviour: rival.behaviour,
            }));
        }
    }
    if !monotone(base, points) {
        warnings.push(Warning::NotMonotone);
    }
    let point = point.unwrap_or(base);
    let gained = (base.behaviour - point.behaviour) / base.behaviour;
    Choice {
        point,
        relative_reduction: (base.behaviour != 0.0).then_some(gained),
        budget,
        warnings,
    }
}

/// Of equals the weaker.
fn least(points: &[Point], budget: f64) -> Option<Point> {
    let kept = points
        .iter()
        .filter(|point| point.perplexity <= budget && point.behaviour.is_finite());
    kept.copied().min_by(|a, b| {
        let by_size = || a.alpha.abs().total_cmp(&b.alpha.abs());
        a.behaviour.total_cmp(&b.behaviour).then_with(by_size)
    })
}

fn at_the_edge(alpha: f64, points: &[Point]) -> bool {
    let beyond =
        |point: &Point| point.alpha.signum() == alpha.signum() && point.alpha.abs() > alpha.abs();
    !points.iter().any(beyond)
}

fn monotone(base: Point, points: &[Point]) -> bool {
    let mut near: Vec<Point> = points
        .iter()
        .copied()
        .filter(|p| p.alpha.abs() <= 0.5)
        .collect();
    near.push(base);
    near.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
    let goes = |up: bool| {
        near.windows(2).all(|pair| match up {
            true => pair[0].behaviour <= pair[1].behaviour,
            false => pair[0].behaviour >= pair[1].behaviour,
        })
    };
    goes(true) || goes(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(alpha: f64, behaviour: f64, perplexity: f64) -> Point {
        Point {
            alpha,
            behaviour,
            perplexity,
        }
    }

    /// The card's measured sweep of the sad row: score and perplexity.
    fn sad() -> (Point, Vec<Point>) {
        let rows = [
            (-1.0, 1.101, 3.92),
            (-0.5, 0.943, 3.84),
            (-0.25, 0.854, 3.82),
            (0.25, 0.662, 3.81),
            (0.5, 0.555, 3.83),
            (2.0, -0.601, 5.62),
        ];
        let points = rows.map(|(alpha, score, ppl)| point(alpha, score, ppl));
        (point(0.0, 0.761, 3.811), points.to_vec())
    }

    #[test]
    fn the_least_within_the_budget_is_taken_whatever_its_sign() {
        let (base, points) = sad();
        let choice = choose(base, &points, &[], 0.03);
        assert_eq!(choice.point.alpha, 0.5);
        assert!((choice.budget - 3.925_33).abs() < 1e-5);
        assert!(choice.warnings.is_empty(), "{:?}", choice.warnings);
        assert!((choice.relative_reduction.unwrap() - 0.270_7).abs() < 1e-4);
        let turned: Vec<Point> = points
            .iter()
            .map(|p| point(-p.alpha, p.behaviour, p.perplexity))
            .collect();
        assert_eq!(choose(base, &turned, &[], 0.03).point.alpha, -0.5);
        assert_eq!(choose(base, &points, &[], 0.5).point.alpha, 2.0);
    }

    #[test]
    fn what_speaks_against_it_is_said() {
        let (base, mut points) = sad();
        let random = [point(0.5, 0.5, 3.9), point(1.0, 0.1, 9.0)];
        let warned = choose(base, &points, &random, 0.03).warnings;
        assert_eq!(warned, [Warning::RandomAsGood { behaviour: 0.5 }]);
        assert_eq!(
            choose(base, &points, &[], 0.5).warnings,
            [Warning::AtTheEdge]
        );
        points[3].behaviour = 0.9;
        assert_eq!(
            choose(base, &points, &[], 0.03).warnings,
            [Warning::NotMonotone]
        );
        let worse = [point(1.0, 0.9, 3.8)];
        let choice = choose(base, &worse, &[], 0.03);
        assert_eq!(
            (choice.point, choice.warnings),
            (base, vec![Warning::NothingGained])
        );
        assert_eq!(choice.relative_reduction, Some(0.0));
        assert!(
            choose(point(0.0, 0.0, 1.0), &[], &[], 0.0)
                .relative_reduction
                .is_none()
        );
    }
}
