//! What is added to the rows: a direction of the hidden state that stands for a class.

use super::probe::{Examples, Probe};
use modelsmith_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a direction is made of. Only the first is the paper's; the others are there to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The class's row of the softmax probe.
    #[default]
    SoftmaxRow,
    /// That row minus the mean of the other rows.
    LogisticDifference,
    /// The mean feature of the class minus the mean of the others.
    MeanDifference,
    /// The first principal component, about 0, of differences of a text of the class and one of another.
    PrincipalComponent,
}

/// Rounds of the power iteration at most; each costs one pass over the features.
const ROUNDS: usize = 200;

/// The direction of a class, `[width]`; it points to the class.
///
/// # Errors
/// A class that there is not, or a direction without length.
pub fn direction(form: Form, probe: &Probe, examples: &Examples, class: usize) -> Result<Vec<f32>> {
    if class >= probe.weight.len() {
        return Err(Error::Failed(format!(
            "there is no class {class}; the probe has {}",
            probe.weight.len()
        )));
    }
    let found = match form {
        Form::SoftmaxRow => probe.weight[class].clone(),
        Form::LogisticDifference => {
            let others = probe.weight.iter().enumerate();
            let others = others.filter(|(other, _)| *other != class);
            difference(
                &probe.weight[class],
                &mean(others.map(|(_, row)| row.as_slice())),
            )
        }
        Form::MeanDifference => mean_difference(examples, class),
        Form::PrincipalComponent => principal(examples, class),
    };
    let length = found.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return Err(Error::Numeric(format!(
            "the direction of class {class} has length {length}; its texts look like the others'"
        )));
    }
    Ok(found.into_iter().map(|x| x as f32).collect())
}

fn mean<'a>(rows: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let mut sum: Vec<f64> = Vec::new();
    let mut count = 0.0;
    for row in rows {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        count += 1.0;
    }
    sum.into_iter().map(|sum| sum / count).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Features of the class, and of the others.
fn parted(examples: &Examples, class: usize) -> [Vec<Vec<f64>>; 2] {
    let wide = |feature: &Vec<f32>| feature.iter().copied().map(f64::from).collect();
    let mut parts = [Vec::new(), Vec::new()];
    for (feature, found) in examples.features.iter().zip(&examples.classes) {
        parts[usize::from(*found != class)].push(wide(feature));
    }
    parts
}

fn mean_difference(examples: &Examples, class: usize) -> Vec<f64> {
    let means = parted(examples, class).map(|rows| mean(rows.iter().map(Vec::as_slice)));
    difference(&means[0], &means[1])
}

/// Power iteration on the second moment of pairwise differences; it starts at their mean, which
/// is never far off and fixes the sign.
fn principal(examples: &Examples, class: usize) -> Vec<f64> {
    let [own, other] = parted(examples, class);
    let pairs: Vec<Vec<f64>> = own
        .iter()
        .zip(&other)
        .map(|(a, b)| difference(a, b))
        .collect();
    let toward = mean(pairs.iter().map(Vec::as_slice));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut found = unit(&toward);
    for _ in 0..ROUNDS {
        let mut next = vec![0.0; found.len()];
        for pair in &pairs {
            let along = dot(pair, &found);
            next.iter_mut()
                .zip(pair)
                .for_each(|(sum, x)| *sum += along * x);
        }
        let next = unit(&next);
        let settled = 1.0 - dot(&next, &found).abs() < 1e-14;
        found = next;
        if settled {
            break;
        }
    }
    let sign = if dot(&found, &toward) < 0.0 {
        -1.0
    } else {
        1.0
    };
    found.into_iter().map(|x| sign * x).collect()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    match length > 0.0 {
        true => x.iter().map(|x| x / length).collect(),
        false => x.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe {
            weight: vec![vec![1.0, 0.0], vec![-0.5, 2.0], vec![0.0, 1.0]],
            bias: vec![9.0; 3],
            accuracy: 1.0,
            epoch: 1,
            held_out: 1,
        }
    }

    fn examples() -> Examples {
        Examples {
            features: vec![
                vec![3.0, 1.0],
                vec![1.0, -1.0],
                vec![-3.0, 0.0],
                vec![-1.0, 0.0],
            ],
            classes: vec![0, 0, 1, 2],
        }
    }

    #[test]
    fn each_form_is_what_it_says() {
        let of = |form| direction(form, &probe(), &examples(), 0).unwrap();
        assert_eq!(of(Form::SoftmaxRow), [1.0, 0.0]);
        assert_eq!(of(Form::LogisticDifference), [1.25, -1.5]);
        assert_eq!(of(Form::MeanDifference), [4.0, 0.0]);
        // Differences (6, 1) and (2, -1): moment [[40, 4], [4, 2]], whose first eigenvector is at
        // half the angle whose tangent is 8 / 38.
        let angle = 0.5 * (8.0_f64 / 38.0).atan();
        let found = of(Form::PrincipalComponent);
        assert!(
            (f64::from(found[0]) - angle.cos()).abs() < 1e-6,
            "{found:?}"
        );
        assert!(
            (f64::from(found[1]) - angle.sin()).abs() < 1e-6,
            "{found:?}"
        );
    }

    #[test]
    fn the_component_points_to_the_class() {
        let away = direction(Form::PrincipalComponent, &probe(), &examples(), 1).unwrap();
        assert!(away[0] < 0.0, "{away:?}");
    }

    #[test]
    fn a_direction_without_length_is_refused() {
        let mut none = probe();
        none.weight[0] = vec![0.0, 0.0];
        let refused = |probe: &Probe, class| {
            let error = direction(Form::SoftmaxRow, probe, &examples(), class).unwrap_err();
            error.to_string()
        };
        assert!(refused(&none, 0).contains("length 0"));
        assert!(refused(&none, 3).contains("no class 3"));
    }
}
